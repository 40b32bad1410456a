"""pull.py REPOSITORY TAG DIGEST [--count N]: counts pulls of a tag, or of a manifest if TAG is "", over one stream."""

import argparse
import queue
import sys

import grpc

from client import Service
from redisgateway.v1 import common_pb2, pull_metrics_pb2 as pb, pull_metrics_pb2_grpc

BATCH = 1000
UNKNOWN = common_pb2.DEGRADED_REASON_OUTCOME_UNKNOWN


class Tally:
    """What became of pulls; each is in one of these."""

    def __init__(self, count):
        self.stand = self.failed = self.unknown = 0
        self.unsent = count

    def __str__(self):
        return f"{self.stand} stand, {self.failed} failed, {self.unknown} unknown, {self.unsent} not sent"

    def answer(self, size, failures):
        unknown = sum(failure.reason == UNKNOWN for failure in failures)
        self.unknown += unknown
        self.failed += len(failures) - unknown
        self.stand += size - len(failures)


def track(stub, pull, count):
    """Counts a pull so many times, a batch after the answer to the one before. Returns the tally, and what ended it early."""
    tally, failure = Tally(count), None
    batches = queue.SimpleQueue()
    number, size = 0, 0
    try:
        for answer in stub.StreamPulls(iter(batches.get, None)):
            # The last number again: nothing new, the stream is alive.
            if answer.number < number:
                continue
            tally.answer(size, answer.failures)
            number, size = number + 1, min(tally.unsent, BATCH)
            tally.unsent -= size
            batches.put(pb.StreamPullsRequest(number=number, pulls=[pull] * size) if size else None)
    except grpc.RpcError as error:
        failure = error
        if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
            tally.failed += size
        else:
            # Sent and not answered: each may or may not be counted.
            tally.unknown += size
    batches.put(None)
    return tally, failure


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=int)
    parser.add_argument("tag")
    parser.add_argument("digest", help="such as sha256:5f70bf18")
    parser.add_argument("--count", type=int, default=1)
    args = parser.parse_args()
    pull = pb.Pull(repository_id=args.repository, tag=args.tag, digest=args.digest)
    pulls = Service(pb, pull_metrics_pb2_grpc.PullMetricsStub)
    tally, error = track(pulls.stub, pull, args.count)
    print(tally)
    if error:
        sys.exit(f"{error.code().name}: {error.details()}")
    sys.exit(tally.stand < args.count)


if __name__ == "__main__":
    main()
