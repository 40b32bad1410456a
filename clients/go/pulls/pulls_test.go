package pulls_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/stand"
	"github.com/redis-gateway/redis-gateway/clients/go/pulls"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

const digest = "sha256:5f70bf18"

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// counted is the sum of what stands in Redis.
func counted(t *testing.T, direct *redis.Client) (sum int) {
	t.Helper()
	keys, err := direct.Keys(t.Context(), "pull_events:*").Result()
	check(t, err)
	for _, key := range keys {
		count, err := strconv.Atoi(direct.HGet(t.Context(), key, "pull_count").Val())
		check(t, err)
		sum += count
	}
	return sum
}

func TestPullsAreThoseOfDirectProducers(t *testing.T) {
	s := stand.New(t)
	direct := s.DB(t, 1)
	client := pulls.NewClient(s.Conn)
	at := time.Unix(1_700_000_000, 0)
	for want := range int64(2) {
		count, err := client.Track(t.Context(), pulls.Pull{Repository: 7, Tag: "latest", Digest: digest, At: at})
		if err != nil || count != want+1 {
			t.Fatalf("%d %v", count, err)
		}
	}
	_, err := client.Track(t.Context(), pulls.Pull{Repository: 7, Digest: digest})
	check(t, err)
	hash := direct.HGetAll(t.Context(), "pull_events:repo:7:tag:latest:"+digest).Val()
	want := map[string]string{
		"repository_id": "7", "tag_name": "latest", "manifest_digest": digest, "pull_count": "2",
		"last_pull_timestamp": "1700000000", "pull_method": "tag",
	}
	if fmt.Sprint(hash) != fmt.Sprint(want) {
		t.Fatalf("%v", hash)
	}
	statistics, err := client.Statistics(t.Context(), 7, "latest", digest)
	if err != nil || statistics.PullCount != 2 || statistics.LastPullTimestamp != "1700000000" {
		t.Fatalf("%v %v", statistics, err)
	}
	if statistics, err := client.Statistics(t.Context(), 8, "", digest); err != nil || statistics != nil {
		t.Fatalf("%v %v", statistics, err)
	}
	if _, err := client.Track(t.Context(), pulls.Pull{Repository: 7}); !errors.Is(err, gateway.ErrInvalidArgument) {
		t.Fatalf("%v", err)
	}
}

func TestATrackerTellsOfEachPullWhatBecameOfIt(t *testing.T) {
	s := stand.New(t)
	direct := s.DB(t, 1)
	begun := make(chan string, 1_000)
	tracker := pulls.NewTracker(s.Connect(t, grpc.WithUnaryInterceptor(func(
		ctx context.Context, method string, request, reply any, conn *grpc.ClientConn,
		invoke grpc.UnaryInvoker, options ...grpc.CallOption,
	) error {
		begun <- method
		return invoke(ctx, method, request, reply, conn, options...)
	})))
	track := func(count int) {
		for n := range count {
			if !tracker.Track(pulls.Pull{Repository: int64(1 + n%10), Tag: "latest", Digest: digest}) {
				t.Error("no room")
			}
		}
	}
	track(5_000)
	tracker.Track(pulls.Pull{Repository: 1, Digest: "none"})
	s.KillGateway()
	track(5_000)
	s.StartGateway(t)
	stand.Eventually(t, "none waits", func() bool { return tracker.Counts().Queued == 0 })
	// A batch is under way, and will stand in Redis, perhaps, when its gateway has gone.
	for len(begun) > 0 {
		<-begun
	}
	s.PauseRedis(t)
	track(100)
	stand.Soon(t, "a batch", begun)
	s.KillGateway()
	s.ResumeRedis(t)
	s.StartGateway(t)
	stand.Eventually(t, "none waits", func() bool { return tracker.Counts().Queued == 0 })
	counts := tracker.Close(t.Context())
	if counts.Refused != 1 || counts.Dropped != 0 || counts.Unknown == 0 || counts.Counted+counts.Unknown != 10_100 {
		t.Fatalf("%+v", counts)
	}
	if stands := uint64(counted(t, direct)); stands < counts.Counted || stands > counts.Counted+counts.Unknown {
		t.Fatalf("%d stand: %+v", stands, counts)
	}
	if tracker.Track(pulls.Pull{Repository: 1, Digest: digest}) {
		t.Fatal("it is closed")
	}
}

