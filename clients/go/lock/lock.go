// Package lock holds locks through a gateway, by the protocol of python-redis-lock: holders with and without it exclude each
// other.
package lock

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/follow"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/round"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/wait"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

const (
	defaultTTL   = 30 * time.Second
	defaultGrace = 5 * time.Second
	// unlockTimeout is for a release, while the gateway is replaced perhaps.
	unlockTimeout = 5 * time.Second
)

var (
	// ErrBusy: somebody else held the lock for as long as the caller would wait.
	ErrBusy = errors.New("the lock is busy")
	// ErrUnlocked is the cause of a lock's context after Unlock.
	ErrUnlocked = errors.New("the lock is unlocked")
)

// LostError is the cause of a lock's context once the lock may be another's. errors.Is(err, gateway.ErrLockLost) finds it.
type LostError struct {
	Cause pb.HoldLost_Cause
	// Err is why no gateway would hold it any longer; nil if none refused to.
	Err error
}

func (e *LostError) Error() string {
	if e.Err != nil {
		return "the lock is lost: " + e.Err.Error()
	}
	return "the lock is lost: " + e.Cause.String()
}

// Unwrap is Err.
func (e *LostError) Unwrap() error { return e.Err }

// Is tells that this is a lost lock, as gateway.ErrLockLost is.
func (e *LostError) Is(target error) bool { return target == gateway.ErrLockLost }

// Options of a lock. What is 0 has its default.
type Options struct {
	// TTL is how long the lock stays if the gateway goes away, which renews it: 30 s by default, 1 s at least.
	TTL time.Duration
	// Wait is how long to wait while it is busy. By default not at all.
	Wait time.Duration
	// Grace is how long the lock is kept for this holder after a connection broke, so that it is taken up again, on any
	// gateway: 5 s by default, TTL at most.
	Grace time.Duration
}

// Client locks by a connection.
type Client struct{ locks pb.LocksClient }

// NewClient makes a client.
func NewClient(conn *gateway.Conn) *Client { return &Client{pb.NewLocksClient(conn)} }

// Lock is a lock that is held until Unlock, or until it is lost.
type Lock struct {
	// FencingToken is larger than that of every acquisition through any gateway before: what the lock protects can refuse a
	// smaller one than it has seen.
	FencingToken int64

	locks  pb.LocksClient
	name   string
	holder string
	held   context.Context
	unlock func() error
}

// Lock acquires the lock, and waits for it if asked to, no longer than ctx lasts. It fails with ErrBusy, an error of the gateway,
// or that of ctx.
//
// The end of ctx ends the lock's Context too, but not the lock: whoever is still on its way out keeps it, until Unlock.
func (c *Client) Lock(ctx context.Context, name string, options Options) (*Lock, error) {
	options.TTL = cmp.Or(options.TTL, defaultTTL)
	options.Grace = cmp.Or(options.Grace, min(defaultGrace, options.TTL))
	held, lose := context.WithCancelCause(ctx)
	streaming, end := context.WithCancel(context.WithoutCancel(ctx))
	k := &keeper{
		lock:    &Lock{locks: c.locks, name: name, held: held},
		options: options,
		lose:    lose,
		told:    make(chan error, 1),
		until:   time.Now().Add(options.Wait),
	}
	// It begins with the first certainty.
	k.timer = time.AfterFunc(time.Hour, func() {
		lose(&LostError{Cause: pb.HoldLost_CAUSE_UNKNOWN})
		end()
	})
	k.timer.Stop()
	ended := make(chan struct{})
	go func() {
		k.keep(streaming)
		close(ended)
	}()
	k.lock.unlock = sync.OnceValue(func() error {
		err := k.lock.release()
		lose(ErrUnlocked)
		end()
		<-ended
		return err
	})

	waiting, cancel := context.WithTimeout(ctx, options.Wait+gateway.DefaultTimeout)
	defer cancel()
	var err error
	select {
	case err = <-k.told:
	case <-waiting.Done():
		err = context.Cause(waiting)
	}
	if err == nil {
		return k.lock, nil
	}
	// What was acquired and not heard of is released by the gateway, after the grace.
	end()
	<-ended
	if k.lock.holder != "" {
		_ = k.lock.Unlock()
	}
	lose(err)
	return nil, err
}

