"""The model cache: the reference's bytes, one loader of all processes, and no failure that is the caller's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from redis_gateway.quay.cache import CacheKey, GatewayDataModelCache, NoopDataModelCache, get_model_cache

from .conftest import PATIENCE, Gateway, Server, eventually, state_of
from .recording import replay

KEY = CacheKey("repo_blob__ns_repo_sha256:ab_1", "60s")


@pytest.fixture
def cache(config: dict[str, Any]) -> GatewayDataModelCache:
    return GatewayDataModelCache({"redis_config": config})


def must_not_load() -> Any:
    pytest.fail("loaded what is cached")


def test_leaves_what_the_reference_leaves(cache: GatewayDataModelCache, server: Server) -> None:
    def do(op: str, args: dict[str, Any]) -> Any:
        if op == "invalidate":
            return cache.invalidate(CacheKey(args["key"], None))
        loads = args["loader_returns"]
        loader = must_not_load if loads == "must not be called" else lambda: loads
        return cache.retrieve(CacheKey(args["key"], args["expiration"]), loader)

    assert replay(server, "retrieve and invalidate", do) == 19


def test_expirations(cache: GatewayDataModelCache, server: Server) -> None:
    for expiration, seconds in [("5m", 300), ("2h", 7200), ("1d", 86_400), ("2w", 1_209_600)]:
        assert cache.retrieve(CacheKey(expiration, expiration), lambda: 1) == 1
        ttl = server.direct().ttl(expiration)
        assert seconds - 60 <= ttl <= seconds
    for broken in ("60", "x", "1y"):
        assert cache.retrieve(CacheKey("broken", broken), lambda: 1) == 1
        assert not server.direct().exists("broken")


def test_what_should_not_be_cached_is_not(cache: GatewayDataModelCache, server: Server) -> None:
    assert cache.retrieve(KEY, lambda: 1, should_cache=lambda value: value > 1) == 1
    unlike_json = {1, 2}
    assert cache.retrieve(KEY, lambda: unlike_json) == unlike_json
    assert not server.direct().exists(KEY.key)
    # The leases were given up: this one is the next caller's at once.
    assert cache.retrieve(KEY, lambda: 2) == 2
    assert server.direct().get(KEY.key) == b"2"


def test_failing_loader_leaves_the_lease_to_the_next(config: dict[str, Any], server: Server) -> None:
    cache = GatewayDataModelCache({"redis_config": config}, wait=0, lease=600)
    with pytest.raises(LookupError):
        cache.retrieve(KEY, lambda: [][0])
    assert cache.retrieve(KEY, lambda: [1]) == [1]
    assert server.direct().get(KEY.key) == b"[1]"


def test_what_was_loaded_before_an_invalidation_is_not_cached(cache: GatewayDataModelCache, server: Server) -> None:
    def load() -> str:
        cache.invalidate(KEY)
        return "old"

    assert cache.retrieve(KEY, load) == "old"
    assert not server.direct().exists(KEY.key)


# Each asks with eight threads at once, and says so in Redis. The loader waits until it is told to go on.
ASK = """
import sys, redis
from concurrent.futures import ThreadPoolExecutor
from redis_gateway.quay.cache import CacheKey, GatewayDataModelCache

direct = redis.Redis(unix_socket_path=sys.argv[2])
cache = GatewayDataModelCache({"redis_config": {"gateway": sys.argv[1]}}, wait=60, lease=60)

def load():
    direct.incr("loads")
    direct.blpop("go", 60)
    return "loaded"

def ask(_):
    direct.incr("asking")
    return cache.retrieve(CacheKey("hot", "60s"), load)

with ThreadPoolExecutor(8) as pool:
    assert list(pool.map(ask, range(8))) == ["loaded"] * 8
