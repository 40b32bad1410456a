package pulls_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/stand"
	"github.com/redis-gateway/redis-gateway/clients/go/pulls"
)

func ExampleTracker() {
	conn, err := gateway.New(os.Getenv("GATEWAY")) // such as 127.0.0.1:50051
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	tracker := pulls.NewTracker(conn)
	if !tracker.Track(pulls.Pull{Repository: 7, Tag: "latest", Digest: "sha256:5f70bf18"}) {
		log.Print("there are too many to be counted now")
	}
	fmt.Printf("%+v\n", tracker.Close(context.Background()))
}

func TestTheExampleRuns(t *testing.T) {
	s := stand.New(t)
	t.Setenv("GATEWAY", s.Address())
	ExampleTracker()
}
