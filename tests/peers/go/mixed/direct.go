package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"peers/redislock"
)

const week, day = 7 * 24 * time.Hour, 24 * time.Hour

// direct is a service without the gateway, command by command as the reference works.
type direct struct {
	redis, pulls *redis.Client
	// What counts pulls of tags and of manifests.
	trackTag, trackManifest *redis.Script

	events       *redis.PubSub
	changes      *redis.PubSub
	prefix       string
	lock, holder string
}

func newDirect(socket, scripts string) (operations, error) {
	texts := map[string]*redis.Script{}
	for _, name := range []string{"track_tag_pull-1.lua", "track_manifest_pull-1.lua"} {
		text, err := os.ReadFile(filepath.Join(scripts, name))
		if err != nil {
			return nil, err
		}
		texts[name] = redis.NewScript(string(text))
	}
	client := func(db int) *redis.Client {
		return redis.NewClient(&redis.Options{Network: "unix", Addr: socket, DB: db, MaxRetries: -1, ReadTimeout: time.Minute})
	}
	d := &direct{
		redis: client(0), pulls: client(1), trackTag: texts["track_tag_pull-1.lua"], trackManifest: texts["track_manifest_pull-1.lua"],
	}
	return operations{
		"append_entry":   func(ctx context.Context, a arguments) (any, error) { return d.push(ctx, a.Build, a.Entry) },
		"append_message": d.appendMessage,
		"read_log":       d.readLog,
		"set_status": func(ctx context.Context, a arguments) (any, error) {
			text, err := python(a.Status)
			if err != nil {
				return nil, err
			}
			return nil, d.redis.Set(ctx, status(a), text, week).Err()
		},
		"get_status": func(ctx context.Context, a arguments) (any, error) {
			text, there, err := d.get(ctx, status(a))
			if !there {
				text = "null"
			}
			return text, err
		},
		"expire_status": func(ctx context.Context, a arguments) (any, error) {
			return nil, d.redis.Expire(ctx, status(a), day).Err()
		},
		"expire_log": func(ctx context.Context, a arguments) (any, error) {
			return nil, d.redis.Expire(ctx, logs(a.Build), day).Err()
		},
		"delete_log": func(ctx context.Context, a arguments) (any, error) { return nil, d.redis.Del(ctx, logs(a.Build)).Err() },
		"publish": func(ctx context.Context, a arguments) (any, error) {
			text, err := python(a.Payload)
			if err != nil {
				return nil, err
			}
			return d.redis.Publish(ctx, channel(a.User, a.Event), text).Result()
		},
		"listen":        d.listen,
		"heard":         d.heard,
		"unlisten":      func(context.Context, arguments) (any, error) { return nil, d.events.Close() },
		"track":         d.track,
		"statistics":    d.statistics,
		"flush":         d.flush,
		"retrieve":      d.retrieve,
		"invalidate":    func(ctx context.Context, a arguments) (any, error) { return nil, d.redis.Del(ctx, a.Key).Err() },
		"drop":          func(ctx context.Context, a arguments) (any, error) { return nil, d.redis.Del(ctx, a.Keys...).Err() },
		"store":         d.store,
		"lookup":        d.lookup,
		"mark_modified": func(ctx context.Context, a arguments) (any, error) { return d.mark(ctx, modified(a)) },
		"mark_revoked": func(ctx context.Context, a arguments) (any, error) {
			var names []string
			for _, user := range a.Users {
				names = append(names, revoked(user, a))
			}
			return d.mark(ctx, names...)
		},
		"blocked": d.blocked,
		"acquire": d.acquire,
		"release": func(ctx context.Context, _ arguments) (any, error) {
			released, err := redislock.Release(ctx, d.redis, d.lock, d.holder)
			if err == nil && !released {
				err = errors.New("the lock is another's")
			}
			return nil, err
		},
		"create_key":    func(ctx context.Context, a arguments) (any, error) { return d.setKey(ctx, a, false) },
		"overwrite_key": func(ctx context.Context, a arguments) (any, error) { return d.setKey(ctx, a, true) },
		"lock_key": func(ctx context.Context, a arguments) (any, error) {
			return d.setKey(ctx, arguments{Key: a.Key, Seconds: 10_000}, false)
		},
		"get_key": func(ctx context.Context, a arguments) (any, error) {
			text, there, err := d.get(ctx, a.Key)
			if !there {
				return nil, err
			}
			return text, err
		},
		"delete_key": d.deleteKey,
		"list_keys":  d.listKeys,
		"watch":      d.watch,
		"changed":    d.changed,
		"unwatch":    func(context.Context, arguments) (any, error) { return nil, d.changes.Close() },
	}, nil
}

func logs(build string) string          { return "builds/" + build + "/logs" }
func status(a arguments) string         { return "builds/" + a.Build + "/status" }
func channel(user, event string) string { return "user/" + user + "/events/" + event }
func modified(a arguments) string       { return tracked("repo_modified", a) }
func tracked(n string, a arguments) string {
	return "quay:repo_content_tracker:" + n + ":" + a.Namespace + ":" + a.Repo
}
func revoked(user int64, a arguments) string {
	return tracked(fmt.Sprintf("permission_revoked:%d", user), a)
}

