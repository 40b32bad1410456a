package stand

import (
	"context"
	"iter"
	"testing"
	"time"
)

// Told is an item of a stream that is followed.
type Told[T any] struct {
	Item T
	Err  error
}

// Listen follows a stream in the background, and stops with the test.
func Listen[T any](t testing.TB, follow func(context.Context) iter.Seq2[T, error]) <-chan Told[T] {
	ctx, cancel := context.WithCancel(context.Background())
	told := make(chan Told[T], 1<<16)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for item, err := range follow(ctx) {
			told <- Told[T]{item, err}
		}
	}()
	t.Cleanup(func() {
		cancel()
		Soon(t, "the end of a stream that nobody follows", ended)
	})
	return told
}

// Next is the next item that is no pause, such as a heartbeat.
func Next[T any](t testing.TB, told <-chan Told[T], pause func(T) bool) T {
	t.Helper()
	end := time.After(Patience())
	for {
		select {
		case next := <-told:
			if next.Err != nil {
				t.Fatalf("instead of an item: %v", next.Err)
			}
			if !pause(next.Item) {
				return next.Item
			}
		case <-end:
			t.Fatal("never came: the next item")
		}
	}
}
