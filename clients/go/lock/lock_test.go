package lock_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/stand"
	"github.com/redis-gateway/redis-gateway/clients/go/lock"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

func acquire(t *testing.T, client *lock.Client, options lock.Options) *lock.Lock {
	t.Helper()
	held, err := client.Lock(t.Context(), "x", options)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

// lost waits for the end of a lock's context, and its cause.
func lost(t *testing.T, held *lock.Lock) error {
	t.Helper()
	stand.Soon(t, "the end of the lock", held.Context().Done())
	return context.Cause(held.Context())
}

func TestALockExcludesDirectHoldersAndIsFreeAfterUnlock(t *testing.T) {
	s := stand.New(t)
	ctx := t.Context()
	client := lock.NewClient(s.Conn)
	held := acquire(t, client, lock.Options{TTL: 20 * time.Second})
	if id := s.Redis.Get(ctx, "lock:x").Val(); len(id) != 24 {
		t.Fatalf("a holder as python-redis-lock has them: %q", id)
	}
	if left := s.Redis.TTL(ctx, "lock:x").Val(); left > 20*time.Second || left < 10*time.Second {
		t.Fatalf("%v", left)
	}
	if _, err := client.Lock(ctx, "x", lock.Options{}); !errors.Is(err, lock.ErrBusy) {
		t.Fatalf("%v", err)
	}
	next := make(chan *lock.Lock)
	go func() {
		waited, err := client.Lock(ctx, "x", lock.Options{Wait: stand.Patience()})
		if err != nil {
			t.Error(err)
		}
		next <- waited
	}()
	if err := held.Unlock(); err != nil {
		t.Fatal(err)
	}
	if cause := lost(t, held); cause != lock.ErrUnlocked {
		t.Fatalf("%v", cause)
	}
	second := stand.Soon(t, "the lock", next)
	if second.FencingToken <= held.FencingToken {
		t.Fatalf("%d after %d", second.FencingToken, held.FencingToken)
	}
	// The signal that wakes direct waiters.
	s.Redis.Del(ctx, "lock-signal:x")
	if err := second.Unlock(); err != nil {
		t.Fatal(err)
	}
	if woken := s.Redis.BLPop(ctx, time.Second, "lock-signal:x").Val(); len(woken) != 2 || woken[1] != "1" {
		t.Fatalf("%v", woken)
	}
	if s.Redis.Exists(ctx, "lock:x").Val() != 0 {
		t.Fatal("it is held")
	}
	// A direct holder is waited for, and a context that ends ends the wait.
	s.Redis.Set(ctx, "lock:x", "direct", 0)
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := client.Lock(short, "x", lock.Options{Wait: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
}

func TestALostLockEndsItsContext(t *testing.T) {
	s := stand.New(t)
	client := lock.NewClient(s.Conn)
	for value, cause := range map[string]pb.HoldLost_Cause{"": pb.HoldLost_CAUSE_GONE, "another": pb.HoldLost_CAUSE_TAKEN} {
		held := acquire(t, client, lock.Options{})
		if value == "" {
			s.Redis.Del(t.Context(), "lock:x")
		} else {
			s.Redis.Set(t.Context(), "lock:x", value, 0)
		}
		var told *lock.LostError
		if got := lost(t, held); !errors.As(got, &told) || told.Cause != cause || !errors.Is(got, gateway.ErrLockLost) {
			t.Fatalf("%v instead of %v", got, cause)
		}
		if err := held.Unlock(); !errors.Is(err, gateway.ErrLockLost) {
			t.Fatalf("%v", err)
		}
		s.Redis.Del(t.Context(), "lock:x")
	}
}

func TestALockThatIsRefusedToItsHolderIsLost(t *testing.T) {
	s := stand.New(t)
	held := acquire(t, lock.NewClient(s.Conn), lock.Options{TTL: time.Hour, Grace: time.Hour})
	s.KillGateway()
	s.Redis.Del(t.Context(), "lock:x")
	s.Redis.RPush(t.Context(), "lock:x", "no lock")
	s.StartGateway(t)
	var told *lock.LostError
	cause := lost(t, held)
	if !errors.As(cause, &told) || told.Cause != pb.HoldLost_CAUSE_UNKNOWN || !errors.Is(cause, gateway.ErrLockLost) {
		t.Fatalf("%v", cause)
	}
	if !errors.Is(cause, gateway.ErrWrongType) || !strings.Contains(cause.Error(), "WRONG_TYPE") {
		t.Fatalf("nothing says why: %v", cause)
	}
}

func TestALockOutlivesItsCallersContextUntilUnlock(t *testing.T) {
	s := stand.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	held, err := lock.NewClient(s.Conn).Lock(ctx, "x", lock.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if cause := lost(t, held); cause != context.Canceled {
		t.Fatalf("%v", cause)
	}
	if s.Redis.Exists(t.Context(), "lock:x").Val() != 1 {
		t.Fatal("released before Unlock")
	}
	if err := held.Unlock(); err != nil {
		t.Fatal(err)
	}
	if s.Redis.Exists(t.Context(), "lock:x").Val() != 0 {
		t.Fatal("it is held")
	}
}

func TestALockIsTakenUpOnAnotherGateway(t *testing.T) {
	s := stand.New(t)
	other, second := s.Second(t)
	addresses := manual.NewBuilderWithScheme("both")
	// In this order: the first one that takes connections is used.
	addresses.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: s.Address()}, {Addr: second}}})
	conn, err := gateway.New("both:///", grpc.WithResolvers(addresses), grpc.WithAuthority("localhost"),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"pick_first": {}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	held := acquire(t, lock.NewClient(conn), lock.Options{TTL: 12 * time.Second, Grace: 12 * time.Second})
	before := s.Redis.Get(t.Context(), "lock:x").Val()
	s.KillGateway()
	s.Redis.PExpire(t.Context(), "lock:x", 9*time.Second)
	stand.Eventually(t, "the second gateway renews it", func() bool {
		if held.Context().Err() != nil {
			t.Fatal(context.Cause(held.Context()))
		}
		return s.Redis.PTTL(t.Context(), "lock:x").Val() > 10*time.Second
	})
	got, err := pb.NewLocksClient(other).Get(t.Context(), &pb.LocksGetRequest{Name: "x"})
	if err != nil || got.HolderId != before || got.FencingToken != held.FencingToken {
		t.Fatalf("%v %v", got, err)
	}
	if err := held.Unlock(); err != nil {
		t.Fatal(err)
	}
}

func TestALockThatNoGatewayTakesUpEndsWithItsGrace(t *testing.T) {
	s := stand.New(t)
	grace := 500 * time.Millisecond
	held := acquire(t, lock.NewClient(s.Conn), lock.Options{TTL: time.Hour, Grace: grace})
	began := time.Now()
	s.KillGateway()
	var told *lock.LostError
	if cause := lost(t, held); !errors.As(cause, &told) || told.Cause != pb.HoldLost_CAUSE_UNKNOWN {
		t.Fatalf("%v", cause)
	}
	if took := time.Since(began); took < grace/2 {
		t.Fatalf("given up after %v", took)
	}
	// It stands until its time to live ends, or until it is unlocked by the gateway that comes.
	s.StartGateway(t)
	if err := held.Unlock(); err != nil || s.Redis.Exists(t.Context(), "lock:x").Val() != 0 {
		t.Fatalf("%v", err)
	}
}

func TestNobodyWaitsLongerThanItsContextForAGatewayThatHangs(t *testing.T) {
	s := stand.New(t)
	client := lock.NewClient(s.Conn)
	if err := acquire(t, client, lock.Options{}).Unlock(); err != nil {
		t.Fatal(err)
	}
	s.PauseGateway(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := client.Lock(ctx, "x", lock.Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	s.ResumeGateway(t)
}
