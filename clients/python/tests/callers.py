"""Callers who go on while gateways come and go, and judge what they got against what stands in Redis.

A failure that reaches a caller is one, unless it says that the outcome is unknown, or that nothing was done: those are counted,
and judged.
"""

from __future__ import annotations

import json
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis_gateway import GatewayError, OutcomeUnknown, Unavailable, shared
from redis_gateway._pauses import pauses
from redis_gateway.quay.buildlogs import RedisBuildLogs
from redis_gateway.quay.cache import CacheKey, GatewayDataModelCache
from redis_gateway.quay.pull_stats_flush import PullStatsFlush, Row
from redis_gateway.quay.pullmetrics import PullMetrics
from redis_gateway.quay.repo_modification_tracker import RepoModificationTracker
from redisgateway.v1 import build_logs_pb2 as pb

from .conftest import Server

if TYPE_CHECKING:
    from .go_callers import GoPulls

PAUSE = 0.005  # seconds between two steps of a caller
DIGEST = "sha256:" + "a1" * 32


class Caller(ABC):
    """One thread that repeats a step until it is told to end, and what became of its steps."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.config = {"gateway": target}
        self.done = 0
        self.missed = 0
        self.failures: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive(), self

    def __str__(self) -> str:
        return f"{type(self).__name__:12} {self.done:6} steps, {self.missed} missed, {len(self.failures)} failed"

    def _run(self) -> None:
        while not self._ended.wait(PAUSE):
            try:
                self.step()
            except Exception as error:
                if isinstance(error, (OutcomeUnknown, Unavailable)) or isinstance(
                    error.__cause__, (OutcomeUnknown, Unavailable)
                ):
                    self.missed += 1
                else:
                    self.failures.append(f"{type(error).__name__}: {error}")
            else:
                self.done += 1

    @abstractmethod
    def step(self) -> None:
        """A call or a few; raises what its caller would get to hear, or an assertion."""

    @abstractmethod
    def judge(self, server: Server) -> None:
        """Asserts that nothing is lost, when all have ended."""


class Lines(Caller):
    """A build's log, line by line: an append that is not safe to repeat."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.build = uuid.uuid4().hex
        self._logs = RedisBuildLogs(self.config)
        self._asked = 0
        self._acknowledged: list[int] = []

    def step(self) -> None:
        self._asked += 1
        self._logs.append_log_message(self.build, self._asked)
        self._acknowledged.append(self._asked)

    def judge(self, server: Server) -> None:
        found = [json.loads(entry)["message"] for entry in entries(server, self.build)]
        # Each at most once, in their order; and each that was acknowledged.
        assert found == sorted(set(found))
        assert set(self._acknowledged) <= set(found)
        assert len(found) <= len(self._acknowledged) + self.missed


class Batches(Caller):
    """A build's log by appends that compare, and are safe to repeat."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.build = uuid.uuid4().hex
        self._logs = shared(target).build_logs
        self._length = 0

    def step(self) -> None:
        batch = [pb.LogEntry(json=json.dumps(self._length + n).encode()) for n in range(3)]
        request = pb.CompareAndAppendRequest(build_id=self.build, entries=batch, expected_length=self._length)
        answer = self._logs.CompareAndAppend(request)
        assert answer.appended, answer
        self._length = answer.length

    def judge(self, server: Server) -> None:
        assert [int(entry) for entry in entries(server, self.build)] == list(range(self._length))


class Tail(Caller):
    """Follows a build's log, as a caller of the stub does: opens again with the index and the entry that it has."""

    def __init__(self, target: str, build: str) -> None:
        super().__init__(target)
        self._logs = shared(target).build_logs
        self._build = build
        self._got: list[bytes] = []
        self._stream: Any = None
        self._waits = pauses()
        self.moved = 0

    def end(self) -> None:
        super().end()
        self._stream.cancel()

    def step(self) -> None:
        previous = self._got[-1] if self._got else None
        self._stream = self._logs.Tail(pb.TailRequest(build_id=self._build, start=len(self._got), previous_entry=previous))
        if self._ended.is_set():
            self._stream.cancel()
        try:
            for answer in self._stream:
                assert not answer.HasField("reset"), answer
                if answer.HasField("entries"):
                    assert answer.entries.start == len(self._got)
                    self._got += answer.entries.entries
                    self.done += 1
                    self._waits = pauses()
        except Unavailable:
            # The news that a follower waits for.
            self.moved += 1
            self._ended.wait(next(self._waits))
        except GatewayError:
            if not self._ended.is_set():
                raise

    def judge(self, server: Server) -> None:
        stand = entries(server, self._build)
        # It was told to end like all others: it may not have seen the last ones.
        assert self._got == stand[: len(self._got)]
        assert self._got


