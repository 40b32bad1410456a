package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/stand"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

func appendLine(ctx context.Context, conn grpc.ClientConnInterface) error {
	line := &pb.LogEntry{Kind: &pb.LogEntry_Message{Message: &pb.LogMessage{Message: "x"}}}
	_, err := pb.NewBuildLogsClient(conn).Append(ctx, &pb.AppendRequest{BuildId: "7", Entries: []*pb.LogEntry{line}})
	return err
}

func TestErrorsCarryTheReasonOfTheGateway(t *testing.T) {
	s := stand.New(t)
	ctx := t.Context()
	_, err := pb.NewOrchestratorClient(s.Conn).Get(ctx, &pb.OrchestratorGetRequest{Key: "building/7"})
	if !errors.Is(err, gateway.ErrKeyNotFound) || status.Code(err) != codes.NotFound {
		t.Fatalf("%v", err)
	}
	_, err = pb.NewCacheClient(s.Conn).Get(ctx, &pb.CacheGetRequest{})
	var failed *gateway.Error
	if !errors.As(err, &failed) || failed.Reason != gateway.ErrInvalidArgument || failed.Metadata["field"] != "key" {
		t.Fatalf("%v", err)
	}
	s.Redis.Set(ctx, "builds/7/logs", "no list", 0)
	if err := appendLine(ctx, s.Conn); !errors.Is(err, gateway.ErrWrongType) || errors.Is(err, gateway.ErrOutcomeUnknown) {
		t.Fatalf("%v", err)
	}
}

func TestWhatIsNotAnsweredAndNotSafeIsUnknown(t *testing.T) {
	s := stand.New(t)
	limit := 500 * time.Millisecond
	within := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		t.Cleanup(cancel)
		return ctx
	}
	s.PauseRedis(t)
	err := appendLine(within(), s.Conn)
	s.ResumeRedis(t)
	if !errors.Is(err, gateway.ErrOutcomeUnknown) {
		t.Fatalf("by the gateway: %v", err)
	}
	s.Serving(t)
	s.PauseGateway(t)
	err = appendLine(within(), s.Conn)
	if !errors.Is(err, gateway.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("by the library: %v", err)
	}
	_, err = pb.NewCacheClient(s.Conn).Get(within(), &pb.CacheGetRequest{Key: "k"})
	if errors.Is(err, gateway.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a read: %v", err)
	}
	s.ResumeGateway(t)
	// What has left nobody is not in doubt.
	s.KillGateway()
	stand.Eventually(t, "the connection is known to be gone", func() bool {
		err = appendLine(within(), s.Conn)
		return err != nil && !errors.Is(err, gateway.ErrOutcomeUnknown)
	})
	if status.Code(err) != codes.Unavailable {
		t.Fatalf("not sent: %v", err)
	}
}

func TestSafeCallsAreRepeatedUntilTheirDeadline(t *testing.T) {
	s := stand.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), stand.Patience())
	defer cancel()
	s.KillGateway()
	status := pb.NewBuildLogsClient(s.Conn)
	done := make(chan error, 1)
	go func() {
		_, err := status.SetStatus(ctx, &pb.SetStatusRequest{BuildId: "7", Status: []byte(`{"a":1}`)})
		done <- err
	}()
	s.StartGateway(t)
	if err := stand.Soon(t, "an answer", done); err != nil {
		t.Fatal(err)
	}
	if got := s.Redis.Get(ctx, "builds/7/status").Val(); got != `{"a": 1}` {
		t.Fatalf("%q", got)
	}
}

