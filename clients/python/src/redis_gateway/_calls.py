"""Stands between generated stubs and a channel: deadlines, repetitions as the proto allows them, and errors of one hierarchy.

A generated stub asks its channel for one callable a method. These hand out callables that find the process's channel at each
call, so that stubs outlive a fork.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, TypeVar, cast

import grpc

from ._channel import Connection
from ._pauses import pauses
from ._traces import traced
from .errors import GatewayError, Unavailable, from_rpc

T = TypeVar("T")


class Method:
    """A method, and gRPC's callable for it on the channel of the moment."""

    def __init__(self, connection: Connection, kind: str, safe: bool, args: Any, kwargs: Any) -> None:
        self.safe = safe
        self._connection = connection
        self._make = (kind, args, kwargs)
        self._found: tuple[Any, Any] = (None, None)

    def callable(self) -> Any:
        channel = self._connection.channel()
        known, found = self._found
        if known is not channel:
            kind, args, kwargs = self._make
            found = getattr(channel, kind)(*args, **kwargs)
            self._found = (channel, found)
        return found


class Unary:
    """Calls, and repeats where this is safe, until the deadline."""

    def __init__(self, method: Method, timeout: float) -> None:
        self._method = method
        self._timeout = timeout

    def __call__(self, request: Any, timeout: float | None = None, **options: Any) -> Any:
        left = timeout = self._timeout if timeout is None else timeout
        begun, attempts = time.monotonic(), None
        options = traced(options)
        while True:
            try:
                return self._method.callable()(request, timeout=left, **options)
            except grpc.RpcError as error:
                # Only now: most calls need nothing of it.
                attempts = attempts or _Attempts(self._method, begun, begun + timeout)
                pause = attempts.after(error)
            time.sleep(pause)
            left, request = attempts.left(), attempts.rest_of(request)


class AsyncUnary(Unary):
    """The same for asyncio."""

    async def __call__(self, request: Any, timeout: float | None = None, **options: Any) -> Any:
        left = timeout = self._timeout if timeout is None else timeout
        begun, attempts = time.monotonic(), None
        options = traced(options)
        while True:
            try:
                return await self._method.callable()(request, timeout=left, **options)
            except grpc.RpcError as error:
                # Only now: most calls need nothing of it.
                attempts = attempts or _Attempts(self._method, begun, begun + timeout)
                pause = attempts.after(error)
            await asyncio.sleep(pause)
            left, request = attempts.left(), attempts.rest_of(request)


class _Attempts:
    """The attempts of one call that has failed once: how long the next may take, and whether there is one."""

    def __init__(self, method: Method, begun: float, deadline: float) -> None:
        self._method = method
        self._deadline = deadline
        self._since = begun
        self._pauses = pauses()

    def left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def rest_of(self, request: Any) -> Any:
        """The request as the next attempt makes it: what was waited is not waited again."""
        since, self._since = self._since, time.monotonic()
        if not getattr(request, "wait_ms", 0):
            return request
        rest = type(request)()
        rest.CopyFrom(request)
        rest.wait_ms = max(0, request.wait_ms - round((self._since - since) * 1000))
        return rest

    def after(self, error: grpc.RpcError) -> float:
        """Seconds until the next attempt; raises if there may be none, or no time is left for it."""
        failure = from_rpc(error, self._method.safe)
        pause = max(failure.retry_after, next(self._pauses))
        # Who is sent away by a gateway that ends is better served by the next one, whatever it would fall back to.
        again = failure.reason == "DRAINING" or (self._method.safe and isinstance(failure, Unavailable))
        if not again or pause >= self.left():
            raise failure from error
        return pause


class Streaming:
    """Opens streams. They have a deadline only if the call names one, and are never opened again by themselves."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def __call__(self, request: Any, **options: Any) -> Any:
        return Stream[Any](self._method.callable()(request, **traced(options)), self._error)

    def _error(self, error: grpc.RpcError) -> GatewayError:
        return from_rpc(error, self._method.safe)


class AsyncStreaming(Streaming):
    """The same for asyncio."""

    def __call__(self, request: Any, **options: Any) -> Any:
        return AsyncStream[Any](self._method.callable()(request, **traced(options)), self._error)


class Channel:
    """What a stub takes for its channel: unary calls go by `connection`, streams by `streams`.

    `timeout` is for unary calls that name none, in seconds.
    """

    _unary: type[Unary] = Unary
    _streaming: type[Streaming] = Streaming

    def __init__(self, connection: Connection, streams: Connection, safe: frozenset[str], timeout: float) -> None:
        self._connection = connection
        self._streams = streams
        self._safe = safe
        self._timeout = timeout

    def unary_unary(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return self._unary(self._method(self._connection, "unary_unary", path, args, kwargs), self._timeout)

    def unary_stream(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return self._streaming(self._method(self._streams, "unary_stream", path, args, kwargs))

    def stream_stream(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return self._streaming(self._method(self._streams, "stream_stream", path, args, kwargs))

    def _method(self, connection: Connection, kind: str, path: str, args: Any, kwargs: Any) -> Method:
        return Method(connection, kind, path in self._safe, (path, *args), kwargs)


class AsyncChannel(Channel):
    """The same for asyncio."""

    _unary = AsyncUnary
    _streaming = AsyncStreaming


class Stream(Generic[T]):
    """An open stream: answers, then a `GatewayError` or the end. `cancel` ends it, from any thread."""

    def __init__(self, call: Any, error: Callable[[grpc.RpcError], GatewayError]) -> None:
        self._call = call
        self._error = error
        self._cancelled = False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            return cast(T, next(self._call))
        except grpc.RpcError as error:
            if self._cancelled:
                raise StopIteration from None
            raise self._error(error) from error

    def cancel(self) -> None:
        self._cancelled = True
        self._call.cancel()


class AsyncStream(Generic[T]):
    """The same for asyncio."""

    def __init__(self, call: Any, error: Callable[[grpc.RpcError], GatewayError]) -> None:
        self._call = call
        self._answers: AsyncIterator[T] = call.__aiter__()
        self._error = error
        self._cancelled = False

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await anext(self._answers)
        except asyncio.CancelledError:
            if self._cancelled:
                raise StopAsyncIteration from None
            raise
        except grpc.RpcError as error:
            raise self._error(error) from error

    def cancel(self) -> None:
        self._cancelled = True
        self._call.cancel()