func TestPullsThatBreakARuleDoNotHoldUpOthers(t *testing.T) {
	s := stand.New(t)
	direct := s.DB(t, 1)
	var paused time.Duration
	var calls int
	var ended time.Time
	tracker := pulls.NewTracker(s.Connect(t, grpc.WithUnaryInterceptor(func(
		ctx context.Context, method string, request, reply any, conn *grpc.ClientConn,
		invoke grpc.UnaryInvoker, options ...grpc.CallOption,
	) error {
		if calls++; calls > 1 {
			paused += time.Since(ended)
		}
		err := invoke(ctx, method, request, reply, conn, options...)
		ended = time.Now()
		return err
	})))
	const each = 100
	for range each {
		tracker.Track(pulls.Pull{Repository: 1, Digest: "none"})
		tracker.Track(pulls.Pull{Repository: 1, Digest: digest})
	}
	counts := tracker.Close(t.Context())
	if counts.Refused != each || counts.Counted != each || counted(t, direct) != each {
		t.Fatalf("%+v", counts)
	}
	// With a backoff after each it would be about 50 s.
	if calls < each || paused > 10*time.Second {
		t.Fatalf("%v between %d calls", paused, calls)
	}
}

func TestATrackerHalvesWhatItsGatewayRefuses(t *testing.T) {
	// Less than a full batch, and less than one of the pulls.
	s := stand.New(t, "--limits-max-request-bytes", "16KiB")
	direct := s.DB(t, 1)
	tracker := pulls.NewTracker(s.Conn)
	for range 2_000 {
		tracker.Track(pulls.Pull{Repository: 1, Digest: digest})
	}
	tracker.Track(pulls.Pull{Repository: 1, Digest: strings.Repeat("x", 20<<10)})
	counts := tracker.Close(t.Context())
	if counts.Refused != 1 || counts.Counted != 2_000 || counted(t, direct) != 2_000 {
		t.Fatalf("%+v", counts)
	}
}

func TestATrackerDropsWhatFindsNoRoomAndSaysSo(t *testing.T) {
	s := stand.New(t)
	tracker := pulls.NewTracker(s.Conn)
	s.KillGateway()
	const count = 70_000
	taken := 0
	for range count {
		if tracker.Track(pulls.Pull{Repository: 1, Digest: digest}) {
			taken++
		}
	}
	if counts := tracker.Counts(); taken == count || counts.Dropped != uint64(count-taken) {
		t.Fatalf("%d taken: %+v", taken, counts)
	}
	// One batch may have left on a connection that was not known to be gone.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if counts := tracker.Close(ctx); counts.Unknown > 1_000 || counts.Dropped+counts.Unknown != count {
		t.Fatalf("%+v", counts)
	}
}

// database counts in memory, and fails when told to.
type database struct {
	counts  map[string]int64
	names   map[string]bool
	deleted []string
	fail    error
	write   func(context.Context)
}

func (d *database) Write(ctx context.Context, claim *pulls.Claim) error {
	if d.write != nil {
		d.write(ctx)
	}
	if d.fail != nil {
		return d.fail
	}
	for _, key := range claim.Keys {
		if !d.names[key.Name] {
			d.names[key.Name] = true
			d.counts[fmt.Sprint(key.RepositoryId, " ", key.Tag)] += key.PullCount
		}
	}
	return nil
}

func (d *database) Deleted(_ context.Context, names []string) error {
	d.deleted = append(d.deleted, names...)
	return nil
}

