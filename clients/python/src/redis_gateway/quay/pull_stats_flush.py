"""`workers.pullstatsredisflushworker`: claims pulls that were counted, has them written to the database, and commits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from redisgateway.v1 import pull_metrics_pb2 as pb

from ..errors import GatewayError, name_of
from ._config import client_of

logger = logging.getLogger(__name__)

POLL_PERIOD = 300.0  # seconds
BATCH_SIZE = 1000
# The most that a gateway hands out in one claim.
_MOST_KEYS = 2000

Row = dict[str, Any]
# Writes all rows or raises; answers how many were written.
Upsert = Callable[[list[Row]], int]


class PullStatsFlush:
    """Flushes pulls into a database, by the caller's two bulk upserts. Any number of these may run at a time.

    `lease` is how many seconds a claim is kept from others: longer than the slowest write.

    What was written and not committed, since this process ended in between, is handed out again and counted twice, as by the
    reference. To count each key once, override `write`: store the names of `claim.keys` in the transaction of the counts, and
    leave out those whose names are known.
    """

    def __init__(
        self,
        upsert_tags: Upsert,
        upsert_manifests: Upsert,
        *,
        redis_config: Mapping[str, Any] | None = None,
        interval: float = POLL_PERIOD,
        batch_size: int = BATCH_SIZE,
        lease: int = 300,
    ) -> None:
        self._upsert_tags = upsert_tags
        self._upsert_manifests = upsert_manifests
        self._pulls = client_of(redis_config).pull_metrics
        self._interval = interval
        self._request = pb.ClaimPullsRequest(max_keys=min(batch_size, _MOST_KEYS), lease_seconds=lease)
        self._stopped = threading.Event()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], upsert_tags: Upsert, upsert_manifests: Upsert) -> PullStatsFlush:
        """Takes `REDIS_FLUSH_INTERVAL_SECONDS`, `REDIS_FLUSH_WORKER_BATCH_SIZE` and the gateway of `PULL_METRICS_REDIS`.

        `REDIS_FLUSH_WORKER_SCAN_COUNT` is the gateway's own affair.
        """
        return cls(
            upsert_tags,
            upsert_manifests,
            redis_config=config.get("PULL_METRICS_REDIS"),
            interval=config.get("REDIS_FLUSH_INTERVAL_SECONDS", POLL_PERIOD),
            batch_size=config.get("REDIS_FLUSH_WORKER_BATCH_SIZE", BATCH_SIZE),
        )

    def run(self) -> None:
        """Flushes at each interval until `stop`."""
        while not self._stopped.is_set():
            self.flush()
            self._stopped.wait(self._interval)

    def stop(self) -> None:
        """Lets a flush under way end its claim, and none begin. From any thread, but not from a signal's handler."""
        self._stopped.set()

    def flush(self) -> int:
        """Flushes all that is there, claim by claim. Returns how many keys. What fails is logged, and comes up again."""
        flushed = 0
        try:
            while True:
                claim = self._pulls.ClaimPulls(self._request)
                if claim.claim_id and not self._settle(claim):
                    break
                flushed += len(claim.keys)
                if not claim.more or self._stopped.is_set():
                    break
        except GatewayError as error:
            logger.error("Pulls are flushed at the next run: %s", error)
        return flushed

    def write(self, claim: pb.ClaimPullsResponse) -> int:
        """Writes a claim to the database. Returns how many rows; none, or an exception, gives the claim back."""
        tags = [_row(tag, tag_name=tag.tag) for tag in claim.tags]
        manifests = [_row(manifest) for manifest in claim.manifests]
        return (self._upsert_tags(tags) if tags else 0) + (self._upsert_manifests(manifests) if manifests else 0)

    def _settle(self, claim: pb.ClaimPullsResponse) -> bool:
        """Whether the claim is written and its keys are deleted."""
        for dropped in claim.dropped:
            reason = name_of(pb.DroppedKey.Reason, dropped.reason)
            logger.warning("Dropped %s: %s %s", dropped.name, reason, dropped.field)
        try:
            written = self.write(claim) > 0 if claim.keys else True
        except Exception:
            logger.exception("%d keys are not flushed", len(claim.keys))
            written = False
        if not written:
            self._pulls.GiveBackClaim(pb.GiveBackClaimRequest(claim_id=claim.claim_id))
            return False
        lost = self._pulls.CommitClaim(pb.CommitClaimRequest(claim_id=claim.claim_id)).lost
        if lost:
            logger.warning("%d keys were claimed by others too, and may be counted twice", len(lost))
        return True


def _row(sums: pb.TagPulls | pb.ManifestPulls, **more: Any) -> Row:
    """In the form of the reference's updates, a local time included. A time of 0 is none."""
    last = sums.last_pull_timestamp
    return {
        "repository_id": sums.repository_id,
        "manifest_digest": sums.digest,
        "pull_count": sums.pull_count,
        "last_pull_timestamp": datetime.fromtimestamp(last) if last else None,
        **more,
    }