class Pulls(Caller):
    """Pulls, one by one and on the background stream."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._pulls = PullMetrics(self.config)
        self._background = shared(target).background_pulls
        self.least = self.most = 0

    def step(self) -> None:
        self._pulls.track_tag_pull(7, "latest", DIGEST)
        self._pulls.track_manifest_pull_sync(7, DIGEST)

    def join(self) -> None:
        super().join()
        assert self._background.flush(30)
        counts = self._background.counts
        assert counts.failed == counts.dropped == 0, counts
        self.least = self.done + counts.stood
        self.most = self.least + self.missed + counts.unknown
        # One call of many, at least.
        self.missed += counts.unknown > 0

    def judge(self, server: Server) -> None:
        """With those of others, by the one who flushes."""


class Flush(Caller):
    """Flushes what `Pulls` count into a database that never fails."""

    def __init__(self, target: str, pulls: Sequence[Pulls | GoPulls]) -> None:
        super().__init__(target)
        # The manifests' rows count all pulls, those by tag too.
        self._flush = PullStatsFlush(len, self._upsert, redis_config=self.config)
        self._pulls = pulls
        self._flushed = 0

    def step(self) -> None:
        self._flush.flush()

    def judge(self, server: Server) -> None:
        direct = server.direct(1)
        left = sum(int(direct.hget(key, "pull_count")) for key in direct.scan_iter("pull_events:*"))
        counted = self._flushed + left
        least, most = sum(p.least for p in self._pulls), sum(p.most for p in self._pulls)
        assert least <= counted <= most, (least, self._flushed, left, most)

    def _upsert(self, rows: list[Row]) -> int:
        self._flushed += sum(row["pull_count"] for row in rows)
        return len(rows)


class Cache(Caller):
    """Loads each value once, finds it, and deletes every other one."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._cache = GatewayDataModelCache({"redis_config": self.config})
        self._kept: dict[str, int] = {}
        self._gone: list[str] = []

    def step(self) -> None:
        number = self.done + len(self.failures)
        key = CacheKey(f"security_report__{uuid.uuid4().hex}", "86400s")
        loads: list[int] = []

        def load() -> int:
            loads.append(number)
            return number

        assert [self._cache.retrieve(key, load) for _ in range(2)] == [number, number]
        if len(loads) > 1:
            # It does without a gateway that does not answer.
            self.missed += 1
        elif number % 2:
            self._kept[key.key] = number
        else:
            self._cache.invalidate(key)
            self._gone.append(key.key)

    def judge(self, server: Server) -> None:
        direct = server.direct()
        assert self.missed * 10 < self.done
        assert {key: int(direct.get(key) or -1) for key in self._kept} == self._kept
        assert not any(direct.exists(key) for key in self._gone)


class Marks(Caller):
    """Marks of the content tracker."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._tracker = RepoModificationTracker(self.config)
        self._namespace = uuid.uuid4().hex
        self._last = 0.0

    def step(self) -> None:
        user = self.done + len(self.failures) + 1
        revoked = self._tracker.mark_permission_revoked(user, self._namespace, "simple")
        marked = self._tracker.mark_repo_modified(self._namespace, "simple")
        if revoked is None or marked is None:
            # It logs what it misses.
            self.missed += 1
            return
        self._last = marked
        assert self._tracker.should_block_read_access(user, self._namespace, "simple")

    def judge(self, server: Server) -> None:
        assert float(server.direct().get(f"quay:repo_content_tracker:repo_modified:{self._namespace}:simple")) >= self._last


def entries(server: Server, build: str) -> list[bytes]:
    found: list[bytes] = server.direct().lrange(f"builds/{build}/logs", 0, -1)
    return found
