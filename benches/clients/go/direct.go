package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const week = 604_800 * time.Second

// A pull of a tag, as the registry counts it.
//
// KEYS 1: the hash of the tag at a digest
// ARGV 1: repository id, 2: tag, 3: digest, 4: timestamp, 5: method
var track = redis.NewScript(`
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'repository_id', ARGV[1], 'tag_name', ARGV[2], 'manifest_digest', ARGV[3],
    'pull_count', 1, 'last_pull_timestamp', ARGV[4], 'pull_method', ARGV[5])
  return '1'
end
redis.call('HSET', KEYS[1], 'last_pull_timestamp', ARGV[4])
return string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'pull_count', 1))
`)

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

// direct goes past the gateway, as the registry would with go-redis: its commands, on clients that keep their connections.
type direct struct {
	redis *redis.Client
	pulls *redis.Client

	background sync.WaitGroup
	failed     atomic.Int64
}

func newDirect(address string) (*direct, error) {
	return &direct{
		redis: redis.NewClient(&redis.Options{Addr: address}),
		pulls: redis.NewClient(&redis.Options{Addr: address, DB: 1}),
	}, nil
}

func (d *direct) append(ctx context.Context, name string) error {
	text, err := json.Marshal(build)
	if err != nil {
		return err
	}
	key := "builds/" + name + "/logs"
	_, err = d.redis.Pipelined(ctx, func(pipeline redis.Pipeliner) error {
		pipeline.Expire(ctx, key, week)
		pipeline.RPush(ctx, key, text)
		return nil
	})
	return err
}

func (d *direct) log(ctx context.Context, name string) (int64, [][]byte, error) {
	key := "builds/" + name + "/logs"
	length, err := d.redis.LLen(ctx, key).Result()
	if err != nil {
		return 0, nil, err
	}
	texts, err := d.redis.LRange(ctx, key, 0, -1).Result()
	entries := make([][]byte, len(texts))
	for n, text := range texts {
		entries[n] = []byte(text)
	}
	return length, entries, err
}

func (d *direct) publish(ctx context.Context, payload []byte) {
	d.inBackground(func() error { return d.redis.Publish(ctx, "user/"+user+"/events/"+event, payload).Err() })
}

func (d *direct) listen(ctx context.Context) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		subscription := d.redis.Subscribe(ctx, "user/"+user+"/events/"+event)
		defer subscription.Close()
		if _, err := subscription.Receive(ctx); !yield(nil, err) || err != nil {
			return
		}
		for {
			message, err := subscription.ReceiveMessage(ctx)
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield([]byte(message.Payload), nil) {
				return
			}
		}
	}
}

func (d *direct) pull(ctx context.Context) {
	d.inBackground(func() error {
		key := "pull_events:repo:7:tag:latest:" + digest
		return track.Run(ctx, d.pulls, []string{key}, 7, "latest", digest, time.Now().Unix(), "tag").Err()
	})
}

func (d *direct) cacheGet(ctx context.Context, key string) ([]byte, error) {
	value, err := d.redis.Get(ctx, key).Bytes()
	if errors.Is(err, redis.Nil) {
		return cached, d.redis.SetNX(ctx, key, cached, cacheTime).Err()
	}
	return value, err
}

func (d *direct) blocked(ctx context.Context) (bool, error) {
	// Mostly nothing was revoked, and then the other key is not asked for.
	err := d.redis.Get(ctx, "quay:repo_content_tracker:permission_revoked:5:"+user+":"+repository).Err()
	if errors.Is(err, redis.Nil) {
		return false, nil
	}
	return true, err
}

func (d *direct) lock(ctx context.Context, name string) error {
	random := make([]byte, 18)
	rand.Read(random)
	holder := base64.StdEncoding.EncodeToString(random)
	acquired, err := d.redis.SetNX(ctx, "lock:"+name, holder, 30*time.Second).Result()
	if err := expect(acquired, "a lock that was acquired", err); err != nil {
		return err
	}
	return release.Run(ctx, d.redis, []string{"lock:" + name, "lock-signal:" + name}, holder, 1000).Err()
}

func (d *direct) orchestratorSet(ctx context.Context, key string, overwrite bool) error {
	existed, err := d.redis.Exists(ctx, key).Result()
	if err != nil {
		return err
	}
	change := 1 + existed
	if overwrite {
		err = d.redis.SetXX(ctx, key, "{}", 0).Err()
	} else {
		err = d.redis.SetNX(ctx, key, "{}", 0).Err()
	}
	if err != nil {
		return err
	}
	if err := d.redis.Expire(ctx, key, (100+86_400)*time.Second).Err(); err != nil {
		return err
	}
	expiring, err := d.redis.Exists(ctx, key+"/expiring").Result()
	if err != nil {
		return err
	}
	if expiring > 0 {
		err = d.redis.SetXX(ctx, key+"/expiring", "", 100*time.Second).Err()
	} else {
		err = d.redis.Set(ctx, key+"/expiring", "", 100*time.Second).Err()
	}
	if err != nil {
		return err
	}
	if err := d.redis.Del(ctx, key+"/expired").Err(); err != nil {
		return err
	}
	text, err := json.Marshal(map[string]any{"event": change, "key": key, "value": "{}"})
	if err != nil {
		return err
	}
	return d.redis.Publish(ctx, "orchestrator_events", text).Err()
}

func (d *direct) orchestratorGet(ctx context.Context, key string) ([]byte, error) {
	return d.redis.Get(ctx, key).Bytes()
}

func (d *direct) inBackground(do func() error) {
	d.background.Add(1)
	go func() {
		defer d.background.Done()
		if do() != nil {
			d.failed.Add(1)
		}
	}()
}

func (d *direct) settle(context.Context) error {
	d.background.Wait()
	return expect(d.failed.Load() == 0, "what was done in the background", nil)
}

func (d *direct) close(context.Context) error { return errors.Join(d.redis.Close(), d.pulls.Close()) }
