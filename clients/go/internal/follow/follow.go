// Package follow keeps streams open over the ends of gateways and connections.
package follow

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/wait"
)

// Receiver is a stream as the stubs make it.
type Receiver[T any] interface{ Recv() (*T, error) }

// Stream opens a stream, hands on what it tells, and opens it again when it breaks, until take says that this was enough (nil),
// ctx ends, or it fails with what time does not mend. A stream that has told nothing yet is opened again only where it did not
// reach a gateway that stays, and for gateway.DefaultTimeout: what such a gateway refuses the caller hears at once.
func Stream[T any, S Receiver[T]](ctx context.Context, open func(context.Context) (S, error), take func(*T) bool) error {
	var backoff wait.Backoff
	opened := false
	patience := time.Now().Add(gateway.DefaultTimeout)
	for {
		err := one(ctx, open, func(message *T) bool {
			opened = true
			backoff.Reset()
			return take(message)
		})
		var failed *gateway.Error
		var least time.Duration
		switch ours := errors.As(err, &failed); {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case ours && !failed.Transient():
			return err
		case !opened && (time.Now().After(patience) || ours && failed.FromGateway && failed.Reason != gateway.ErrDraining):
			return err
		case ours:
			least = failed.RetryAfter
		}
		if !backoff.Wait(ctx, least) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
	}
}

// one follows a stream to its end. Nil: take has had enough.
func one[T any, S Receiver[T]](ctx context.Context, open func(context.Context) (S, error), take func(*T) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open(ctx)
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		if !take(message) {
			return nil
		}
	}
}
