package events_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/events"
	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/stand"
)

func listen(t *testing.T, client *events.Client) func() string {
	told := stand.Listen(t, func(ctx context.Context) iter.Seq2[events.Item, error] {
		return client.Listen(ctx, "devtable", "docker-cli", "other")
	})
	return func() string {
		t.Helper()
		item := stand.Next(t, told, func(item events.Item) bool {
			_, pause := item.(events.Heartbeat)
			return pause
		})
		if event, ok := item.(events.Event); ok {
			return event.ID + " " + string(event.Payload)
		}
		return fmt.Sprintf("%T", item)
	}
}

func expect(t *testing.T, next func() string, want string) {
	t.Helper()
	if got := next(); got != want {
		t.Fatalf("%q instead of %q", got, want)
	}
}

func TestEventsGoBetweenTheClientAndDirectOnes(t *testing.T) {
	s := stand.New(t)
	client := events.NewClient(s.Conn)
	next := listen(t, client)
	expect(t, next, "events.Opened")
	s.Redis.Publish(t.Context(), "user/devtable/events/docker-cli", `{"direct":1}`)
	expect(t, next, `docker-cli {"direct":1}`)
	direct := s.Redis.Subscribe(t.Context(), "user/devtable/events/other")
	defer direct.Close()
	if _, err := direct.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	receivers, err := client.Publish(t.Context(), "devtable", "other", []byte(`{"action":"push","n":1}`))
	if err != nil || receivers != 2 {
		t.Fatalf("%d %v", receivers, err)
	}
	// In the form of Python's json.dumps, byte for byte.
	want := `{"action": "push", "n": 1}`
	if heard := stand.Soon(t, "what was published", direct.Channel()); heard.Payload != want {
		t.Fatalf("%q", heard.Payload)
	}
	expect(t, next, "other "+want)
}

func TestListenersComeBackAndTellTheGap(t *testing.T) {
	s := stand.New(t)
	client := events.NewClient(s.Conn)
	next := listen(t, client)
	expect(t, next, "events.Opened")
	for _, end := range []func(){s.KillGateway, func() { s.DrainGateway(t) }} {
		end()
		s.StartGateway(t)
		expect(t, next, "events.Gap")
		if _, err := client.Publish(t.Context(), "devtable", "other", []byte("1")); err != nil {
			t.Fatal(err)
		}
		expect(t, next, "other 1")
	}
}

func TestASubscriptionThatCannotBeMadeFailsAtOnce(t *testing.T) {
	s := stand.New(t)
	client := events.NewClient(s.Conn)
	s.StopRedis()
	// The gateway may have to notice first.
	stand.Eventually(t, "it is refused", func() bool {
		ctx, cancel := context.WithCancel(t.Context())
		// One that is not told stays open.
		defer time.AfterFunc(time.Second, cancel).Stop()
		defer cancel()
		for _, err := range client.Listen(ctx, "devtable", "other") {
			return errors.Is(err, gateway.ErrRedisUnavailable)
		}
		return false
	})
	_, err := client.Publish(t.Context(), "devtable", "other", []byte("1"))
	if !errors.Is(err, gateway.ErrRedisUnavailable) {
		t.Fatalf("%v", err)
	}
}
