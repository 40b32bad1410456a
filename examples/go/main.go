// Stores a value in the cache and gets it back.
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"example/gateway"
	pb "example/stubs/redisgateway/v1"
)

func main() {
	conn, err := gateway.Connect()
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
