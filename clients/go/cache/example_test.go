package cache_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/cache"
	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/stand"
)

func ExampleCache_Get() {
	conn, err := gateway.New(os.Getenv("GATEWAY")) // such as 127.0.0.1:50051
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	pages := cache.New(conn, cache.Options{Degraded: func(err error) { log.Print(err) }})
	page, err := pages.Get(context.Background(), "catalog_page__(anon)_0_50", time.Minute,
		func(context.Context) ([]byte, error) {
			// Of all who miss the page, on all gateways, this one asks the database.
			return []byte(`["devtable/simple"]`), nil
		})
	fmt.Printf("%s %v\n", page, err)
}

func TestTheExampleRuns(t *testing.T) {
	s := stand.New(t)
	t.Setenv("GATEWAY", s.Address())
	ExampleCache_Get()
}