// Context lasts for as long as the lock is certain to be held, and as the context that it was acquired with. Its cause is a
// *LostError, ErrUnlocked, or that of the other context.
func (l *Lock) Context() context.Context { return l.held }

// Unlock releases the lock. An error says that it was lost before, or that the release is in doubt: the lock is free then after
// its grace at the latest. A second call does nothing, and answers the same.
func (l *Lock) Unlock() error { return l.unlock() }

func (l *Lock) release() error {
	// Also where the caller's own context has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.held), unlockTimeout)
	defer cancel()
	var backoff wait.Backoff
	for doubt := false; ; {
		_, err := l.locks.Release(ctx, &pb.ReleaseRequest{Name: l.name, HolderId: l.holder})
		var failed *gateway.Error
		if !errors.As(err, &failed) {
			return err
		}
		unknown := failed.Reason == gateway.ErrOutcomeUnknown
		switch {
		case doubt && failed.Reason == gateway.ErrLockLost:
			// By the release whose answer was lost; or before, which its context tells.
			return nil
		case !unknown && !failed.Transient(), !backoff.Wait(ctx, failed.RetryAfter):
			return err
		}
		doubt = doubt || unknown
	}
}

// keeper follows the stream that holds a lock.
type keeper struct {
	lock    *Lock
	options Options
	lose    context.CancelCauseFunc
	// told hears once whether the lock was acquired.
	told chan error
	// until is the end of the wait, and once the lock is held that of what is certain, when timer calls it lost.
	until time.Time
	timer *time.Timer
}

func (k *keeper) keep(ctx context.Context) {
	err := follow.Stream(ctx, k.open, k.take)
	k.timer.Stop()
	switch {
	case k.lock.holder == "" && err != nil:
		k.told <- err
	case err != nil:
		// By Unlock, or since nothing is certain any more, which was told; otherwise no gateway would take it up again.
		k.lose(&LostError{Cause: pb.HoldLost_CAUSE_UNKNOWN, Err: err})
	}
}

func (k *keeper) open(ctx context.Context) (grpc.ServerStreamingClient[pb.HoldResponse], error) {
	request := &pb.HoldRequest{
		Name:         k.lock.name,
		TtlMs:        round.Up(k.options.TTL, time.Millisecond),
		GraceMs:      round.Up(k.options.Grace, time.Millisecond),
		HolderId:     k.lock.holder,
		FencingToken: k.lock.FencingToken,
	}
	if k.lock.holder == "" {
		request.WaitMs = round.Up(max(0, time.Until(k.until)), time.Millisecond)
	} else {
		// A stream has ended: from here on the lock is certain for its grace only.
		k.certain(min(k.options.Grace, time.Until(k.until)))
	}
	return k.lock.locks.Hold(ctx, request)
}

func (k *keeper) take(answer *pb.HoldResponse) bool {
	switch event := answer.Event.(type) {
	case *pb.HoldResponse_Acquired:
		k.certain(k.options.TTL)
		if k.lock.holder == "" {
			k.lock.holder, k.lock.FencingToken = event.Acquired.HolderId, event.Acquired.FencingToken
			k.told <- nil
		}
	case *pb.HoldResponse_Renewed:
		k.certain(k.options.TTL)
	case *pb.HoldResponse_Lost:
		k.lose(&LostError{Cause: event.Lost.Cause})
		return false
	case *pb.HoldResponse_Busy:
		k.told <- ErrBusy
		return false
	}
	return true
}

// certain says for how long from now on the lock is certain to be held.
func (k *keeper) certain(rest time.Duration) {
	k.until = time.Now().Add(rest)
	k.timer.Reset(rest)
}
