package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/buildlogs"
	"github.com/redis-gateway/redis-gateway/clients/go/cache"
	"github.com/redis-gateway/redis-gateway/clients/go/events"
	"github.com/redis-gateway/redis-gateway/clients/go/lock"
	"github.com/redis-gateway/redis-gateway/clients/go/orchestrator"
	"github.com/redis-gateway/redis-gateway/clients/go/pulls"
)

const digest = "sha256:a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1"

// background runs work until stop, which waits for its end.
func background(work func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		work(ctx)
		close(ended)
	}()
	return func() {
		cancel()
		<-ended
	}
}

// follow writes a log, and tails it: each line once and in order.
func follow(ctx context.Context, c *caller) {
	client, build := buildlogs.NewClient(c.conn), rand.Text()
	var seen atomic.Int64
	stop := background(func(ctx context.Context) {
		for item, err := range client.Tail(ctx, build, 0) {
			switch item := item.(type) {
			case buildlogs.Entries:
				for n, entry := range item.Entries {
					if want := seen.Load(); item.Start+int64(n) != want || string(entry) != strconv.FormatInt(want, 10) {
						c.fail(fmt.Errorf("%s at %d instead of %d", entry, item.Start+int64(n), want))
						return
					}
					seen.Add(1)
				}
			case buildlogs.Reset:
				c.fail(fmt.Errorf("the log was replaced: %v", item))
			case nil:
				if ctx.Err() == nil {
					c.fail(err)
				}
			}
		}
	})
	writer, asked := client.Writer(build, 0), 0
	each(ctx, func() {
		// What fails waits in the writer for the next one.
		err := writer.Append(context.Background(), buildlogs.JSON(strconv.AppendInt(nil, int64(asked), 10)))
		asked++
		c.step(err)
	})
	c.fail(writer.Flush(context.Background()))
	if !within(func() bool { return seen.Load() == int64(asked) }) {
		c.fail(fmt.Errorf("%d of %d lines seen", seen.Load(), asked))
	}
	stop()
	c.leave(map[string]any{"build": build, "length": asked})
}

// listen publishes numbers and hears them: where one is missing, a gap was told.
func listen(ctx context.Context, c *caller) {
	client, user := events.NewClient(c.conn), rand.Text()
	const gap = -1
	var heard []int
	opened := make(chan struct{})
	stop := background(func(ctx context.Context) {
		for item, err := range client.Listen(ctx, user, "docker-cli") {
			switch item := item.(type) {
			case events.Opened:
				close(opened)
			case events.Event:
				number, err := strconv.Atoi(string(item.Payload))
				c.fail(err)
				heard = append(heard, number)
			case events.Gap:
				heard = append(heard, gap)
			case nil:
				if ctx.Err() == nil {
					c.fail(err)
				}
			}
		}
	})
	<-opened
	published, asked := map[int]bool{}, 0
	each(ctx, func() {
		asked++
		_, err := client.Publish(context.Background(), user, "docker-cli", strconv.AppendInt(nil, int64(asked), 10))
		published[asked] = err == nil
		c.step(err)
	})
	stop()
	last, told, unheard := 0, false, 0
	for _, number := range heard {
		if number == gap {
			told = true
			continue
		}
		if number <= last {
			c.fail(fmt.Errorf("%d after %d", number, last))
		}
		for missed := last + 1; missed < number; missed++ {
			if published[missed] {
				unheard++
				if !told {
					c.fail(fmt.Errorf("%d was published, not heard, and no gap told", missed))
				}
			}
		}
		last, told = number, false
	}
	c.leave(map[string]any{"heard": len(heard), "unheard": unheard})
}

