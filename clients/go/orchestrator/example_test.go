package orchestrator_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/stand"
	"github.com/redis-gateway/redis-gateway/clients/go/orchestrator"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

func ExampleClient_Watch() {
	conn, err := gateway.New(os.Getenv("GATEWAY")) // such as 127.0.0.1:50051
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	client := orchestrator.NewClient(conn)
	ctx := context.Background()
	if err := client.Create(ctx, "building/7", []byte("waiting"), time.Second); err != nil {
		log.Fatal(err)
	}
	options := orchestrator.WatchOptions{Expiries: pb.OrchestratorWatchOpen_EXPIRIES_ONE, ClientID: "manager-1"}
	for event, err := range client.Watch(ctx, "building/", options) {
		if err != nil {
			log.Fatal(err)
		}
		if event.Kind == orchestrator.Expire {
			fmt.Printf("%s has expired: %s\n", event.Key, event.Value)
			// Only once it is taken care of: until then it comes again, here or elsewhere.
			event.Acknowledge()
			return
		}
	}
}

func TestTheExampleRuns(t *testing.T) {
	s := stand.New(t)
	t.Setenv("GATEWAY", s.Address())
	ExampleClient_Watch()
}
