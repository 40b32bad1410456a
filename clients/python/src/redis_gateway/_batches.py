"""What leaves over one background stream of numbered batches, each answered when it is done."""

from __future__ import annotations

import logging
import re
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import grpc

from redisgateway.v1 import common_pb2

from ._background import Background
from .errors import MENDED_BY_TIME, GatewayError, Unavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BATCH = 1_000  # the most that a gateway takes

# Seconds between two batches: one costs its caller ten times what a thing in it does, so what comes meanwhile leaves together.
_APART = 0.05

_UNKNOWN = common_pb2.DEGRADED_REASON_OUTCOME_UNKNOWN
# Which thing of a batch breaks a rule.
_WRONG = re.compile(r"[a-z]+\[(\d+)\]")


class Failure(Protocol):
    """What an answer tells of a thing that is not known to be done."""

    index: int
    reason: common_pb2.DegradedReason.ValueType


class BatchStream(Background[T]):
    """Sends things in numbered batches, one after the other, none of them twice.

    What is known not to be done, because Redis or the gateway is away, is sent again; what has lost its answer is not, and
    counts as unknown. A gateway that has no such stream gets calls.
    """

    _things: str
    """What they are called in logs."""

    def __init__(self) -> None:
        super().__init__()
        self._stream: Any = None
        # Fewer, where the gateway is set to take less in a request.
        self._most_at_once = _BATCH
        # Said once for each time that it is away.
        self._told_away = False

    @abstractmethod
    def _open(self, batches: Iterator[Any]) -> Any:
        """Opens the stream."""

    @abstractmethod
    def _batch(self, number: int, things: Sequence[T]) -> Any:
        """What is sent on it."""

    @abstractmethod
    def _call(self) -> bool:
        """Sends some of what waits without a stream. Returns as `_work`."""

    def _work(self) -> bool:
        session = _Session()
        with self._changed:
            if self._cut:
                return True
            try:
                stream = self._stream = self._open(self._batches(session))
            except RuntimeError:
                # From 3.12 on Python starts no thread once the process ends, and a stream needs some.
                stream = None
        if stream is None:
            return self._call()
        error = None
        try:
            for answer in stream:
                self._answered(session, answer)
        except GatewayError as broken:
            error = broken
        finally:
            # Also after an answer that made no sense: nothing more is taken for this stream.
            with self._changed:
                session.over = True
                self._changed.notify_all()
            stream.cancel()
            self._stream = None
        if error and error.code is grpc.StatusCode.UNIMPLEMENTED and not session.opened:
            # A gateway that is older than this client; the next one may not be.
            return self._call()
        with self._changed:
            if self._in_hand:
                session.well = self._broken(error)
            if session.opened:
                self._told_away = False
            elif error and not self._told_away:
                self._told_away = True
                logger.warning("the stream of %s does not open, %d wait: %s", self._things, len(self._queue), error)
        return session.well

    def _cut_off(self) -> None:
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def _batches(self, session: _Session) -> Iterator[Any]:
        """What the stream sends; runs in a thread of gRPC's."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: session.over or self._may_go_on(session))
                self._changed.wait_for(lambda: session.over or self._closing, max(0.0, session.next - time.monotonic()))
                if session.over or not self._queue:
                    return
                session.number += 1
                batch = self._batch(session.number, self._take(self._most_at_once))
                # What a batch has no room for need not wait for more.
                session.next = time.monotonic() + (0.0 if self._queue else _APART)
                if not self._queue:
                    self._most_at_once = _BATCH
            yield batch

    def _may_go_on(self, session: _Session) -> bool:
        if self._in_hand:
            return False
        # Nothing is sent on a stream that is not confirmed, so that a gateway that is not there costs nothing.
        return session.opened if self._queue else self._closing

    def _answered(self, session: _Session, answer: Any) -> None:
        with self._changed:
            session.opened = True
            self._changed.notify_all()
            if self._in_hand and answer.number == session.number:
                session.well = self._told(answer.failures)
                # Where things wait for better times, so does the next stream.
                session.over = not session.well

    def _told(self, failures: Sequence[Failure]) -> bool:
        """What an answer says of the batch in hand. Returns false if some of it waits for better times."""
        batch = self._in_hand
        again = [batch[failure.index] for failure in failures if failure.reason in MENDED_BY_TIME]
        unknown = sum(failure.reason == _UNKNOWN for failure in failures)
        failed = len(failures) - unknown - len(again)
        self._settle(stood=len(batch) - len(failures), failed=failed, unknown=unknown, again=again)
        if failed or unknown:
            logger.warning("of %d %s, %d failed, and %d perhaps", len(batch), self._things, failed, unknown)
        return not again

    def _broken(self, error: GatewayError | None) -> bool:
        """What an error, or the end, says of the batch in hand. Returns whether there is no need to wait."""
        batch = self._in_hand
        logger.warning("the stream broke, with %d %s on their way: %s", len(batch), self._things, error)
        if isinstance(error, Unavailable):
            self._settle(again=batch)
        elif error and error.reason == "REQUEST_TOO_LARGE":
            # Nothing of its batch was done. Halved until it fits, or until one is left that no request holds.
            too_large = len(batch) == 1
            self._most_at_once = _BATCH if too_large else len(batch) // 2
            self._settle(failed=int(too_large), again=[] if too_large else batch)
            return True
        elif error and (wrong := _WRONG.match(error.metadata.get("field", ""))):
            # Nothing of its batch was done.
            at = int(wrong[1])
            self._settle(failed=1, again=batch[:at] + batch[at + 1 :])
            return True
        else:
            self._settle(unknown=len(batch))
        return False


class _Session:
    """One stream."""

    def __init__(self) -> None:
        # Confirmed by the gateway.
        self.opened = False
        # The number of the last batch that was sent, and when the next one may be.
        self.number = 0
        self.next = 0.0
        # Nothing more is sent on it.
        self.over = False
        # It did what it should, so that the next one need not wait.
        self.well = False
