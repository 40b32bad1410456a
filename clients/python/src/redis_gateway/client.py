"""`Client` and `AsyncClient`: the stubs of all services."""

from __future__ import annotations

from types import ModuleType, TracebackType
from typing import Any, cast

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from redisgateway.v1 import (
    build_logs_pb2,
    build_logs_pb2_grpc,
    cache_pb2,
    cache_pb2_grpc,
    content_tracker_pb2,
    content_tracker_pb2_grpc,
    locks_pb2,
    locks_pb2_grpc,
    orchestrator_pb2,
    orchestrator_pb2_grpc,
    pull_metrics_pb2,
    pull_metrics_pb2_grpc,
    user_events_pb2,
    user_events_pb2_grpc,
)

from ._background import close_all
from ._calls import AsyncChannel, Channel
from ._channel import Connection, target_from_environment
from .events import EventStream
from .pulls import PullStream

_PROTOS: list[ModuleType] = [
    build_logs_pb2,
    cache_pb2,
    content_tracker_pb2,
    locks_pb2,
    orchestrator_pb2,
    pull_metrics_pb2,
    user_events_pb2,
]

DEFAULT_TIMEOUT = 5.0  # seconds, for a unary call with its repetitions


def _safe_methods() -> frozenset[str]:
    """Paths of the methods that the proto files allow to repeat."""
    return frozenset(
        f"/{service.full_name}/{method.name}"
        for proto in _PROTOS
        for service in proto.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.GetOptions().idempotency_level != method.GetOptions().IDEMPOTENCY_UNKNOWN
    ) | {"/grpc.health.v1.Health/Check"}


_SAFE = _safe_methods()


class Client:
    """A gateway's services, for threads and greenlets.

    `target` is `host:port` or `unix:PATH`; without one, `REDISGATEWAY_TARGET`, or 127.0.0.1:50051. Nothing is connected before
    the first call, and a fork in between does no harm. A call has `timeout` seconds unless it names its own; within them it is
    repeated where its method's `idempotency_level` allows it. Calls raise `GatewayError`s. The stubs' `future` and `with_call`
    are not offered.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self.target = target or target_from_environment()
        self._connection = Connection(self.target, credentials, asyncio=False)
        # The thread that looks after streams would be woken by each call on the same connection.
        self._streams = Connection(self.target, credentials, asyncio=False)
        # All that a stub needs of its channel.
        channel = cast(grpc.Channel, Channel(self._connection, self._streams, _SAFE, timeout))
        self.build_logs = build_logs_pb2_grpc.BuildLogsStub(channel)
        self.cache = cache_pb2_grpc.CacheStub(channel)
        self.content_tracker = content_tracker_pb2_grpc.ContentTrackerStub(channel)
        self.locks = locks_pb2_grpc.LocksStub(channel)
        self.orchestrator = orchestrator_pb2_grpc.OrchestratorStub(channel)
        self.pull_metrics = pull_metrics_pb2_grpc.PullMetricsStub(channel)
        self.user_events = user_events_pb2_grpc.UserEventsStub(channel)
        self.health: Any = health_pb2_grpc.HealthStub(channel)
        # Never repeated, but for what a gateway that ends sends on: for callers who have something else to fall back to, and
        # would wait.
        once = Channel(self._connection, self._streams, frozenset(), timeout)
        self.cache_once = cache_pb2_grpc.CacheStub(cast(grpc.Channel, once))
        # What is fired and forgotten leaves by a thread each, which the first one starts.
        self.background_pulls = PullStream(self.pull_metrics)
        self.background_events = EventStream(self.user_events)

    def close(self) -> None:
        """Sends what waits in the background, for 5 s at most and 2 s more for the last answers, and ends the channels and what
        is open on them. A later call makes another."""
        close_all([self.background_events, self.background_pulls])
        for connection in (self._connection, self._streams):
            channel = connection.take()
            if channel is not None:
                channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio, for the event loop of its first call."""

    def __init__(
        self,
        target: str | None = None,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self.target = target or target_from_environment()
        self._connection = Connection(self.target, credentials, asyncio=True)
        channel: Any = AsyncChannel(self._connection, self._connection, _SAFE, timeout)
        self.build_logs = cast("build_logs_pb2_grpc.BuildLogsAsyncStub", build_logs_pb2_grpc.BuildLogsStub(channel))
        self.cache = cast("cache_pb2_grpc.CacheAsyncStub", cache_pb2_grpc.CacheStub(channel))
        self.content_tracker = cast(
            "content_tracker_pb2_grpc.ContentTrackerAsyncStub", content_tracker_pb2_grpc.ContentTrackerStub(channel)
        )
        self.locks = cast("locks_pb2_grpc.LocksAsyncStub", locks_pb2_grpc.LocksStub(channel))
        self.orchestrator = cast("orchestrator_pb2_grpc.OrchestratorAsyncStub", orchestrator_pb2_grpc.OrchestratorStub(channel))
        self.pull_metrics = cast("pull_metrics_pb2_grpc.PullMetricsAsyncStub", pull_metrics_pb2_grpc.PullMetricsStub(channel))
        self.user_events = cast("user_events_pb2_grpc.UserEventsAsyncStub", user_events_pb2_grpc.UserEventsStub(channel))
        self.health: Any = health_pb2_grpc.HealthStub(channel)

    async def close(self) -> None:
        """Ends the channel and what is open on it. A later call makes another."""
        channel = self._connection.take()
        if channel is not None:
            await channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


_shared: dict[str, Client] = {}


def shared(target: str | None = None) -> Client:
    """The process's own client of a target: all who ask for it have its connections between them."""
    target = target or target_from_environment()
    # Of two that are made at once one is kept; the other was never connected.
    return _shared.get(target) or _shared.setdefault(target, Client(target))
