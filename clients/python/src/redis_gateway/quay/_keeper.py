"""Keeps a lock for as long as its process lives: by a stream, for which the gateway renews it."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from redisgateway.v1 import locks_pb2 as pb

from .._pauses import pauses
from ..errors import GatewayError, OutcomeUnknown, Unavailable, name_of

if TYPE_CHECKING:
    from redisgateway.v1 import locks_pb2_grpc

logger = logging.getLogger(__name__)

# Seconds until a lock whose holder is gone is released: enough to come back, on this gateway or another.
_GRACE = 15


class Keeper:
    """Takes a lock up that was acquired, and keeps it until `end`, or until it is lost."""

    def __init__(self, locks: locks_pb2_grpc.LocksStub, name: str, ttl: int, holder_id: str, fencing_token: int) -> None:
        self._locks = locks
        grace = min(ttl, _GRACE)
        self._request = pb.HoldRequest(
            name=name,
            ttl_ms=ttl * 1000,
            grace_ms=grace * 1000,
            holder_id=holder_id,
            fencing_token=fencing_token,
        )
        self._ttl = ttl
        self._grace = grace
        self._certain_until = self._lives_until = time.monotonic() + ttl
        self._ended = threading.Event()
        self._stream: Any = None
        threading.Thread(target=self._run, name=f"lock {name}", daemon=True).start()

    @property
    def lost(self) -> bool:
        """Whether the lock may be another's: told so, not renewed for as long as it lives, or cut off for as long as its grace.
        Not any more once it is taken up again."""
        return time.monotonic() >= self._certain_until

    def end(self) -> None:
        """Ends the stream. The lock stands until it is released, or its grace is over."""
        self._ended.set()
        if self._stream is not None:
            self._stream.cancel()

    def _run(self) -> None:
        waits = pauses()
        # Also past its grace: a gateway that was killed releases nothing.
        while not self._ended.is_set() and time.monotonic() < self._lives_until:
            lives_until = self._lives_until
            try:
                self._follow()
            except (Unavailable, OutcomeUnknown) as error:
                logger.debug("Lock %s is not renewed: %s", self._request.name, error)
            except GatewayError as error:
                self._lose(str(error))
            finally:
                # The gateway that kept it may live, and releases it then.
                self._certain_until = min(self._certain_until, time.monotonic() + self._grace)
            if self._lives_until > lives_until:
                waits = pauses()
            self._ended.wait(next(waits))
        if self.lost and not self._ended.is_set():
            logger.warning("Lock %s is lost", self._request.name)

    def _follow(self) -> None:
        self._stream = self._locks.Hold(self._request)
        if self._ended.is_set():
            self._stream.cancel()
        for answer in self._stream:
            kind = answer.WhichOneof("event")
            if kind in ("acquired", "renewed"):
                self._certain_until = self._lives_until = time.monotonic() + self._ttl
            elif kind == "lost":
                self._lose(name_of(pb.HoldLost.Cause, answer.lost.cause))

    def _lose(self, cause: str) -> None:
        logger.debug("Lock %s: %s", self._request.name, cause)
        self._certain_until = self._lives_until = 0.0
