package pulls

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/wait"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

const (
	// maxQueued is how many pulls wait while they cannot be counted. At the bound the next one is dropped, and counted as such.
	maxQueued = 65_536
	// maxBatch is the most pulls of one call.
	maxBatch = 1_000
)

// Counts is what became of pulls.
type Counts struct {
	// Counted stand in Redis; Unknown may or may not: their answer was lost, and they are not sent again.
	Counted, Unknown uint64
	// Refused can never be counted, such as one without a digest; Dropped found no room, or were left when the tracker closed.
	Refused, Dropped uint64
	// Queued wait.
	Queued uint64
}

// Tracker counts pulls in the background: those that come while a batch is under way become the next one. None is counted twice,
// and Counts tells of each what became of it.
type Tracker struct {
	pulls pb.PullMetricsClient
	stop  context.CancelFunc
	ended chan struct{}

	// lock guards that nothing is sent to a queue that is closed.
	lock   sync.RWMutex
	closed bool
	queue  chan *pb.Pull

	taken, counted, unknown, refused, dropped atomic.Uint64
}

// NewTracker makes a tracker, which works until it is closed.
func NewTracker(conn *gateway.Conn) *Tracker {
	ctx, stop := context.WithCancel(context.Background())
	t := &Tracker{
		pulls: pb.NewPullMetricsClient(conn),
		stop:  stop,
		ended: make(chan struct{}),
		queue: make(chan *pb.Pull, maxQueued),
	}
	go t.run(ctx)
	return t
}

// Track takes a pull to count it in a moment, and never waits. False: it was dropped, there is no room or the tracker is closed.
func (t *Tracker) Track(pull Pull) bool {
	if pull.At.IsZero() {
		pull.At = time.Now()
	}
	t.lock.RLock()
	defer t.lock.RUnlock()
	if !t.closed {
		// Before anything becomes of it.
		t.taken.Add(1)
		select {
		case t.queue <- pull.message():
			return true
		default:
			t.taken.Add(^uint64(0))
		}
	}
	t.dropped.Add(1)
	return false
}

// Counts tells what became of pulls so far.
func (t *Tracker) Counts() Counts {
	// What became of them first: none of these is taken later.
	counts := Counts{
		Counted: t.counted.Load(), Unknown: t.unknown.Load(), Refused: t.refused.Load(), Dropped: t.dropped.Load(),
	}
	counts.Queued = t.taken.Load() - counts.Counted - counts.Unknown - counts.Refused
	return counts
}

// Close takes no more pulls, counts those that wait until ctx ends, and drops the rest.
func (t *Tracker) Close(ctx context.Context) Counts {
	t.lock.Lock()
	if !t.closed {
		t.closed = true
		close(t.queue)
	}
	t.lock.Unlock()
	defer context.AfterFunc(ctx, t.stop)()
	<-t.ended
	t.stop()
	return t.Counts()
}

func (t *Tracker) run(ctx context.Context) {
	defer close(t.ended)
	var backoff wait.Backoff
	var batch []*pb.Pull
	for {
		batch = t.fill(batch)
		if len(batch) == 0 {
			return
		}
		var least time.Duration
		if batch, least = t.count(ctx, batch); len(batch) == 0 {
			backoff.Reset()
		} else if !backoff.Wait(ctx, least) {
			// Nobody takes what was taken and is left.
			rest := uint64(len(batch) + len(t.queue))
			t.taken.Add(-rest)
			t.dropped.Add(rest)
			return
		}
	}
}

// fill fills a batch with what waits, and waits for the first one. It stays empty once there will be no more.
func (t *Tracker) fill(batch []*pb.Pull) []*pb.Pull {
	if len(batch) == 0 {
		pull, more := <-t.queue
		if !more {
			return nil
		}
		batch = append(batch, pull)
	}
	for len(batch) < maxBatch {
		select {
		case pull, more := <-t.queue:
			if !more {
				return batch
			}
			batch = append(batch, pull)
		default:
			return batch
		}
	}
	return batch
}

// count counts a batch and answers what of it is not counted for sure and may be tried again, not before a while.
func (t *Tracker) count(ctx context.Context, batch []*pb.Pull) (again []*pb.Pull, least time.Duration) {
	for len(batch) > 0 {
		answer, err := t.pulls.BatchTrackPulls(ctx, &pb.BatchTrackPullsRequest{Pulls: batch})
		var failed *gateway.Error
		var wrong int
		switch {
		case err == nil:
			return t.settle(batch, answer.Failures), 0
		case !errors.As(err, &failed):
			t.refused.Add(uint64(len(batch)))
			return nil, 0
		case failed.Reason == gateway.ErrOutcomeUnknown:
			t.unknown.Add(uint64(len(batch)))
			return nil, 0
		case failed.Transient():
			return batch, failed.RetryAfter
		case failed.Reason == gateway.ErrRequestTooLarge && len(batch) > 1:
			half := len(batch) / 2
			again, least = t.count(ctx, batch[:half])
			more, later := t.count(ctx, batch[half:])
			return slices.Concat(again, more), max(least, later)
		}
		if n, _ := fmt.Sscanf(failed.Metadata["field"], "pulls[%d]", &wrong); n != 1 || wrong >= len(batch) {
			t.refused.Add(uint64(len(batch)))
			return nil, 0
		}
		// One breaks a rule. Nothing of the batch was counted, and time mends nothing: the others go on without it.
		t.refused.Add(1)
		batch = slices.Delete(batch, wrong, wrong+1)
	}
	return nil, 0
}

// settle counts what became of a batch and answers what may be tried again.
func (t *Tracker) settle(batch []*pb.Pull, failures []*pb.PullFailure) (again []*pb.Pull) {
	t.counted.Add(uint64(len(batch) - len(failures)))
	for _, failure := range failures {
		switch failure.Reason {
		case pb.DegradedReason_DEGRADED_REASON_OUTCOME_UNKNOWN:
			t.unknown.Add(1)
		case pb.DegradedReason_DEGRADED_REASON_WRONG_TYPE, pb.DegradedReason_DEGRADED_REASON_REDIS_DENIED,
			pb.DegradedReason_DEGRADED_REASON_REDIS_ERROR:
			t.refused.Add(1)
		default:
			again = append(again, batch[failure.Index])
		}
	}
	return again
}
