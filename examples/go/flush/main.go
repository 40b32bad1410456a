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
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	"github.com/redis-gateway/redis-gateway/clients/go/pulls"
)

func main() {
	path := flag.String("database", "", "a SQLite file; made if it is not there")
	interval := flag.Duration("interval", 5*time.Minute, "between two looks when there is nothing to claim")
	once := flag.Bool("once", false, "end when there is nothing more")
	flag.Parse()
	if *path == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*path, *interval, *once); err != nil {
		log.Fatal(err)
	}
}

// run flushes until there is nothing more, or until SIGTERM or Ctrl-C, which end a write too: its claim is given back.
func run(path string, interval time.Duration, once bool) error {
	conn, err := gateway.New(cmp.Or(os.Getenv("GATEWAY"), "127.0.0.1:50051"))
	if err != nil {
		return err
	}
	defer conn.Close()
	db, err := open(path)
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	flusher := pulls.NewFlusher(conn, db)
	flusher.Interval = interval
	if !once {
		if err := flusher.Run(ctx); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	}
	for more := true; more; {
		if more, err = flusher.Once(ctx); err != nil {
			return err
		}
	}
	return nil
}
