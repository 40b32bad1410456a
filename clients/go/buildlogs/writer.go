package buildlogs

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

const (
	// The most entries, and bytes of them, of one request; an entry that is larger goes alone.
	maxBatch      = 1_000
	maxBatchBytes = 1 << 20
	// maxPending is how many entries a Writer keeps that are not known to stand. At the bound it takes no more: ErrFull.
	maxPending = 100_000
)

// ErrFull: too many entries are not known to stand. None of these was taken.
var ErrFull = errors.New("too many entries wait to be written")

// ConflictError: something else stands where the writer's entries should, or the log is shorter. Another writer has been at it, or
// Redis lost its end. The entries that wait are not written.
type ConflictError struct {
	// Expected is the length that the log should have had, Length the one that it has.
	Expected, Length int64
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("the log has %d entries, not the %d that its writer knows", e.Length, e.Expected)
}

// Writer writes a log, of which it is the only writer, each entry once and in order, whatever fails in between. It is for one
// goroutine.
type Writer struct {
	logs  pb.BuildLogsClient
	build string
	// length is where the first of pending belongs; asked is how many of them the last request had, which may stand.
	length  int64
	pending []*Entry
	asked   int
	// halved is how many more it had before it was halved. They may stand too: no request is to have some of them and later ones.
	halved int
}

// Writer makes a writer of a log that has so many entries: 0 for a new build, else what Length tells.
func (c *Client) Writer(build string, length int64) *Writer {
	return &Writer{logs: c.logs, build: build, length: length}
}

// Length is how many entries are known to stand.
func (w *Writer) Length() int64 { return w.length }

// Append writes entries, after those that wait. On an error other than ErrFull they wait too, but for those that Flush drops: they
// are written by the next Append or Flush, and must not be appended again.
func (w *Writer) Append(ctx context.Context, entries ...*Entry) error {
	if len(w.pending)+len(entries) > maxPending {
		return ErrFull
	}
	w.pending = append(w.pending, entries...)
	return w.Flush(ctx)
}

// Flush writes what waits. gateway.ErrInvalidArgument: entries that no log can hold, and those sent with them, were dropped.
// gateway.ErrRequestTooLarge: one that the gateway takes in no request was. What comes after them waits.
func (w *Writer) Flush(ctx context.Context) error {
	for len(w.pending) > 0 {
		if w.asked == 0 {
			w.asked = batch(w.pending)
		}
		answer, err := w.logs.CompareAndAppend(ctx, &pb.CompareAndAppendRequest{
			BuildId: w.build, Entries: w.pending[:w.asked], ExpectedLength: w.length,
		})
		switch {
		case errors.Is(err, gateway.ErrRequestTooLarge) && w.asked > 1:
			// The gateway is set to take less at a time than maxBatchBytes.
			w.halved += w.asked - w.asked/2
			w.asked /= 2
			continue
		case errors.Is(err, gateway.ErrInvalidArgument), errors.Is(err, gateway.ErrRequestTooLarge):
			w.done()
			return err
		case err != nil:
			return err
		case !answer.Appended:
			return &ConflictError{Expected: w.length, Length: answer.Length}
		}
		w.length = answer.Length
		w.done()
	}
	return nil
}

func (w *Writer) done() {
	w.pending = w.pending[w.asked:]
	w.asked, w.halved = w.halved, 0
}

// batch is how many entries go into the next request.
func batch(entries []*Entry) int {
	size := 0
	for n, entry := range entries {
		size += proto.Size(entry)
		if n > 0 && (n == maxBatch || size > maxBatchBytes) {
			return n
		}
	}
	return len(entries)
}
