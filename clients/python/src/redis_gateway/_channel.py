"""The channel of a process to a gateway: made at the first call, so after gunicorn's fork and after gevent's patches."""

from __future__ import annotations

import os
import threading
from typing import Any

import grpc
import grpc.aio

from . import _fork
from ._environment import gevent_has_patched

DEFAULT_TARGET = "127.0.0.1:50051"

_OPTIONS: list[tuple[str, Any]] = [
    # A connection that a firewall forgot is noticed within 15 s, also while no call is in flight.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # By default a gateway that was restarted is missed for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Otherwise all channels of a process to the same target have one connection between them.
    ("grpc.use_local_subchannel_pool", 1),
]


def target_from_environment() -> str:
    """`REDISGATEWAY_TARGET` (a gateway refuses variables with its own prefix), or where a gateway listens by default."""
    return os.environ.get("REDISGATEWAY_TARGET", DEFAULT_TARGET)


class Connection:
    """Where calls go: a target, and the channel to it once there is one. Safe to make before a fork and to use after it."""

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None, asyncio: bool) -> None:
        self._target = target
        self._credentials = credentials
        self._asyncio = asyncio
        self._lock = threading.Lock()
        self._channel: Any = None
        _fork.tell(self)

    def channel(self) -> Any:
        """The channel of this process: a `grpc.Channel`, or with asyncio a `grpc.aio.Channel`."""
        channel = self._channel
        if channel is None:
            with self._lock:
                channel = self._channel
                if channel is None:
                    channel = self._channel = self._connect()
        return channel

    def take(self) -> Any:
        """The channel, to be closed; the next call makes another. None if there is none."""
        with self._lock:
            channel, self._channel = self._channel, None
        return channel

    def forked(self) -> None:
        """In the child: the channel is the parent's, and who held the lock is not here."""
        self._lock = threading.Lock()
        if self._channel is not None:
            # Not closed: its threads are not here, and would be waited for.
            _of_parents.append(self._channel)
            self._channel = None

    def _connect(self) -> Any:
        options = list(_OPTIONS)
        if self._target.startswith(("unix:", "ipv4:", "ipv6:")):
            # grpcio would name the path, or the addresses, as the authority, percent-encoded, which servers in Rust refuse.
            options.append(("grpc.default_authority", "localhost"))
        module: Any = grpc.aio if self._asyncio else grpc
        if not self._asyncio:
            _prepare_gevent()
        if self._credentials is None:
            return module.insecure_channel(self._target, options)
        return module.secure_channel(self._target, self._credentials, options)


_of_parents: list[Any] = []

# The process that let gRPC wait in greenlets; 0: none has.
_gevent_process = 0


def _prepare_gevent() -> None:
    """Lets gRPC wait in greenlets where gevent has patched sockets; must come before the first channel."""
    global _gevent_process
    if not gevent_has_patched():
        return
    if _gevent_process == 0:
        import grpc.experimental.gevent

        grpc.experimental.gevent.init_gevent()
        _gevent_process = os.getpid()
    elif _gevent_process != os.getpid():
        # In such a child gRPC's greenlets wait for ever, past all deadlines.
        raise RuntimeError("forked after a call under gevent, which gRPC does not survive: make the first call after the fork")
