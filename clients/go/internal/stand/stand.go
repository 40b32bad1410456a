// Package stand is what the tests share: a gateway and a redis-server of their own, and direct clients on the other side.
package stand

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
)

// Stand is a redis-server and a gateway in front of it, both ended with the test.
type Stand struct {
	// Redis talks to the server past the gateway; database 0.
	Redis *redis.Client
	// Conn leads to the gateway.
	Conn *gateway.Conn

	folder, binary string
	settings       []string
	gateway        *process
	server         *process
}

// New starts both; settings are further flags of the gateway.
func New(t testing.TB, settings ...string) *Stand {
	t.Helper()
	// Short, since the name of a Unix socket may not be long.
	folder, err := os.MkdirTemp("", "stand")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	s := &Stand{folder: folder, binary: binary(t), settings: settings}
	s.StartRedis(t)
	s.Redis = s.DB(t, 0)
	s.StartGateway(t)
	s.Conn = s.Connect(t)
	s.Serving(t)
	return s
}

// Address is the gateway's, the same after each start.
func (s *Stand) Address() string { return "unix:" + filepath.Join(s.folder, "gateway.sock") }

// Connect makes another connection to the gateway.
func (s *Stand) Connect(t testing.TB, options ...grpc.DialOption) *gateway.Conn {
	t.Helper()
	return connect(t, s.Address(), options...)
}

// DB is a direct client of another database of the server.
func (s *Stand) DB(t testing.TB, db int) *redis.Client {
	t.Helper()
	direct := redis.NewClient(&redis.Options{Network: "unix", Addr: s.socket(), DB: db})
	t.Cleanup(func() { direct.Close() })
	return direct
}

// StartRedis starts the server, without what it held before.
func (s *Stand) StartRedis(t testing.TB) {
	t.Helper()
	s.server = run(t, "redis-server", "--port", "0", "--unixsocket", s.socket(), "--save", "", "--dir", s.folder)
	direct := s.DB(t, 0)
	Eventually(t, "redis answers", func() bool { return direct.Ping(context.Background()).Err() == nil })
}

// StopRedis kills the server.
func (s *Stand) StopRedis() { s.server.kill() }

// PauseRedis lets the server accept everything and answer nothing, until ResumeRedis.
func (s *Stand) PauseRedis(t testing.TB) { s.server.pause(t) }

// ResumeRedis ends what PauseRedis began.
func (s *Stand) ResumeRedis(t testing.TB) { s.server.signal(t, syscall.SIGCONT) }

// StartGateway starts the gateway at its address; settings are flags beside those of New.
func (s *Stand) StartGateway(t testing.TB, settings ...string) {
	t.Helper()
	s.gateway = s.start(t, s.Address(), settings...)
}

// Second starts another gateway on the same Redis and connects to it.
func (s *Stand) Second(t testing.TB) (*gateway.Conn, string) {
	t.Helper()
	address := "unix:" + filepath.Join(s.folder, "second.sock")
	s.start(t, address)
	conn := connect(t, address)
	serving(t, conn)
	return conn, address
}

// KillGateway kills the gateway.
func (s *Stand) KillGateway() { s.gateway.kill() }

// DrainGateway asks the gateway to end, and waits until it has.
func (s *Stand) DrainGateway(t testing.TB) {
	t.Helper()
	s.gateway.end(t)
}

// PauseGateway stops the gateway, as a machine that hangs, until ResumeGateway.
func (s *Stand) PauseGateway(t testing.TB) { s.gateway.pause(t) }

// ResumeGateway ends what PauseGateway began.
func (s *Stand) ResumeGateway(t testing.TB) { s.gateway.signal(t, syscall.SIGCONT) }

// Serving waits until the gateway serves all that is configured.
func (s *Stand) Serving(t testing.TB) {
	t.Helper()
	serving(t, s.Conn)
}

func connect(t testing.TB, address string, options ...grpc.DialOption) *gateway.Conn {
	t.Helper()
	conn, err := gateway.New(address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func serving(t testing.TB, conn *gateway.Conn) {
	t.Helper()
	health := grpc_health_v1.NewHealthClient(conn)
	services := []string{"BuildLogs", "Cache", "ContentTracker", "Locks", "Orchestrator", "PullMetrics", "UserEvents"}
	Eventually(t, "the gateway serves", func() bool {
		for _, service := range services {
			ctx, cancel := context.WithTimeout(context.Background(), Patience())
			answer, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "redisgateway.v1." + service})
			cancel()
			if err != nil || answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
				return false
			}
		}
		return true
	})
}

func (s *Stand) start(t testing.TB, address string, settings ...string) *process {
	t.Helper()
	flags := []string{"--grpc-listen", address, "--admin-listen", "127.0.0.1:0"}
	for _, endpoint := range []string{"build-logs", "cache", "orchestrator", "pull-metrics", "user-events"} {
		flags = append(flags, "--endpoints-"+endpoint+"-socket", s.socket())
	}
	return run(t, s.binary, slices.Concat(flags, s.settings, settings)...)
}

func (s *Stand) socket() string { return filepath.Join(s.folder, "redis.sock") }

// Patience is how long a test waits for what should come at once: PATIENCE seconds from the environment, or 30.
func Patience() time.Duration {
	if seconds, err := strconv.Atoi(os.Getenv("PATIENCE")); err == nil {
		return time.Duration(seconds) * time.Second
	}
	return 30 * time.Second
}

// Eventually waits until something holds.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience()); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came about: %s", what)
		}
	}
}

// Soon waits for what a channel brings.
func Soon[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case got := <-from:
		return got
	case <-time.After(Patience()):
		t.Fatalf("never came: %s", what)
		panic("unreachable")
	}
}

// binary is the gateway's: REDIS_GATEWAY_BIN, or what `cargo build` leaves.
func binary(t testing.TB) string {
	t.Helper()
	path := os.Getenv("REDIS_GATEWAY_BIN")
	if path == "" {
		_, here, _, _ := runtime.Caller(0)
		path = filepath.Join(filepath.Dir(here), "../../../../target/debug/redis-gateway")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no gateway to test against, build it by `cargo build`, or name it in REDIS_GATEWAY_BIN: %v", err)
	}
	return path
}
