"""Pulls, counted over one background stream."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

from redisgateway.v1 import common_pb2
from redisgateway.v1 import pull_metrics_pb2 as pb
from redisgateway.v1.pull_metrics_pb2_grpc import PullMetricsStub

from ._background import Background
from .errors import MENDED_BY_TIME, GatewayError, Unavailable

logger = logging.getLogger(__name__)

_BATCH = 1_000  # pulls, the most that a gateway takes
_TIMEOUT = 5.0  # seconds, for a batch without a stream

_UNKNOWN = common_pb2.DEGRADED_REASON_OUTCOME_UNKNOWN
# Which pull of a batch breaks a rule.
_WRONG_PULL = re.compile(r"pulls\[(\d+)\]")


class PullStream(Background[pb.Pull]):
    """Counts pulls, none of them twice: `put` one and go on.

    They leave in numbered batches, one after the other. A pull that is known not to be counted, because Redis is away or the
    gateway drains, is sent again; one whose answer was lost is not, and counts as unknown.
    """

    def __init__(self, pulls: PullMetricsStub) -> None:
        super().__init__()
        self._pulls = pulls
        self._stream: Any = None
        # Fewer, where the gateway is set to take less in a request.
        self._most_at_once = _BATCH

    def _work(self) -> bool:
        session = _Session()
        with self._changed:
            if self._cut:
                return True
            try:
                stream = self._stream = self._pulls.StreamPulls(self._batches(session))
            except RuntimeError:
                # From 3.12 on Python starts no thread once the process ends, and a stream needs some.
                stream = None
        if stream is None:
            return self._send_one()
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
        with self._changed:
            if self._in_hand:
                session.well = self._broken(error)
        return session.well

    def _send_one(self) -> bool:
        """Sends a batch without a stream."""
        with self._changed:
            batch = self._take(self._most_at_once)
        try:
            answer = self._pulls.BatchTrackPulls(pb.BatchTrackPullsRequest(pulls=batch), timeout=_TIMEOUT)
        except GatewayError as error:
            with self._changed:
                return self._broken(error)
        with self._changed:
            return self._told(answer.failures)

    def _cut_off(self) -> None:
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def _batches(self, session: _Session) -> Iterator[pb.StreamPullsRequest]:
        """What the stream sends; runs in a thread of gRPC's."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: session.over or self._may_go_on(session))
                if session.over or not self._queue:
                    return
                session.number += 1
                batch = pb.StreamPullsRequest(number=session.number, pulls=self._take(self._most_at_once))
            yield batch

    def _may_go_on(self, session: _Session) -> bool:
        if self._in_hand:
            return False
        # Nothing is sent on a stream that is not confirmed, so that a gateway that is not there costs no pull.
        return session.opened if self._queue else self._closing

    def _answered(self, session: _Session, answer: pb.StreamPullsResponse) -> None:
        with self._changed:
            session.opened = True
            self._changed.notify_all()
            if self._in_hand and answer.number == session.number:
                session.well = self._told(answer.failures)
                # Where pulls wait for better times, so does the next stream.
                session.over = not session.well

    def _told(self, failures: Sequence[pb.PullFailure]) -> bool:
        """What an answer says of the batch in hand. Returns false if some of it waits for better times."""
        batch = self._in_hand
        again = [batch[failure.index] for failure in failures if failure.reason in MENDED_BY_TIME]
        unknown = sum(failure.reason == _UNKNOWN for failure in failures)
        failed = len(failures) - unknown - len(again)
        self._settle(stood=len(batch) - len(failures), failed=failed, unknown=unknown, again=again)
        if failed or unknown:
            logger.warning("of %d pulls, %d were not counted, and %d perhaps", len(batch), failed, unknown)
        return not again

    def _broken(self, error: GatewayError | None) -> bool:
        """What an error, or the end, says of the batch in hand. Returns whether there is no need to wait."""
        batch = self._in_hand
        logger.warning("the stream of pulls broke, with %d of them on their way: %s", len(batch), error)
        if isinstance(error, Unavailable):
            self._settle(again=batch)
        elif error and error.reason == "REQUEST_TOO_LARGE":
            # Nothing of its batch was counted. Halved until it fits, or until one is left that no request holds.
            too_large = len(batch) == 1
            self._most_at_once = _BATCH if too_large else len(batch) // 2
            self._settle(failed=int(too_large), again=[] if too_large else batch)
            return True
        elif error and (wrong := _WRONG_PULL.match(error.metadata.get("field", ""))):
            # Nothing of its batch was counted.
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
        # The number of the last batch that was sent.
        self.number = 0
        # Nothing more is sent on it.
        self.over = False
        # It did what it should, so that the next one need not wait.
        self.well = False
