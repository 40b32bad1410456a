package orchestrator_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/stand"
	"github.com/redis-gateway/redis-gateway/clients/go/orchestrator"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

var kinds = map[orchestrator.Kind]string{
	orchestrator.Found: "found", orchestrator.Synced: "synced", orchestrator.Create: "create", orchestrator.Set: "set",
	orchestrator.Delete: "delete", orchestrator.Expire: "expire", orchestrator.Gap: "gap",
}

// watch follows the keys below building/; what it answers tells the next event, and acknowledges it.
func watch(t *testing.T, client *orchestrator.Client, options orchestrator.WatchOptions) func() string {
	told := stand.Listen(t, func(ctx context.Context) iter.Seq2[orchestrator.Event, error] {
		return client.Watch(ctx, "building/", options)
	})
	return func() string {
		t.Helper()
		event := stand.Next(t, told, func(event orchestrator.Event) bool { return event.Kind == orchestrator.Heartbeat })
		event.Acknowledge()
		if event.Key == "" {
			return kinds[event.Kind]
		}
		return fmt.Sprintf("%s %s %s", kinds[event.Kind], event.Key, event.Value)
	}
}

func expect(t *testing.T, next func() string, want ...string) {
	t.Helper()
	for _, want := range want {
		if got := next(); got != want {
			t.Fatalf("%q instead of %q", got, want)
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestKeysAreThoseOfManagersWithoutTheGateway(t *testing.T) {
	s := stand.New(t)
	ctx := t.Context()
	client := orchestrator.NewClient(s.Conn)
	check(t, client.Create(ctx, "building/1", []byte("a"), 0))
	if err := client.Create(ctx, "building/1", []byte("b"), 0); !errors.Is(err, gateway.ErrKeyExists) {
		t.Fatalf("%v", err)
	}
	check(t, client.Create(ctx, "building/2", []byte("b"), 90*time.Second))
	if left := s.Redis.TTL(ctx, "building/2/expiring").Val(); left > 90*time.Second || left < 60*time.Second {
		t.Fatalf("%v", left)
	}
	if stored, err := client.Overwrite(ctx, "building/3", nil, 0); err != nil || stored {
		t.Fatalf("%v %v", stored, err)
	}
	if stored, err := client.Overwrite(ctx, "building/1", []byte("c"), 0); err != nil || !stored {
		t.Fatalf("%v %v", stored, err)
	}
	if got := s.Redis.Get(ctx, "building/1").Val(); got != "c" {
		t.Fatalf("%q", got)
	}
	s.Redis.Set(ctx, "building/4", "direct", 0)
	if value, err := client.Get(ctx, "building/4"); err != nil || string(value) != "direct" {
		t.Fatalf("%q %v", value, err)
	}
	listed, err := client.List(ctx, "building/")
	check(t, err)
	if keys := slices.Sorted(maps.Keys(listed)); !slices.Equal(keys, []string{"building/1", "building/4"}) {
		t.Fatalf("%v", keys)
	}
	if value, err := client.Delete(ctx, "building/4"); err != nil || string(value) != "direct" {
		t.Fatalf("%q %v", value, err)
	}
	for _, first := range []bool{true, false} {
		if locked, err := client.Lock(ctx, "lock/1", 0); err != nil || locked != first {
			t.Fatalf("%v %v", locked, err)
		}
	}
	for range 2 {
		check(t, client.Unlock(ctx, "lock/1"))
	}
}

func TestAWatchTellsWhatIsThereAndWhatChanges(t *testing.T) {
	s := stand.New(t)
	ctx := t.Context()
	client := orchestrator.NewClient(s.Conn)
	check(t, client.Create(ctx, "building/1", []byte("a"), 0))
	next := watch(t, client, orchestrator.WatchOptions{Expiries: pb.OrchestratorWatchOpen_EXPIRIES_ONE})
	expect(t, next, "found building/1 a", "synced")
	s.Redis.Set(ctx, "building/1", "b", 0)
	s.Redis.Publish(ctx, "orchestrator_events", `{"event": 2, "key": "building/1", "value": "b"}`)
	expect(t, next, "set building/1 b")
	check(t, client.Create(ctx, "building/2", []byte("soon"), time.Second))
	expect(t, next, "create building/2 soon", "expire building/2 soon")
	stand.Eventually(t, "the acknowledgement ends the claim", func() bool {
		return s.Redis.HLen(ctx, "redis-gateway:v1:orchestrator:claims").Val() == 0
	})
	if got := s.Redis.Get(ctx, "building/2/expired").Val(); got != "soon" {
		t.Fatalf("%q", got)
	}
	_, err := client.Delete(ctx, "building/1")
	check(t, err)
	expect(t, next, "delete building/1 b")
}

func TestAWatchComesBackAndTellsTheDifference(t *testing.T) {
	s := stand.New(t)
	ctx := t.Context()
	client := orchestrator.NewClient(s.Conn)
	for _, key := range []string{"building/1", "building/2", "building/3"} {
		check(t, client.Create(ctx, key, []byte("a"), 0))
	}
	told := map[string]bool{}
	next := watch(t, client, orchestrator.WatchOptions{Expiries: pb.OrchestratorWatchOpen_EXPIRIES_ONE})
	for range 3 {
		told[next()] = true
	}
	if len(told) != 3 {
		t.Fatalf("%v", told)
	}
	expect(t, next, "synced")

	// While nobody tells of it: one is set, one is deleted, one stays, one is created.
	s.KillGateway()
	s.Redis.Set(ctx, "building/1", "b", 0)
	s.Redis.Del(ctx, "building/2")
	s.Redis.Set(ctx, "building/4", "a", 0)
	s.StartGateway(t)
	expect(t, next, "gap")
	told = map[string]bool{}
	for range 3 {
		told[next()] = true
	}
	for _, want := range []string{"set building/1 b", "delete building/2 a", "create building/4 a"} {
		if !told[want] {
			t.Fatalf("%q is not in %v", want, told)
		}
	}
	// With no difference there is no gap.
	s.DrainGateway(t)
	s.StartGateway(t)
	s.Serving(t)
	check(t, client.Create(ctx, "building/5", []byte("a"), 0))
	for got := next(); got != "create building/5 a"; got = next() {
		// It stood before the watch was back, perhaps.
		if got != "gap" {
			t.Fatalf("%q", got)
		}
	}
}

func TestAWatchThatBeginsWhileKeysAreSetHearsOfNoneThatItIsGone(t *testing.T) {
	s := stand.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	client := orchestrator.NewClient(s.Conn)
	var setting sync.WaitGroup
	setting.Add(1)
	go func() {
		defer setting.Done()
		for n := 0; ctx.Err() == nil; n++ {
			_ = client.Create(ctx, fmt.Sprintf("building/%d", n), []byte("a"), 0)
		}
	}()
	defer setting.Wait()
	defer cancel()
	for range 20 {
		for event, err := range client.Watch(ctx, "building/", orchestrator.WatchOptions{}) {
			check(t, err)
			if event.Kind == orchestrator.Delete {
				t.Fatalf("%s was not deleted", event.Key)
			}
			if event.Kind == orchestrator.Synced {
				break
			}
		}
	}
}

func TestAnExpiryComesAgainUntilItIsAcknowledged(t *testing.T) {
	s := stand.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), stand.Patience())
	defer cancel()
	client := orchestrator.NewClient(s.Conn)
	check(t, client.Create(ctx, "building/1", []byte("a"), time.Second))
	options := orchestrator.WatchOptions{Expiries: pb.OrchestratorWatchOpen_EXPIRIES_ONE, ClientID: "manager"}
	times := 0
	for event, err := range client.Watch(ctx, "building/", options) {
		check(t, err)
		if event.Kind != orchestrator.Expire {
			continue
		}
		if string(event.Value) != "a" {
			t.Fatalf("%q", event.Value)
		}
		if times++; times == 2 {
			event.Acknowledge()
			break
		}
		s.KillGateway()
		s.StartGateway(t)
	}
}

func TestAWatchThatCannotBeOpenedFailsAtOnce(t *testing.T) {
	s := stand.New(t)
	client := orchestrator.NewClient(s.Conn)
	s.StopRedis()
	// The gateway may have to notice first.
	stand.Eventually(t, "it is refused", func() bool {
		ctx, cancel := context.WithCancel(t.Context())
		// One that is not told stays open.
		defer time.AfterFunc(time.Second, cancel).Stop()
		defer cancel()
		for _, err := range client.Watch(ctx, "building/", orchestrator.WatchOptions{}) {
			return errors.Is(err, gateway.ErrRedisUnavailable)
		}
		return false
	})
}