// watch sets a key, and is told of each net change once and in order.
func watch(ctx context.Context, c *caller) {
	client, key := orchestrator.NewClient(c.conn), "building/"+rand.Text()
	var heard atomic.Int64
	heard.Store(-1)
	synced := make(chan struct{})
	stop := background(func(ctx context.Context) {
		for event, err := range client.Watch(ctx, "building/", orchestrator.WatchOptions{}) {
			switch {
			case err != nil:
				if ctx.Err() == nil {
					c.fail(err)
				}
			case event.Kind == orchestrator.Synced:
				close(synced)
			case event.Key == key:
				number, err := strconv.ParseInt(string(event.Value), 10, 64)
				if last := heard.Swap(number); err != nil || number <= last {
					c.fail(fmt.Errorf("%q after %d", event.Value, last))
				}
			}
		}
	})
	<-synced
	last, asked := -1, -1
	each(ctx, func() {
		asked++
		value, set := strconv.AppendInt(nil, int64(asked), 10), true
		var err error
		if asked == 0 {
			err = client.Create(context.Background(), key, value, 0)
		} else {
			set, err = client.Overwrite(context.Background(), key, value, 0)
		}
		if err == nil && !set {
			err = errors.New("the key is gone")
		}
		if err == nil {
			last = asked
		}
		c.step(err)
	})
	stands, err := client.Get(context.Background(), key)
	c.fail(err)
	if !within(func() bool { return strconv.FormatInt(heard.Load(), 10) == string(stands) }) {
		c.fail(fmt.Errorf("%s stands, %d was told", stands, heard.Load()))
	}
	stop()
	c.leave(map[string]any{"key": key, "last": last, "asked": asked})
}

// contend has a lock that is held all along, and many who want another: one at a time, by growing tokens.
func contend(ctx context.Context, c *caller) {
	client, kept, wanted := lock.NewClient(c.conn), rand.Text(), rand.Text()
	keeps, err := client.Lock(context.Background(), kept, lock.Options{TTL: 20 * time.Second})
	if err != nil {
		c.fail(err)
		return
	}
	var inside sync.Mutex
	var token int64
	once := func() error {
		held, err := client.Lock(context.Background(), wanted, lock.Options{TTL: 30 * time.Second, Wait: patience})
		if err != nil {
			return err
		}
		if !inside.TryLock() {
			return errors.New("two holders")
		}
		grows := held.FencingToken > token
		token = held.FencingToken
		inside.Unlock()
		if !grows {
			return errors.New("a token that does not grow")
		}
		return held.Unlock()
	}
	var contenders sync.WaitGroup
	for range 2 {
		contenders.Add(1)
		go func() {
			defer contenders.Done()
			each(ctx, func() { c.step(once()) })
		}()
	}
	each(ctx, func() {
		if _, err := client.Lock(context.Background(), kept, lock.Options{}); !errors.Is(err, lock.ErrBusy) {
			c.step(fmt.Errorf("two holders: %w", err))
		}
		c.fail(context.Cause(keeps.Context()))
	})
	contenders.Wait()
	c.fail(keeps.Unlock())
	c.leave(map[string]any{"locks": []string{kept, wanted}})
}

// count counts pulls in the background, in batches.
func count(ctx context.Context, c *caller) {
	tracker := pulls.NewTracker(c.conn)
	each(ctx, func() {
		if !tracker.Track(pulls.Pull{Repository: 7, Tag: "latest", Digest: digest}) {
			c.fail(errors.New("dropped"))
			return
		}
		c.step(nil)
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	counts := tracker.Close(ctx)
	if counts.Refused+counts.Dropped > 0 {
		c.fail(fmt.Errorf("%+v", counts))
	}
	if counts.Unknown > 0 {
		// One call of many, at least.
		c.miss()
	}
	c.leave(map[string]any{"least": counts.Counted, "most": counts.Counted + counts.Unknown})
}

// load loads each value once, finds it, and deletes every other one.
func load(ctx context.Context, c *caller) {
	client := cache.New(c.conn, cache.Options{})
	stands, gone, number := map[string]int{}, []string{}, 0
	each(ctx, func() {
		key, loads := "security_report__"+rand.Text(), 0
		number++
		text := strconv.Itoa(number)
		var err error
		for range 2 {
			value, failed := client.Get(context.Background(), key, 24*time.Hour, func(context.Context) ([]byte, error) {
				loads++
				return []byte(text), nil
			})
			if failed == nil && string(value) != text {
				failed = fmt.Errorf("%s instead of %s", value, text)
			}
			err = errors.Join(err, failed)
		}
		switch {
		case err != nil:
		case loads > 1:
			// It does without a gateway that does not answer.
			c.miss()
			return
		case number%2 == 0:
			if err = client.Delete(context.Background(), key); err == nil {
				gone = append(gone, key)
			}
		default:
			stands[key] = number
		}
		c.step(err)
	})
	c.leave(map[string]any{"stands": stands, "gone": gone})
}
