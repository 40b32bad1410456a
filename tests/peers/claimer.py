"""claimer.py --database FILE: runs examples/python/flush.py, which it makes slow, or fail, or kills at a given step,
until SIGTERM.

Steps: `claimed`, before the database; `in-transaction`, all written and nothing committed; `written`, the database committed
and CommitClaim not called; `committed`, CommitClaim answered and its names not noted.

Prints at its end how many `claims`, `keys` and `dropped` keys it got, `orphans` and `left_out` of the keys, failed database
`failures`, claims `given_back`, and keys that were `lost`.
"""

import argparse
import os
import random
import signal
import sqlite3
import time

from peer import Database, begin, report

from flush import Flush, LEASE, run
from client import Service
from redisgateway.v1 import pull_metrics_pb2 as pb, pull_metrics_pb2_grpc

STEPS = ["claimed", "in-transaction", "written", "committed"]


class Death:
    """SIGKILL to this process, when it is at a step for the n-th time."""

    def __init__(self, step, after):
        self.step = step
        self.left = after

    def at(self, step):
        self.left -= step == self.step
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class FailingDatabase(Database):
    def __init__(self, path, death, share, seed, slowness):
        super().__init__(path)
        self.death = death
        self.share = share
        self.slowness = slowness
        self.choose = random.Random(seed)
        self.failures = 0

    def write(self, claim):
        time.sleep(self.slowness)
        return super().write(claim)

    def forget(self, now):
        super().forget(now)
        self.death.at("in-transaction")
        if self.choose.random() < self.share:
            self.failures += 1
            raise sqlite3.OperationalError("failed as asked for")

    def deleted(self, names):
        self.death.at("committed")
        super().deleted(names)


class FailingFlush(Flush):
    def __init__(self, pulls, database, max_keys, lease):
        super().__init__(pulls, database, max_keys, lease)
        self.counts = dict.fromkeys(["claims", "keys", "orphans", "dropped", "left_out", "given_back", "lost"], 0)

    def claim(self):
        claim = super().claim()
        if claim.claim_id:
            self.counts["claims"] += 1
            self.counts["keys"] += len(claim.keys)
            self.counts["orphans"] += sum(key.orphan for key in claim.keys)
            self.counts["dropped"] += len(claim.dropped)
            self.database.death.at("claimed")
        return claim

    def write(self, claim):
        left_out = super().write(claim)
        self.counts["left_out"] += left_out
        self.database.death.at("written")
        return left_out

    def commit(self, claim):
        lost = super().commit(claim)
        self.counts["lost"] += len(lost)
        return lost

    def give_back(self, claim):
        super().give_back(claim)
        self.counts["given_back"] += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", metavar="FILE", required=True)
    parser.add_argument("--interval", type=float, default=0.05, help="seconds between two looks")
    parser.add_argument("--lease", type=int, default=LEASE, help="seconds")
    parser.add_argument("--max-keys", type=int, default=0, help="for one claim; 0 leaves it to the gateway")
    parser.add_argument("--die-at", choices=STEPS)
    parser.add_argument("--die-after", type=int, default=1, metavar="N", help="at the n-th time")
    parser.add_argument("--fail-database", type=float, default=0.0, metavar="SHARE", help="of transactions, from 0 to 1")
    parser.add_argument("--slow-database", type=float, default=0.0, metavar="SECONDS", help="before each transaction")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    ending = begin()
    death = Death(args.die_at, args.die_after)
    database = FailingDatabase(args.database, death, args.fail_database, args.seed, args.slow_database)
    flush = FailingFlush(Service(pb, pull_metrics_pb2_grpc.PullMetricsStub), database, args.max_keys, args.lease)
    run(flush, args.interval, ending)
    report(failures=database.failures, **flush.counts)


if __name__ == "__main__":
    main()
