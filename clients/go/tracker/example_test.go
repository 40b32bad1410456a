package tracker_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/stand"
	"github.com/redis-gateway/redis-gateway/clients/go/tracker"
)

func ExampleClient_IsBlocked() {
	conn, err := gateway.New(os.Getenv("GATEWAY")) // such as 127.0.0.1:50051
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	blocked, err := tracker.NewClient(conn).IsBlocked(context.Background(), 1, "devtable", "simple")
	if err != nil {
		blocked = true // It cannot tell: the primary database can.
	}
	fmt.Println("from the primary database:", blocked)
}

func TestTheExampleRuns(t *testing.T) {
	s := stand.New(t)
	t.Setenv("GATEWAY", s.Address())
	ExampleClient_IsBlocked()
}