func TestWhatAFlusherIsNotToldHasItsDefault(t *testing.T) {
	s := stand.New(t)
	var asked []int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	conn := s.Connect(t, grpc.WithUnaryInterceptor(func(
		ctx context.Context, method string, request, reply any, conn *grpc.ClientConn,
		invoke grpc.UnaryInvoker, options ...grpc.CallOption,
	) error {
		if claim, ok := request.(*pb.ClaimPullsRequest); ok {
			asked = append(asked, claim.LeaseSeconds)
		}
		return invoke(ctx, method, request, reply, conn, options...)
	}))
	var heard bytes.Buffer
	before := slog.Default()
	t.Cleanup(func() { slog.SetDefault(before) })
	slog.SetDefault(slog.New(slog.NewTextHandler(&heard, nil)))

	_, err := pulls.NewClient(s.Conn).Track(ctx, pulls.Pull{Repository: 7, Digest: digest})
	check(t, err)
	d := &database{counts: map[string]int64{}, names: map[string]bool{}}
	flusher := pulls.NewFlusher(conn, d)
	flusher.Lease, flusher.Interval, flusher.MaxKeys, flusher.Log = 0, 0, 0, nil
	var left time.Duration
	d.write = func(ctx context.Context) {
		deadline, _ := ctx.Deadline()
		left = time.Until(deadline)
	}
	_, err = flusher.Once(ctx)
	check(t, err)
	if left < 4*time.Minute || asked[0] != 300 || len(d.names) != 1 || !strings.Contains(heard.String(), "pulls were flushed") {
		t.Fatalf("%v for %v and a write of %v: %s", d.names, asked, left, &heard)
	}
	// The claim lasts as long as the write may, at least.
	flusher.Lease = 1_500 * time.Millisecond
	_, err = flusher.Once(ctx)
	check(t, err)
	if asked[1] != 2 {
		t.Fatalf("%v", asked)
	}
	// There is nothing to claim: the second look would come later than anybody waits here.
	time.AfterFunc(100*time.Millisecond, cancel)
	if err := flusher.Run(ctx); err != context.Canceled || len(asked) > 3 {
		t.Fatalf("%v after %d looks", err, len(asked)-2)
	}
}

func TestAFlushCountsOnceWhateverFails(t *testing.T) {
	s := stand.New(t)
	direct := s.DB(t, 1)
	client := pulls.NewClient(s.Conn)
	const key = "pull_events:repo:7:tag:latest:" + digest
	direct.HSet(t.Context(), key, "repository_id", 7, "tag_name", "latest", "manifest_digest", digest,
		"pull_count", 40, "last_pull_timestamp", 1_700_000_000, "pull_method", "tag")
	_, err := client.Track(t.Context(), pulls.Pull{Repository: 7, Tag: "latest", Digest: digest})
	check(t, err)

	d := &database{counts: map[string]int64{}, names: map[string]bool{}, fail: errors.New("no database")}
	flusher := pulls.NewFlusher(s.Conn, d)
	flusher.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	if _, err := flusher.Once(t.Context()); !errors.Is(err, d.fail) {
		t.Fatalf("%v", err)
	}
	// Given back, so that it comes up at once; the gateway is gone when it is to be committed, and comes back.
	d.fail = nil
	d.write = func(context.Context) {
		s.KillGateway()
		s.StartGateway(t)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ran := make(chan error)
	go func() { ran <- flusher.Run(ctx) }()
	stand.Eventually(t, "the keys are deleted", func() bool {
		keys, err := direct.Keys(t.Context(), "pull_events:*").Result()
		return err == nil && len(keys) == 0
	})
	cancel()
	if err := stand.Soon(t, "the flusher's end", ran); err != context.Canceled {
		t.Fatalf("%v", err)
	}
	if len(d.counts) != 1 || d.counts["7 latest"] != 41 || len(d.deleted) != 1 {
		t.Fatalf("%v %v", d.counts, d.deleted)
	}
}
