package cache_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/redis-gateway/redis-gateway/clients/go/cache"
	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/stand"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

const key = "catalog_page__(anon)_0_50"

type loader struct {
	loads atomic.Int64
	takes time.Duration
}

func (l *loader) load(ctx context.Context) ([]byte, error) {
	l.loads.Add(1)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(l.takes):
		return []byte("loaded"), nil
	}
}

func TestOneOfAllLoads(t *testing.T) {
	s := stand.New(t)
	other, _ := s.Second(t)
	caches := []*cache.Cache{cache.New(s.Conn, cache.Options{}), cache.New(other, cache.Options{})}
	l := &loader{takes: 200 * time.Millisecond}
	var all sync.WaitGroup
	for n := range 50 {
		all.Add(1)
		go func() {
			defer all.Done()
			value, err := caches[n%2].Get(t.Context(), key, 90*time.Second, l.load)
			if err != nil || string(value) != "loaded" {
				t.Errorf("%q %v", value, err)
			}
		}()
	}
	all.Wait()
	if loads := l.loads.Load(); loads != 1 {
		t.Fatalf("%d loads", loads)
	}
	if got := s.Redis.Get(t.Context(), key).Val(); got != "loaded" {
		t.Fatalf("%q", got)
	}
	if left := s.Redis.TTL(t.Context(), key).Val(); left > 90*time.Second || left < 60*time.Second {
		t.Fatalf("%v", left)
	}
}

func TestWhatCannotBeLoadedIsNotStoredAndKeepsNobodyWaiting(t *testing.T) {
	s := stand.New(t)
	c := cache.New(s.Conn, cache.Options{Lease: 5 * time.Minute})
	broken := errors.New("broken")
	for name, load := range map[string]func(context.Context) ([]byte, error){
		"error":   func(context.Context) ([]byte, error) { return nil, broken },
		"nothing": func(context.Context) ([]byte, error) { return nil, nil },
		"panic":   func(context.Context) ([]byte, error) { panic("loader") },
	} {
		func() {
			defer func() { recover() }()
			if value, err := c.Get(t.Context(), name, 0, load); value != nil || err != nil && err != broken {
				t.Errorf("%s: %q %v", name, value, err)
			}
		}()
		if s.Redis.Exists(t.Context(), name).Val() != 0 {
			t.Fatalf("%s is stored", name)
		}
		// The lease is free again.
		ctx, cancel := context.WithTimeout(t.Context(), stand.Patience())
		value, err := c.Get(ctx, name, 0, (&loader{}).load)
		cancel()
		if err != nil || string(value) != "loaded" || s.Redis.Get(t.Context(), name).Val() != "loaded" {
			t.Fatalf("%s: %q %v", name, value, err)
		}
	}
}

func TestWhatWasLoadedBeforeADeleteIsNotStored(t *testing.T) {
	s := stand.New(t)
	c := cache.New(s.Conn, cache.Options{Fresh: true})
	value, err := c.Get(t.Context(), key, 0, func(ctx context.Context) ([]byte, error) {
		return []byte("stale"), c.Delete(ctx, key)
	})
	if err != nil || string(value) != "stale" || s.Redis.Exists(t.Context(), key).Val() != 0 {
		t.Fatalf("%q %v", value, err)
	}
}

func TestValuesAreThoseOfDirectClients(t *testing.T) {
	s := stand.New(t)
	ctx := t.Context()
	c := cache.New(s.Conn, cache.Options{})
	s.Redis.Set(ctx, key, `{"direct": 1}`, 0)
	if value, found, err := c.Lookup(ctx, key); err != nil || !found || string(value) != `{"direct": 1}` {
		t.Fatalf("%q %v %v", value, found, err)
	}
	for overwrite, want := range map[bool]string{false: `{"direct": 1}`, true: "mine"} {
		s.Redis.Set(ctx, key, `{"direct": 1}`, 0)
		if stored, err := c.Set(ctx, key, []byte("mine"), time.Minute, overwrite); err != nil || stored != overwrite {
			t.Fatalf("%v %v", stored, err)
		}
		if got := s.Redis.Get(ctx, key).Val(); got != want {
			t.Fatalf("%q", got)
		}
	}
	var keys []string
	for n := range 2_500 {
		keys = append(keys, fmt.Sprint("k", n))
		s.Redis.Set(ctx, keys[n], "v", 0)
	}
	if err := c.Delete(ctx, append(keys, key)...); err != nil {
		t.Fatal(err)
	}
	if left := s.Redis.Exists(ctx, append(keys, key)...).Val(); left != 0 {
		t.Fatalf("%d are left", left)
	}
	if value, found, err := c.Lookup(ctx, key); err != nil || found {
		t.Fatalf("%q %v", value, err)
	}
}

func TestNoCallerFailsBecauseTheCacheDoes(t *testing.T) {
	s := stand.New(t)
	var told []error
	c := cache.New(s.Conn, cache.Options{Timeout: time.Second, Degraded: func(err error) { told = append(told, err) }})
	get := func(limit time.Duration) {
		t.Helper()
		told = nil
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		value, err := c.Get(ctx, key, 0, (&loader{}).load)
		if err != nil || string(value) != "loaded" || len(told) != 1 {
			t.Fatalf("%q %v %v", value, err, told)
		}
	}
	s.PauseRedis(t)
	get(2 * time.Second)
	s.ResumeRedis(t)
	s.Serving(t)
	s.StopRedis()
	get(stand.Patience())
	if !errors.Is(told[0], gateway.ErrRedisUnavailable) {
		t.Fatalf("%v", told)
	}
	if err := c.Delete(t.Context(), key); !errors.Is(err, gateway.ErrRedisUnavailable) {
		t.Fatalf("%v", err)
	}
	s.PauseGateway(t)
	get(2 * time.Second)
	s.ResumeGateway(t)
	s.KillGateway()
	get(stand.Patience())
}

