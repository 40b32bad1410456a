package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// What stands beside a key, and where managers tell of keys.
const (
	expiring = "/expiring"
	expired  = "/expired"
	told     = "orchestrator_events"
)

const (
	create = iota + 1
	set
	deletion
)

func (d *direct) setKey(ctx context.Context, a arguments, overwrite bool) (any, error) {
	there, err := d.redis.Exists(ctx, a.Key).Result()
	if err != nil || there > 0 && !overwrite {
		return false, err
	}
	if overwrite {
		err = d.redis.SetXX(ctx, a.Key, a.Value, 0).Err()
	} else {
		err = d.redis.Set(ctx, a.Key, a.Value, 0).Err()
	}
	if err == nil && a.Seconds > 0 {
		err = d.expire(ctx, a.Key, seconds(a))
	}
	if err != nil {
		return nil, err
	}
	event := create
	if there > 0 {
		event = set
	}
	return true, d.tell(ctx, event, a.Key, a.Value)
}

func (d *direct) expire(ctx context.Context, key string, after time.Duration) error {
	if err := d.redis.Expire(ctx, key, after+day).Err(); err != nil {
		return err
	}
	there, err := d.redis.Exists(ctx, key+expiring).Result()
	if err != nil {
		return err
	}
	if there > 0 {
		err = d.redis.SetXX(ctx, key+expiring, "", after).Err()
	} else {
		err = d.redis.Set(ctx, key+expiring, "", after).Err()
	}
	if err != nil {
		return err
	}
	return d.redis.Del(ctx, key+expired).Err()
}

func (d *direct) deleteKey(ctx context.Context, a arguments) (any, error) {
	value, there, err := d.get(ctx, a.Key)
	if !there {
		return false, err
	}
	for _, name := range []string{a.Key, a.Key + expiring, a.Key + expired} {
		if err := d.redis.Del(ctx, name).Err(); err != nil {
			return nil, err
		}
	}
	return true, d.tell(ctx, deletion, a.Key, value)
}

func (d *direct) tell(ctx context.Context, event int, key, value string) error {
	text, err := python(fmt.Sprintf(`{"event":%d,"key":%s,"value":%s}`, event, quoted(key), quoted(value)))
	if err != nil {
		return err
	}
	return d.redis.Publish(ctx, told, text).Err()
}

func (d *direct) listKeys(ctx context.Context, a arguments) (any, error) {
	found := map[string]string{}
	names := d.redis.Scan(ctx, 0, "", 1000).Iterator()
	for names.Next(ctx) {
		name := names.Val()
		if !strings.HasPrefix(name, a.Prefix) || strings.HasSuffix(name, expiring) || strings.HasSuffix(name, expired) {
			continue
		}
		left, err := d.redis.TTL(ctx, name).Result()
		if err != nil {
			return nil, err
		}
		// In nanoseconds: what Redis answers of a key without an end.
		if left != -1 {
			continue
		}
		if found[name], _, err = d.get(ctx, name); err != nil {
			return nil, err
		}
	}
	return found, names.Err()
}

func (d *direct) watch(ctx context.Context, a arguments) (any, error) {
	if err := d.redis.ConfigSet(ctx, "notify-keyspace-events", "Kx").Err(); err != nil {
		return nil, err
	}
	d.prefix, d.changes = a.Prefix, d.redis.Subscribe(ctx, told)
	if err := d.changes.PSubscribe(ctx, "__keyspace@0__:*"+expiring); err != nil {
		return nil, err
	}
	return nil, confirmed(ctx, d.changes, 2)
}

func (d *direct) changed(ctx context.Context, a arguments) (any, error) {
	changed := [][]string{}
	for len(changed) < a.Count {
		message, err := d.changes.ReceiveMessage(ctx)
		if err != nil {
			return nil, err
		}
		change, err := d.change(ctx, message)
		if err != nil {
			return nil, err
		}
		if change != nil && strings.HasPrefix(change[1], d.prefix) {
			changed = append(changed, change)
		}
	}
	return changed, nil
}

// change is what a message tells; nil for nothing.
func (d *direct) change(ctx context.Context, message *redis.Message) ([]string, error) {
	if message.Channel == told {
		var event struct {
			Event      int
			Key, Value string
		}
		err := json.Unmarshal([]byte(message.Payload), &event)
		kind := map[int]string{create: "create", set: "set", deletion: "delete"}[event.Event]
		return []string{kind, event.Key, event.Value}, err
	}
	if message.Payload != "expired" {
		return nil, nil
	}
	_, name, _ := strings.Cut(message.Channel, ":")
	key := strings.TrimSuffix(name, expiring)
	value, there, err := d.get(ctx, key)
	if !there {
		return nil, err
	}
	if value != "" {
		if err := d.redis.Set(ctx, key+expired, value, 0).Err(); err != nil {
			return nil, err
		}
		if err := d.redis.Del(ctx, key).Err(); err != nil {
			return nil, err
		}
	}
	return []string{"expire", key, value}, nil
}
