"""Measures what calls and streams cost a gateway: CPU per call, of its Redis too, and memory per stream. docs/operations.md counts
gateways by it.

Calls come by h2load, as many at once as in compare.py; locks by a loader of its own, since a release names what was acquired. What
stands in Redis at the end says whether all was done.
"""

import os
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from stand import CONNECTIONS, IN_FLIGHT, Stack, channel, cpu_seconds, h2load, memory

from redisgateway.v1 import build_logs_pb2 as logs
from redisgateway.v1 import build_logs_pb2_grpc as logs_grpc
from redisgateway.v1 import cache_pb2 as cache
from redisgateway.v1 import cache_pb2_grpc as cache_grpc
from redisgateway.v1 import content_tracker_pb2 as tracker
from redisgateway.v1 import locks_pb2 as locks
from redisgateway.v1 import locks_pb2_grpc as locks_grpc
from redisgateway.v1 import pull_metrics_pb2 as pulls
from redisgateway.v1 import pull_metrics_pb2_grpc as pulls_grpc
from redisgateway.v1 import user_events_pb2 as events
from redisgateway.v1 import user_events_pb2_grpc as events_grpc

ROUNDS = 3
CALLS = int(os.environ.get("CALLS", "200000")) // 4
LOCKS = CALLS // 25
STREAMS, STREAMS_PER_CONNECTION = 2000, 100
VALUE = b"v" * 256
LINE = logs.LogEntry(message=logs.LogMessage(message="Step 1/9 : FROM scratch " + "x" * 80))
PULL = {"repository_id": 7, "tag": "latest", "digest": "sha256:5f70bf18"}
TAGS = [pulls.Pull(repository_id=7, tag=f"tag-{n}", digest=PULL["digest"]) for n in range(100)]


def expect(what, found, expected):
    if found != expected:
        sys.exit(f"{what}: {found} instead of {expected}")


