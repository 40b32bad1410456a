// Caches a value, holds a lock and writes a build log, each by the package that is made for it.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/buildlogs"
	"github.com/redis-gateway/redis-gateway/clients/go/cache"
	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/lock"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	conn, err := gateway.New(cmp.Or(os.Getenv("GATEWAY"), "127.0.0.1:50051"))
	if err != nil {
		return err
	}
	defer conn.Close()

	values := cache.New(conn, cache.Options{Degraded: func(err error) { log.Print(err) }})
	value, err := values.Get(ctx, "greeting", time.Minute, func(context.Context) ([]byte, error) {
		fmt.Println("loading")
		return []byte(`"hello"`), nil
	})
	if err != nil {
		return err
	}
	fmt.Printf("value: %s\n", value)

	held, err := lock.NewClient(conn).Lock(ctx, "greetings", lock.Options{Wait: 10 * time.Second})
	if err != nil {
		return err
	}
	defer held.Unlock()
	fmt.Printf("held, to be fenced by %d\n", held.FencingToken)

	// Work under the lock ends when the lock is lost: by its context.
	logs := buildlogs.NewClient(conn)
	length, err := logs.Length(held.Context(), "greetings")
	if err != nil {
		return err
	}
	writer := logs.Writer("greetings", length)
	if err := writer.Append(held.Context(), buildlogs.Message("hello", "", nil)); err != nil {
		return err
	}
	fmt.Printf("entries: %d\n", writer.Length())
	return nil
}
