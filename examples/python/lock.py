"""lock.py NAME COMMAND [ARGUMENT...]: runs a command while it holds a lock, and ends it when the lock may be another's.

The command finds its fencing token in FENCING_TOKEN, and gives it to what the lock protects. A stream that is cut is taken up
again, on any gateway. Exits as the command does; 75 if the lock stayed busy, or was lost.
"""

import argparse
import os
import subprocess
import sys
import threading
import time

import grpc

from client import TRANSIENT, Service, backoff
from redisgateway.v1 import locks_pb2 as pb, locks_pb2_grpc

TEMPORARY_FAILURE = 75  # EX_TEMPFAIL of sysexits.h


class Work:
    """A command that runs for as long as its lock is certain to be held."""

    def __init__(self, command, token):
        self.process = subprocess.Popen(command, env={**os.environ, "FENCING_TOKEN": str(token)})
        self.lost = False
        self.timer = None

    def certain_for(self, seconds):
        """From now on; without further news the command is ended then."""
        if self.timer:
            self.timer.cancel()
        self.until = time.monotonic() + seconds
        self.timer = threading.Timer(seconds, self.lose)
        self.timer.daemon = True
        self.timer.start()

    def lose(self):
        self.lost = True
        self.process.terminate()

    def status(self):
        """None: it is still at work."""
        if self.process.poll() is None:
            return None
        return TEMPORARY_FAILURE if self.lost else self.process.returncode


def run(locks, request, command):
    """Runs a command; its exit status."""
    work = None
    waits = backoff()
    while True:
        stream = locks.stub.Hold(request)
        if work:
            end_with(work, stream)
        try:
            for answer in stream:
                waits = backoff()
                kind = answer.WhichOneof("event")
                if kind == "acquired" and work is None:
                    work = Work(command, answer.acquired.fencing_token)
                    end_with(work, stream)
                    request.holder_id = answer.acquired.holder_id
                    request.fencing_token = answer.acquired.fencing_token
                if kind in ("acquired", "renewed"):
                    work.certain_for(request.ttl_ms / 1000)
                elif kind == "lost":
                    print(f"lost: {pb.HoldLost.Cause.Name(answer.lost.cause)}", file=sys.stderr)
                    if work:
                        work.lose()
                        work.process.wait()
                    return TEMPORARY_FAILURE
                elif kind == "busy":
                    print("busy", file=sys.stderr)
                    return TEMPORARY_FAILURE
        except grpc.RpcError as error:
            if (work is None or work.status() is None) and error.code() not in TRANSIENT:
                raise
        if work and work.status() is None:
            # The gateway releases it a grace after the stream ended.
            work.certain_for(min(request.grace_ms / 1000, work.until - time.monotonic()))
        if not work or work.status() is None:
            time.sleep(next(waits))
        if work and work.status() is not None:
            release(locks, request)
            return work.status()


def release(locks, request):
    """Releases a lock before its grace ends."""
    try:
        locks.call("Release", pb.ReleaseRequest(name=request.name, holder_id=request.holder_id))
    except grpc.RpcError as error:
        # Lost, or released by a call whose answer was lost; or it ends by its grace.
        print(f"not released: {error.details()}", file=sys.stderr)


def end_with(work, stream):
    """Ends a stream when the command ends: its lock is released."""

    def wait():
        work.process.wait()
        stream.cancel()

    threading.Thread(target=wait, daemon=True).start()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ttl", type=float, default=30.0, metavar="SECONDS", help="of a lock that nobody renews")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="while it is busy")
    parser.add_argument("--grace", type=float, default=5.0, metavar="SECONDS", help="to take it up again after a cut; the TTL at most")
    parser.add_argument("name")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if not args.command:
        parser.error("no command to run")
    request = pb.HoldRequest(
        name=args.name,
        ttl_ms=int(args.ttl * 1000),
        wait_ms=int(args.wait * 1000),
        grace_ms=int(min(args.grace, args.ttl) * 1000),
    )
    sys.exit(run(Service(pb, locks_pb2_grpc.LocksStub), request, args.command))


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(error.details())
