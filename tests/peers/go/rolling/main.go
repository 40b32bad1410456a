// Callers on the client for Go, for clients/python/tests/test_rolling.py: `rolling PATTERN ADDRESS...` calls gateways that end and
// start again below it, until its input ends. In lines of JSON it says how it gets on; what the last one holds is judged there.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
)

const (
	pause = 5 * time.Millisecond // between two steps
	tell  = 50 * time.Millisecond
	// patience is for what comes in after the last step.
	patience = 30 * time.Second
)

// caller is what became of the steps of a pattern.
type caller struct {
	conn *gateway.Conn

	lock     sync.Mutex
	done     int
	missed   int
	failures []string
	left     map[string]any
}

// step counts a step by its error: what says that the outcome is unknown, or that nothing was done, is no failure.
func (c *caller) step(err error) {
	var failed *gateway.Error
	switch {
	case err == nil:
		c.lock.Lock()
		defer c.lock.Unlock()
		c.done++
	case errors.Is(err, gateway.ErrOutcomeUnknown) || errors.As(err, &failed) && failed.Transient():
		c.miss()
	default:
		c.fail(err)
	}
}

func (c *caller) miss() {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.missed++
}

// fail says that something is wrong, if it is.
func (c *caller) fail(err error) {
	c.lock.Lock()
	defer c.lock.Unlock()
	if err != nil {
		c.failures = append(c.failures, err.Error())
	}
}

// leave tells what is to be judged.
func (c *caller) leave(what map[string]any) { c.left = what }

func (c *caller) say() {
	c.lock.Lock()
	defer c.lock.Unlock()
	told := map[string]any{
		"done": c.done, "missed": c.missed, "failures": c.failures[:min(3, len(c.failures))], "left": c.left,
	}
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		os.Exit(1)
	}
}

// each makes steps until ctx ends.
func each(ctx context.Context, step func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
			step()
		}
	}
}

// within waits for a condition.
func within(condition func() bool) bool {
	for until := time.Now().Add(patience); !condition(); time.Sleep(pause) {
		if time.Now().After(until) {
			return false
		}
	}
	return true
}

var patterns = map[string]func(context.Context, *caller){
	"log": follow, "events": listen, "keys": watch, "locks": contend, "pulls": count, "cache": load,
}

// connect makes a connection to all gateways, as a caller finds them behind a name.
func connect(addresses []string) (*gateway.Conn, error) {
	gateways := manual.NewBuilderWithScheme("gateways")
	var state resolver.State
	for _, address := range addresses {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: address})
	}
	gateways.InitialState(state)
	return gateway.New("gateways:///all", grpc.WithResolvers(gateways))
}

func main() {
	run := patterns[os.Args[1]]
	conn, err := connect(os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	c := &caller{conn: conn}
	ctx, end := context.WithCancel(context.Background())
	go func() {
		// Read to its end: what it holds does not matter.
		_, _ = io.Copy(io.Discard, os.Stdin)
		end()
	}()
	ended := make(chan struct{})
	go func() {
		run(ctx, c)
		close(ended)
	}()
	for {
		select {
		case <-ended:
			c.say()
			return
		case <-time.After(tell):
			c.say()
		}
	}
}
