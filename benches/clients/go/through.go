package main

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/buildlogs"
	"github.com/redis-gateway/redis-gateway/clients/go/cache"
	"github.com/redis-gateway/redis-gateway/clients/go/events"
	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/lock"
	"github.com/redis-gateway/redis-gateway/clients/go/orchestrator"
	"github.com/redis-gateway/redis-gateway/clients/go/pulls"
	"github.com/redis-gateway/redis-gateway/clients/go/tracker"
)

// through goes by the gateway, with the packages of clients/go.
type through struct {
	conn         *gateway.Conn
	logs         *buildlogs.Client
	events       *events.Client
	pulls        *pulls.Tracker
	cache        *cache.Cache
	tracker      *tracker.Client
	locks        *lock.Client
	orchestrator *orchestrator.Client

	publishing  sync.WaitGroup
	unpublished atomic.Int64
}

func newThrough(target string) (*through, error) {
	conn, err := gateway.New(target)
	if err != nil {
		return nil, err
	}
	return &through{
		conn:         conn,
		logs:         buildlogs.NewClient(conn),
		events:       events.NewClient(conn),
		pulls:        pulls.NewTracker(conn),
		cache:        cache.New(conn, cache.Options{}),
		tracker:      tracker.NewClient(conn),
		locks:        lock.NewClient(conn),
		orchestrator: orchestrator.NewClient(conn),
	}, nil
}

func (t *through) append(ctx context.Context, build string) error {
	_, err := t.logs.Append(ctx, build, buildlogs.Message(message, "", nil))
	return err
}

func (t *through) log(ctx context.Context, build string) (int64, [][]byte, error) {
	entries, length, err := t.logs.Read(ctx, build, 0)
	return length, entries, err
}

func (t *through) publish(ctx context.Context, payload []byte) {
	t.publishing.Add(1)
	go func() {
		defer t.publishing.Done()
		if _, err := t.events.Publish(ctx, user, event, payload); err != nil {
			t.unpublished.Add(1)
		}
	}()
}

func (t *through) listen(ctx context.Context) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for item, err := range t.events.Listen(ctx, user, event) {
			var payload []byte
			switch item := item.(type) {
			case events.Event:
				payload = item.Payload
			case events.Heartbeat:
				continue
			case events.Gap:
				err = fmt.Errorf("a gap: %v", item.Cause)
			}
			if !yield(payload, err) {
				return
			}
		}
	}
}

func (t *through) pull(context.Context) {
	t.pulls.Track(pulls.Pull{Repository: 7, Tag: "latest", Digest: digest})
}

func (t *through) cacheGet(ctx context.Context, key string) ([]byte, error) {
	return t.cache.Get(ctx, key, cacheTime, func(context.Context) ([]byte, error) { return cached, nil })
}

func (t *through) cacheGetMany(ctx context.Context, keys []string) (map[string][]byte, error) {
	return t.cache.LookupMany(ctx, keys...)
}

func (t *through) blocked(ctx context.Context) (bool, error) {
	return t.tracker.IsBlocked(ctx, 5, user, repository)
}

func (t *through) lock(ctx context.Context, name string) error {
	held, err := t.locks.Lock(ctx, name, lock.Options{TTL: 30 * time.Second})
	if err != nil {
		return err
	}
	return held.Unlock()
}

func (t *through) orchestratorSet(ctx context.Context, key string, overwrite bool) error {
	if !overwrite {
		return t.orchestrator.Create(ctx, key, []byte("{}"), 100*time.Second)
	}
	stored, err := t.orchestrator.Overwrite(ctx, key, []byte("{}"), 100*time.Second)
	return expect(stored, "a key that was overwritten", err)
}

func (t *through) orchestratorGet(ctx context.Context, key string) ([]byte, error) {
	return t.orchestrator.Get(ctx, key)
}

func (t *through) appendMany(ctx context.Context, build string) error {
	writer := t.logs.Writer(build, 0)
	entries := make([]*buildlogs.Entry, linesAtOnce)
	for n := range entries {
		entries[n] = buildlogs.Message(message, "", nil)
	}
	for range lines / linesAtOnce {
		if err := writer.Append(ctx, entries...); err != nil {
			return err
		}
	}
	return expect(writer.Length() == lines, "lines that were appended", nil)
}

func (t *through) settle(context.Context) error {
	t.publishing.Wait()
	// A tracker tells its counts, and nobody when they change. Looking more often would be paid for too.
	for t.pulls.Counts().Queued > 0 {
		time.Sleep(20 * time.Millisecond)
	}
	counts := t.pulls.Counts()
	lost := counts.Dropped + counts.Refused + counts.Unknown
	return expect(lost == 0 && t.unpublished.Load() == 0, "what left by the background", nil)
}

func (t *through) close(ctx context.Context) error {
	t.pulls.Close(ctx)
	return t.conn.Close()
}
