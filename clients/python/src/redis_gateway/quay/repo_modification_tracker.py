"""`data.cache.repo_modification_tracker` on a gateway."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from redisgateway.v1 import content_tracker_pb2 as pb

from ..client import Client
from ..errors import GatewayError
from ._config import client_of

logger = logging.getLogger(__name__)

_TIMEOUT = 2.0  # seconds
_MOST_USERS = 10_000  # of one call


class RepoModificationTracker:
    """Marks repositories as modified and permissions as revoked, and tells whether a read must be blocked.

    Takes a `Client` where Quay's takes a client of Redis, or a configuration as the other classes do. `redis` is what it works
    with, for callers that look whether there is one.
    """

    def __init__(self, redis_client: Client | Mapping[str, Any] | None = None) -> None:
        self.redis = redis_client if isinstance(redis_client, Client) else client_of(redis_client)
        self._tracker = self.redis.content_tracker

    def mark_repo_modified(self, namespace: str, repo_name: str) -> float | None:
        """The time of the mark by Redis' clock; None, and a log line, if it failed."""
        try:
            request = pb.MarkModifiedRequest(namespace=namespace, repository=repo_name)
            return self._tracker.MarkModified(request, timeout=_TIMEOUT).time
        except GatewayError as error:
            logger.warning("cannot mark a repository as modified: %s", error)
            return None

    def mark_permission_revoked(self, user_id: int, namespace: str, repo_name: str) -> float | None:
        """The time of the mark by Redis' clock; None, and a log line, if it failed."""
        return self.mark_permissions_revoked_batch([user_id], namespace, repo_name)

    def mark_permissions_revoked_batch(self, user_ids: Iterable[int], namespace: str, repo_name: str) -> float | None:
        """The same for many users: the last time of the marks. None if there are no users, or if some may have no mark."""
        users, time = list(user_ids), None
        try:
            for at in range(0, len(users), _MOST_USERS):
                request = pb.MarkRevokedRequest(
                    user_ids=users[at : at + _MOST_USERS], namespace=namespace, repository=repo_name
                )
                time = self._tracker.MarkRevoked(request, timeout=_TIMEOUT).time
        except GatewayError as error:
            logger.warning("cannot mark permissions as revoked: %s", error)
            return None
        return time

    def should_block_read_access(self, user_id: int, namespace: str, repo_name: str) -> bool:
        """Whether the repository was modified after the user's permission was revoked. Fails with a `GatewayError` if it
        cannot tell: then ask the primary database."""
        request = pb.IsBlockedRequest(user_id=user_id, namespace=namespace, repository=repo_name)
        return self._tracker.IsBlocked(request, timeout=_TIMEOUT).blocked
