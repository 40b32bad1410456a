package orchestrator

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"maps"
	"sync"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/follow"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

// WatchOptions say how to watch.
type WatchOptions struct {
	// Expiries are those that are told; by default none. With EXPIRIES_ONE each goes to one client of all, and comes again
	// until it is acknowledged.
	Expiries pb.OrchestratorWatchOpen_Expiries
	// ClientID is who watches: one that comes back under its name is given again at once what it has not acknowledged. By
	// default a new one for each watch.
	ClientID string
}

// Kind is what has happened.
type Kind int

// The kinds of events.
const (
	// Found: the key was there when the watch began.
	Found Kind = iota + 1
	// Synced: all that was there has been told.
	Synced
	// Create: the key was created.
	Create
	// Set: the key was there and was set.
	Set
	// Delete: the key was deleted, or has gone by an expiry; Value is the last that is known.
	Delete
	// Expire: the key has expired, with this value. To be acknowledged once it is taken care of.
	Expire
	// Gap: what comes next are the differences after a time in which values may have been missed.
	Gap
	// Heartbeat: nothing came for a while.
	Heartbeat
)

// Event is what happened to a key.
type Event struct {
	Kind  Kind
	Key   string
	Value []byte
	// Expired, of Delete: it has expired, and a client that asks for one is told so.
	Expired bool
	// Cause, of Gap: why; CAUSE_UNSPECIFIED: the connection to a gateway was lost, and there is another one.
	Cause pb.OrchestratorGap_Cause
	// Degraded, of Heartbeat, is not nil while the gateway hears nothing from Redis.
	Degraded error

	acknowledge func()
}

// Acknowledge says that an expiry is taken care of; of any other event it does nothing. It may be called later, also by another
// goroutine. Where one is lost, with its connection or because the loop ends right after it, the expiry comes again.
func (e Event) Acknowledge() {
	if e.acknowledge != nil {
		e.acknowledge()
	}
}

type watch struct {
	keys pb.OrchestratorClient
	open *pb.OrchestratorWatchOpen
	tell func(Event) bool

	// known is what was told; found what this stream has found, until it is synced.
	known, found map[string][]byte
	synced       bool
	// gap stands until there is a difference to tell after it.
	gap bool

	// sending guards stream, and that one message is sent at a time.
	sending sync.Mutex
	stream  pb.Orchestrator_WatchClient
}

func newWatch(keys pb.OrchestratorClient, prefix string, options WatchOptions, tell func(Event) bool) *watch {
	return &watch{
		keys: keys,
		open: &pb.OrchestratorWatchOpen{
			Prefix: prefix, Snapshot: true, Expiries: options.Expiries, ClientId: cmp.Or(options.ClientID, rand.Text()),
		},
		tell:  tell,
		known: map[string][]byte{},
	}
}

func (w *watch) run(ctx context.Context) error {
	return follow.Stream(ctx, func(ctx context.Context) (pb.Orchestrator_WatchClient, error) {
		stream, err := w.keys.Watch(ctx)
		if err != nil {
			return nil, err
		}
		w.sending.Lock()
		defer w.sending.Unlock()
		w.stream, w.found, w.gap = stream, map[string][]byte{}, w.synced
		// If this fails, receiving says why.
		_ = stream.Send(&pb.OrchestratorWatchRequest{Message: &pb.OrchestratorWatchRequest_Open{Open: w.open}})
		return stream, nil
	}, w.take)
}

func (w *watch) take(answer *pb.OrchestratorWatchResponse) bool {
	switch event := answer.Event.(type) {
	case *pb.OrchestratorWatchResponse_Entry:
		return w.entry(event.Entry.Key, event.Entry.Value)
	case *pb.OrchestratorWatchResponse_Synced:
		return w.end()
	case *pb.OrchestratorWatchResponse_Create:
		return w.stands(Create, event.Create)
	case *pb.OrchestratorWatchResponse_Set:
		return w.stands(Set, event.Set)
	case *pb.OrchestratorWatchResponse_Delete:
		gone := Event{Kind: Delete, Key: event.Delete.Key, Value: event.Delete.Value, Expired: event.Delete.Expired}
		if gone.Value == nil {
			gone.Value = w.known[gone.Key]
		}
		delete(w.known, gone.Key)
		return w.tell(gone)
	case *pb.OrchestratorWatchResponse_Expire:
		expire := event.Expire
		// One without a value stays for a day.
		if len(expire.Value) > 0 {
			delete(w.known, expire.Key)
		}
		return w.tell(Event{Kind: Expire, Key: expire.Key, Value: expire.Value, acknowledge: w.acknowledges(expire.AckId)})
	case *pb.OrchestratorWatchResponse_Gap:
		return w.tell(Event{Kind: Gap, Cause: event.Gap.Cause})
	case *pb.OrchestratorWatchResponse_Heartbeat:
		return w.tell(Event{Kind: Heartbeat, Degraded: gateway.Degraded(event.Heartbeat.Degraded)})
	}
	return true
}

// entry takes a key that is there: told if it was not known so.
func (w *watch) entry(key string, value []byte) bool {
	before, there := w.known[key]
	w.known[key], w.found[key] = value, value
	switch {
	case there && bytes.Equal(before, value):
		return true
	case !w.synced:
		return w.tell(Event{Kind: Found, Key: key, Value: value})
	case there:
		return w.differs(Event{Kind: Set, Key: key, Value: value})
	}
	return w.differs(Event{Kind: Create, Key: key, Value: value})
}

// end ends what is there: what was known and is not is gone.
func (w *watch) end() bool {
	gone := maps.Clone(w.known)
	for key := range w.found {
		delete(gone, key)
	}
	w.found = nil
	for key, value := range gone {
		delete(w.known, key)
		if !w.differs(Event{Kind: Delete, Key: key, Value: value}) {
			return false
		}
	}
	if w.synced {
		w.gap = false
		return true
	}
	w.synced = true
	return w.tell(Event{Kind: Synced})
}

// differs tells a difference that was found after a cut, the first one after a gap.
func (w *watch) differs(event Event) bool {
	if w.gap {
		w.gap = false
		if !w.tell(Event{Kind: Gap}) {
			return false
		}
	}
	return w.tell(event)
}

func (w *watch) stands(kind Kind, entry *pb.OrchestratorEntry) bool {
	w.known[entry.Key] = entry.Value
	if w.found != nil {
		// It was set while what is there was being told.
		w.found[entry.Key] = entry.Value
	}
	return w.tell(Event{Kind: kind, Key: entry.Key, Value: entry.Value})
}

func (w *watch) acknowledges(id string) func() {
	if id == "" {
		return nil
	}
	request := &pb.OrchestratorWatchRequest{Message: &pb.OrchestratorWatchRequest_Acknowledge{
		Acknowledge: &pb.OrchestratorWatchAcknowledge{AckId: id},
	}}
	return func() {
		w.sending.Lock()
		defer w.sending.Unlock()
		// On the stream of now, whichever told it. Where that has ended, the expiry comes again.
		_ = w.stream.Send(request)
	}
}
