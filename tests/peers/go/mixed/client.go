package main

import (
	"context"
	"encoding/base64"
	"errors"
	"iter"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/buildlogs"
	"github.com/redis-gateway/redis-gateway/clients/go/cache"
	"github.com/redis-gateway/redis-gateway/clients/go/events"
	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/lock"
	"github.com/redis-gateway/redis-gateway/clients/go/orchestrator"
	"github.com/redis-gateway/redis-gateway/clients/go/pulls"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
	"github.com/redis-gateway/redis-gateway/clients/go/tracker"
)

// moved is a service on the gateway.
type moved struct {
	conn    *gateway.Conn
	logs    *buildlogs.Client
	events  *events.Client
	pulls   *pulls.Client
	cache   *cache.Cache
	tracker *tracker.Client
	locks   *lock.Client
	keys    *orchestrator.Client

	heard    func() (events.Item, error, bool)
	unlisten func()
	changed  func() (orchestrator.Event, error, bool)
	unwatch  func()
	held     *lock.Lock
}

func newMoved(target string) (operations, error) {
	conn, err := gateway.New(target)
	if err != nil {
		return nil, err
	}
	m := &moved{
		conn:    conn,
		logs:    buildlogs.NewClient(conn),
		events:  events.NewClient(conn),
		pulls:   pulls.NewClient(conn),
		cache:   cache.New(conn, cache.Options{}),
		tracker: tracker.NewClient(conn),
		locks:   lock.NewClient(conn),
		keys:    orchestrator.NewClient(conn),
	}
	return operations{
		"append_entry": func(ctx context.Context, a arguments) (any, error) {
			return m.logs.Append(ctx, a.Build, buildlogs.JSON([]byte(a.Entry)))
		},
		"append_message": func(ctx context.Context, a arguments) (any, error) {
			length, err := m.logs.Append(ctx, a.Build, buildlogs.Message(a.Message, a.Kind, []byte(a.Data)))
			return length - 1, err
		},
		"read_log": func(ctx context.Context, a arguments) (any, error) {
			entries, length, err := m.logs.Read(ctx, a.Build, a.Start)
			texts := []string{}
			for _, entry := range entries {
				texts = append(texts, string(entry))
			}
			return []any{length, texts}, err
		},
		"set_status": func(ctx context.Context, a arguments) (any, error) {
			return nil, m.logs.SetStatus(ctx, a.Build, []byte(a.Status))
		},
		"get_status": func(ctx context.Context, a arguments) (any, error) {
			status, err := m.logs.Status(ctx, a.Build)
			return orNull(status), err
		},
		"expire_status": func(ctx context.Context, a arguments) (any, error) { return nil, m.logs.ExpireStatus(ctx, a.Build) },
		"expire_log":    func(ctx context.Context, a arguments) (any, error) { return nil, m.logs.ExpireEntries(ctx, a.Build) },
		"delete_log":    func(ctx context.Context, a arguments) (any, error) { return nil, m.logs.DeleteEntries(ctx, a.Build) },
		"publish": func(ctx context.Context, a arguments) (any, error) {
			return m.events.Publish(ctx, a.User, a.Event, []byte(a.Payload))
		},
		"listen":     m.listen,
		"heard":      m.hear,
		"unlisten":   func(context.Context, arguments) (any, error) { m.unlisten(); return nil, nil },
		"track":      m.track,
		"statistics": m.statistics,
		"flush":      m.flush,
		"retrieve":   m.retrieve,
		"invalidate": func(ctx context.Context, a arguments) (any, error) { return nil, m.cache.Delete(ctx, a.Key) },
		"drop":       func(ctx context.Context, a arguments) (any, error) { return nil, m.cache.Delete(ctx, a.Keys...) },
		"store": func(ctx context.Context, a arguments) (any, error) {
			value, err := base64.StdEncoding.DecodeString(a.Value)
			if err != nil {
				return nil, err
			}
			return m.cache.Set(ctx, a.Key, value, seconds(a), a.Overwrite)
		},
		"lookup": func(ctx context.Context, a arguments) (any, error) {
			found, err := m.cache.LookupMany(ctx, a.Keys...)
			values := []any{}
			for _, key := range a.Keys {
				if value, there := found[key]; there {
					values = append(values, base64.StdEncoding.EncodeToString(value))
				} else {
					values = append(values, nil)
				}
			}
			return values, err
		},
		"mark_modified": func(ctx context.Context, a arguments) (any, error) {
			return at(m.tracker.MarkModified(ctx, a.Namespace, a.Repo))
		},
		"mark_revoked": func(ctx context.Context, a arguments) (any, error) {
			return at(m.tracker.MarkRevoked(ctx, a.Namespace, a.Repo, a.Users...))
		},
		"blocked": func(ctx context.Context, a arguments) (any, error) {
			return m.tracker.IsBlocked(ctx, a.UserID, a.Namespace, a.Repo)
		},
		"acquire": m.acquire,
		"release": func(context.Context, arguments) (any, error) { return nil, m.held.Unlock() },
		"create_key": func(ctx context.Context, a arguments) (any, error) {
			return not(gateway.ErrKeyExists, m.keys.Create(ctx, a.Key, []byte(a.Value), seconds(a)))
		},
		"overwrite_key": func(ctx context.Context, a arguments) (any, error) {
			return m.keys.Overwrite(ctx, a.Key, []byte(a.Value), seconds(a))
		},
		"get_key": func(ctx context.Context, a arguments) (any, error) {
			value, err := m.keys.Get(ctx, a.Key)
			if errors.Is(err, gateway.ErrKeyNotFound) {
				return nil, nil
			}
			return string(value), err
		},
		"delete_key": func(ctx context.Context, a arguments) (any, error) {
			_, err := m.keys.Delete(ctx, a.Key)
			return not(gateway.ErrKeyNotFound, err)
		},
		"lock_key": func(ctx context.Context, a arguments) (any, error) { return m.keys.Lock(ctx, a.Key, 0) },
		"list_keys": func(ctx context.Context, a arguments) (any, error) {
			found, err := m.keys.List(ctx, a.Prefix)
			texts := map[string]string{}
			for key, value := range found {
				texts[key] = string(value)
			}
			return texts, err
		},
		"watch":   m.watch,
		"changed": m.changes,
		"unwatch": func(context.Context, arguments) (any, error) { m.unwatch(); return nil, nil },
	}, nil
}

