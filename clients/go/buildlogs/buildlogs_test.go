package buildlogs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redis-gateway/redis-gateway/clients/go/buildlogs"
	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/stand"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

const logs = "builds/7/logs"

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func line(n int) *buildlogs.Entry { return buildlogs.Message(fmt.Sprint("line ", n), "", nil) }

// standing is the log as it stands in Redis.
func standing(t *testing.T, s *stand.Stand) []string {
	t.Helper()
	entries, err := s.Redis.LRange(t.Context(), logs, 0, -1).Result()
	check(t, err)
	return entries
}

func lines(count int) (want []string) {
	for n := range count {
		want = append(want, fmt.Sprintf(`{"message": "line %d"}`, n))
	}
	return want
}

func TestLogsAreThoseOfDirectWriters(t *testing.T) {
	s := stand.New(t)
	ctx := t.Context()
	client := buildlogs.NewClient(s.Conn)
	length, err := client.Append(ctx, "7",
		buildlogs.Message("pulling", buildlogs.Phase, []byte(`{"datetime":"now"}`)), buildlogs.JSON([]byte(`{"a":"é"}`)))
	if err != nil || length != 2 {
		t.Fatalf("%d %v", length, err)
	}
	want := []string{`{"message": "pulling", "type": "phase", "data": {"datetime": "now"}}`, `{"a": "\u00e9"}`}
	if got := standing(t, s); !slices.Equal(got, want) {
		t.Fatalf("%q", got)
	}
	s.Redis.RPush(ctx, logs, "direct")
	entries, length, err := client.Read(ctx, "7", 1)
	if err != nil || length != 3 || len(entries) != 2 || string(entries[1]) != "direct" {
		t.Fatalf("%q %d %v", entries, length, err)
	}
	if status, err := client.Status(ctx, "7"); err != nil || status != nil {
		t.Fatalf("%q %v", status, err)
	}
	check(t, client.SetStatus(ctx, "7", []byte(`{"heartbeat":1}`)))
	if status, err := client.Status(ctx, "7"); err != nil || string(status) != `{"heartbeat": 1}` {
		t.Fatalf("%q %v", status, err)
	}
	check(t, client.ExpireStatus(ctx, "7"))
	if left := s.Redis.TTL(ctx, "builds/7/status").Val(); left > 24*time.Hour || left < 23*time.Hour {
		t.Fatalf("%v", left)
	}
	check(t, client.ExpireEntries(ctx, "7"))
	check(t, client.DeleteEntries(ctx, "7"))
	if length, err := client.Length(ctx, "7"); err != nil || length != 0 {
		t.Fatalf("%d %v", length, err)
	}
}

