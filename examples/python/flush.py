"""flush.py --database FILE [--interval SECONDS] [--once]: adds up pulls in a database, each pull once.

Claims keys; writes what they add, and their names, in one transaction; commits the claim, which deletes the keys. Killed in
between, their names tell whether the database has them when they come up again. Any number of these may run at a time.
"""

import argparse
import os
import select
import signal
import sqlite3
import sys
import time
from contextlib import contextmanager

import grpc

from client import TIMEOUT, Service, backoff
from redisgateway.v1 import pull_metrics_pb2 as pb, pull_metrics_pb2_grpc

INTERVAL = 300.0  # seconds between two looks when there is nothing to claim
LEASE = 300  # seconds, longer than the slowest write
BUSY = 30.0  # seconds to wait for another writer of the database
DAY = 86400

FAILURES = (grpc.RpcError, sqlite3.Error)

# A name must be known for as long as its key may come up again, and while the key stands in Redis that has no end: flushing may
# be off for weeks after a consumer died between its database and CommitClaim. So a name ages once its key is deleted. From then
# on it is there for those who had the key in hand and have not written yet (a consumer that was stopped in between, a flush
# worker without the gateway), and for a Redis that is restored from a backup: longer than each of them.
KEEP_DELETED = 7 * DAY
# Nobody here saw some keys deleted: a flush worker without the gateway took them, or a consumer died after CommitClaim. Longer
# than flushing is ever off.
KEEP = 365 * DAY

SCHEMA = """
CREATE TABLE IF NOT EXISTS manifest_pulls (
  repository_id INTEGER, digest TEXT, pull_count INTEGER NOT NULL, last_pull INTEGER,
  PRIMARY KEY (repository_id, digest)
);
CREATE TABLE IF NOT EXISTS tag_pulls (
  repository_id INTEGER, tag TEXT, digest TEXT NOT NULL, pull_count INTEGER NOT NULL, last_pull INTEGER,
  PRIMARY KEY (repository_id, tag)
);
CREATE TABLE IF NOT EXISTS flushed_keys (name TEXT PRIMARY KEY, flushed_at INTEGER NOT NULL, deleted_at INTEGER);
CREATE INDEX IF NOT EXISTS flushed_keys_by_age ON flushed_keys (deleted_at, flushed_at);
"""

# Counts are added, and the latest pull stays; one without a time is never the latest.
ADD_MANIFEST = """
INSERT INTO manifest_pulls (repository_id, digest, pull_count, last_pull) VALUES (?, ?, ?, ?)
ON CONFLICT (repository_id, digest) DO UPDATE SET
  pull_count = pull_count + excluded.pull_count,
  last_pull = nullif(max(ifnull(last_pull, 0), ifnull(excluded.last_pull, 0)), 0)
"""
ADD_TAG = """
INSERT INTO tag_pulls (repository_id, tag, digest, pull_count, last_pull) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (repository_id, tag) DO UPDATE SET
  pull_count = pull_count + excluded.pull_count,
  digest = iif(ifnull(excluded.last_pull, 0) > ifnull(last_pull, 0), excluded.digest, digest),
  last_pull = nullif(max(ifnull(last_pull, 0), ifnull(excluded.last_pull, 0)), 0)
"""


