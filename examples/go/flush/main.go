// Adds up pulls in a database, each pull once: flush -database FILE [-interval DURATION] [-once].
//
// Claims keys; writes what they add, and their names, in one transaction; commits the claim, which deletes the keys. Killed in
// between, their names tell whether the database has them when they come up again. Any number of these may run at a time, on
// one database with those in Python.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

const (
	// lease is in seconds, and longer than the slowest write.
	lease = 300
	// patience is for one step, with what is repeated in it.
	patience = time.Minute
)

type flush struct {
	pulls pb.PullMetricsClient
	db    database
}

func main() {
	path := flag.String("database", "", "a SQLite file; made if it is not there")
	interval := flag.Duration("interval", 5*time.Minute, "between two looks when there is nothing to claim")
	once := flag.Bool("once", false, "end when there is nothing more")
	flag.Parse()
	if *path == "" {
		flag.Usage()
		os.Exit(2)
	}
	conn, err := gateway.New(cmp.Or(os.Getenv("GATEWAY"), "127.0.0.1:50051"))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	db, err := open(*path)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	f := flush{pulls: pb.NewPullMetricsClient(conn), db: db}
	if *once {
		for more := true; more; {
			if more, err = f.claimAndWrite(); err != nil {
				log.Fatal(err)
			}
		}
		return
	}
	f.run(*interval)
}

// run flushes until SIGTERM or Ctrl-C, which end a wait and let a step come to its end. What fails is tried again: claims come
// up again by themselves.
func (f flush) run(interval time.Duration) {
	ending, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var wait time.Duration
	failures := 0
	for {
		select {
		case <-ending.Done():
			return
		case <-time.After(wait):
		}
		more, err := f.claimAndWrite()
		switch {
		case err != nil:
			wait = min(time.Second<<min(failures, 16), interval)
			failures++
			log.Printf("again in %v: %v", wait, err)
			continue
		case more:
			wait = 0
		default:
			wait = interval
		}
		failures = 0
	}
}

func (f flush) claim() (*pb.ClaimPullsResponse, error) {
	// A short time: run tries again, and hears SIGTERM in between.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return f.pulls.ClaimPulls(ctx, &pb.ClaimPullsRequest{LeaseSeconds: lease})
}

// claimAndWrite flushes one claim, and says whether there may be more.
func (f flush) claimAndWrite() (more bool, err error) {
	claim, err := f.claim()
	if err != nil || claim.ClaimId == "" {
		return claim.GetMore(), err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, key := range claim.Dropped {
		log.Printf("dropped %s: %v %s", key.Name, key.Reason, key.Field)
	}
	leftOut, err := f.db.write(ctx, claim)
	if err != nil {
		// Even if it may stand: the names tell. The context may have ended with the write.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, failed := f.pulls.GiveBackClaim(ctx, &pb.GiveBackClaimRequest{ClaimId: claim.ClaimId})
		return false, errors.Join(err, failed)
	}
	committed, err := f.pulls.CommitClaim(ctx, &pb.CommitClaimRequest{ClaimId: claim.ClaimId})
	if err != nil {
		return false, err
	}
	var names []string
	for _, key := range claim.Keys {
		// Others have these now: they may come up again, and are told by their names.
		if !slices.Contains(committed.Lost, key.Name) {
			names = append(names, key.Name)
		}
	}
	fmt.Printf("%d keys flushed, %d of them known before, %d lost to others\n",
		len(claim.Keys), leftOut, len(committed.Lost))
	return claim.More, f.db.deleted(ctx, names)
}
