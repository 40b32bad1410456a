// Package cache is a cache in front of what is slow to load: one of all who miss a value loads it, and no caller fails, or waits
// for long, because the cache does.
package cache

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/round"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

// maxKeys is the most of one request.
const maxKeys = 1_000

// Options of a cache. What is 0 has its default.
type Options struct {
	// Timeout is how long a question to the cache may take, not counting Wait: 2 s by default.
	Timeout time.Duration
	// Lease is what a caller gets to load: 10 s by default. One that dies costs the others that long, one that is slower has
	// loaded for itself alone.
	Lease time.Duration
	// Wait is how long to wait for the value while another caller loads it: as long as Lease by default. Who has waited in vain
	// loads too. Of the time that a context has left, no more than half is spent on the cache before a load.
	Wait time.Duration
	// Fresh looks for values on the primary alone, so that none is seen that was deleted before.
	Fresh bool
	// Degraded hears what was wrong each time the cache could not do its part: to count, or to log.
	Degraded func(error)
}

// Cache is a cache by a connection.
type Cache struct {
	cache   pb.CacheClient
	options Options
	// session is of the last write; nil outside of a session.
	session *string
}

// New makes a cache.
func New(conn *gateway.Conn, options Options) *Cache {
	options.Timeout = cmp.Or(options.Timeout, 2*time.Second)
	options.Lease = cmp.Or(options.Lease, 10*time.Second)
	options.Wait = cmp.Or(options.Wait, options.Lease)
	if options.Degraded == nil {
		options.Degraded = func(error) {}
	}
	return &Cache{cache: pb.NewCacheClient(conn), options: options}
}

// Session is a cache whose reads miss none of its own writes, whatever replica they go to; for one goroutine at a time. With the
// Token of another session, on whatever gateway, they miss none of that one's either; "" for none.
func (c *Cache) Session(token string) *Cache {
	session := *c
	session.session = &token
	return &session
}

// Token stands for what a session has written so far; outside of a session it is empty.
func (c *Cache) Token() string {
	if c.session == nil {
		return ""
	}
	return *c.session
}

// Get gets a value, or loads it and stores it for ttl, in whole seconds; 0: until it is deleted. Of all who miss it one loads,
// the others wait for it. What load answers is stored unless it is nil or the key was deleted meanwhile. An error is that of load.
func (c *Cache) Get(
	ctx context.Context, key string, ttl time.Duration, load func(context.Context) ([]byte, error),
) (value []byte, err error) {
	var token string
	switch outcome := c.ask(ctx, key).GetOutcome().(type) {
	case *pb.CacheGetOrLeaseResponse_Value:
		return outcome.Value, nil
	case *pb.CacheGetOrLeaseResponse_Lease:
		token = outcome.Lease.Token
	default:
		return load(ctx)
	}
	defer func() {
		// Also after a panic of load: the next one who waits is to load. Once filled, it is over.
		if value == nil || err != nil {
			c.giveUp(ctx, key, token)
		}
	}()
	value, err = load(ctx)
	if value != nil && err == nil {
		c.fill(ctx, key, token, value, ttl)
	}
	return value, err
}

// Lookup gets a value and says whether there is one. With an error, which may be ignored, there may be one all the same.
func (c *Cache) Lookup(ctx context.Context, key string) (value []byte, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	answer, err := c.cache.Get(ctx, &pb.CacheGetRequest{Key: key, Fresh: c.options.Fresh, WriteToken: c.Token()}, gateway.Once)
	if err := c.told(err, answer.GetDegraded()); err != nil {
		return nil, false, err
	}
	return answer.Value, answer.Value != nil, nil
}

