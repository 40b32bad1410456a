package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"testing"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/stand"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

// The generated stubs work on the same connection.
func ExampleNew() {
	conn, err := gateway.New(os.Getenv("GATEWAY")) // such as 127.0.0.1:50051
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, err = pb.NewLocksClient(conn).Release(ctx, &pb.ReleaseRequest{Name: "nightly", HolderId: "somebody"})
	switch {
	case errors.Is(err, gateway.ErrOutcomeUnknown):
		fmt.Println("it may be released or not")
	case errors.Is(err, gateway.ErrLockLost):
		fmt.Println("it was lost before")
	}
}

func TestTheExampleRuns(t *testing.T) {
	s := stand.New(t)
	t.Setenv("GATEWAY", s.Address())
	ExampleNew()
}
