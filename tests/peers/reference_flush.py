"""reference_flush.py --redis URL --database FILE: flushes pulls as a worker without the gateway does, until SIGTERM.

Renames keys to claim them, takes whatever was claimed before at any age, adds up, writes, deletes. Its database is that of
examples/python/flush.py. It adds without a look at the names that the database knows, as that worker does, or, with
--leave-out-known, leaves those keys out and stores the names of the others.

Prints at its end the keys that it took `fresh` and as `orphans`, the `rows` that it wrote, and `written`: the names of the keys
that these hold, once for each time.
"""

import argparse
import re
import secrets
import sqlite3
import sys
import time
from collections import namedtuple

import redis

from peer import Database, begin, report

MATCH, MARK = "pull_events:*", ":processing:"
MAX_KEYS, SCAN_COUNT, DELETE_AT_ONCE = 1000, 100, 100
DIGEST = re.compile(r"[A-Za-z0-9_+.-]+:[A-Fa-f0-9]+")

# The fields that the database's side of the example reads.
Key = namedtuple("Key", "name repository_id tag digest pull_count last_pull_timestamp")


class Worker:
    def __init__(self, url, database, leave_out_known):
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.database = database
        self.leave_out_known = leave_out_known
        self.fresh = self.orphans = self.rows = 0
        self.written = []

    def run(self):
        """One run. What fails leaves its keys to the next one, as orphans."""
        keys = []
        for name in self.claimed():
            key = parse(name, self.redis.hgetall(name))
            if key and key.pull_count:
                keys.append(key)
            else:
                self.redis.delete(name)
        self.write(keys)
        names = [key.name for key in keys]
        for start in range(0, len(names), DELETE_AT_ONCE):
            self.redis.delete(*names[start : start + DELETE_AT_ONCE])
        if self.leave_out_known:
            self.database.deleted(names)

    def found(self):
        names, cursor = set(), None
        while cursor != 0 and len(names) < MAX_KEYS:
            cursor, page = self.redis.scan(cursor or 0, match=MATCH, count=SCAN_COUNT)
            names.update(page)
        return sorted(names, key=lambda name: MARK in name)[:MAX_KEYS]

    def claimed(self):
        """The names of claimed keys: fresh ones under their new names, and orphans as they are."""
        for name in self.found():
            if MARK in name:
                self.orphans += 1
                yield name
                continue
            claimed = f"{name}{MARK}{time.time_ns() // 1_000_000}:{secrets.token_hex(4)}"
            try:
                self.redis.rename(name, claimed)
            except redis.ResponseError as error:
                if "no such key" not in str(error):
                    raise
                continue
            self.fresh += 1
            yield claimed

    def write(self, keys):
        with self.database.transaction():
            if self.leave_out_known:
                now = int(time.time())
                keys = [key for key in keys if not self.database.known(key.name, now)]
                self.database.remember(keys, now)
            manifests, tags = sums(keys)
            self.database.add(manifests, tags)
        self.rows += len(manifests) + len(tags)
        self.written.extend(key.name for key in keys)


def parse(name, fields):
    """What a hash counts; nothing if it is gone or breaks a rule."""
    try:
        repository, count = int(fields["repository_id"]), int(fields["pull_count"])
        digest, last = fields["manifest_digest"], int(fields["last_pull_timestamp"])
    except (KeyError, ValueError):
        return None
    if repository <= 0 or count < 0 or last < 0 or not DIGEST.fullmatch(digest):
        return None
    tag = fields.get("tag_name", "") if fields.get("pull_method") == "tag" else ""
    return Key(name, repository, tag, digest, count, last)


def sums(keys):
    """The sums for manifests and for tags, as two lists."""
    manifests, tags = {}, {}
    for key in keys:
        add(manifests, (key.repository_id, key.digest), key)
        if key.tag:
            add(tags, (key.repository_id, key.tag), key)
    return list(manifests.values()), list(tags.values())


def add(sums, row, key):
    known = sums.get(row, key._replace(pull_count=0))
    # With its digest: a tag's is that of its latest pull.
    latest = max(known, key, key=lambda pull: pull.last_pull_timestamp)
    sums[row] = latest._replace(pull_count=known.pull_count + key.pull_count)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", metavar="URL", required=True, help="with its db")
    parser.add_argument("--database", metavar="FILE", required=True)
    parser.add_argument("--leave-out-known", action="store_true")
    parser.add_argument("--interval", type=float, default=0.05, help="seconds between two runs")
    args = parser.parse_args()
    ending = begin()
    worker = Worker(args.redis, Database(args.database), args.leave_out_known)
    while not ending.within(args.interval):
        try:
            worker.run()
        except (redis.RedisError, sqlite3.Error) as error:
            print(f"again at the next run: {error}", file=sys.stderr, flush=True)
    report(fresh=worker.fresh, orphans=worker.orphans, rows=worker.rows, written=worker.written)


if __name__ == "__main__":
    main()
