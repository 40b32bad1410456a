package pulls

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/internal/round"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

// ending is for the end of a claim, with what is repeated in it.
const ending = time.Minute

// Claim is what is to be written: Manifests and Tags, or what Keys add up to without those whose names are known.
type Claim = pb.ClaimPullsResponse

// Database is where counts go.
type Database interface {
	// Write writes what a claim adds, and the names of its keys, in one transaction, and leaves out keys whose names it knows:
	// so each is counted once, whoever dies in between. Its context ends before the claim does.
	Write(ctx context.Context, claim *Claim) error
	// Deleted hears of names whose keys are gone from Redis: they may be forgotten, a day later or so.
	Deleted(ctx context.Context, names []string) error
}

// Flusher flushes counts to a database. What is 0 has its default. Any number of them may work at a time.
type Flusher struct {
	// Lease is longer than the database's slowest write: 5 minutes by default.
	Lease time.Duration
	// Interval is between two looks when there is nothing to claim: 5 minutes by default.
	Interval time.Duration
	// MaxKeys is for one claim: 1,000 by default, 2,000 at most.
	MaxKeys int
	// Log hears what became of each claim; by default slog.Default().
	Log *slog.Logger

	pulls    pb.PullMetricsClient
	database Database
}

// NewFlusher makes a flusher, whose fields may be set before it is used.
func NewFlusher(conn *gateway.Conn, database Database) *Flusher {
	return &Flusher{pulls: pb.NewPullMetricsClient(conn), database: database}
}

// Run flushes until ctx ends, whose error it answers. What fails is logged and tried again: claims come up again by themselves.
func (f *Flusher) Run(ctx context.Context) error {
	interval := cmp.Or(f.Interval, 5*time.Minute)
	var pause time.Duration
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
		more, err := f.Once(ctx)
		switch {
		case err != nil:
			pause = min(time.Second<<min(failures, 16), interval)
			failures++
			f.log().Warn("pulls were not flushed", "error", err, "again", pause)
			continue
		case more:
			pause = 0
		default:
			pause = interval
		}
		failures = 0
	}
}

// Once claims, writes and commits, and says whether there may be more. Where nothing was written, or that is not known, the claim
// is given back.
func (f *Flusher) Once(ctx context.Context) (more bool, err error) {
	lease := cmp.Or(f.Lease, 5*time.Minute)
	until := time.Now().Add(lease)
	claim, err := f.pulls.ClaimPulls(ctx, &pb.ClaimPullsRequest{
		MaxKeys: int32(f.MaxKeys), LeaseSeconds: round.Up(lease, time.Second),
	})
	if err != nil || claim.ClaimId == "" {
		return claim.GetMore(), err
	}
	for _, key := range claim.Dropped {
		f.log().Warn("a key adds nothing", "reason", key.Reason, "field", key.Field)
	}
	writing, cancel := context.WithDeadline(ctx, until)
	err = f.database.Write(writing, claim)
	cancel()
	// Whatever becomes of the caller meanwhile.
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), ending)
	defer cancel()
	if err != nil {
		_, failed := f.pulls.GiveBackClaim(ctx, &pb.GiveBackClaimRequest{ClaimId: claim.ClaimId})
		return false, errors.Join(err, failed)
	}
	committed, err := f.pulls.CommitClaim(ctx, &pb.CommitClaimRequest{ClaimId: claim.ClaimId})
	if errors.Is(err, gateway.ErrClaimNotFound) {
		f.log().Warn("a claim ended before its commit, its keys come up again", "keys", len(claim.Keys))
		return claim.More, nil
	}
	if err != nil {
		return false, err
	}
	var deleted []string
	for _, key := range claim.Keys {
		// Others have these now: they may come up again, and are told by their names.
		if !slices.Contains(committed.Lost, key.Name) {
			deleted = append(deleted, key.Name)
		}
	}
	f.log().Info("pulls were flushed", "keys", len(claim.Keys), "lost", len(committed.Lost))
	return claim.More, f.database.Deleted(ctx, deleted)
}

func (f *Flusher) log() *slog.Logger { return cmp.Or(f.Log, slog.Default()) }
