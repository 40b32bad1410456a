// Stores a value in the cache and gets it back.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

func main() {
	conn, err := gateway.New(cmp.Or(os.Getenv("GATEWAY"), "127.0.0.1:50051"))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()

	cache := pb.NewCacheClient(conn)
	set, err := cache.Set(ctx, &pb.CacheSetRequest{Key: "greeting", Value: []byte(`"hello"`), TtlSeconds: 60, Overwrite: true})
	if err != nil {
		log.Fatal(err)
	}
	got, err := cache.Get(ctx, &pb.CacheGetRequest{Key: "greeting"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("stored: %t, value: %s\n", set.Stored, got.Value)
}
