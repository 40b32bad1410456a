package events_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing"

	"github.com/redis-gateway/redis-gateway/clients/go/events"
	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/stand"
)

func ExampleClient_Listen() {
	conn, err := gateway.New(os.Getenv("GATEWAY")) // such as 127.0.0.1:50051
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	client := events.NewClient(conn)
	for item, err := range client.Listen(context.Background(), "devtable", "docker-cli") {
		if err != nil {
			log.Fatal(err)
		}
		switch item := item.(type) {
		case events.Opened:
			// From here on nothing is missed without a Gap.
			if _, err := client.Publish(context.Background(), "devtable", "docker-cli", []byte(`{"action":"login"}`)); err != nil {
				log.Print(err)
			}
		case events.Event:
			fmt.Printf("%s %s\n", item.ID, item.Payload)
			return
		case events.Gap:
			fmt.Println("events may be missing:", item.Cause)
		}
	}
}

func TestTheExampleRuns(t *testing.T) {
	s := stand.New(t)
	t.Setenv("GATEWAY", s.Address())
	ExampleClient_Listen()
}