class Loads:
    """The kinds of calls, each with a check that they were carried out."""

    def __init__(self, stack, port, alone_port):
        self.port, self.alone_port = port, alone_port
        self.cache = cache_grpc.CacheStub(channel(port))
        self.logs = logs_grpc.BuildLogsStub(channel(port))
        self.pulls = pulls_grpc.PullMetricsStub(channel(port))
        keys = [f"key-{n}" for n in range(5)]
        for key in keys:
            self.cache.Set(cache.CacheSetRequest(key=key, value=VALUE, overwrite=True), timeout=5)
        self.get = stack.body(cache.CacheGetRequest(key=keys[0]))
        self.five = stack.body(cache.CacheBatchGetRequest(keys=keys))
        self.pull = stack.body(pulls.TrackTagPullRequest(**PULL))
        self.hundred = stack.body(pulls.BatchTrackPullsRequest(pulls=TAGS))
        self.event = stack.body(events.PublishRequest(username="devtable", event_id="docker-cli", payload=b'{"action": "pull"}'))
        self.check = stack.body(tracker.IsBlockedRequest(user_id=1, namespace="devtable", repository="simple"))
        self.line = stack.body(logs.AppendRequest(build_id="7", entries=[LINE]))
        self.lines = stack.body(logs.AppendRequest(build_id="8", entries=[LINE] * 100))

    def rows(self):
        """Name, what a call counts for, calls, and the load itself."""
        return [
            ("Cache.Get", 1, CALLS, lambda: self._reads("Cache/Get", self.get, CALLS, 256)),
            ("Cache.Get, 50 connections, 1 in flight", 1, CALLS // 4, lambda: self._alone(50, CALLS // 4)),
            ("Cache.Get, 1 connection, 1 in flight", 1, CALLS // 10, lambda: self._alone(1, CALLS // 10)),
            ("Cache.BatchGet of 5 keys", 1, CALLS, lambda: self._reads("Cache/BatchGet", self.five, CALLS, 5 * 256)),
            ("ContentTracker.IsBlocked", 1, CALLS, lambda: self._reads("ContentTracker/IsBlocked", self.check, CALLS, 5)),
            ("UserEvents.Publish", 1, CALLS, lambda: self._reads("UserEvents/Publish", self.event, CALLS, 5)),
            ("TrackTagPull, of one tag", 1, CALLS, lambda: self._pulls(self.port, "TrackTagPull", self.pull, CALLS, 1)),
            ("TrackTagPull, none waits", 1, CALLS, lambda: self._pulls(self.alone_port, "TrackTagPull", self.pull, CALLS, 1)),
            ("BatchTrackPulls, 100 tags, per pull", 100, CALLS // 100,
             lambda: self._pulls(self.port, "BatchTrackPulls", self.hundred, CALLS // 100, 100)),
            ("BuildLogs.Append, 1 line", 1, CALLS, lambda: self._appends("7", self.line, CALLS, 1)),
            ("BuildLogs.Append, 100 lines, per line", 100, CALLS // 100, lambda: self._appends("8", self.lines, CALLS // 100, 100)),
            ("Locks.Acquire and Release", 1, LOCKS, lambda: hold_locks(self.port, LOCKS)),
        ]  # fmt: skip

    def _alone(self, connections, calls):
        """Calls that share few system calls with others, or none."""
        self._reads("Cache/Get", self.get, calls, 256, connections=connections, in_flight=1)

    def _reads(self, method, body, calls, least, **at_once):
        _, data = h2load(self.port, method, body, calls, **at_once)
        if data < calls * least:
            sys.exit(f"{method}: failed calls")

    def _pulls(self, port, method, body, calls, each):
        before = self._counted()
        h2load(port, f"PullMetrics/{method}", body, calls)
        expect("pulls", self._counted() - before, calls * each)

    def _counted(self):
        counted = 0
        for tag in ("latest", *(pull.tag for pull in TAGS)):
            request = pulls.GetTagPullStatisticsRequest(repository_id=7, tag=tag, digest=PULL["digest"])
            counted += int(self.pulls.GetTagPullStatistics(request, timeout=5).statistics.pull_count or 0)
        return counted

    def _appends(self, build, body, calls, each):
        h2load(self.port, "BuildLogs/Append", body, calls)
        expect("lines", self.logs.ListEntries(logs.ListEntriesRequest(build_id=build, page_size=1), timeout=5).length, calls * each)
        self.logs.DeleteEntries(logs.DeleteEntriesRequest(build_id=build), timeout=5)


def hold_locks(port, count):
    """Takes and releases so many locks of different names, 32 at once."""
    stub = locks_grpc.LocksStub(channel(port))

    def hold(n):
        got = stub.Acquire(locks.AcquireRequest(name=f"lock-{n}", ttl_ms=60_000), timeout=5)
        expect("acquired", got.acquired, True)
        stub.Release(locks.ReleaseRequest(name=f"lock-{n}", holder_id=got.holder_id), timeout=5)

    with ThreadPoolExecutor(32) as pool:
        for _ in pool.map(hold, range(count)):
            pass


def bytes_of_a_stream(gateway, open_stream):
    """Memory that a stream takes while nothing happens on it, its share of a connection included."""
    before = memory(gateway.pid)
    connections = [channel(gateway.port) for _ in range(STREAMS // STREAMS_PER_CONNECTION)]
    streams = [open_stream(connections[n % len(connections)], n) for n in range(STREAMS)]
    for stream in streams:
        next(stream)
    taken = (memory(gateway.pid) - before) / STREAMS
    for connection in connections:
        connection.close()
    return taken


STREAM_KINDS = {
    "UserEvents.Listen": lambda at, n: events_grpc.UserEventsStub(at).Listen(
        events.ListenRequest(username=f"user-{n}", event_ids=["docker-cli"])
    ),
    "BuildLogs.Tail": lambda at, n: logs_grpc.BuildLogsStub(at).Tail(logs.TailRequest(build_id=f"idle-{n}")),
    "Locks.Hold": lambda at, n: locks_grpc.LocksStub(at).Hold(locks.HoldRequest(name=f"held-{n}", ttl_ms=60_000)),
}


def measure_calls(stack, redis_port, redis):
    gateway = stack.gateway("gateway", redis_port)
    alone = stack.gateway("alone", redis_port, "--pull-metrics-coalesce-window", "0s")
    loads = Loads(stack, gateway.port, alone.port)
    costs = {}
    for _ in range(ROUNDS):
        for name, each, calls, load in loads.rows():
            pid = alone.pid if name.endswith("none waits") else gateway.pid
            before, redis_before = cpu_seconds(pid), cpu_seconds(redis)
            load()
            spent = (cpu_seconds(pid) - before, cpu_seconds(redis) - redis_before)
            costs.setdefault(name, []).append(tuple(seconds / (calls * each) * 1e6 for seconds in spent))
    print(f"{CONNECTIONS} connections with {IN_FLIGHT} calls in flight each unless named, median of {ROUNDS} rounds,")
    print(f"{os.cpu_count()} cores\n")
    print(f"{'CPU in µs':40}{'gateway':>10}{'redis-server':>15}")
    for name, rounds in costs.items():
        ours, theirs = (statistics.median(values) for values in zip(*rounds, strict=True))
        print(f"{name:40}{ours:10.1f}{theirs:15.1f}")


def main():
    with tempfile.TemporaryDirectory() as folder, Stack(folder) as stack:
        redis_port, redis = stack.redis()
        measure_calls(stack, redis_port, redis)
        print(f"\nmemory of {STREAMS} streams, {STREAMS_PER_CONNECTION} on a connection, KiB each")
        for name, open_stream in STREAM_KINDS.items():
            gateway = stack.gateway(name, redis_port)
            print(f"{name:40}{bytes_of_a_stream(gateway, open_stream) / 1024:10.1f}")


if __name__ == "__main__":
    main()
