"""What `make monitoring` runs a gateway with: Redis servers, the gateway, and callers of all patterns."""

import contextlib
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from pathlib import Path

import grpc
import redis
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "clients/python/src"))

from redisgateway.v1 import (  # noqa: E402
    build_logs_pb2 as logs,
    build_logs_pb2_grpc,
    cache_pb2 as cache,
    cache_pb2_grpc,
    content_tracker_pb2 as tracker,
    content_tracker_pb2_grpc,
    locks_pb2 as locks,
    locks_pb2_grpc,
    orchestrator_pb2 as orchestrator,
    orchestrator_pb2_grpc,
    pull_metrics_pb2 as pulls,
    pull_metrics_pb2_grpc,
    user_events_pb2 as events,
    user_events_pb2_grpc,
)

GATEWAY = Path(os.environ.get("REDIS_GATEWAY_BIN", ROOT / "target/debug/redis-gateway")).resolve()
PATIENCE = 60  # seconds
# No stream is open for longer, whatever goes wrong.
LONGEST = 600
DIGEST = "sha256:" + "ab" * 32


def eventually(condition, what):
    """What `condition` answers once that is true."""
    give_up = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < give_up, f"not within {PATIENCE} s: {what}"
        time.sleep(0.05)
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A program whose output goes to a file; it ends with the block at the latest."""

    def __init__(self, folder, name, *command):
        self.command, self.log = [str(part) for part in command], folder / f"{name}.log"
        self.start()

    def start(self):
        # Variables of the gateway's prefix would be settings.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("REDIS_GATEWAY_")}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=clean)

    def until(self, answers):
        def there():
            assert self.process.poll() is None, f"{self.command[0]} has ended:\n{self.log.read_text()[-2000:]}"
            with contextlib.suppress(OSError, redis.RedisError):
                return answers()

        eventually(there, f"{self.command[0]} answers")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


class Redis(Process):
    """A redis-server on a port of loopback."""

    def __init__(self, folder, name, *args):
        self.port = free_port()
        folder = folder / name
        folder.mkdir()
        server = shutil.which("redis-server")
        assert server, "no redis-server: apt-get install redis-server"
        base = ["--bind", "127.0.0.1", "--port", self.port, "--dir", folder, "--save", "", "--enable-debug-command", "local"]
        super().__init__(folder, "redis", server, *base, *args)
        self.until(self.direct().ping)

    def direct(self, db=0):
        """A client past the gateway."""
        return redis.Redis(port=self.port, db=db, socket_timeout=PATIENCE)

    def address(self):
        return {"host": "127.0.0.1", "port": self.port}


class Gateway(Process):
    """A gateway with a file of settings."""

    def __init__(self, folder, name, settings):
        self.ports = grpc_port, admin = free_port(), free_port()
        self.admin, self.target = f"127.0.0.1:{admin}", f"127.0.0.1:{grpc_port}"
        listen = {"grpc": {"listen": self.target}, "admin": {"listen": self.admin}}
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(settings | listen))
        super().__init__(folder, name, GATEWAY, "--config", file)
        self.serves()

    def serves(self):
        self.until(lambda: self.get("/livez"))
        self.channel = grpc.insecure_channel(self.target)

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=30) as response:
            return response.read().decode()

    def total(self, metric):
        """The sum of a metric over its labels."""
        lines = (line for line in self.get("/metrics").splitlines() if not line.startswith("#"))
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == metric)


class Callers:
    """Callers of patterns, each a thread, until the block ends; `errors` are what they were not answered by."""

    def __init__(self, gateway, *patterns):
        self.gateway, self.channel, self.patterns = gateway, gateway.channel, patterns
        self.ended, self.errors, self.streams, self.threads = threading.Event(), [], [], []

    def __enter__(self):
        for pattern in self.patterns:
            self.run(self.repeat, pattern)
        return self

    def __exit__(self, *_):
        self.ended.set()
        for stream in self.streams:
            stream.cancel()
        for thread in self.threads:
            thread.join()

    def run(self, work, *args):
        thread = threading.Thread(target=work, args=args, daemon=True)
        self.threads.append(thread)
        thread.start()

    def repeat(self, pattern):
        round_ = 0
        while not self.ended.wait(0.1):
            round_ += 1
            try:
                pattern(self.channel, round_)
            except (grpc.RpcError, AssertionError) as error:
                self.errors.append(f"{pattern.__name__}: {error}")

    def stream(self, stream, take=lambda item: None):
        """Reads a stream and waits for its first answer."""
        opened = threading.Event()
        self.streams.append(stream)

        def read():
            with contextlib.suppress(grpc.RpcError):
                for item in stream:
                    opened.set()
                    take(item)

        self.run(read)
        assert opened.wait(PATIENCE), "a stream does not begin"

    def watch(self, prefix, acknowledges, reads=True):
        """A watch of build managers' keys."""
        asks = queue.SimpleQueue()
        opening = orchestrator.OrchestratorWatchOpen(prefix=prefix, expiries=orchestrator.OrchestratorWatchOpen.EXPIRIES_ONE)
        asks.put(orchestrator.OrchestratorWatchRequest(open=opening))
        stream = orchestrator_pb2_grpc.OrchestratorStub(self.channel).Watch(iter(asks.get, None), timeout=LONGEST)

        def take(item):
            if acknowledges and item.expire.ack_id:
                acknowledge = orchestrator.OrchestratorWatchAcknowledge(ack_id=item.expire.ack_id)
                asks.put(orchestrator.OrchestratorWatchRequest(acknowledge=acknowledge))

        if reads:
            self.stream(stream, take)
        else:
            next(stream)
            self.streams.append(stream)


