"""A service as the registry's are: loaded by gunicorn's master, which forks gevent workers. Each request calls one pattern
after the other until it is told to end, and answers what became of each call."""

# ruff: noqa: E402, I001

from gevent import monkey

monkey.patch_all()

import functools
import json
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from redis_gateway import shared
from redis_gateway.quay.buildlogs import RedisBuildLogs
from redis_gateway.quay.cache import CacheKey, GatewayDataModelCache, get_model_cache
from redis_gateway.quay.locking import GlobalLock
from redis_gateway.quay.orchestrator import RedisOrchestrator
from redis_gateway.quay.pull_stats_flush import PullStatsFlush
from redis_gateway.quay.pullmetrics import PullMetrics
from redis_gateway.quay.repo_modification_tracker import RepoModificationTracker
from redis_gateway.quay.userevent import UserEvent, UserEventListener

PAUSE = float(os.environ["TEST_PAUSE"])  # seconds between two calls of one greenlet
DIGEST = "sha256:" + "a1" * 32

target = os.environ["TEST_GATEWAY"]
config: dict[str, Any] = {"host": "unused.example", "gateway": target}

GlobalLock.configure({"USER_EVENTS_REDIS": config})
logs = RedisBuildLogs(config)
event = UserEvent(config, "devtable")
pulls = PullMetrics(config)
tracker = RepoModificationTracker(config)
_cache = get_model_cache({"DATA_MODEL_CACHE_CONFIG": {"engine": "redis", "redis_config": config}})
assert isinstance(_cache, GatewayDataModelCache)
cache: GatewayDataModelCache = _cache
orchestrator = RedisOrchestrator(**config)
flusher = PullStatsFlush(len, len, redis_config=config)


class Failed(Exception):
    """What a drop-in tells by its answer."""


def lock(auto_renewal: bool = False) -> None:
    held = GlobalLock(uuid.uuid4().hex, 30, auto_renewal, wait=1)
    if not held.acquire():
        raise Failed
    held.release()


def load() -> None:
    # The cache hides its failures: what is loaded must be there the next time.
    key = CacheKey(uuid.uuid4().hex, "60s")
    if [cache.retrieve(key, lambda: "loaded"), cache.retrieve(key, lambda: "loaded again")] != ["loaded"] * 2:
        raise Failed


def load_many() -> None:
    keys = [CacheKey(uuid.uuid4().hex, "60s") for _ in range(3)]
    loaded: list[str] = []

    def load_one(key: CacheKey) -> str:
        loaded.append(key.key)
        return key.key

    for _ in range(2):
        cache.retrieve_many(keys, load_one)
    if loaded != [key.key for key in keys]:
        raise Failed


def flush() -> None:
    # It logs what fails. Something is there most of the time: pulls are counted all along.
    if not flusher.flush():
        raise Failed


def mark() -> None:
    if tracker.mark_repo_modified("devtable", "simple") is None:
        raise Failed


# Each with the most seconds that it may take: what its calls' deadlines add up to.
PATTERNS: dict[str, tuple[float, Callable[[], object]]] = {
    "append": (2, lambda: logs.append_log_message(uuid.uuid4().hex, "line")),
    "read": (2, lambda: logs.get_log_entries("7", 0)),
    "publish": (2, lambda: event.publish_event_data_sync("docker-cli", {"action": "push_repo"})),
    "publish later": (0, lambda: event.publish_event_data("docker-cli", {"action": "push_repo"})),
    "count": (5, lambda: pulls.track_tag_pull_sync(7, "latest", DIGEST)),
    "count later": (0, lambda: pulls.track_tag_pull(7, "latest", DIGEST)),
    "flush": (3 * 5, flush),
    "cache": (2 * (2 + 5 + 2), load),
    "cache many": (2 * (2 + 3 * (2 + 5 + 2)), load_many),
    "mark": (2, mark),
    "block": (2, lambda: tracker.should_block_read_access(1, "devtable", "simple")),
    "lock": (5 + 1 + 5 + 5, lock),
    "keep a lock": (5 + 1 + 5 + 5, functools.partial(lock, auto_renewal=True)),
    "set": (5, lambda: orchestrator.set_key(f"metric/{uuid.uuid4().hex}", "x", expiration=60)),
    "get": (5, lambda: orchestrator.get_prefixed_keys("building/")),
}

# Of this worker: when something was heard, when a change was told, when more of what leaves in the background stood, and how
# late a greenlet was run.
heard: list[float] = []
changed: list[float] = []
stood: dict[str, list[float]] = {"publish later": [], "count later": []}
lateness = [0.0]


def listen() -> None:
    for event_id, _ in UserEventListener(config, "devtable", ["docker-cli"]).event_stream():
        if event_id == "docker-cli":
            heard.append(time.monotonic())


def watch_keys() -> None:
    orchestrator.on_key_change("metric/", lambda change: changed.append(time.monotonic()))


def watch_the_background() -> None:
    client = shared(target)
    queues: dict[str, Any] = {"publish later": client.background_events, "count later": client.background_pulls}
    known = dict.fromkeys(queues, 0)
    while True:
        time.sleep(0.05)
        for name, background in queues.items():
            if (now := background.counts.stood) > known[name]:
                known[name] = now
                stood[name].append(time.monotonic())


def watch_the_clock() -> None:
    while True:
        began = time.monotonic()
        time.sleep(0.05)
        lateness[0] = max(lateness[0], time.monotonic() - began - 0.05)


@functools.cache
def begin() -> None:
    """Once in each worker."""
    for work in (listen, watch_keys, watch_the_background, watch_the_clock):
        threading.Thread(target=work, daemon=True).start()


def call(name: str) -> dict[str, Any]:
    most, work = PATTERNS[name]
    began, failure = time.monotonic(), ""
    try:
        work()
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    ended = time.monotonic()
    return {"name": name, "ended": ended, "seconds": ended - began, "most": most, "failure": failure}


def app(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    begin()
    until = float(parse_qs(environ["QUERY_STRING"])["until"][0])
    calls = []
    while time.monotonic() < until:
        # In another order each time, so that greenlets do not go in step.
        for name in random.sample(list(PATTERNS), len(PATTERNS)):
            calls.append(call(name))
            time.sleep(PAUSE)
    start_response("200 OK", [("Content-Type", "application/json")])
    answer = {"pid": os.getpid(), "calls": calls, "heard": heard, "changed": changed, "stood": stood, "late": lateness[0]}
    return [json.dumps(answer).encode()]