// LookupMany gets the values of those keys that have one. With an error, which may be ignored, others may have one too.
func (c *Cache) LookupMany(ctx context.Context, keys ...string) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	found := map[string][]byte{}
	for len(keys) > 0 {
		some := keys[:min(len(keys), maxKeys)]
		answer, err := c.cache.BatchGet(ctx, &pb.CacheBatchGetRequest{
			Keys: some, Fresh: c.options.Fresh, WriteToken: c.Token(),
		}, gateway.Once)
		var rest []string
		for n, item := range answer.GetValues() {
			if item.LeftOut {
				rest = append(rest, some[n])
			} else if item.Value != nil {
				found[some[n]] = item.Value
			}
		}
		if err := c.told(err, answer.GetDegraded()); err != nil {
			return found, err
		}
		keys = slices.Concat(rest, keys[len(some):])
	}
	return found, nil
}

// Set stores a value for ttl, as Get does, in any case if overwrite, else unless one is there; says whether it did.
func (c *Cache) Set(ctx context.Context, key string, value []byte, ttl time.Duration, overwrite bool) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	answer, err := c.cache.Set(ctx, &pb.CacheSetRequest{
		Key: key, Value: value, TtlSeconds: round.Up(ttl, time.Second), Overwrite: overwrite, WantToken: c.session != nil,
	})
	c.written(answer.GetWriteToken())
	return answer.GetStored(), c.told(err, answer.GetDegraded())
}

// Delete deletes keys, and voids what is being loaded for them. An error says that the old values may still be there.
func (c *Cache) Delete(ctx context.Context, keys ...string) error {
	for some := range slices.Chunk(keys, maxKeys) {
		answer, err := c.cache.BatchDelete(ctx, &pb.CacheBatchDeleteRequest{Keys: some, WantToken: c.session != nil})
		c.written(answer.GetWriteToken())
		if err := c.told(err, answer.GetDegraded()); err != nil {
			return err
		}
	}
	return nil
}

// ask asks for a value or a lease, a second time if the gateway went away meanwhile. Nil: neither can be had.
func (c *Cache) ask(ctx context.Context, key string) *pb.CacheGetOrLeaseResponse {
	end, patience := time.Now().Add(c.options.Wait), c.options.Wait
	limit := c.options.Wait + c.options.Timeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)/2)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for again := false; ; again, patience = true, max(0, time.Until(end)) {
		answer, err := c.cache.GetOrLease(ctx, &pb.CacheGetOrLeaseRequest{
			Key:        key,
			Fresh:      c.options.Fresh,
			WaitMs:     round.Up(patience, time.Millisecond),
			LeaseMs:    round.Up(c.options.Lease, time.Millisecond),
			WriteToken: c.Token(),
		}, gateway.Once)
		var failed *gateway.Error
		if again || !errors.As(err, &failed) || !failed.Transient() {
			_ = c.told(err, answer.GetDegraded())
			return answer
		}
	}
}

func (c *Cache) fill(ctx context.Context, key, token string, value []byte, ttl time.Duration) {
	ctx, cancel := c.after(ctx)
	defer cancel()
	answer, err := c.cache.Fill(ctx, &pb.CacheFillRequest{
		Key: key, Token: token, Value: value, TtlSeconds: round.Up(ttl, time.Second), WantToken: c.session != nil,
	}, gateway.Once)
	c.written(answer.GetWriteToken())
	_ = c.told(err, answer.GetDegraded())
}

func (c *Cache) giveUp(ctx context.Context, key, token string) {
	ctx, cancel := c.after(ctx)
	defer cancel()
	answer, err := c.cache.GiveUp(ctx, &pb.CacheGiveUpRequest{Key: key, Token: token}, gateway.Once)
	_ = c.told(err, answer.GetDegraded())
}

// after is for what others wait for when the caller does not any more.
func (c *Cache) after(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), c.options.Timeout)
}

// written notes a write of a session. The last one stands for all: a read that it does not lead to a replica goes to the primary.
func (c *Cache) written(token string) {
	if token != "" {
		*c.session = token
	}
}

// told tells what is wrong, if anything is.
func (c *Cache) told(err error, degraded pb.DegradedReason) error {
	if err == nil {
		err = gateway.Degraded(degraded)
	}
	if err != nil {
		c.options.Degraded(err)
	}
	return err
}
