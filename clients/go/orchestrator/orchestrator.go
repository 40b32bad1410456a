// Package orchestrator keeps the keys of build managers, and watches them.
package orchestrator

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/round"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

// Client works on keys by a connection. An error that is gateway.ErrOutcomeUnknown says that a change may stand: read it back.
type Client struct{ keys pb.OrchestratorClient }

// NewClient makes a client.
func NewClient(conn *gateway.Conn) *Client { return &Client{pb.NewOrchestratorClient(conn)} }

// Create sets a key that is not there; gateway.ErrKeyExists if it is. It expires after that time, in whole seconds; 0: never.
func (c *Client) Create(ctx context.Context, key string, value []byte, expiration time.Duration) error {
	_, err := c.keys.Set(ctx, &pb.OrchestratorSetRequest{
		Key: key, Value: value, ExpirationSeconds: round.Up(expiration, time.Second),
	})
	return err
}

// Overwrite sets a key that is there, and says whether it was. Without an expiration it loses the one that it had.
func (c *Client) Overwrite(ctx context.Context, key string, value []byte, expiration time.Duration) (bool, error) {
	answer, err := c.keys.Set(ctx, &pb.OrchestratorSetRequest{
		Key: key, Value: value, Overwrite: true, ExpirationSeconds: round.Up(expiration, time.Second),
	})
	return answer.GetStored(), err
}

// Get reads a key; gateway.ErrKeyNotFound if it is not there.
func (c *Client) Get(ctx context.Context, key string) ([]byte, error) {
	answer, err := c.keys.Get(ctx, &pb.OrchestratorGetRequest{Key: key})
	return answer.GetValue(), err
}

// Delete deletes a key and answers the value that it had; gateway.ErrKeyNotFound if it is not there.
func (c *Client) Delete(ctx context.Context, key string) ([]byte, error) {
	answer, err := c.keys.Delete(ctx, &pb.OrchestratorDeleteRequest{Key: key})
	return answer.GetValue(), err
}

// List reads the keys under a prefix that have no expiration.
func (c *Client) List(ctx context.Context, prefix string) (map[string][]byte, error) {
	found := map[string][]byte{}
	for page := ""; ; {
		answer, err := c.keys.List(ctx, &pb.OrchestratorListRequest{Prefix: prefix, PageToken: page, PageSize: 1000})
		if err != nil {
			return nil, err
		}
		for _, entry := range answer.Entries {
			found[entry.Key] = entry.Value
		}
		if page = answer.NextPageToken; page == "" {
			return found, nil
		}
	}
}

// Lock sets a key with an empty value unless it is there, and says whether it did. 0: for 10,000 s.
func (c *Client) Lock(ctx context.Context, key string, expiration time.Duration) (bool, error) {
	answer, err := c.keys.Lock(ctx, &pb.OrchestratorLockRequest{Key: key, ExpirationSeconds: round.Up(expiration, time.Second)})
	return answer.GetLocked(), err
}

// Unlock deletes the key of a lock, whoever has set it. One that is gone is no error.
func (c *Client) Unlock(ctx context.Context, key string) error {
	_, err := c.keys.Unlock(ctx, &pb.OrchestratorUnlockRequest{Key: key})
	if errors.Is(err, gateway.ErrKeyNotFound) {
		return nil
	}
	return err
}

// Watch tells what happens to the keys under a prefix, until ctx ends or the loop does: first Found for each that is there, then
// Synced, then what changes. Over the ends of gateways and connections it goes on under the same name: a Gap, then the
// differences to what it has told. A watch that cannot be opened is an error at once; an error is the last item.
//
// It holds the keys and their values in memory.
func (c *Client) Watch(ctx context.Context, prefix string, options WatchOptions) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		w := newWatch(c.keys, prefix, options, func(event Event) bool { return yield(event, nil) })
		if err := w.run(ctx); err != nil {
			yield(Event{}, err)
		}
	}
}
