"""Pulls, counted over one background stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redisgateway.v1 import pull_metrics_pb2 as pb
from redisgateway.v1.pull_metrics_pb2_grpc import PullMetricsStub

from ._batches import BatchStream
from .errors import GatewayError

_TIMEOUT = 5.0  # seconds, for a batch without a stream


class PullStream(BatchStream[pb.Pull]):
    """Counts pulls: `put` one and go on."""

    _things = "pulls"

    def __init__(self, pulls: PullMetricsStub) -> None:
        super().__init__()
        self._pulls = pulls

    def _open(self, batches: Iterator[pb.StreamPullsRequest]) -> Any:
        return self._pulls.StreamPulls(batches)

    def _batch(self, number: int, things: Sequence[pb.Pull]) -> pb.StreamPullsRequest:
        return pb.StreamPullsRequest(number=number, pulls=things)

    def _call(self) -> bool:
        with self._changed:
            batch = self._take(self._most_at_once)
        try:
            answer = self._pulls.BatchTrackPulls(pb.BatchTrackPullsRequest(pulls=batch), timeout=_TIMEOUT)
        except GatewayError as error:
            with self._changed:
                return self._broken(error)
        with self._changed:
            return self._told(answer.failures)