func TestAWriterDoublesNothingAndLosesNothing(t *testing.T) {
	s := stand.New(t)
	client := buildlogs.NewClient(s.Conn)
	writer := client.Writer("7", 0)
	const count = 300
	stuck := 0
	for n := range count {
		// Answers are lost on the way: the gateway dies, or hangs, while entries are under way.
		switch n % 60 {
		case 20:
			s.KillGateway()
			s.StartGateway(t)
		case 40:
			s.PauseGateway(t)
			time.AfterFunc(300*time.Millisecond, func() { s.ResumeGateway(t) })
		}
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
		err := writer.Append(ctx, line(n))
		cancel()
		if err != nil {
			stuck++
			if errors.Is(err, gateway.ErrInvalidArgument) || errors.As(err, new(*buildlogs.ConflictError)) {
				t.Fatal(err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), stand.Patience())
	defer cancel()
	check(t, writer.Flush(ctx))
	if got := standing(t, s); !slices.Equal(got, lines(count)) {
		t.Fatalf("%d entries, the first %.200q", len(got), got)
	}
	if stuck == 0 || writer.Length() != count {
		t.Fatalf("nothing went wrong, or its length is wrong: %d %d", stuck, writer.Length())
	}
}

func TestAWriterSplitsWhatIsLargeAndDropsWhatIsInvalid(t *testing.T) {
	s := stand.New(t)
	ctx := t.Context()
	client := buildlogs.NewClient(s.Conn)
	writer := client.Writer("7", 0)
	large := strings.Repeat("x", 700_000)
	var entries []*buildlogs.Entry
	for range 10 {
		entries = append(entries, buildlogs.Message(large, "", nil))
	}
	for n := range 2_500 {
		entries = append(entries, line(n))
	}
	check(t, writer.Append(ctx, entries...))
	if err := writer.Append(ctx, buildlogs.JSON([]byte("{"))); !errors.Is(err, gateway.ErrInvalidArgument) {
		t.Fatalf("%v", err)
	}
	huge := buildlogs.Message(strings.Repeat("x", 5<<20), "", nil)
	if err := writer.Append(ctx, huge, line(2_500)); !errors.Is(err, gateway.ErrRequestTooLarge) {
		t.Fatalf("%v", err)
	}
	check(t, writer.Flush(ctx))
	if got := standing(t, s); len(got) != 2_511 || !slices.Equal(got[10:], lines(2_501)) {
		t.Fatalf("%d entries", len(got))
	}
	s.Redis.RPush(ctx, logs, "another writer's")
	var conflict *buildlogs.ConflictError
	if err := writer.Append(ctx, line(0)); !errors.As(err, &conflict) || conflict.Length != 2_512 {
		t.Fatalf("%v", err)
	}
}

func TestAWriterHalvesWhatAnotherGatewayRefusesAndDoublesNothing(t *testing.T) {
	s := stand.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), stand.Patience())
	defer cancel()
	replaced := false
	writer := buildlogs.NewClient(s.Connect(t, grpc.WithUnaryInterceptor(func(
		ctx context.Context, method string, request, reply any, conn *grpc.ClientConn,
		invoke grpc.UnaryInvoker, options ...grpc.CallOption,
	) error {
		err := invoke(ctx, method, request, reply, conn, options...)
		if replaced || err != nil {
			return err
		}
		// What it answered is lost, and the one that is asked again takes less at a time.
		replaced = true
		s.KillGateway()
		s.StartGateway(t, "--limits-max-request-bytes", "64KiB")
		return status.Error(codes.Unavailable, "the answer is lost")
	}))).Writer("7", 0)
	const count = 1_500
	var entries []*buildlogs.Entry
	var want []string
	for n := range count {
		text := fmt.Sprintf("%01000d", n)
		entries = append(entries, buildlogs.Message(text, "", nil))
		want = append(want, fmt.Sprintf(`{"message": "%s"}`, text))
	}
	check(t, writer.Append(ctx, entries...))
	if got := standing(t, s); !replaced || !slices.Equal(got, want) || writer.Length() != count {
		t.Fatalf("%d entries, %d known", len(got), writer.Length())
	}
}

func TestATailGoesOnOverKillsAndDrains(t *testing.T) {
	s := stand.New(t)
	ctx := t.Context()
	client := buildlogs.NewClient(s.Conn)
	s.Redis.RPush(ctx, logs, "a", "b", "c")
	told := stand.Listen(t, func(ctx context.Context) iter.Seq2[buildlogs.Item, error] { return client.Tail(ctx, "7", -2) })
	expect := func(start int64, want string) {
		t.Helper()
		item := stand.Next(t, told, func(item buildlogs.Item) bool {
			_, pause := item.(buildlogs.Heartbeat)
			return pause
		})
		entries, ok := item.(buildlogs.Entries)
		if got := bytes.Join(entries.Entries, []byte(" ")); !ok || entries.Start != start || string(got) != want {
			t.Fatalf("%#v instead of %d %s", item, start, want)
		}
	}
	expect(1, "b c")
	s.KillGateway()
	s.Redis.RPush(ctx, logs, "d")
	s.StartGateway(t)
	expect(3, "d")
	s.DrainGateway(t)
	s.Redis.RPush(ctx, logs, "e")
	s.StartGateway(t)
	expect(4, "e")
	// Replaced while nobody looked, and longer than before.
	s.KillGateway()
	s.Redis.Del(ctx, logs)
	s.Redis.RPush(ctx, logs, "A", "B", "C", "D", "E", "F")
	s.StartGateway(t)
	reset, ok := stand.Next(t, told, func(buildlogs.Item) bool { return false }).(buildlogs.Reset)
	if !ok || reset.Cause != pb.TailReset_CAUSE_REPLACED || reset.Next != 0 {
		t.Fatalf("%v", reset)
	}
	expect(0, "A B C D E F")
}
