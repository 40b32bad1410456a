// Holders of locks in Go, by the protocol of python-redis-lock on go-redis, until SIGTERM. The flags, the journal and the report
// are those of lock_holders.py.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sys/unix"

	"peers/redislock"
)

var (
	address = flag.String("redis", "", "URL")
	file    = flag.String("journal", "", "FILE")
	count   = flag.Int("holders", 4, "")
	locks   = flag.Int("locks", 10, "")
	ttl     = flag.Int("ttl", 2, "seconds")
	hold    = flag.Float64("hold", 0.04, "seconds at most")
	abandon = flag.Float64("abandon", 0, "of locks, from 0 to 1")
	seed    = flag.Uint64("seed", 1, "")
)

type holders struct {
	client    *redis.Client
	journal   *os.File
	acquired  atomic.Int64
	abandoned atomic.Int64
	refused   atomic.Int64
}

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	options, err := redis.ParseURL(*address)
	if err != nil {
		return err
	}
	// A question that is sent twice could be answered by what its first sending did.
	options.MaxRetries = -1
	// One for each holder, and one for it to release by.
	options.PoolSize = 2 * *count
	journal, err := os.OpenFile(*file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fmt.Println("ready")
	all := &holders{client: redis.NewClient(options), journal: journal}
	for n := range *count {
		go all.hold(ctx, mathrand.New(mathrand.NewPCG(*seed, uint64(n))))
	}
	// Who waits for a lock at the end waits no longer.
	<-ctx.Done()
	return json.NewEncoder(os.Stdout).Encode(map[string]int64{
		"acquired":         all.acquired.Load(),
		"abandoned":        all.abandoned.Load(),
		"releases_refused": all.refused.Load(),
	})
}

func (h *holders) hold(ctx context.Context, choose *mathrand.Rand) {
	for ctx.Err() == nil {
		name := fmt.Sprintf("m%d", choose.IntN(*locks))
		held := time.Duration(choose.Float64() * *hold * float64(time.Second))
		if err := h.holdOnce(ctx, name, held, choose.Float64() < *abandon); err != nil {
			time.Sleep(50 * time.Millisecond)
		}
	}
}

func (h *holders) holdOnce(ctx context.Context, name string, held time.Duration, abandon bool) error {
	holder, err := redislock.Holder()
	if err != nil {
		return err
	}
	h.note("try", name, holder, now())
	asked, err := h.acquire(ctx, name, holder)
	if err != nil {
		return err
	}
	h.note("enter", name, holder, now(), asked+int64(*ttl)*int64(time.Second))
	time.Sleep(held)
	h.acquired.Add(1)
	if abandon {
		h.abandoned.Add(1)
		return nil
	}
	h.note("leave", name, holder, now())
	released, err := redislock.Release(ctx, h.client, name, holder)
	if err != nil {
		return err
	}
	if !released {
		h.refused.Add(1)
	}
	return nil
}

// Waits for a lock without end. When it was asked for: it lives from no earlier than then.
func (h *holders) acquire(ctx context.Context, name, holder string) (int64, error) {
	life := time.Duration(*ttl) * time.Second
	for {
		asked := now()
		got, err := redislock.Try(ctx, h.client, name, holder, life)
		if got || err != nil {
			return asked, err
		}
		if err := redislock.Wait(ctx, h.client, name, life); err != nil {
			return 0, err
		}
	}
}

func (h *holders) note(what, lock, holder string, times ...int64) {
	line := fmt.Sprintf("%s %s go %s", what, lock, holder)
	for _, at := range times {
		line += fmt.Sprintf(" %d", at)
	}
	if _, err := h.journal.WriteString(line + "\n"); err != nil {
		panic(err)
	}
}

func now() int64 {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &at); err != nil {
		panic(err)
	}
	return at.Nano()
}
