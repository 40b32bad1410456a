"""lock_holders.py --redis URL --journal FILE: holders of locks by python-redis-lock, as the registry uses it, until SIGTERM.

Each takes one of the locks at random, waits for it without end, keeps it for some milliseconds, and releases it, or leaves it
to its end. What they do stands in the journal, one line each, appended at once, times in nanoseconds of CLOCK_MONOTONIC:

    try LOCK python HOLDER AT
    enter LOCK python HOLDER AT UNTIL       it holds the lock for sure from AT to UNTIL, unless it leaves before
    leave LOCK python HOLDER AT             written before the lock is released

Prints at its end how many locks were `acquired`, how many of them `abandoned`, and how many releases were refused
(`releases_refused`) since the lock had ended before.
"""

import argparse
import os
import random
import threading
import time

import redis
import redis_lock

from peer import begin, report


# Seconds that a lock is held which is renewed.
LONG = 5


class Journal:
    def __init__(self, path):
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, *words):
        os.write(self.file, (" ".join(map(str, words)) + "\n").encode())


class Redis(redis.Redis):
    """Knows when it asked for a lock last: it lives from no earlier than then."""

    asked = 0

    def set(self, *args, **options):
        self.asked = time.monotonic_ns()
        return super().set(*args, **options)


class Holders:
    def __init__(self, args):
        self.args = args
        self.journal = Journal(args.journal)
        self.acquired = 0
        self.refused = 0
        self.abandoned = 0
        self.counting = threading.Lock()

    def hold(self, seed):
        choose = random.Random(seed)
        # As in the registry: five seconds, and the repeats that redis-py makes by itself.
        client = Redis.from_url(self.args.redis, socket_connect_timeout=5, socket_timeout=5)
        while True:
            name = f"m{choose.randrange(self.args.locks)}"
            long = choose.random() < self.args.renew
            seconds = LONG if long else choose.uniform(0, self.args.hold)
            abandon = not long and choose.random() < self.args.abandon
            lock = redis_lock.Lock(client, name, expire=self.args.ttl, auto_renewal=long)
            try:
                self.hold_once(client, lock, name, seconds, abandon)
            except redis.RedisError:
                time.sleep(0.05)

    def hold_once(self, client, lock, name, seconds, abandon):
        self.journal.note("try", name, "python", lock.id, time.monotonic_ns())
        lock.acquire()
        until = client.asked + self.args.ttl * 1_000_000_000
        self.journal.note("enter", name, "python", lock.id, time.monotonic_ns(), until)
        time.sleep(seconds)
        with self.counting:
            self.acquired += 1
            self.abandoned += abandon
        if abandon:
            return
        self.journal.note("leave", name, "python", lock.id, time.monotonic_ns())
        try:
            lock.release()
        except redis_lock.NotAcquired:
            with self.counting:
                self.refused += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", metavar="URL", required=True)
    parser.add_argument("--journal", metavar="FILE", required=True)
    parser.add_argument("--holders", type=int, default=4)
    parser.add_argument("--locks", type=int, default=10)
    parser.add_argument("--ttl", type=int, default=2, help="seconds")
    parser.add_argument("--hold", type=float, default=0.04, help="seconds at most")
    parser.add_argument("--abandon", type=float, default=0.0, metavar="SHARE", help="of locks, from 0 to 1")
    parser.add_argument("--renew", type=float, default=0.0, metavar="SHARE", help="of locks, which are held for long")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    ending = begin()
    holders = Holders(args)
    # Daemons: who waits for a lock at the end waits no longer.
    for n in range(args.holders):
        threading.Thread(target=holders.hold, args=(args.seed * 1_000 + n,), daemon=True).start()
    ending.within(None)
    report(acquired=holders.acquired, abandoned=holders.abandoned, releases_refused=holders.refused)


if __name__ == "__main__":
    main()
