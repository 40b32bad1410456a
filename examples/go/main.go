// Stores a value in the cache and gets it back.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "example/stubs/redisgateway/v1"
)

func main() {
	target := os.Getenv("GATEWAY")
	if target == "" {
		target = "127.0.0.1:50051"
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
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
