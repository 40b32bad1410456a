// Does the work of a caller in Go, and measures what it pays: as ../caller.py, to the same arguments and lines.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"slices"
	"syscall"
	"time"
)

// measured is what a line is answered by.
type measured struct {
	// Waits is how long the caller waited for each, in seconds.
	Waits []float64 `json:"waits"`
	// CPU is how long its process worked for all of them, in seconds.
	CPU float64 `json:"cpu"`
}

func main() {
	if err := run(context.Background(), os.Args[1], os.Args[2], "127.0.0.1:"+os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kind, target, redis string) error {
	var with caller
	var err error
	if kind == "gateway" {
		with, err = newThrough(target)
	} else {
		with, err = newDirect(redis)
	}
	if err != nil {
		return err
	}
	w := &work{caller: with, name: "go-" + kind}
	if err := w.prepare(ctx); err != nil {
		return err
	}
	works := w.works()
	answers := json.NewEncoder(os.Stdout)
	names := []string{}
	for name := range works {
		names = append(names, name)
	}
	slices.Sort(names)
	if err := answers.Encode(names); err != nil {
		return err
	}
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		var name string
		var count int
		if _, err := fmt.Sscan(input.Text(), &name, &count); err != nil {
			return err
		}
		one, known := works[name]
		if !known {
			return fmt.Errorf("no work is called %q", name)
		}
		var paid measured
		if name == "listen" {
			paid, err = listen(ctx, w, count)
		} else {
			paid, err = do(ctx, w, one, count)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := answers.Encode(paid); err != nil {
			return err
		}
	}
	return w.close(ctx)
}

// pause is between two works that are done seldom: so that each finds the background at rest.
const pause = 50 * time.Millisecond

func do(ctx context.Context, w *work, one task, count int) (paid measured, err error) {
	for range count / 10 {
		// Not measured: others have worked meanwhile, and the machine's caches are theirs.
		if err := one.do(ctx); err != nil {
			return paid, err
		}
	}
	if err := w.settle(ctx); err != nil {
		return paid, err
	}
	cpu := cpuTime()
	for range count {
		begun := time.Now()
		if err := one.do(ctx); err != nil {
			return paid, err
		}
		paid.Waits = append(paid.Waits, time.Since(begun).Seconds())
		if one.seldom {
			time.Sleep(pause)
		}
	}
	if err := w.settle(ctx); err != nil {
		return paid, err
	}
	paid.CPU = (cpuTime() - cpu).Seconds()
	return paid, nil
}

func listen(ctx context.Context, w *work, count int) (paid measured, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	payloads, stop := iter.Pull2(w.listen(ctx))
	defer stop()
	// The first is empty: it says that the subscription stands.
	if _, err, _ := payloads(); err != nil {
		return paid, err
	}
	fmt.Println(`"ready"`)
	cpu := cpuTime()
	for len(paid.Waits) < count {
		payload, err, more := payloads()
		if err != nil || !more {
			return paid, fmt.Errorf("the listener ended after %d of %d events: %w", len(paid.Waits), count, err)
		}
		var event struct{ At int64 }
		if err := json.Unmarshal(payload, &event); err != nil {
			return paid, err
		}
		paid.Waits = append(paid.Waits, time.Since(time.Unix(0, event.At)).Seconds())
	}
	paid.CPU = (cpuTime() - cpu).Seconds()
	return paid, nil
}

// cpuTime is user's and system's time of this process, of all its threads.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
