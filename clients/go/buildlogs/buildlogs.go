// Package buildlogs writes the logs of container builds and follows them.
package buildlogs

import (
	"context"
	"iter"

	"google.golang.org/grpc"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/follow"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

// The types of messages in use; plain output has none.
const (
	Error   = "error"
	Command = "command"
	Phase   = "phase"
)

// Entry is an entry of a log.
type Entry = pb.LogEntry

// Message makes an entry of a message; kind and data, a JSON text, may be empty.
func Message(message, kind string, data []byte) *Entry {
	return &Entry{Kind: &pb.LogEntry_Message{Message: &pb.LogMessage{Message: message, Type: kind, Data: data}}}
}

// JSON makes an entry of a JSON text.
func JSON(text []byte) *Entry { return &Entry{Kind: &pb.LogEntry_Json{Json: text}} }

// Client reads and writes logs by a connection.
type Client struct{ logs pb.BuildLogsClient }

// NewClient makes a client.
func NewClient(conn *gateway.Conn) *Client { return &Client{pb.NewBuildLogsClient(conn)} }

// Append appends entries, at most 10,000, and answers the log's length. gateway.ErrOutcomeUnknown: they may stand or not. Where
// that matters, take a Writer.
func (c *Client) Append(ctx context.Context, build string, entries ...*Entry) (length int64, err error) {
	answer, err := c.logs.Append(ctx, &pb.AppendRequest{BuildId: build, Entries: entries})
	return answer.GetLength(), err
}

// Length is how many entries a log has.
func (c *Client) Length(ctx context.Context, build string) (int64, error) {
	answer, err := c.logs.ListEntries(ctx, &pb.ListEntriesRequest{BuildId: build, Start: -1, PageSize: 1})
	return answer.GetLength(), err
}

// Read reads a log from an index on, page by page, to its end; a negative one counts from the end. It answers the length that the
// log had at the last page.
func (c *Client) Read(ctx context.Context, build string, start int64) (entries [][]byte, length int64, err error) {
	for {
		page, err := c.logs.ListEntries(ctx, &pb.ListEntriesRequest{BuildId: build, Start: start, PageSize: 10_000})
		if err != nil {
			return nil, 0, err
		}
		entries = append(entries, page.Entries...)
		if start = page.NextStart; start >= page.Length || len(page.Entries) == 0 {
			return entries, page.Length, nil
		}
	}
}

// SetStatus sets a build's status, a JSON text.
func (c *Client) SetStatus(ctx context.Context, build string, status []byte) error {
	_, err := c.logs.SetStatus(ctx, &pb.SetStatusRequest{BuildId: build, Status: status})
	return err
}

// Status gets a build's status; nil if there is none.
func (c *Client) Status(ctx context.Context, build string) ([]byte, error) {
	answer, err := c.logs.GetStatus(ctx, &pb.GetStatusRequest{BuildId: build})
	return answer.GetStatus(), err
}

// ExpireStatus lets the status expire in 24 hours, as is done once the log is archived.
func (c *Client) ExpireStatus(ctx context.Context, build string) error {
	_, err := c.logs.ExpireStatus(ctx, &pb.ExpireStatusRequest{BuildId: build})
	return err
}

// ExpireEntries lets the entries expire in 24 hours.
func (c *Client) ExpireEntries(ctx context.Context, build string) error {
	_, err := c.logs.ExpireEntries(ctx, &pb.ExpireEntriesRequest{BuildId: build})
	return err
}

// DeleteEntries deletes the entries, as is done once the log is archived.
func (c *Client) DeleteEntries(ctx context.Context, build string) error {
	_, err := c.logs.DeleteEntries(ctx, &pb.DeleteEntriesRequest{BuildId: build})
	return err
}

// Item is what a tail tells: Entries, Reset or Heartbeat.
type Item interface{ item() }

// Entries are entries of a log, as they stand in Redis.
type Entries struct {
	// Start is the index of the first.
	Start   int64
	Entries [][]byte
}

// Reset says that the list is no longer the one that was read: what was read from Next on is void.
type Reset struct {
	Cause pb.TailReset_Cause
	// Length is the list's now.
	Length int64
	// Next is the index of the entry that comes next.
	Next int64
}

// Heartbeat comes after a silence.
type Heartbeat struct {
	// Degraded is not nil while the gateway cannot read the log.
	Degraded error
}

func (Entries) item()   {}
func (Reset) item()     {}
func (Heartbeat) item() {}

// Tail follows a log from an index on, until ctx ends or the loop does: each entry once and in order, over the ends of gateways
// and connections. A negative start counts from the end. A log that cannot be read at first is an error at once; an error is the
// last item.
func (c *Client) Tail(ctx context.Context, build string, start int64) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		next := &pb.TailRequest{BuildId: build, Start: start}
		err := follow.Stream(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[pb.TailResponse], error) {
			return c.logs.Tail(ctx, next)
		}, func(answer *pb.TailResponse) bool {
			switch item := answer.Event.(type) {
			case *pb.TailResponse_Opened:
				// Where a negative start leads to: the same entry when it is opened again. Unless a reset follows.
				if next.Start < 0 {
					next.Start = item.Opened.Start
				}
			case *pb.TailResponse_Entries:
				some := item.Entries
				next.Start = some.Start + int64(len(some.Entries))
				next.PreviousEntry = some.Entries[len(some.Entries)-1]
				return yield(Entries{Start: some.Start, Entries: some.Entries}, nil)
			case *pb.TailResponse_Reset_:
				reset := item.Reset_
				next.Start, next.PreviousEntry = reset.NextStart, nil
				return yield(Reset{Cause: reset.Cause, Length: reset.Length, Next: reset.NextStart}, nil)
			case *pb.TailResponse_Heartbeat:
				return yield(Heartbeat{Degraded: gateway.Degraded(item.Heartbeat.Degraded)}, nil)
			}
			return true
		})
		if err != nil {
			yield(nil, err)
		}
	}
}
