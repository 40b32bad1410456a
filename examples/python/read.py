"""read.py BUILD_ID [--compare FILE]: reads a build's log with plain redis-py, past the gateway, and prints it.

With --compare it prints nothing of the log, and fails unless it is the file's lines, byte for byte as Python writes them.
"""

import argparse
import json
import os
import sys

import redis

from client import lines_of

DATA = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
SOCKET = f"unix://{DATA}/redis-gateway/redis.sock"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build_id")
    parser.add_argument("--compare", metavar="FILE")
    parser.add_argument("--redis", default=os.environ.get("REDIS_URL", SOCKET), help="default: %(default)s")
    args = parser.parse_args()
    entries = redis.Redis.from_url(args.redis).lrange(f"builds/{args.build_id}/logs", 0, -1)
    if args.compare is None:
        for entry in entries:
            print(json.loads(entry)["message"])
        return
    wanted = [json.dumps({"message": line}).encode() for line in lines_of(args.compare)]
    if entries != wanted:
        pairs = enumerate(zip(entries, wanted))
        first = next((i for i, (a, b) in pairs if a != b), min(len(entries), len(wanted)))
        sys.exit(f"differs: {len(entries)} entries, {len(wanted)} lines, first difference at {first}")
    print(f"equal: {len(entries)} entries")


if __name__ == "__main__":
    main()