func TestWhatIsRepeatedIsSafeAndNotSoonerThanTheGatewayAllows(t *testing.T) {
	s := stand.New(t)
	var attempts []time.Time
	conn := s.Connect(t, grpc.WithUnaryInterceptor(func(
		ctx context.Context, method string, request, reply any, conn *grpc.ClientConn,
		invoke grpc.UnaryInvoker, options ...grpc.CallOption,
	) error {
		attempts = append(attempts, time.Now())
		return invoke(ctx, method, request, reply, conn, options...)
	}))
	s.StopRedis()
	logs := pb.NewBuildLogsClient(conn)
	refused := func(call func(context.Context) error) int {
		t.Helper()
		attempts = nil
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := call(ctx); !errors.Is(err, gateway.ErrRedisUnavailable) {
			t.Fatalf("%v", err)
		}
		return len(attempts)
	}
	read := func(options ...grpc.CallOption) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := logs.GetStatus(ctx, &pb.GetStatusRequest{BuildId: "7"}, options...)
			return err
		}
	}
	// The connection may have to be given up first.
	stand.Eventually(t, "redis is known to be gone", func() bool { return read(gateway.Once)(t.Context()) != nil })
	if n := refused(read()); n < 2 {
		t.Fatalf("a read: %d attempts", n)
	}
	for n, at := range attempts[1:] {
		if pause := at.Sub(attempts[n]); pause < 250*time.Millisecond {
			t.Fatalf("again after %v, sooner than the gateway's RetryInfo says", pause)
		}
	}
	if n := refused(read(gateway.Once)); n != 1 {
		t.Fatalf("a read to be made once: %d attempts", n)
	}
	if n := refused(func(ctx context.Context) error { return appendLine(ctx, conn) }); n != 1 {
		t.Fatalf("an append: %d attempts", n)
	}
}

func TestACallWithoutADeadlineGetsOne(t *testing.T) {
	var left time.Duration
	watch := func(
		ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, _ ...grpc.CallOption,
	) error {
		deadline, _ := ctx.Deadline()
		left = time.Until(deadline)
		return nil
	}
	conn, err := gateway.New("unix:nowhere", grpc.WithUnaryInterceptor(watch))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := appendLine(context.Background(), conn); err != nil {
		t.Fatal(err)
	}
	if left <= 0 || left > gateway.DefaultTimeout {
		t.Fatalf("%v", left)
	}
}

func TestGatewaysGetCallsInTurnAndOneThatDiesIsLeftAlone(t *testing.T) {
	s := stand.New(t)
	_, second := s.Second(t)
	addresses := manual.NewBuilderWithScheme("both")
	addresses.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: s.Address()}, {Addr: second}}})
	seen := map[string]bool{}
	conn, err := gateway.New("both:///", grpc.WithResolvers(addresses), grpc.WithAuthority("localhost"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	logs := pb.NewBuildLogsClient(conn)
	holder := pb.NewLocksClient(conn)
	// Waiters are told of by the gateway that they wait at: two streams, one at each.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.Redis.Set(ctx, "lock:x", "somebody", 0)
	stand.Eventually(t, "both gateways take calls", func() bool {
		_, err := holder.Hold(ctx, &pb.HoldRequest{Name: "x", TtlMs: 1000, WaitMs: 60_000})
		if err != nil {
			t.Fatal(err)
		}
		for _, address := range []string{s.Address(), second} {
			one, err := gateway.New(address)
			if err != nil {
				t.Fatal(err)
			}
			got, err := pb.NewLocksClient(one).Get(ctx, &pb.LocksGetRequest{Name: "x"})
			one.Close()
			if err != nil {
				t.Fatal(err)
			}
			seen[address] = seen[address] || got.Waiters > 0
		}
		return len(seen) == 2 && seen[second] && seen[s.Address()]
	})
	s.KillGateway()
	set := func(n int) error {
		request := &pb.SetStatusRequest{BuildId: fmt.Sprint(n), Status: []byte("1")}
		_, err := logs.SetStatus(ctx, request, gateway.Once)
		return err
	}
	// Each second call would fail as long as the dead one has its turn.
	stand.Eventually(t, "the connection is known to be gone", func() bool { return set(0) == nil && set(1) == nil })
	for n := range 20 {
		if err := set(n); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEachDegradedReasonHasItsError(t *testing.T) {
	if err := gateway.Degraded(pb.DegradedReason_DEGRADED_REASON_VALUE_TOO_LARGE); !errors.Is(err, gateway.ErrValueTooLarge) {
		t.Error(err)
	}
	if err := gateway.Degraded(4711); !errors.Is(err, gateway.Reason("UNKNOWN_4711")) {
		t.Error(err)
	}
	if err := gateway.Degraded(0); err != nil {
		t.Error(err)
	}
}
