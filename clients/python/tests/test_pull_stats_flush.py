"""The flush: rows in the reference's form, each pull once, and claims that come up again."""

from __future__ import annotations

import sqlite3
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from redis_gateway.quay.pull_stats_flush import PullStatsFlush, Row
from redisgateway.v1 import pull_metrics_pb2 as pb

from .conftest import Gateway, Server, eventually

A, B = "sha256:" + "a1" * 32, "sha256:" + "b2" * 32


class Database:
    """Keeps rows as the caller's two bulk upserts would, or fails as it is told."""

    def __init__(self) -> None:
        self.tags: list[Row] = []
        self.manifests: list[Row] = []
        self.failure: Exception | None = None
        self.writes = True

    def upsert_tags(self, rows: list[Row]) -> int:
        return self._upsert(self.tags, rows)

    def upsert_manifests(self, rows: list[Row]) -> int:
        return self._upsert(self.manifests, rows)

    def _upsert(self, table: list[Row], rows: list[Row]) -> int:
        if self.failure:
            raise self.failure
        if not self.writes:
            return 0
        table.extend(rows)
        return len(rows)


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def flush(config: dict[str, Any], database: Database) -> PullStatsFlush:
    return PullStatsFlush(database.upsert_tags, database.upsert_manifests, redis_config=config)


def pull(server: Server, repository: int, tag: str, digest: str, count: int, last: int) -> None:
    """What so many pulls leave."""
    name = f"pull_events:repo:{repository}:{f'tag:{tag}' if tag else 'digest'}:{digest}"
    fields = {
        "repository_id": repository,
        "tag_name": tag,
        "manifest_digest": digest,
        "pull_count": count,
        "last_pull_timestamp": last,
        "pull_method": "tag" if tag else "digest",
    }
    server.direct(db=1).hset(name, mapping=fields)


def keys(server: Server) -> list[bytes]:
    return sorted(server.direct(db=1).scan_iter("pull_events:*"))


def test_rows_in_the_form_of_the_reference(flush: PullStatsFlush, database: Database, server: Server) -> None:
    pull(server, 1, "latest", A, 10, 1_700_000_000)
    pull(server, 1, "latest", B, 2, 1_700_000_050)
    pull(server, 1, "", A, 5, 1_700_000_040)
    pull(server, 2, "", A, 7, 0)
    server.direct(db=1).hset("pull_events:repo:3:digest:broken", "pull_count", "many")
    assert flush.flush() == 4
    latest, later = datetime.fromtimestamp(1_700_000_050), datetime.fromtimestamp(1_700_000_040)
    assert database.tags == [
        {
            "repository_id": 1,
            "tag_name": "latest",
            "manifest_digest": B,
            "pull_count": 12,
            "last_pull_timestamp": latest,
        }
    ]
    assert sorted(database.manifests, key=lambda row: (row["repository_id"], row["manifest_digest"])) == [
        {"repository_id": 1, "manifest_digest": A, "pull_count": 15, "last_pull_timestamp": later},
        {"repository_id": 1, "manifest_digest": B, "pull_count": 2, "last_pull_timestamp": latest},
        {"repository_id": 2, "manifest_digest": A, "pull_count": 7, "last_pull_timestamp": None},
    ]
    assert keys(server) == []
    assert flush.flush() == 0


@pytest.mark.parametrize("failure", [sqlite3.OperationalError("locked"), None])
def test_what_is_not_written_comes_up_again(
    flush: PullStatsFlush, database: Database, server: Server, failure: Exception | None
) -> None:
    pull(server, 1, "", A, 5, 1_700_000_040)
    database.failure, database.writes = failure, False
    assert flush.flush() == 0
    assert [b":processing:" in name for name in keys(server)] == [True]
    pull(server, 1, "", A, 1, 1_700_000_041)
    database.failure, database.writes = None, True
    assert flush.flush() == 2
    assert [row["pull_count"] for row in database.manifests] == [6]
    assert keys(server) == []


def test_claim_by_claim(config: dict[str, Any], database: Database, server: Server) -> None:
    for n in range(25):
        pull(server, n + 1, "", A, 1, 1_700_000_000)
    flush = PullStatsFlush(database.upsert_tags, database.upsert_manifests, redis_config=config, batch_size=10)
    assert flush.flush() == 25
    assert sorted(row["repository_id"] for row in database.manifests) == list(range(1, 26))


def test_gateway_gone_in_between_counts_once(
    flush: PullStatsFlush, database: Database, gateway: Gateway, server: Server
) -> None:
    pull(server, 1, "", A, 5, 1_700_000_040)
    threads = []
    upsert = database.upsert_manifests

    def restart() -> None:
        gateway.kill()
        gateway.start()

    def slow(rows: list[Row]) -> int:
        threads.append(threading.Thread(target=restart))
        threads[0].start()
        return upsert(rows)

    flush._upsert_manifests = slow
    # The commit is repeated until another gateway answers it.
    assert flush.flush() == 1
    threads[0].join()
    assert [row["pull_count"] for row in database.manifests] == [5]
    assert keys(server) == []


def test_names_tell_what_is_known(config: dict[str, Any], server: Server) -> None:
    known: set[str] = set()

    class Once(PullStatsFlush):
        def write(self, claim: pb.ClaimPullsResponse) -> int:
            new = [key for key in claim.keys if key.name not in known]
            known.update(key.name for key in new)
            rows.extend(key.pull_count for key in new)
            if len(known) == 1 and new:
                # Written; and then this process ends, as far as its gateway can see.
                raise RuntimeError("killed before the commit")
            return len(claim.keys)

    rows: list[int] = []
    flush = Once(len, len, redis_config=config)
    pull(server, 1, "", A, 5, 1_700_000_040)
    assert flush.flush() == 0
    assert flush.flush() == 1
    assert rows == [5]
    assert keys(server) == []


def test_runs_at_each_interval_until_it_is_stopped(config: dict[str, Any], database: Database, server: Server) -> None:
    flush = PullStatsFlush(database.upsert_tags, database.upsert_manifests, redis_config=config, interval=0.05)
    thread = threading.Thread(target=flush.run, daemon=True)
    thread.start()
    try:
        pull(server, 1, "", A, 1, 1_700_000_000)
        eventually(lambda: len(database.manifests) == 1, "flushed")
        pull(server, 2, "", A, 1, 1_700_000_000)
        eventually(lambda: len(database.manifests) == 2, "flushed at the next run")
    finally:
        flush.stop()
    thread.join(30)
    assert not thread.is_alive()


def test_without_redis_it_is_put_off(flush: PullStatsFlush, database: Database, server: Server) -> None:
    pull(server, 1, "", A, 1, 1_700_000_000)
    server.kill()
    assert flush.flush() == 0
    server.start()
    eventually(lambda: flush.flush() == 1, "flushed")
    assert len(database.manifests) == 1


def test_configuration(folder: Path) -> None:
    config = {
        "PULL_METRICS_REDIS": {"host": "redis", "gateway": f"unix:{folder}/none"},
        "REDIS_FLUSH_INTERVAL_SECONDS": 60,
        "REDIS_FLUSH_WORKER_BATCH_SIZE": 5000,
        "REDIS_FLUSH_WORKER_SCAN_COUNT": 100,
    }
    flush = PullStatsFlush.from_config(config, len, len)
    assert flush._interval == 60
    # As many as a gateway hands out at once; the rest comes with the next claim.
    assert flush._request.max_keys == 2000
