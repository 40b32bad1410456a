"""User events, published over one background stream."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from redisgateway.v1 import user_events_pb2 as pb
from redisgateway.v1.user_events_pb2_grpc import UserEventsStub

from ._batches import BatchStream
from .errors import GatewayError, OutcomeUnknown, Unavailable, from_degraded

logger = logging.getLogger(__name__)

PUBLISH_TIMEOUT = 2.0  # seconds


def publish(events: UserEventsStub, request: pb.PublishRequest) -> int:
    """Publishes an event; how many subscribers Redis has sent it to."""
    answer = events.Publish(request, timeout=PUBLISH_TIMEOUT)
    if answer.degraded:
        raise from_degraded(answer.degraded)
    return answer.receivers


class EventStream(BatchStream[pb.PublishRequest]):
    """Publishes events in their order: `put` one and go on."""

    _things = "user events"

    def __init__(self, events: UserEventsStub) -> None:
        super().__init__()
        self._events = events

    def _open(self, batches: Iterator[pb.StreamPublishRequest]) -> Any:
        return self._events.StreamPublish(batches)

    def _batch(self, number: int, things: Sequence[pb.PublishRequest]) -> pb.StreamPublishRequest:
        return pb.StreamPublishRequest(number=number, events=things)

    def _call(self) -> bool:
        """All that waits, one by one."""
        while True:
            with self._changed:
                event = self._take(1)
            if not event:
                return True
            failure: GatewayError | None = None
            try:
                publish(self._events, event[0])
            except GatewayError as error:
                failure = error
            with self._changed:
                if failure is None:
                    self._settle(stood=1)
                elif isinstance(failure, (Unavailable, OutcomeUnknown)):
                    return self._broken(failure)
                else:
                    logger.warning("a user event was not published: %s", failure)
                    self._settle(failed=1)
