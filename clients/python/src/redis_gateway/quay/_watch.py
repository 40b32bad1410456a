"""One watch of a build manager: a stream that is opened again whenever it ends, and a callback for what happens."""

from __future__ import annotations

import logging
import queue
import threading
import uuid
from collections.abc import Callable
from enum import IntEnum, unique
from typing import TYPE_CHECKING, Any, NamedTuple

from redisgateway.v1 import orchestrator_pb2 as pb

from .._pauses import pauses
from ..errors import GatewayError

if TYPE_CHECKING:
    from redisgateway.v1 import orchestrator_pb2_grpc

logger = logging.getLogger(__name__)


@unique
class KeyEvent(IntEnum):
    """What happened to a key."""

    CREATE = 1
    SET = 2
    DELETE = 3
    EXPIRE = 4


class KeyChange(NamedTuple):
    """What happened to which key, and its value: the new one, or the last one of a key that is gone."""

    event: KeyEvent
    key: str
    value: str


_EVENTS = {"create": KeyEvent.CREATE, "set": KeyEvent.SET}


class Watch:
    """Watches the keys under a prefix from its making until `stop`, by one thread."""

    def __init__(
        self, keys: orchestrator_pb2_grpc.OrchestratorStub, prefix: str, callback: Callable[[KeyChange], None]
    ) -> None:
        self.callback = callback
        self._keys = keys
        # Under one name, so that what was given to this client and not acknowledged is given to it again.
        self._opening = pb.OrchestratorWatchOpen(
            prefix=prefix,
            snapshot=True,
            expiries=pb.OrchestratorWatchOpen.EXPIRIES_ONE,
            client_id=str(uuid.uuid4()),
        )
        # What the callback knows by now. Of the first snapshot it is told nothing, as by the reference.
        self._known: dict[str, str] = {}
        self._knows = False
        self._stands = threading.Event()
        self._stopped = threading.Event()
        self._stream: Any = None
        threading.Thread(target=self._run, name=f"watch {prefix}", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Whether what happens from now on is told; waits for that."""
        return self._stands.wait(seconds)

    def stop(self) -> None:
        self._stopped.set()
        if self._stream is not None:
            self._stream.cancel()

    def _run(self) -> None:
        waits = pauses()
        while not self._stopped.is_set():
            self._stands.clear()
            try:
                self._follow()
            except GatewayError as error:
                logger.warning("Watch on %s is cut off: %s", self._opening.prefix, error)
            if self._stands.is_set():
                waits = pauses()
            self._stopped.wait(next(waits))

    def _follow(self) -> None:
        requests: queue.SimpleQueue[pb.OrchestratorWatchRequest | None] = queue.SimpleQueue()
        requests.put(pb.OrchestratorWatchRequest(open=self._opening))
        self._stream = self._keys.Watch(iter(requests.get, None))
        try:
            if self._stopped.is_set():
                self._stream.cancel()
            # What is there, until all of it is told. It may change meanwhile, which is told too.
            there: dict[str, str] | None = {}
            for answer in self._stream:
                kind = answer.WhichOneof("event")
                if kind == "expire":
                    if there is not None:
                        there.pop(answer.expire.key, None)
                    if self._tell(KeyEvent.EXPIRE, answer.expire.key, _text(answer.expire.value)):
                        acknowledge = pb.OrchestratorWatchAcknowledge(ack_id=answer.expire.ack_id)
                        requests.put(pb.OrchestratorWatchRequest(acknowledge=acknowledge))
                elif there is None:
                    self._take(kind, answer)
                elif kind == "synced":
                    self._make_up(there)
                    there = None
                    self._stands.set()
                elif kind in ("entry", "create", "set"):
                    entry = getattr(answer, kind)
                    there[entry.key] = _text(entry.value)
                elif kind == "delete":
                    there.pop(answer.delete.key, None)
                    if answer.delete.expired:
                        # As in `_take`.
                        self._known.pop(answer.delete.key, None)
        finally:
            requests.put(None)

    def _make_up(self, there: dict[str, str]) -> None:
        """Tells what differs between what was told and what is there."""
        before, self._known = dict(self._known if self._knows else there), there
        self._knows = True
        for key in before.keys() - there.keys():
            self._tell(KeyEvent.DELETE, key, before[key])
        for key, value in there.items():
            if key not in before:
                self._tell(KeyEvent.CREATE, key, value)
            elif before[key] != value:
                self._tell(KeyEvent.SET, key, value)

    def _take(self, kind: str | None, answer: pb.OrchestratorWatchResponse) -> None:
        if kind in _EVENTS:
            entry = getattr(answer, kind)
            self._tell(_EVENTS[kind], entry.key, _text(entry.value))
        elif kind == "delete" and answer.delete.expired:
            # Another manager's, or told next: managers hear of no expiry but their own.
            self._known.pop(answer.delete.key, None)
        elif kind == "delete":
            known = self._known.get(answer.delete.key, "")
            value = _text(answer.delete.value) if answer.delete.HasField("value") else known
            self._tell(KeyEvent.DELETE, answer.delete.key, value)
        elif kind == "gap":
            logger.info("Watch on %s: values may be missing", self._opening.prefix)

    def _tell(self, event: KeyEvent, key: str, value: str) -> bool:
        """Whether the callback has taken care of it."""
        if event in (KeyEvent.CREATE, KeyEvent.SET):
            self._known[key] = value
        else:
            self._known.pop(key, None)
        try:
            self.callback(KeyChange(event, key, value))
        except Exception:
            logger.exception("Callback for %s failed", key)
            return False
        return True


def _text(value: bytes) -> str:
    # Whatever somebody has set past the gateway, the watch goes on.
    return value.decode(errors="replace")