// asked keeps what a connection is asked and answered.
func asked(into *[]any) grpc.DialOption {
	return grpc.WithUnaryInterceptor(func(
		ctx context.Context, method string, request, reply any, conn *grpc.ClientConn,
		invoke grpc.UnaryInvoker, options ...grpc.CallOption,
	) error {
		err := invoke(ctx, method, request, reply, conn, options...)
		*into = append(*into, request, reply)
		return err
	})
}

func TestTimesAreRoundedUp(t *testing.T) {
	s := stand.New(t)
	var calls []any
	c := cache.New(s.Connect(t, asked(&calls)), cache.Options{Lease: 1_100 * time.Microsecond, Wait: time.Microsecond})
	if value, err := c.Get(t.Context(), key, 0, (&loader{}).load); err != nil || string(value) != "loaded" {
		t.Fatalf("%q %v", value, err)
	}
	if asked := calls[0].(*pb.CacheGetOrLeaseRequest); asked.LeaseMs != 2 || asked.WaitMs != 1 {
		t.Fatalf("%v", asked)
	}
}

func TestManyAreLookedUpAtOnce(t *testing.T) {
	s := stand.New(t)
	var told []error
	c := cache.New(s.Conn, cache.Options{Timeout: stand.Patience(), Degraded: func(err error) { told = append(told, err) }})
	// Of more keys than a request has, and more values than an answer.
	value := strings.Repeat("v", 20_000)
	var keys []string
	for n := range 1_200 {
		keys = append(keys, fmt.Sprint("k", n))
		if n%4 == 0 {
			s.Redis.Set(t.Context(), keys[n], value, 0)
		}
	}
	found, err := c.LookupMany(t.Context(), keys...)
	if err != nil || len(found) != 300 {
		t.Fatalf("%d %v", len(found), err)
	}
	for key, got := range found {
		if string(got) != value {
			t.Fatalf("%s: %d bytes", key, len(got))
		}
	}
	if found, err := c.LookupMany(t.Context()); err != nil || len(found) != 0 {
		t.Fatalf("%v %v", found, err)
	}
	s.Redis.Set(t.Context(), "large", strings.Repeat("v", 5<<20), 0)
	if found, err := c.LookupMany(t.Context(), "k0", "large"); !errors.Is(err, gateway.ErrValueTooLarge) || len(found) != 1 {
		t.Fatalf("%d %v", len(found), err)
	}
	if len(told) != 1 {
		t.Fatalf("%v", told)
	}
}

func TestASessionBringsTheTokenOfItsLastWrite(t *testing.T) {
	s := stand.New(t)
	ctx := t.Context()
	// From its first replica on a server counts what it writes.
	replica, err := net.Dial("unix", s.Redis.Options().Addr)
	check(t, err)
	defer replica.Close()
	_, err = fmt.Fprint(replica, "PSYNC ? -1\r\n")
	check(t, err)
	_, err = bufio.NewReader(replica).ReadString('\n')
	check(t, err)
	var calls []any
	c := cache.New(s.Connect(t, asked(&calls)), cache.Options{})
	session := c.Session("")
	last := func() any { return calls[len(calls)-1] }
	// The tokens that reads of each kind bring.
	reads := func() []string {
		calls = nil
		if _, _, err := session.Lookup(ctx, "k"); err != nil {
			t.Error(err)
		}
		if _, err := session.LookupMany(ctx, "k"); err != nil {
			t.Error(err)
		}
		if _, err := session.Get(ctx, "there", 0, (&loader{}).load); err != nil {
			t.Error(err)
		}
		return []string{
			calls[0].(*pb.CacheGetRequest).WriteToken,
			calls[2].(*pb.CacheBatchGetRequest).WriteToken,
			calls[4].(*pb.CacheGetOrLeaseRequest).WriteToken,
		}
	}
	var tokens []string
	for _, write := range []func() string{
		func() string {
			_, err := session.Set(ctx, "k", []byte("v"), 0, true)
			check(t, err)
			return last().(*pb.CacheSetResponse).WriteToken
		},
		func() string {
			s.Redis.Del(ctx, "there")
			_, err := session.Get(ctx, "there", 0, (&loader{}).load)
			check(t, err)
			return last().(*pb.CacheFillResponse).WriteToken
		},
		func() string {
			check(t, session.Delete(ctx, "k"))
			return last().(*pb.CacheBatchDeleteResponse).WriteToken
		},
	} {
		token := write()
		s.Redis.Set(ctx, "there", "loaded", 0)
		if got := reads(); token == "" || session.Token() != token || slices.Contains(tokens, token) ||
			!slices.Equal(got, []string{token, token, token}) {
			t.Fatalf("%q brought as %q", token, got)
		}
		tokens = append(tokens, token)
	}
	// Another session goes on from there, and the cache itself knows of none.
	calls = nil
	for session, want := range map[*cache.Cache]string{c.Session(session.Token()): session.Token(), c: ""} {
		if _, _, err := session.Lookup(ctx, "k"); err != nil || calls[len(calls)-2].(*pb.CacheGetRequest).WriteToken != want {
			t.Fatalf("%v %v", calls, err)
		}
	}
	if _, err := c.Set(ctx, "k", nil, 0, true); err != nil || c.Token() != "" {
		t.Fatalf("%q %v", c.Token(), err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