def of_build_logs(channel, n):
    stub, build = build_logs_pb2_grpc.BuildLogsStub(channel), f"build-{n // 20}"
    entry = logs.LogEntry(message=logs.LogMessage(message=f"step {n}"))
    stub.SetStatus(logs.SetStatusRequest(build_id=build, status=b'{"total_commands": 1}'), timeout=20)
    stub.GetStatus(logs.GetStatusRequest(build_id=build), timeout=20)
    stub.ListEntries(logs.ListEntriesRequest(build_id=build), timeout=20)
    stub.Append(logs.AppendRequest(build_id=build, entries=[entry]), timeout=20)


def of_cache(channel, n):
    stub, key = cache_pb2_grpc.CacheStub(channel), f"near/{n % 10}"
    stub.Set(cache.CacheSetRequest(key=key, value=b"value", ttl_seconds=60, overwrite=True), timeout=20)
    for _ in range(2):
        stub.Get(cache.CacheGetRequest(key=key), timeout=20)
    stub.BatchGet(cache.CacheBatchGetRequest(keys=[key, f"far/{n % 10}"]), timeout=20)
    # One loads, the other waits for it.
    ask = cache.CacheGetOrLeaseRequest(key=f"loaded/{uuid.uuid4()}", wait_ms=10_000, lease_ms=10_000)
    lease = stub.GetOrLease(ask, timeout=20).lease
    waits = stub.GetOrLease.future(ask, timeout=20)
    stub.Fill(cache.CacheFillRequest(key=ask.key, token=lease.token, value=b"loaded", ttl_seconds=60), timeout=20)
    assert waits.result().WhichOneof("outcome") == "value"
    stub.Delete(cache.CacheDeleteRequest(key=ask.key), timeout=20)


def of_content_tracker(channel, n):
    stub, where = content_tracker_pb2_grpc.ContentTrackerStub(channel), {"namespace": "devtable", "repository": f"r{n % 5}"}
    stub.MarkModified(tracker.MarkModifiedRequest(**where), timeout=20)
    stub.MarkRevoked(tracker.MarkRevokedRequest(user_ids=[n], **where), timeout=20)
    stub.IsBlocked(tracker.IsBlockedRequest(user_id=n, **where), timeout=20)


def of_locks(channel, n):
    stub, name = locks_pb2_grpc.LocksStub(channel), f"nightly-{n % 5}"
    first = stub.Acquire(locks.AcquireRequest(name=name, ttl_ms=30_000), timeout=20)
    second = stub.Acquire.future(locks.AcquireRequest(name=name, ttl_ms=30_000, wait_ms=15_000), timeout=20)
    stub.Get(locks.LocksGetRequest(name=name), timeout=20)
    stub.Release(locks.ReleaseRequest(name=name, holder_id=first.holder_id), timeout=20)
    holder = second.result().holder_id
    stub.Renew(locks.RenewRequest(name=name, holder_id=holder, ttl_ms=30_000), timeout=20)
    stub.Release(locks.ReleaseRequest(name=name, holder_id=holder), timeout=20)


def of_orchestrator(channel, n):
    stub, key = orchestrator_pb2_grpc.OrchestratorStub(channel), f"building/{uuid.uuid4()}"
    lasting = orchestrator.OrchestratorSetRequest(key=key, value=b"{}")
    stub.Set(lasting, timeout=20)
    stub.Get(orchestrator.OrchestratorGetRequest(key=key), timeout=20)
    stub.Delete(orchestrator.OrchestratorDeleteRequest(key=key), timeout=20)
    stub.List(orchestrator.OrchestratorListRequest(prefix="building/"), timeout=20)
    stub.Set(orchestrator.OrchestratorSetRequest(key=f"{key}/ends", value=b"{}", expiration_seconds=1), timeout=20)


def of_pull_metrics(channel, n):
    stub = pull_metrics_pb2_grpc.PullMetricsStub(channel)
    stub.TrackTagPull(pulls.TrackTagPullRequest(repository_id=1, tag=f"v{n % 5}", digest=DIGEST), timeout=20)
    stub.TrackManifestPull(pulls.TrackManifestPullRequest(repository_id=1, digest=DIGEST, buffered=True), timeout=20)
    stub.GetTagPullStatistics(pulls.GetTagPullStatisticsRequest(repository_id=1, tag="v1", digest=DIGEST), timeout=20)
    claim = stub.ClaimPulls(pulls.ClaimPullsRequest(max_keys=100, lease_seconds=60), timeout=20)
    stub.CommitClaim(pulls.CommitClaimRequest(claim_id=claim.claim_id), timeout=20)


def of_user_events(channel, n, payload=b"{}"):
    stub = user_events_pb2_grpc.UserEventsStub(channel)
    stub.Publish(events.PublishRequest(username="devtable", event_id="docker-cli", payload=payload), timeout=20)


def listen(channel):
    ask = events.ListenRequest(username="devtable", event_ids=["docker-cli"])
    return user_events_pb2_grpc.UserEventsStub(channel).Listen(ask, timeout=LONGEST)


def tail(channel, build="build-0"):
    return build_logs_pb2_grpc.BuildLogsStub(channel).Tail(logs.TailRequest(build_id=build), timeout=LONGEST)


def hold(channel, name):
    return locks_pb2_grpc.LocksStub(channel).Hold(locks.HoldRequest(name=name, ttl_ms=30_000), timeout=LONGEST)