// get reads a string, and whether it is there.
func (d *direct) get(ctx context.Context, key string) (string, bool, error) {
	text, err := d.redis.Get(ctx, key).Result()
	if errors.Is(err, redis.Nil) {
		return "", false, nil
	}
	return text, err == nil, err
}

func (d *direct) push(ctx context.Context, build, entry string) (int64, error) {
	text, err := python(entry)
	if err != nil {
		return 0, err
	}
	pipeline := d.redis.Pipeline()
	pipeline.Expire(ctx, logs(build), week)
	length := pipeline.RPush(ctx, logs(build), text)
	_, err = pipeline.Exec(ctx)
	return length.Val(), err
}

func (d *direct) appendMessage(ctx context.Context, a arguments) (any, error) {
	entry := `{"message": ` + quoted(a.Message)
	if a.Kind != "" {
		entry += `, "type": ` + quoted(a.Kind)
	}
	if a.Data != "" && !falsy(a.Data) {
		entry += `, "data": ` + a.Data
	}
	length, err := d.push(ctx, a.Build, entry+"}")
	return length - 1, err
}

func (d *direct) readLog(ctx context.Context, a arguments) (any, error) {
	length, err := d.redis.LLen(ctx, logs(a.Build)).Result()
	if err != nil {
		return nil, err
	}
	entries, err := d.redis.LRange(ctx, logs(a.Build), a.Start, -1).Result()
	return []any{length, entries}, err
}

func (d *direct) listen(ctx context.Context, a arguments) (any, error) {
	var channels []string
	for _, event := range a.Events {
		channels = append(channels, channel(a.User, event))
	}
	d.events = d.redis.Subscribe(ctx, channels...)
	return nil, confirmed(ctx, d.events, len(channels))
}

func (d *direct) heard(ctx context.Context, a arguments) (any, error) {
	heard := [][]string{}
	for len(heard) < a.Count {
		message, err := d.events.ReceiveMessage(ctx)
		if err != nil {
			return nil, err
		}
		if !falsy(message.Payload) {
			heard = append(heard, []string{strings.Split(message.Channel, "/")[3], message.Payload})
		}
	}
	return heard, nil
}

// confirmed waits until so many subscriptions stand.
func confirmed(ctx context.Context, subscriptions *redis.PubSub, count int) error {
	for range count {
		if _, err := subscriptions.Receive(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *direct) retrieve(ctx context.Context, a arguments) (any, error) {
	text, there, err := d.get(ctx, a.Key)
	if there || err != nil {
		return []any{text, false}, err
	}
	if text, err = python(a.Loaded); err == nil && text != "null" {
		err = d.redis.SetNX(ctx, a.Key, text, seconds(a)).Err()
	}
	return []any{text, true}, err
}

func (d *direct) store(ctx context.Context, a arguments) (any, error) {
	value, err := base64.StdEncoding.DecodeString(a.Value)
	if err != nil {
		return nil, err
	}
	if a.Overwrite {
		err := d.redis.Set(ctx, a.Key, value, seconds(a)).Err()
		return err == nil, err
	}
	return d.redis.SetNX(ctx, a.Key, value, seconds(a)).Result()
}

func (d *direct) lookup(ctx context.Context, a arguments) (any, error) {
	values, err := d.redis.MGet(ctx, a.Keys...).Result()
	for n, value := range values {
		if text, there := value.(string); there {
			values[n] = base64.StdEncoding.EncodeToString([]byte(text))
		}
	}
	return values, err
}

func (d *direct) mark(ctx context.Context, names ...string) (any, error) {
	now, err := d.redis.Time(ctx).Result()
	if err != nil {
		return nil, err
	}
	at := float64(now.UnixMicro()) / 1e6
	_, err = d.redis.TxPipelined(ctx, func(pipeline redis.Pipeliner) error {
		for _, name := range names {
			pipeline.Set(ctx, name, number(strconv.FormatFloat(at, 'e', -1, 64)), 300*time.Second)
		}
		return nil
	})
	return at, err
}

func (d *direct) blocked(ctx context.Context, a arguments) (any, error) {
	var times []float64
	for _, name := range []string{modified(a), revoked(a.UserID, a)} {
		text, there, err := d.get(ctx, name)
		if !there {
			return false, err
		}
		at, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, err
		}
		times = append(times, at)
	}
	return times[0] > times[1], nil
}

func (d *direct) acquire(ctx context.Context, a arguments) (any, error) {
	holder, err := redislock.Holder()
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(time.Duration(a.Wait) * time.Second); ; {
		got, err := redislock.Try(ctx, d.redis, a.Name, holder, seconds(a))
		if got {
			d.lock, d.holder = a.Name, holder
		}
		left := time.Until(end)
		if got || err != nil || left <= 0 {
			return got, err
		}
		if err := redislock.Wait(ctx, d.redis, a.Name, left); err != nil {
			return nil, err
		}
	}
}

// falsy says whether Python takes a JSON value for false.
func falsy(text string) bool {
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		return false
	}
	switch value := value.(type) {
	case nil:
		return true
	case bool:
		return !value
	case float64:
		return value == 0
	case string:
		return value == ""
	case []any:
		return len(value) == 0
	case map[string]any:
		return len(value) == 0
	}
	return false
}