func (m *moved) listen(ctx context.Context, a arguments) (any, error) {
	m.heard, m.unlisten = iter.Pull2(m.events.Listen(ctx, a.User, a.Events...))
	_, err, _ := m.heard()
	return nil, err
}

func (m *moved) hear(_ context.Context, a arguments) (any, error) {
	heard := [][]string{}
	for len(heard) < a.Count {
		item, err, _ := m.heard()
		if err != nil {
			return nil, err
		}
		if event, ok := item.(events.Event); ok {
			heard = append(heard, []string{event.ID, string(event.Payload)})
		}
	}
	return heard, nil
}

func (m *moved) track(ctx context.Context, a arguments) (any, error) {
	_, err := m.pulls.Track(ctx, pulls.Pull{Repository: a.Repository, Tag: a.Tag, Digest: a.Digest})
	return nil, err
}

func (m *moved) statistics(ctx context.Context, a arguments) (any, error) {
	found, err := m.pulls.Statistics(ctx, a.Repository, a.Tag, a.Digest)
	if found == nil {
		return nil, err
	}
	return map[string]any{
		"repository_id": found.RepositoryId, "tag_name": found.TagName, "manifest_digest": found.ManifestDigest,
		"pull_count": found.PullCount, "last_pull_timestamp": found.LastPullTimestamp, "pull_method": found.PullMethod,
	}, err
}

// tables are the database.
type tables struct{ manifests, tags []row }

func (t *tables) Write(_ context.Context, claim *pulls.Claim) error {
	for _, sum := range claim.Manifests {
		t.manifests = append(t.manifests, row{sum.RepositoryId, "", sum.Digest, sum.PullCount, sum.GetLastPullTimestamp()})
	}
	for _, sum := range claim.Tags {
		t.tags = append(t.tags, row{sum.RepositoryId, sum.Tag, sum.Digest, sum.PullCount, sum.GetLastPullTimestamp()})
	}
	return nil
}

func (t *tables) Deleted(context.Context, []string) error { return nil }

func (m *moved) flush(ctx context.Context, _ arguments) (any, error) {
	var database tables
	flusher := pulls.NewFlusher(m.conn, &database)
	for more := true; more; {
		var err error
		if more, err = flusher.Once(ctx); err != nil {
			return nil, err
		}
	}
	return flushed(database.manifests, database.tags), nil
}

func (m *moved) retrieve(ctx context.Context, a arguments) (any, error) {
	loaded := false
	value, err := m.cache.Get(ctx, a.Key, seconds(a), func(context.Context) ([]byte, error) {
		loaded = true
		if a.Loaded == "null" {
			return nil, nil
		}
		text, err := python(a.Loaded)
		return []byte(text), err
	})
	return []any{orNull(value), loaded}, err
}

func (m *moved) acquire(ctx context.Context, a arguments) (any, error) {
	held, err := m.locks.Lock(ctx, a.Name, lock.Options{TTL: seconds(a), Wait: time.Duration(a.Wait) * time.Second})
	if err == nil {
		m.held = held
	}
	return not(lock.ErrBusy, err)
}

func (m *moved) watch(ctx context.Context, a arguments) (any, error) {
	one := orchestrator.WatchOptions{Expiries: pb.OrchestratorWatchOpen_EXPIRIES_ONE}
	m.changed, m.unwatch = iter.Pull2(m.keys.Watch(ctx, a.Prefix, one))
	for {
		event, err, _ := m.changed()
		if err != nil || event.Kind == orchestrator.Synced {
			return nil, err
		}
	}
}

func (m *moved) changes(_ context.Context, a arguments) (any, error) {
	kinds := map[orchestrator.Kind]string{
		orchestrator.Create: "create", orchestrator.Set: "set", orchestrator.Delete: "delete", orchestrator.Expire: "expire",
	}
	told := [][]string{}
	for len(told) < a.Count {
		event, err, _ := m.changed()
		if err != nil {
			return nil, err
		}
		event.Acknowledge()
		if kind := kinds[event.Kind]; kind != "" && !event.Expired {
			told = append(told, []string{kind, event.Key, string(event.Value)})
		}
	}
	return told, nil
}

func orNull(text []byte) string {
	if text == nil {
		return "null"
	}
	return string(text)
}

func seconds(a arguments) time.Duration { return time.Duration(a.Seconds) * time.Second }

func at(when time.Time, err error) (any, error) { return float64(when.UnixMicro()) / 1e6, err }

// not says whether it was done, or refused for that reason.
func not(refusal, err error) (any, error) {
	if errors.Is(err, refusal) {
		return false, nil
	}
	return err == nil, err
}
