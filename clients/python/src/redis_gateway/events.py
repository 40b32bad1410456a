"""User events, published by a background thread."""

from __future__ import annotations

import logging

from redisgateway.v1 import common_pb2
from redisgateway.v1 import user_events_pb2 as pb
from redisgateway.v1.user_events_pb2_grpc import UserEventsStub

from ._background import Background
from .errors import GatewayError, OutcomeUnknown

logger = logging.getLogger(__name__)

PUBLISH_TIMEOUT = 2.0  # seconds


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
        stood = failed = unknown = 0
        try:
            degraded = self._events.Publish(batch[0], timeout=PUBLISH_TIMEOUT).degraded
        except OutcomeUnknown as error:
            unknown, why = 1, str(error)
        except GatewayError as error:
            failed, why = 1, str(error)
        else:
            stood = int(not degraded)
            unknown = int(degraded == common_pb2.DEGRADED_REASON_OUTCOME_UNKNOWN)
            failed, why = 1 - stood - unknown, common_pb2.DegradedReason.Name(degraded)
        with self._changed:
            self._settle(stood=stood, failed=failed, unknown=unknown)
        if not stood:
            logger.warning("a user event was not published, or perhaps: %s", why)
        return True

    def _cut_off(self) -> None:
        """The call under way has its own end."""
