package buildlogs_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing"

	"github.com/redis-gateway/redis-gateway/clients/go/buildlogs"
	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/stand"
)

func ExampleClient_Tail() {
	conn, err := gateway.New(os.Getenv("GATEWAY")) // such as 127.0.0.1:50051
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	logs := buildlogs.NewClient(conn)
	ctx := context.Background()
	writer := logs.Writer("7", 0)
	if err := writer.Append(ctx, buildlogs.Message("Step 1/9 : FROM scratch", buildlogs.Command, nil)); err != nil {
		log.Print(err) // It waits for the next Append, or Flush: it is not to be appended again.
	}
	for item, err := range logs.Tail(ctx, "7", 0) {
		if err != nil {
			log.Fatal(err)
		}
		if some, ok := item.(buildlogs.Entries); ok {
			fmt.Printf("%d: %s\n", some.Start, some.Entries)
			return
		}
	}
}

func TestTheExampleRuns(t *testing.T) {
	s := stand.New(t)
	t.Setenv("GATEWAY", s.Address())
	ExampleClient_Tail()
}
