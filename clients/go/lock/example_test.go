package lock_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/stand"
	"github.com/redis-gateway/redis-gateway/clients/go/lock"
)

func ExampleClient_Lock() {
	conn, err := gateway.New(os.Getenv("GATEWAY")) // such as 127.0.0.1:50051
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	held, err := lock.NewClient(conn).Lock(context.Background(), "LARGE_GARBAGE_COLLECTION", lock.Options{
		TTL: 30 * time.Second, Wait: time.Minute,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer held.Unlock()
	work := func(ctx context.Context, fence int64) error {
		fmt.Println("work, with writes fenced by", fence)
		return ctx.Err()
	}
	if err := work(held.Context(), held.FencingToken); err != nil {
		log.Fatal(context.Cause(held.Context()))
	}
}

func TestTheExampleRuns(t *testing.T) {
	s := stand.New(t)
	t.Setenv("GATEWAY", s.Address())
	ExampleClient_Lock()
}
