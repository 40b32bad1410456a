// Package gateway connects to redis-gateway: a connection for the generated stubs, and for the packages beside this one, that
// keeps each call to its deadline, repeats what may be repeated, and says what became of the rest.
package gateway

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/redis-gateway/redis-gateway/clients/go/internal/wait"
)

// DefaultTimeout is what a call gets whose context has no deadline: for all of its attempts together.
const DefaultTimeout = 10 * time.Second

// maxAnswer is the largest answer that is read, in bytes: a direct client may have stored values beyond gRPC's default of 4 MiB.
const maxAnswer = 64 << 20

// Once makes a call that is not repeated, even where the proto allows it: for whom an answer at once is worth more. A gateway that
// drains has not made it, and the next one is asked.
var Once grpc.CallOption = once{}

type once struct{ grpc.EmptyCallOption }

// Conn is a connection to one or many gateways. It takes the place of a grpc.ClientConn where stubs are made.
type Conn struct{ conn *grpc.ClientConn }

var _ grpc.ClientConnInterface = (*Conn)(nil)

// New makes a connection to target: `host:port`, `unix:PATH`, or `dns:///name:port` of a headless service, whose gateways then
// get calls in turn. It is plain text unless options bring credentials, by grpc.WithTransportCredentials. It connects with the
// first call.
func New(target string, options ...grpc.DialOption) (*Conn, error) {
	ours := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		// A gateway that has gone without a word is noticed, also by a stream that waits.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true,
		}),
		// The default of two minutes between attempts is too long for a gateway that was only replaced.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	conn, err := grpc.NewClient(target, append(ours, options...)...)
	if err != nil {
		return nil, err
	}
	return &Conn{conn}, nil
}

// Close ends the connection, and with it what is under way.
func (c *Conn) Close() error { return c.conn.Close() }

// Invoke makes a call, as the stubs ask for it. Each error is an *Error.
func (c *Conn) Invoke(ctx context.Context, method string, args, reply any, options ...grpc.CallOption) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	repeat := safe(method) && !slices.Contains(options, Once)
	var backoff wait.Backoff
	for since := time.Now(); ; {
		var to peer.Peer
		err := c.conn.Invoke(ctx, method, args, reply, slices.Concat(options, []grpc.CallOption{grpc.Peer(&to)})...)
		if err == nil {
			return nil
		}
		failed := failure(method, err, to.Addr != nil)
		// Whom a gateway that ends sends away is better served by the next one, whatever it would fall back to.
		if !(repeat || failed.Reason == ErrDraining) || !failed.Transient() || !backoff.Wait(ctx, failed.RetryAfter) {
			return failed
		}
		args = rest(args, time.Since(since))
		since = time.Now()
	}
}

// rest is the request as the next attempt makes it: what was waited is not waited again.
func rest(args any, waited time.Duration) any {
	request, ok := args.(interface {
		proto.Message
		GetWaitMs() int64
	})
	if !ok || request.GetWaitMs() == 0 {
		return args
	}
	left := proto.Clone(request)
	field := left.ProtoReflect().Descriptor().Fields().ByName("wait_ms")
	left.ProtoReflect().Set(field, protoreflect.ValueOfInt64(max(0, request.GetWaitMs()-waited.Milliseconds())))
	return left
}

// NewStream opens a stream, as the stubs ask for it. Each error is an *Error, but for io.EOF.
func (c *Conn) NewStream(
	ctx context.Context, description *grpc.StreamDesc, method string, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	opened, err := c.conn.NewStream(ctx, description, method, options...)
	if err != nil {
		return nil, failure(method, err, false)
	}
	return stream{opened, method}, nil
}
