"""`RepoModificationTracker`: the recording of the reference, and what becomes of failures."""

from __future__ import annotations

from typing import Any

import pytest

from redis_gateway import Client, Unavailable
from redis_gateway.quay.repo_modification_tracker import RepoModificationTracker

from .conftest import Gateway, Server
from .recording import replay


def test_leaves_what_the_reference_left(config: dict[str, Any], server: Server) -> None:
    tracker = RepoModificationTracker(config)
    assert (
        replay(server, "repository changes and revoked permissions", lambda op, args: getattr(tracker, op)(*args.values())) == 7
    )


def test_a_batch_may_have_more_users_than_a_call_takes(client: Client, server: Server) -> None:
    tracker = RepoModificationTracker(client)
    assert tracker.mark_permissions_revoked_batch(range(1, 10_003), "ns", "r")
    assert len(list(server.direct().scan_iter("quay:*", count=1_000))) == 10_002
    assert tracker.mark_permissions_revoked_batch([], "ns", "r") is None


def test_what_cannot_be_told_is_an_error(client: Client, gateway: Gateway) -> None:
    tracker = RepoModificationTracker(client)
    assert tracker.redis
    gateway.kill()
    assert tracker.mark_repo_modified("ns", "r") is None
    assert tracker.mark_permission_revoked(5, "ns", "r") is None
    with pytest.raises(Unavailable):
        tracker.should_block_read_access(5, "ns", "r")
