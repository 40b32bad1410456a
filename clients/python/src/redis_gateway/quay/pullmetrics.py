"""`util.pullmetrics` on a gateway."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from redisgateway.v1 import pull_metrics_pb2 as pb

from .._background import CLOSE_TIMEOUT, Counts
from ..errors import GatewayError
from ._config import Module, client_of, redis_config_of

logger = logging.getLogger(__name__)

_TIMEOUT = 5.0  # seconds


class CannotReadPullMetricsException(Exception):
    """For those who catch it. Nothing raises it: statistics that cannot be read are None."""


class PullMetricsBuilder:
    """Makes what counts pulls. `max_workers` is taken and not used: one stream carries them all."""

    def __init__(self, redis_config: Mapping[str, Any] | None = None, max_workers: int | None = None) -> None:
        self._redis_config = redis_config

    def get_event(self) -> PullMetrics:
        return PullMetrics(self._redis_config)


class PullMetricsBuilderModule(Module):
    """The extension: a `PullMetricsBuilder`. Always true, also before it is initialized."""

    name = "pullmetrics"

    def make(self, app: Any) -> PullMetricsBuilder:
        return PullMetricsBuilder(redis_config_of(app, "PULL_METRICS_REDIS"))


class PullMetrics:
    """Counts pulls of a repository, named by itself (by its `id`) or by its id.

    `track_tag_pull` and `track_manifest_pull` leave the pull to the background stream, and never fail. It has the time of
    this call, also if it waits for Redis to come back; `counts` says what became of all of them.
    """

    def __init__(self, redis_config: Mapping[str, Any] | None = None, max_workers: int | None = None) -> None:
        self._client = client_of(redis_config)

    def track_tag_pull(self, repository: Any, tag_name: str, manifest_digest: str) -> None:
        """Lets a pull of a tag be counted in the background."""
        # Without a tag it would count for the manifest.
        if tag_name:
            self._put(repository, tag_name, manifest_digest)
        else:
            logger.warning("a pull of a tag without a name was not counted")

    def track_manifest_pull(self, repository: Any, manifest_digest: str) -> None:
        """Lets a pull of a manifest by its digest be counted in the background."""
        self._put(repository, "", manifest_digest)

    def track_tag_pull_sync(self, repository_ref: Any, tag_name: str, manifest_digest: str) -> None:
        """Counts a pull of a tag. Fails with a `GatewayError`: `OutcomeUnknown` says that it may have been counted."""
        pull = _pull(repository_ref, tag_name, manifest_digest)
        request = pb.TrackTagPullRequest(
            repository_id=pull.repository_id, tag=pull.tag, digest=pull.digest, timestamp=pull.timestamp
        )
        self._client.pull_metrics.TrackTagPull(request, timeout=_TIMEOUT)

    def track_manifest_pull_sync(self, repository_ref: Any, manifest_digest: str) -> None:
        """Counts a pull of a manifest by its digest, as `track_tag_pull_sync` does."""
        pull = _pull(repository_ref, "", manifest_digest)
        request = pb.TrackManifestPullRequest(repository_id=pull.repository_id, digest=pull.digest, timestamp=pull.timestamp)
        self._client.pull_metrics.TrackManifestPull(request, timeout=_TIMEOUT)

    def get_tag_pull_statistics(self, repository_id: int, tag_name: str, manifest_digest: str) -> dict[str, Any] | None:
        """What is counted and not flushed yet; None if there is nothing, or it cannot be read."""
        try:
            request = pb.GetTagPullStatisticsRequest(repository_id=repository_id, tag=tag_name, digest=manifest_digest)
            return _statistics(self._client.pull_metrics.GetTagPullStatistics(request, timeout=_TIMEOUT))
        except (GatewayError, TypeError, ValueError) as error:
            logger.warning("cannot read pull statistics: %s", error)
            return None

    def get_manifest_pull_statistics(self, repository_id: int, manifest_digest: str) -> dict[str, Any] | None:
        """The same for pulls of a manifest by its digest."""
        try:
            request = pb.GetManifestPullStatisticsRequest(repository_id=repository_id, digest=manifest_digest)
            return _statistics(self._client.pull_metrics.GetManifestPullStatistics(request, timeout=_TIMEOUT))
        except (GatewayError, TypeError, ValueError) as error:
            logger.warning("cannot read pull statistics: %s", error)
            return None

    @property
    def counts(self) -> Counts:
        """What became of the pulls of this process."""
        return self._client.background_pulls.counts

    def shutdown(self) -> None:
        """Waits until what was tracked is counted, 5 s at most. Also done at the end of the process."""
        if not self._client.background_pulls.flush(CLOSE_TIMEOUT):
            logger.warning("pulls are still waiting: %s", self.counts)

    def _put(self, repository: Any, tag: str, digest: str) -> None:
        try:
            pull = _pull(repository, tag, digest)
        except (TypeError, ValueError) as error:
            logger.warning("a pull was not counted: %s", error)
            return
        if not self._client.background_pulls.put(pull):
            logger.warning("a pull was dropped: too many are waiting")


def _pull(repository: Any, tag: str, digest: str) -> pb.Pull:
    now = str(int(time.time()))
    return pb.Pull(repository_id=getattr(repository, "id", repository), tag=tag, digest=digest, timestamp=now)


def _statistics(
    answer: pb.GetTagPullStatisticsResponse | pb.GetManifestPullStatisticsResponse,
) -> dict[str, Any] | None:
    if not answer.HasField("statistics"):
        return None
    statistics = answer.statistics
    return {field.name: getattr(statistics, field.name) for field in statistics.DESCRIPTOR.fields}
