// Package wait is the time between two attempts.
package wait

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	first = 50 * time.Millisecond
	most  = time.Second
)

// Backoff is the waits between attempts: each twice as long as the one before, by chance shorter, so that those who failed
// together do not come back together.
type Backoff struct{ next time.Duration }

// Reset begins anew, after an attempt that fared well.
func (b *Backoff) Reset() { b.next = 0 }

// Wait waits, for no less than least. False: ctx has ended, or would before.
func (b *Backoff) Wait(ctx context.Context, least time.Duration) bool {
	b.next = min(max(first, 2*b.next), most)
	pause := max(least, rand.N(b.next))
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < pause {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
