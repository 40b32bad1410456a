package tracker_test

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/stand"
	"github.com/redis-gateway/redis-gateway/clients/go/tracker"
)

const prefix = "quay:repo_content_tracker:"

func TestARevocationBlocksOnceTheRepositoryIsModified(t *testing.T) {
	s := stand.New(t)
	ctx := t.Context()
	client := tracker.NewClient(s.Conn)
	blocked := func(user int64, want bool) {
		t.Helper()
		if got, err := client.IsBlocked(ctx, user, "devtable", "simple"); err != nil || got != want {
			t.Fatalf("%v %v", got, err)
		}
	}
	at, err := client.MarkRevoked(ctx, "devtable", "simple", 1, 2)
	if err != nil || time.Since(at).Abs() > time.Minute {
		t.Fatalf("%v %v", at, err)
	}
	blocked(1, false)
	modified, err := client.MarkModified(ctx, "devtable", "simple")
	if err != nil || modified.Before(at) {
		t.Fatalf("%v %v", modified, err)
	}
	blocked(1, true)
	blocked(2, true)
	blocked(3, false)
	// By a direct client's eyes, and marks.
	mark, err := strconv.ParseFloat(s.Redis.Get(ctx, prefix+"permission_revoked:2:devtable:simple").Val(), 64)
	if err != nil || at.Sub(time.UnixMicro(int64(mark*1e6))).Abs() > time.Millisecond {
		t.Fatalf("%v %v", mark, err)
	}
	s.Redis.Set(ctx, prefix+"permission_revoked:3:devtable:simple", "1.5", time.Minute)
	blocked(3, true)
	s.Redis.Set(ctx, prefix+"repo_modified:devtable:simple", "1.0", time.Minute)
	blocked(3, false)

	s.StopRedis()
	if _, err := client.MarkRevoked(ctx, "devtable", "simple", 1); err == nil {
		t.Fatal("nothing can be marked")
	}
	if _, err := client.IsBlocked(ctx, 1, "devtable", "simple"); !errors.Is(err, gateway.ErrRedisUnavailable) {
		t.Fatalf("%v", err)
	}
}
