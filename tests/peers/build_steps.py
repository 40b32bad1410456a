"""build_steps.py --redis URL: a build manager without the gateway that does what the list `steps` tells it, one step after the
other, until SIGTERM. A step is JSON: `do` (set, delete, lock, unlock), `key`, `value`, `overwrite`, `expiration` in seconds (0:
none), and `answer`, which names the list that hears when it is done.

Prints at its end how many steps were `done`, and how many `refused`.
"""

import argparse
import json
import threading

import redis

from build_manager import Keys
from peer import begin, report


class Steps:
    def __init__(self, url):
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.keys = Keys(self.redis)
        self.counts = {"done": 0, "refused": 0}

    def run(self):
        while True:
            _, text = self.redis.blpop("steps")
            step = json.loads(text)
            try:
                self.do(step)
                self.counts["done"] += 1
            except KeyError:
                self.counts["refused"] += 1
            self.redis.rpush(f"done:{step['answer']}", 1)

    def do(self, step):
        if step["do"] == "set":
            # Of a key that is not there, or ends before it is set, managers tell although nothing is stored.
            if step["overwrite"] and self.redis.ttl(step["key"]) != -1:
                raise KeyError(step["key"])
            self.keys.set(step["key"], step["value"], step["overwrite"], step["expiration"] or None)
        elif step["do"] == "lock":
            self.keys.set(step["key"], "", False, 1)
        else:
            self.keys.delete(step["key"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", metavar="URL", required=True)
    steps = Steps(parser.parse_args().redis)
    ending = begin()
    threading.Thread(target=steps.run, daemon=True).start()
    ending.within(None)
    report(**steps.counts)


if __name__ == "__main__":
    main()