"""


def test_one_of_all_processes_loads(gateway: Gateway, server: Server) -> None:
    asking = [subprocess.Popen([sys.executable, "-c", ASK, gateway.target, server.socket]) for _ in range(3)]
    direct = server.direct()
    try:
        eventually(lambda: direct.get("asking") == b"24", "all ask")
        direct.rpush("go", 1)
        assert [process.wait(60) for process in asking] == [0, 0, 0]
    finally:
        for process in asking:
            process.kill()
            process.wait()
    assert direct.get("loads") == b"1"


def test_many_at_once(cache: GatewayDataModelCache, server: Server) -> None:
    direct = server.direct()
    # More than fit into one call; some are not cached, and one is no JSON.
    asked = [CacheKey(f"k{n}", "60s") for n in range(1005)]
    direct.mset({f"k{n}": str(n) for n in range(1005) if n % 100} | {"k1000": "{"})
    loaded: list[str] = []

    def load(key: CacheKey) -> int:
        loaded.append(key.key)
        return int(key.key[1:])

    assert cache.retrieve_many(asked, load) == list(range(1005))
    assert loaded == [f"k{n}" for n in range(0, 1005, 100)]
    assert direct.get("k100") == b"100"
    assert cache.retrieve_many([], load) == []


def test_loaded_again_in_the_background_before_it_ends(config: dict[str, Any]) -> None:
    cache = GatewayDataModelCache({"redis_config": config}, early_refresh=True)
    loaded_by: list[threading.Thread] = []

    def load() -> int:
        # How long it takes tells the gateway how early to begin.
        time.sleep(0.3)
        loaded_by.append(threading.current_thread())
        return len(loaded_by)

    key = CacheKey("hot", "3s")
    assert cache.retrieve(key, load) == 1
    eventually(lambda: cache.retrieve(key, load) == 2, "the second value")
    assert loaded_by[0] is threading.current_thread()
    assert loaded_by[1] is not threading.current_thread()


def load_slowly() -> int:
    # How long it takes tells the gateway how early to begin.
    time.sleep(0.3)
    return 1


def a_refresh_is_left_to_others(cache: GatewayDataModelCache, server: Server, key: CacheKey) -> None:
    with server.direct().monitor() as monitor:

        def lease_is_given_up() -> bool:
            # The value is there all the while.
            assert cache.retrieve(key, must_not_load) == 1
            server.direct().echo("behind it")
            seen = list(iter(lambda: monitor.next_command()["command"], "ECHO behind it"))
            return f"DEL redis-gateway:v1:cache:lease:{{{key.key}}}" in seen

        eventually(lease_is_given_up, "a lease to refresh comes, and goes")


def test_a_refresh_for_which_there_is_no_room_is_left_to_others(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.setattr("redis_gateway.quay.cache._MOST_REFRESHES", 0)
    cache = GatewayDataModelCache({"redis_config": config}, early_refresh=True)
    key = CacheKey("hot", "3s")
    assert cache.retrieve(key, load_slowly) == 1
    a_refresh_is_left_to_others(cache, server, key)


def test_a_refresh_for_which_no_thread_starts_is_left_to_others(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.setattr("redis_gateway.quay.cache._MOST_REFRESHES", 1)
    cache = GatewayDataModelCache({"redis_config": config}, early_refresh=True)
    key = CacheKey("hot", "3s")
    assert cache.retrieve(key, load_slowly) == 1
    # No machine has room for such a thread.
    usual = threading.stack_size(1 << 60)
    try:
        a_refresh_is_left_to_others(cache, server, key)
    finally:
        threading.stack_size(usual)
    loaded_by: list[threading.Thread] = []

    def load() -> int:
        loaded_by.append(threading.current_thread())
        return load_slowly()

    def refreshed() -> bool:
        assert cache.retrieve(key, load) == 1
        return any(thread is not threading.current_thread() for thread in loaded_by)

    eventually(refreshed, "loaded again in the background")


# The loader of the parent waits in the one thread that refreshes, and goes on after the child.
FORK = """
import os, sys, threading, time
from redis_gateway.quay import cache as module

module._MOST_REFRESHES = 1
cache = module.GatewayDataModelCache({"redis_config": {"gateway": sys.argv[1]}}, early_refresh=True)
go_on = threading.Event()

def refresh(name, load):
    # Asks until the value is loaded in the background.
    begun = threading.Event()

    def load_anywhere():
        if threading.current_thread() is threading.main_thread():
            time.sleep(0.3)
        else:
            begun.set()
            load()
        return 1

    while not begun.is_set():
        assert cache.retrieve(module.CacheKey(name, "3s"), load_anywhere) == 1

