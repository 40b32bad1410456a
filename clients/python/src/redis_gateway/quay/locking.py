"""`util.locking`: locks over all processes. Holders with and without the gateway contend for the same ones, as equals."""

from __future__ import annotations

import base64
import logging
import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, ClassVar

from redisgateway.v1 import locks_pb2 as pb

from .._pauses import pauses
from ..client import Client
from ..errors import GatewayError, OutcomeUnknown, Unavailable
from ._config import client_of
from ._keeper import Keeper

logger = logging.getLogger(__name__)

# Seconds that the reference waits for a busy lock before it gives up.
WAIT = 25.0
# Seconds for a call, beside what it waits.
_TIMEOUT = 5.0
# Seconds to undo what a failed call may have got: its caller waits for it.
_UNDO_TIMEOUT = 1.0


class LockNotAcquiredException(Exception):
    """The lock could not be acquired."""


class GlobalLock:
    """A lock by its name; at most one holder at a time, as far as Redis can promise it.

    It ends after `lock_ttl` seconds (0 or None: never); with `auto_renewal` it is kept for longer, and ends soon after its
    holder's process. `wait` is how many seconds `acquire` waits for one that is busy.
    """

    _client: ClassVar[Client | None] = None

    @classmethod
    def configure(cls, config: Mapping[str, Any]) -> None:
        """The gateway is the one of `USER_EVENTS_REDIS`. The first call counts."""
        if GlobalLock._client is None:
            GlobalLock._client = client_of(config["USER_EVENTS_REDIS"])

    def __init__(self, name: str, lock_ttl: int | None = 600, auto_renewal: bool = False, *, wait: float = WAIT) -> None:
        if GlobalLock._client is None:
            raise LockNotAcquiredException("GlobalLock not configured")
        self._locks = GlobalLock._client.locks
        self._name = name
        self._ttl = lock_ttl or 0
        self._auto_renewal = auto_renewal
        self._wait = wait
        self._holder_id = ""
        self._token = 0
        self._keeper: Keeper | None = None

    def __enter__(self) -> GlobalLock:
        if not self.acquire():
            raise LockNotAcquiredException(f"lock {self._name} not acquired")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    @property
    def fencing_token(self) -> int:
        """Larger than that of every acquisition through a gateway before: what the lock protects can refuse a smaller one."""
        return self._token

    @property
    def lost(self) -> bool:
        """Whether a lock that is renewed may be another's by now."""
        return self._keeper is not None and self._keeper.lost

    def acquire(self) -> bool:
        """Whether the lock is held now. False after a bounded wait, and if the gateway or Redis fails."""
        if self._auto_renewal and not self._ttl:
            logger.warning("Lock %s cannot be renewed: it has no time to live", self._name)
            return False
        # Its own for each acquisition: the lock is not re-entrant. Chosen here, so that a repeated call finds what it got.
        holder_id = base64.b64encode(os.urandom(18)).decode()
        try:
            answer = self._ask(holder_id, 0.0)
            if not answer.acquired and self._wait:
                # Only now: a gateway that is down must not cost its caller the whole wait.
                answer = self._ask(holder_id, self._wait)
        except GatewayError as error:
            logger.warning("Could not acquire lock %s: %s", self._name, error)
            # It may have got the lock. If this fails too, the lock ends by its time to live.
            self._release(holder_id, _UNDO_TIMEOUT)
            return False
        if not answer.acquired:
            logger.debug("Lock %s is busy", self._name)
            return False
        self._holder_id, self._token = holder_id, answer.fencing_token
        if self._auto_renewal:
            self._keeper = Keeper(self._locks, self._name, self._ttl, holder_id, answer.fencing_token)
        return True

    def release(self) -> None:
        """Releases the lock, and wakes who waits for it. One that is lost, or cannot be released, is logged."""
        holder_id, self._holder_id, self._token = self._holder_id, "", 0
        if self._keeper is not None:
            self._keeper.end()
            self._keeper = None
        if not holder_id:
            return
        error = self._release(holder_id, _TIMEOUT)
        if error is not None:
            logger.warning("Could not release lock %s: %s", self._name, error)

    def _ask(self, holder_id: str, wait: float) -> pb.AcquireResponse:
        request = pb.AcquireRequest(name=self._name, ttl_ms=self._ttl * 1000, wait_ms=int(wait * 1000), holder_id=holder_id)
        return self._locks.Acquire(request, timeout=wait + _TIMEOUT)

    def _release(self, holder_id: str, seconds: float) -> GatewayError | None:
        """Why the lock is not released. Asks again where this may help: nobody else ever has this holder's id."""
        request = pb.ReleaseRequest(name=self._name, holder_id=holder_id)
        give_up = time.monotonic() + seconds
        waits = pauses()
        while True:
            pause = next(waits)
            try:
                self._locks.Release(request, timeout=give_up - time.monotonic())
                return None
            except (Unavailable, OutcomeUnknown) as error:
                if time.monotonic() + pause >= give_up:
                    return error
            except GatewayError as error:
                return error
            time.sleep(pause)
