package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"
)

const (
	message     = "Step 4/9 : RUN make -C /src all install PREFIX=/usr/local"
	lines       = 1000
	linesAtOnce = 100
	readLength  = 100 // entries of a log
	reads       = 5   // of the cache, for a pull of a manifest
	user        = "devtable"
	event       = "docker-cli"
	repository  = "simple"
)

var (
	cached = []byte(`{"id": 7, "name": "repository", "tags": ["latest", "v1"], "text": "` + strings.Repeat("v", 180) + `"}`)
	digest = "sha256:" + strings.Repeat("5f70bf18", 8)
	told   = map[string]string{"action": "pull_repo", "namespace": user, "repository": repository}
	build  = map[string]string{"message": message}
)

// caller does things one way or the other. What it leaves to the background is done when settle returns.
type caller interface {
	append(ctx context.Context, build string) error
	log(ctx context.Context, build string) (length int64, entries [][]byte, err error)
	publish(ctx context.Context, payload []byte)
	// listen tells an empty payload once the subscription stands, then those of the events.
	listen(ctx context.Context) iter.Seq2[[]byte, error]
	pull(ctx context.Context)
	// cacheGet gets a value, or stores cached.
	cacheGet(ctx context.Context, key string) ([]byte, error)
	blocked(ctx context.Context) (bool, error)
	// lock acquires a lock and releases it.
	lock(ctx context.Context, name string) error
	orchestratorSet(ctx context.Context, key string, overwrite bool) error
	orchestratorGet(ctx context.Context, key string) ([]byte, error)
	settle(ctx context.Context) error
	close(ctx context.Context) error
}

// batcher can do better than one call for each thing.
type batcher interface {
	caller
	cacheGetMany(ctx context.Context, keys []string) (map[string][]byte, error)
	appendMany(ctx context.Context, build string) error
}

// task is a work, and whether it is done seldom.
type task struct {
	do     func(context.Context) error
	seldom bool
}

// work is what callers do, on keys of their own.
type work struct {
	caller
	name  string
	keys  []string
	fresh int
}

func (w *work) prepare(ctx context.Context) error {
	for n := range reads {
		w.keys = append(w.keys, fmt.Sprintf("repository_manifest__%s_%d", w.name, n))
	}
	for _, key := range w.keys {
		if _, err := w.cacheGet(ctx, key); err != nil {
			return err
		}
	}
	for range readLength {
		if err := w.append(ctx, w.name+"-read"); err != nil {
			return err
		}
	}
	return w.orchestratorSet(ctx, w.key(), false)
}

func (w *work) works() map[string]task {
	works := map[string]task{
		"append":        {do: func(ctx context.Context) error { return w.append(ctx, w.name+"-append") }},
		"read":          {do: w.read},
		"publish":       {do: w.tell, seldom: true},
		"publish-burst": {do: w.tell},
		"listen":        {},
		"pull":          {do: w.count, seldom: true},
		"pull-burst":    {do: w.count},
		"cache-hit":     {do: func(ctx context.Context) error { return w.hit(ctx, w.keys[0]) }},
		"cache-miss": {do: func(ctx context.Context) error {
			_, err := w.cacheGet(ctx, w.next())
			return err
		}},
		"check":            {do: w.check},
		"lock":             {do: func(ctx context.Context) error { return w.lock(ctx, "BENCH_"+w.name) }},
		"orchestrator-set": {do: func(ctx context.Context) error { return w.orchestratorSet(ctx, w.key(), true) }},
		"orchestrator-get": {do: func(ctx context.Context) error {
			value, err := w.orchestratorGet(ctx, w.key())
			return expect(string(value) == "{}", "a key of the orchestrator", err)
		}},
		"manifest": {do: w.manifest},
		"build": {do: func(ctx context.Context) error {
			build := w.next()
			for range lines {
				if err := w.append(ctx, build); err != nil {
					return err
				}
			}
			return nil
		}},
	}
	if batching, can := w.caller.(batcher); can {
		works["manifest-batched"] = task{do: func(ctx context.Context) error { return w.manifestBatched(ctx, batching) }}
		works["build-batched"] = task{do: func(ctx context.Context) error { return batching.appendMany(ctx, w.next()) }}
	}
	return works
}

func (w *work) key() string { return "building/" + w.name }

// next is a name that was not there before.
func (w *work) next() string {
	w.fresh++
	return fmt.Sprintf("%s-%d", w.name, w.fresh)
}

func (w *work) read(ctx context.Context) error {
	length, entries, err := w.log(ctx, w.name+"-read")
	var last struct{ Message string }
	for _, entry := range entries {
		if err == nil {
			err = json.Unmarshal(entry, &last)
		}
	}
	return expect(length == readLength && len(entries) == readLength && last.Message == message, "a log", err)
}

func (w *work) tell(ctx context.Context) error {
	payload, err := json.Marshal(told)
	w.publish(ctx, payload)
	return err
}

func (w *work) count(ctx context.Context) error {
	w.pull(ctx)
	return nil
}

func (w *work) hit(ctx context.Context, key string) error {
	value, err := w.cacheGet(ctx, key)
	return expect(bytes.Equal(value, cached), "a cached value", err)
}

func (w *work) check(ctx context.Context) error {
	blocked, err := w.blocked(ctx)
	return expect(!blocked, "a read that is blocked", err)
}

// manifest is what a pull of a manifest asks of Redis.
func (w *work) manifest(ctx context.Context) error {
	if err := w.check(ctx); err != nil {
		return err
	}
	for _, key := range w.keys {
		if err := w.hit(ctx, key); err != nil {
			return err
		}
	}
	w.pull(ctx)
	return w.tell(ctx)
}

// manifestBatched is the same with one call for all reads.
func (w *work) manifestBatched(ctx context.Context, caller batcher) error {
	if err := w.check(ctx); err != nil {
		return err
	}
	values, err := caller.cacheGetMany(ctx, w.keys)
	if err := expect(len(values) == len(w.keys), "cached values", err); err != nil {
		return err
	}
	w.pull(ctx)
	return w.tell(ctx)
}

func expect(is bool, what string, err error) error {
	if err == nil && !is {
		err = fmt.Errorf("not as it should be: %s", what)
	}
	return err
}

const cacheTime = 300 * time.Second
