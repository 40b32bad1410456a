// Package events publishes the events of users' sessions, and listens to them.
package events

import (
	"context"
	"iter"

	"google.golang.org/grpc"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/follow"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

// Client publishes and listens by a connection.
type Client struct{ events pb.UserEventsClient }

// NewClient makes a client.
func NewClient(conn *gateway.Conn) *Client { return &Client{pb.NewUserEventsClient(conn)} }

// Publish publishes a JSON text, and answers how many of Redis' subscribers it went to; a gateway is one, however many listen
// through it. Meant to be fired and forgotten: an error may be ignored. It is a gateway.Reason where Redis is at fault.
func (c *Client) Publish(ctx context.Context, username, event string, payload []byte) (receivers int64, err error) {
	answer, err := c.events.Publish(ctx, &pb.PublishRequest{Username: username, EventId: event, Payload: payload})
	if err != nil {
		return 0, err
	}
	return answer.Receivers, gateway.Degraded(answer.Degraded)
}

// Item is what a listener is told: Opened, Event, Gap or Heartbeat.
type Item interface{ item() }

// Opened is the first item: what is published from here on comes, or a Gap in its place.
type Opened struct{}

// Event is an event.
type Event struct {
	// ID is such as `docker-cli`.
	ID string
	// Payload is a JSON text.
	Payload []byte
}

// Gap says that events may be missing before the item that comes next.
type Gap struct {
	// Cause is why; CAUSE_UNSPECIFIED: the connection to a gateway was lost, and there is another one.
	Cause pb.ListenGap_Cause
	// Dropped is how many are missing; 0: not known.
	Dropped uint64
}

// Heartbeat comes after a silence.
type Heartbeat struct {
	// Degraded is not nil while the gateway hears nothing from Redis: a Gap follows when it does again.
	Degraded error
}

func (Opened) item()    {}
func (Event) item()     {}
func (Gap) item()       {}
func (Heartbeat) item() {}

// Listen tells a user's events as they are published, until ctx ends or the loop does. A subscription that cannot be made is an
// error at once; once Opened it goes on, over the ends of gateways and connections, and tells the Gap. An error is the last item.
func (c *Client) Listen(ctx context.Context, username string, events ...string) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		opened := false
		err := follow.Stream(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[pb.ListenResponse], error) {
			return c.events.Listen(ctx, &pb.ListenRequest{Username: username, EventIds: events})
		}, func(answer *pb.ListenResponse) bool {
			switch item := answer.Item.(type) {
			case *pb.ListenResponse_Opened:
				if opened {
					return yield(Gap{}, nil)
				}
				opened = true
				return yield(Opened{}, nil)
			case *pb.ListenResponse_Event:
				return yield(Event{ID: item.Event.EventId, Payload: item.Event.Payload}, nil)
			case *pb.ListenResponse_Gap:
				return yield(Gap{Cause: item.Gap.Cause, Dropped: item.Gap.Dropped}, nil)
			case *pb.ListenResponse_Heartbeat:
				return yield(Heartbeat{Degraded: gateway.Degraded(item.Heartbeat.Degraded)}, nil)
			}
			return true
		})
		if err != nil {
			yield(nil, err)
		}
	}
}
