"""User events, published by a background thread."""

from __future__ import annotations

import logging

from redisgateway.v1 import user_events_pb2 as pb
from redisgateway.v1.user_events_pb2_grpc import UserEventsStub

from ._background import Background
from .errors import GatewayError, OutcomeUnknown, from_degraded

logger = logging.getLogger(__name__)

PUBLISH_TIMEOUT = 2.0  # seconds


def publish(events: UserEventsStub, request: pb.PublishRequest) -> int:
    """Publishes an event; how many subscribers Redis has sent it to."""
    answer = events.Publish(request, timeout=PUBLISH_TIMEOUT)
    if answer.degraded:
        raise from_degraded(answer.degraded)
    return answer.receivers


class EventQueue(Background[pb.PublishRequest]):
    """Publishes events in their order, each at most once: `put` one and go on. An event that fails is logged, and gone."""

    def __init__(self, events: UserEventsStub) -> None:
        super().__init__()
        self._events = events

    def _work(self) -> bool:
        with self._changed:
            batch = self._take(1)
        if not batch:
            return True
        failure: GatewayError | None = None
        try:
            publish(self._events, batch[0])
        except GatewayError as error:
            failure = error
        unknown = isinstance(failure, OutcomeUnknown)
        with self._changed:
            self._settle(stood=failure is None, unknown=unknown, failed=failure is not None and not unknown)
        if failure is not None:
            logger.warning("a user event was not published, or perhaps: %s", failure)
        return True

    def _cut_off(self) -> None:
        """The call under way has its own end."""
