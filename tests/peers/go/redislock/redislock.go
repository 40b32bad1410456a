// Package redislock holds locks by the protocol of python-redis-lock, on go-redis.
package redislock

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// A release as python-redis-lock makes it.
//
// KEYS 1: the lock, 2: its signal
// ARGV 1: the holder, 2: milliseconds that the signal lives
var release = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[2])
redis.call('LPUSH', KEYS[2], 1)
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('DEL', KEYS[1])
return 1
`)

const signalLife = 1000 * time.Millisecond

// Holder is a new holder's id.
func Holder() (string, error) {
	id := make([]byte, 18)
	if _, err := rand.Read(id); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(id), nil
}

// Try takes a lock if it is free.
func Try(ctx context.Context, client *redis.Client, name, holder string, life time.Duration) (bool, error) {
	return client.SetNX(ctx, "lock:"+name, holder, life).Result()
}

// Wait waits until the lock may be free, for that time at most.
func Wait(ctx context.Context, client *redis.Client, name string, atMost time.Duration) error {
	err := client.BLPop(ctx, atMost, "lock-signal:"+name).Err()
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

// Release releases a lock, and says whether it was the holder's.
func Release(ctx context.Context, client *redis.Client, name, holder string) (bool, error) {
	keys := []string{"lock:" + name, "lock-signal:" + name}
	released, err := release.Run(ctx, client, keys, holder, signalLife.Milliseconds()).Int()
	return released == 1, err
}
