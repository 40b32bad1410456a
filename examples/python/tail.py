"""tail.py BUILD_ID [--count N]: follows a build's log from its start and prints it; takes up again where it was cut."""

import argparse
import json
import sys
import time

import grpc

from client import Service, backoff
from redisgateway.v1 import build_logs_pb2 as pb, build_logs_pb2_grpc


class Tail:
    """Where a reader is: the index that comes next, and the entry before it."""

    def __init__(self, build_id):
        self.build_id = build_id
        self.start = 0
        self.previous = None

    def request(self):
        return pb.TailRequest(build_id=self.build_id, start=self.start, previous_entry=self.previous)

    def take(self, event):
        """The entries that an event brings."""
        kind = event.WhichOneof("event")
        if kind == "entries":
            self.start = event.entries.start + len(event.entries.entries)
            self.previous = event.entries.entries[-1]
            return event.entries.entries
        if kind == "reset":
            cause = pb.TailReset.Cause.Name(event.reset.cause)
            print(f"{self.build_id}: {cause}, goes on at {event.reset.next_start}", file=sys.stderr)
            self.start, self.previous = event.reset.next_start, None
        return []


def follow(build_id):
    """All entries of a build's log, without end."""
    logs = Service(pb, build_logs_pb2_grpc.BuildLogsStub)
    tail = Tail(build_id)
    waits = backoff()
    while True:
        try:
            for event in logs.stub.Tail(tail.request(), wait_for_ready=True):
                waits = backoff()
                yield from tail.take(event)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
        time.sleep(next(waits))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build_id")
    parser.add_argument("--count", type=int, help="end after so many entries")
    args = parser.parse_args()
    for taken, entry in enumerate(follow(args.build_id), start=1):
        print(json.loads(entry)["message"], flush=True)
        if taken == args.count:
            break


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