refresh("of the parent", go_on.wait)
child = os.fork()
if not child:
    refresh("of the child", lambda: None)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
go_on.set()
"""


def test_a_child_has_room_for_refreshes_whatever_its_parent_loads(gateway: Gateway) -> None:
    with subprocess.Popen([sys.executable, "-c", FORK, gateway.target], start_new_session=True) as process:
        try:
            assert process.wait(PATIENCE) == 0
        finally:
            # Also the child.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_redis_down_is_a_miss(cache: GatewayDataModelCache, server: Server) -> None:
    server.kill()
    assert cache.retrieve(KEY, lambda: 1) == 1
    assert cache.retrieve_many([KEY], lambda _: 2) == [2]
    cache.invalidate(KEY)
    server.start()
    eventually(lambda: cache.retrieve(KEY, lambda: 3) == 3 and server.direct().get(KEY.key), "cached again")
    assert server.direct().get(KEY.key) == b"3"


def test_gateway_down_is_a_miss_at_once(cache: GatewayDataModelCache, gateway: Gateway, server: Server) -> None:
    gateway.kill()
    began = time.monotonic()
    assert cache.retrieve(KEY, lambda: 1) == 1
    # Nobody waits for a gateway as for a value that another one loads.
    assert time.monotonic() - began < 5
    cache.invalidate(KEY)
    gateway.start()
    eventually(lambda: cache.retrieve(KEY, lambda: 3) == 3 and server.direct().get(KEY.key), "cached again")


def test_many_wait_once_for_a_gateway_that_hangs(config: dict[str, Any], gateway: Gateway) -> None:
    cache = GatewayDataModelCache({"redis_config": config}, wait=PATIENCE)
    asked = [CacheKey(f"k{n}", "60s") for n in range(2)]
    assert cache.retrieve(KEY, lambda: 1) == 1
    gateway.process.send_signal(signal.SIGSTOP)
    eventually(lambda: state_of(gateway.process.pid) == "T", "the gateway stops")
    began = time.monotonic()
    assert cache.retrieve_many(asked, lambda key: key.key) == ["k0", "k1"]
    # Asked for by itself, each key would have waited for that long.
    assert time.monotonic() - began < PATIENCE
    gateway.process.send_signal(signal.SIGCONT)


def test_many_ask_once_for_a_redis_that_hangs(config: dict[str, Any], server: Server) -> None:
    asked: list[str] = []

    class Cache(GatewayDataModelCache):
        def retrieve(self, cache_key: CacheKey, *args: Any, **options: Any) -> Any:
            asked.append(cache_key.key)
            return super().retrieve(cache_key, *args, **options)

    cache, keys = Cache({"redis_config": config}), [CacheKey(f"k{n}", "60s") for n in range(4)]
    server.process.send_signal(signal.SIGSTOP)
    eventually(lambda: state_of(server.process.pid) == "T", "the server stops")
    assert cache.retrieve_many(keys, lambda key: key.key) == ["k0", "k1", "k2", "k3"]
    assert asked == []
    server.process.send_signal(signal.SIGCONT)
    # Once it answers, what is missing is loaded under leases, and cached.
    eventually(lambda: cache.retrieve_many(keys, lambda key: key.key) and server.direct().exists("k3"), "cached")
    assert "k3" in asked


def test_gateway_killed_while_loading(cache: GatewayDataModelCache, gateway: Gateway) -> None:
    def load() -> str:
        gateway.kill()
        return "loaded"

    assert cache.retrieve(KEY, load) == "loaded"
    gateway.start()


def test_configuration(folder: Path) -> None:
    assert isinstance(get_model_cache({}), NoopDataModelCache)
    assert get_model_cache({}).retrieve(KEY, lambda: 1) == 1
    redis_config = {"gateway": f"unix:{folder}/none", "primary": {"host": "redis"}}
    config = {"engine": "redis", "redis_config": redis_config, "repository_blob_cache_ttl": "90s"}
    cache = get_model_cache({"DATA_MODEL_CACHE_CONFIG": config})
    assert isinstance(cache, GatewayDataModelCache)
    assert cache.cache_config == config
    with pytest.raises(ValueError, match="memcached"):
        get_model_cache({"DATA_MODEL_CACHE_CONFIG": {"engine": "memcached"}})
