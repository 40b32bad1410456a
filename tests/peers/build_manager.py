"""build_manager.py --redis URL --journal FILE: a build manager without the gateway, step by step as the registry's works, until
SIGTERM. It sets keys with expirations of whole seconds, and takes what expires when Redis tells of it.

What it does stands in the journal, one line each, appended at once, times in nanoseconds of CLOCK_MONOTONIC:

    set KEY python SENT ANSWERED SECONDS
    taking KEY                                written before it is deleted
    expired KEY python AT VALUE

Prints at its end how many keys were `set`, how many expiries it took (`taken`), how many somebody else took before it looked
(`others`), and how often it lost Redis (`lost`).
"""

import argparse
import json
import random
import threading
import time

import redis

from lock_holders import Journal
from peer import begin, report

CREATE, SET, DELETE = 1, 2, 3
EXPIRING = "/expiring"
EXPIRED = "/expired"
# Beside its expiration, a key lives for so long that whoever takes it finds its value.
DAY = 86_400


class Keys:
    """Keys as the registry's managers set and delete them, in several commands each."""

    def __init__(self, client, channel="orchestrator_events"):
        self.redis = client
        self.channel = channel

    def set(self, key, value, overwrite=False, seconds=None):
        there = self.redis.exists(key)
        if there and not overwrite:
            raise KeyError(key)
        self.redis.set(key, value, xx=overwrite)
        if seconds is not None:
            self.redis.expire(key, seconds + DAY)
            expiring = self.redis.exists(key + EXPIRING)
            self.redis.set(key + EXPIRING, "", ex=seconds, xx=bool(expiring))
            self.redis.delete(key + EXPIRED)
        self.tell(SET if there else CREATE, key, value)

    def delete(self, key):
        value = self.redis.get(key)
        if value is None:
            raise KeyError(key)
        for name in (key, key + EXPIRING, key + EXPIRED):
            self.redis.delete(name)
        self.tell(DELETE, key, value)

    def tell(self, event, key, value):
        self.redis.publish(self.channel, json.dumps({"event": event, "key": key, "value": value}))


class Manager:
    def __init__(self, args):
        self.args = args
        self.redis = redis.Redis.from_url(args.redis, socket_connect_timeout=5, socket_timeout=5, decode_responses=True)
        self.keys = Keys(self.redis, args.channel)
        self.journal = Journal(args.journal)
        self.counts = dict.fromkeys(["set", "taken", "others", "lost"], 0)

    def set_keys(self):
        """All at their times, whatever happens meanwhile."""
        choose = random.Random(self.args.seed)
        began = time.monotonic()
        for n, at in enumerate(sorted(choose.uniform(0, self.args.over) for _ in range(self.args.keys))):
            time.sleep(max(0, began + at - time.monotonic()))
            key = f"{self.args.prefix}python-{n}"
            value = "" if n % 10 == 0 else f"value {n}"
            seconds = choose.randint(1, self.args.expiration)
            sent = time.monotonic_ns()
            try:
                self.keys.set(key, value, seconds=seconds)
            except redis.RedisError:
                # Halfway, perhaps: nobody can say when it expires, or whether.
                continue
            self.journal.note("set", key, "python", sent, time.monotonic_ns(), seconds)
            self.counts["set"] += 1

    def take(self):
        """Takes what expires, without end."""
        while True:
            try:
                self.take_until_cut()
            except redis.RedisError:
                self.counts["lost"] += 1
                time.sleep(5)

    def take_until_cut(self):
        if self.args.setup:
            self.redis.config_set("notify-keyspace-events", "Kx")
        db = self.redis.connection_pool.connection_kwargs.get("db", 0)
        # Without a time limit: nothing may expire for long.
        events = redis.Redis.from_url(self.args.redis, decode_responses=True).pubsub()
        events.psubscribe(f"__keyspace@{db}__:*{EXPIRING}")
        for event in events.listen():
            if event["type"] == "pmessage" and event["data"] == "expired":
                self.expired(event["channel"].split(":", 1)[1].removesuffix(EXPIRING))

    def expired(self, key):
        value = self.redis.get(key)
        if value is None:
            self.counts["others"] += 1
            return
        watched = key.startswith(self.args.prefix)
        if value:
            if watched:
                self.journal.note("taking", key)
            self.redis.set(key + EXPIRED, value)
            self.redis.delete(key)
        if watched:
            self.journal.note("expired", key, "python", time.monotonic_ns(), value)
            self.counts["taken"] += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", metavar="URL", required=True)
    parser.add_argument("--journal", metavar="FILE", required=True)
    parser.add_argument("--channel", default="orchestrator_events")
    parser.add_argument("--prefix", default="building/", help="of the keys that it sets and watches")
    parser.add_argument("--keys", type=int, default=0)
    parser.add_argument("--over", type=float, default=10.0, metavar="SECONDS", help="in which they are set")
    parser.add_argument("--expiration", type=int, default=10, metavar="SECONDS", help="at most")
    parser.add_argument("--setup", action="store_true", help="turn notifications on, and all others off")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    manager = Manager(args)
    # So that nothing that it sets expires before it listens.
    manager.redis.ping()
    ending = begin()
    for work in (manager.take, manager.set_keys):
        threading.Thread(target=work, daemon=True).start()
    ending.within(None)
    report(**manager.counts)


if __name__ == "__main__":
    main()