class Database:
    """Pulls by manifest and by tag, and the names of the keys that they came from."""

    def __init__(self, path):
        self.sql = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
        self.sql.execute("PRAGMA journal_mode = WAL")
        # Once a key is deleted, a loss of power must not take back what it added.
        self.sql.execute("PRAGMA synchronous = FULL")
        self.sql.executescript(SCHEMA)

    def write(self, claim):
        """Adds what a claim's keys add, but for those whose names are known. Returns how many these were."""
        now = int(time.time())
        with self.transaction():
            new = [key for key in claim.keys if not self.known(key.name, now)]
            self.remember(new, now)
            if len(new) == len(claim.keys):
                self.add(claim.manifests, claim.tags)
            else:
                # A key has the fields of the sums, and adding sums up.
                self.add(new, [key for key in new if key.tag])
            self.forget(now)
        return len(claim.keys) - len(new)

    def deleted(self, names):
        """Takes note that these keys are gone from Redis."""
        now = int(time.time())
        with self.transaction():
            self.sql.executemany("UPDATE flushed_keys SET deleted_at = ? WHERE name = ?", [(now, name) for name in names])

    @contextmanager
    def transaction(self):
        # Takes its place as the writer before it reads: two that know no name yet would both add what the key counts.
        self.sql.execute("BEGIN IMMEDIATE")
        with self.sql:
            yield

    def known(self, name, now):
        known = self.sql.execute("UPDATE flushed_keys SET flushed_at = ?, deleted_at = NULL WHERE name = ?", (now, name))
        return known.rowcount == 1

    def remember(self, keys, now):
        names = [(key.name, now) for key in keys]
        self.sql.executemany("INSERT INTO flushed_keys (name, flushed_at) VALUES (?, ?)", names)

    def add(self, manifests, tags):
        manifests = [(m.repository_id, m.digest, m.pull_count, m.last_pull_timestamp or None) for m in manifests]
        tags = [(t.repository_id, t.tag, t.digest, t.pull_count, t.last_pull_timestamp or None) for t in tags]
        self.sql.executemany(ADD_MANIFEST, manifests)
        self.sql.executemany(ADD_TAG, tags)

    def forget(self, now):
        old = "deleted_at < ? OR deleted_at IS NULL AND flushed_at < ?"
        self.sql.execute(f"DELETE FROM flushed_keys WHERE {old}", (now - KEEP_DELETED, now - KEEP))


class Flush:
    """Claims, writes, commits. `max_keys` is for one claim; 0 leaves it to the gateway."""

    def __init__(self, pulls, database, max_keys=0, lease=LEASE):
        self.pulls = pulls
        self.database = database
        self.request = pb.ClaimPullsRequest(max_keys=max_keys, lease_seconds=lease)

    def step(self):
        """Flushes one claim. Returns whether there may be more."""
        claim = self.claim()
        if claim.claim_id:
            try:
                left_out = self.write(claim)
            except sqlite3.Error:
                # Even if it may stand: the names tell.
                self.give_back(claim)
                raise
            lost = self.commit(claim)
            print(f"{len(claim.keys)} keys flushed, {left_out} of them known before, {len(lost)} lost to others", flush=True)
        return claim.more

    def claim(self):
        # One attempt: who runs this tries again, and hears SIGTERM in between.
        claim = self.pulls.stub.ClaimPulls(self.request, timeout=TIMEOUT)
        for key in claim.dropped:
            print(f"dropped {key.name}: {pb.DroppedKey.Reason.Name(key.reason)} {key.field}", file=sys.stderr)
        return claim

    def write(self, claim):
        return self.database.write(claim)

    def commit(self, claim):
        """Returns the names of keys that others have now: they may come up again, and are told by their names."""
        lost = set(self.pulls.call("CommitClaim", pb.CommitClaimRequest(claim_id=claim.claim_id)).lost)
        self.database.deleted(key.name for key in claim.keys if key.name not in lost)
        return lost

    def give_back(self, claim):
        self.pulls.call("GiveBackClaim", pb.GiveBackClaimRequest(claim_id=claim.claim_id))


class Ending:
    """SIGTERM and Ctrl-C: they end a wait, and let a step come to its end."""

    def __init__(self):
        self.told, told = os.pipe()
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: None)

    def within(self, seconds):
        """Waits so long at most. Returns whether one of them has come."""
        return bool(select.select([self.told], [], [], seconds)[0])


def run(flush, interval, ending):
    """Flushes until the end is told. What fails is tried again: claims come up again by themselves."""
    wait, waits = 0, backoff(min(1.0, interval), interval)
    while not ending.within(wait):
        try:
            wait = 0 if flush.step() else interval
            waits = backoff(min(1.0, interval), interval)
        except FAILURES as error:
            wait = next(waits)
            print(f"again in {wait:.0f} s: {reason(error)}", file=sys.stderr, flush=True)


def reason(error):
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.RpcError) else error


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", metavar="FILE", required=True, help="a SQLite file; made if it is not there")
    parser.add_argument("--interval", metavar="SECONDS", type=float, default=INTERVAL, help="default: %(default)s")
    parser.add_argument("--once", action="store_true", help="end when there is nothing more")
    args = parser.parse_args()
    flush = Flush(Service(pb, pull_metrics_pb2_grpc.PullMetricsStub), Database(args.database))
    if args.once:
        try:
            while flush.step():
                pass
        except FAILURES as error:
            sys.exit(f"error: {reason(error)}")
    else:
        run(flush, args.interval, Ending())


if __name__ == "__main__":
    main()
