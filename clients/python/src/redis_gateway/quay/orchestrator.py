"""`buildman.orchestrator`: keys of build managers, and what happens to them; managers with and without a gateway share both."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from redisgateway.v1 import orchestrator_pb2 as pb

from ..client import shared
from ..errors import GatewayError, OutcomeUnknown, Unavailable
from ._watch import KeyChange, KeyEvent, Watch

logger = logging.getLogger(__name__)

__all__ = [
    "DEFAULT_LOCK_EXPIRATION",
    "KeyChange",
    "KeyEvent",
    "OrchestratorConnectionError",
    "OrchestratorError",
    "RedisOrchestrator",
    "orchestrator_from_config",
]

DEFAULT_LOCK_EXPIRATION = 10_000  # seconds

# Seconds that `on_key_change` waits for its watch to stand.
_PATIENCE = 5.0


class OrchestratorError(Exception):
    """A call failed."""


class OrchestratorConnectionError(OrchestratorError):
    """The gateway or Redis cannot be reached: a change may have been made or not."""


class RedisOrchestrator:
    """Keys by their whole names. A key that is missing, or is there and may not be replaced, is a KeyError.

    `gateway` is its target. It knows where Redis is, and what stands before the channel's name: the arguments for these are
    taken and not used.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 6379,
        password: str | None = None,
        db: int = 0,
        cert_and_key: tuple[str, str] | None = None,
        ca_cert: str | None = None,
        ssl: bool = False,
        skip_keyspace_event_setup: bool = False,
        canceller_only: bool = False,
        *,
        gateway: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.is_canceller_only = canceller_only
        self._keys = shared(gateway).orchestrator
        self._watches: dict[str, Watch] = {}

    def on_key_change(
        self, key: str, callback: Callable[[KeyChange], None], restarter: Callable[[], object] | None = None
    ) -> None:
        """Calls back for what happens to the keys that begin with `key`, in a thread of its own, one change after the other.

        An expiry is one manager's, and acknowledged when the callback has returned. If that raises, or this process ends
        before, the expiry is given to another manager, or again. After a cut what differs is told: `restarter` is never called.
        """
        assert not self.is_canceller_only
        known = self._watches.get(key)
        if known is not None:
            known.callback = callback
            return
        watch = self._watches[key] = Watch(self._keys, key, callback)
        if not watch.wait(_PATIENCE):
            logger.warning("No watch on %s yet: it will stand when the gateway can make it", key)

    def get_prefixed_keys(self, prefix: str) -> dict[str, str]:
        """The keys that begin with a prefix and have no expiration, with their values."""
        assert not self.is_canceller_only
        found: dict[str, str] = {}
        request = pb.OrchestratorListRequest(prefix=prefix)
        while True:
            with _errors(prefix):
                page = self._keys.List(request)
            found.update((entry.key, entry.value.decode()) for entry in page.entries)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    def get_key(self, key: str) -> str:
        assert not self.is_canceller_only
        with _errors(key):
            return self._keys.Get(pb.OrchestratorGetRequest(key=key)).value.decode()

    def set_key(self, key: str, value: str, overwrite: bool = False, expiration: int | None = None) -> None:
        """Sets a key that is not there, or with `overwrite` one that is; for `expiration` seconds, or without end."""
        if expiration is not None and expiration <= 0:
            raise OrchestratorError("an expiration is 1 second or more")
        request = pb.OrchestratorSetRequest(
            key=key, value=value.encode(), overwrite=overwrite, expiration_seconds=expiration or 0
        )
        with _errors(key):
            self._keys.Set(request)

    def delete_key(self, key: str) -> None:
        assert not self.is_canceller_only
        with _errors(key):
            self._keys.Delete(pb.OrchestratorDeleteRequest(key=key))

    def lock(self, key: str, expiration: int = DEFAULT_LOCK_EXPIRATION) -> bool:
        """Whether the lock is the caller's now. `delete_key` gives it up."""
        assert not self.is_canceller_only
        with _errors(key):
            return self._keys.Lock(pb.OrchestratorLockRequest(key=key, expiration_seconds=expiration)).locked

    def shutdown(self) -> None:
        """Ends all watches."""
        for watch in self._watches.values():
            watch.stop()


def orchestrator_from_config(manager_config: Mapping[str, Any], canceller_only: bool = False) -> RedisOrchestrator:
    """The orchestrator of a build manager's configuration. `REDIS_GATEWAY` is the gateway's target."""
    settings = manager_config["ORCHESTRATOR"]
    for name in settings:
        if name.lower().endswith("_prefix"):
            raise AssertionError("legacy prefix used, use ORCHESTRATOR_PREFIX instead")
        if not name.lower().startswith("redis_"):
            raise ValueError(f"{name} is no setting of an orchestrator in Redis")
    arguments = {name.lower().removeprefix("redis_"): value for name, value in settings.items()}
    return RedisOrchestrator(canceller_only=canceller_only, **arguments)


@contextmanager
def _errors(key: str) -> Iterator[None]:
    """Turns errors into those that callers know."""
    try:
        yield
    except (Unavailable, OutcomeUnknown) as error:
        raise OrchestratorConnectionError(error) from error
    except GatewayError as error:
        if error.reason in ("KEY_NOT_FOUND", "KEY_EXISTS"):
            raise KeyError(key) from error
        raise OrchestratorError(error) from error
