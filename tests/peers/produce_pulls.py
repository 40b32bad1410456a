"""produce_pulls.py --redis URL: counts pulls straight in Redis, as a service without the gateway does, until SIGTERM.

The keys: repositories 1 to R, each with tags `t0` to `t{T-1}`; the digest of repository r's tag `t{i}` is `sha256:`, r as 32
hexadecimal digits, i as 32 more. Each pull is of one of these tags at its digest, or, one in four, of that digest by itself;
which, hangs on --seed alone.

Prints at its end what became of the pulls: `acknowledged`, `not_executed` (Redis answered an error), `unknown` (no answer).
"""

import argparse
import random
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from peer import ROOT, begin, report

# Between two looks whether a Redis that did not answer is back; SIGTERM ends it.
AGAIN = 0.02  # seconds


def digest_of(repository, tag):
    return f"sha256:{repository:032x}{tag:032x}"


class Producer:
    """Counts pulls by the two scripts, and what became of them."""

    def __init__(self, url, timeout):
        # A pull that was sent twice would be counted twice.
        never = Retry(NoBackoff(), 0)
        self.redis = redis.Redis.from_url(url, retry=never, socket_timeout=timeout, socket_connect_timeout=timeout)
        self.track_tag = script("track_tag_pull-1.lua")
        self.track_manifest = script("track_manifest_pull-1.lua")
        self.counts = {"acknowledged": 0, "not_executed": 0, "unknown": 0}

    def tag(self, repository, tag):
        self.count(repository, f"t{tag}", digest_of(repository, tag))

    def manifest(self, repository, tag):
        self.count(repository, "", digest_of(repository, tag))

    def count(self, repository, tag, digest):
        """Counts a pull of a tag, or, without one, of a manifest."""
        key, now = self.key(repository, tag, digest), int(time.time())
        if tag:
            self.track(self.track_tag, key, repository, tag, digest, now, "tag")
        else:
            self.track(self.track_manifest, key, repository, digest, now, "digest")

    @staticmethod
    def key(repository, tag, digest):
        return f"pull_events:repo:{repository}:" + (f"tag:{tag}:{digest}" if tag else f"digest:{digest}")

    def track(self, text, key, *args):
        try:
            self.redis.eval(text, 1, key, *args)
            self.counts["acknowledged"] += 1
        except (redis.ResponseError, redis.exceptions.BusyLoadingError):
            self.counts["not_executed"] += 1
        except redis.RedisError:
            self.counts["unknown"] += 1

    def serves(self):
        try:
            return self.redis.ping()
        except redis.RedisError:
            return False


def script(name):
    return (ROOT / "src/pull_metrics" / name).read_text()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", metavar="URL", required=True, help="with its db")
    parser.add_argument("--repositories", type=int, default=3)
    parser.add_argument("--tags", type=int, default=4, help="of each repository")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, help="pulls to try; default: until SIGTERM")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds until Redis has not answered")
    args = parser.parse_args()
    ending = begin()
    producer = Producer(args.redis, args.timeout)
    choose = random.Random(args.seed)
    while sum(producer.counts.values()) != args.count and not ending.within(0):
        # Asked before each pull, as the service does. Without it, a Redis that is down would make unknowns without end.
        if not producer.serves():
            ending.within(AGAIN)
            continue
        pull = producer.manifest if choose.random() < 0.25 else producer.tag
        pull(choose.randint(1, args.repositories), choose.randrange(args.tags))
    report(**producer.counts)


if __name__ == "__main__":
    main()
