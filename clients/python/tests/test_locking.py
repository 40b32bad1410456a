"""Locks: the bytes of python-redis-lock, which stands on the other side; renewal, loss, and a gateway that is gone."""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
from typing import Any

import pytest
import redis
import redis_lock

from redis_gateway.quay.locking import GlobalLock, LockNotAcquiredException

from .conftest import PATIENCE, Gateway, Server, eventually


@pytest.fixture(autouse=True)
def configured(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GlobalLock, "_client", None)
    GlobalLock.configure({"USER_EVENTS_REDIS": config})


def other(server: Server, name: str, ttl: int | None = 600) -> Any:
    """A holder without the gateway."""
    return redis_lock.Lock(server.direct(), name, expire=ttl)


def test_leaves_what_python_redis_lock_leaves(server: Server) -> None:
    direct = server.direct()
    lock = GlobalLock("BLOB_CLEANUP")
    assert lock.acquire()
    holder = direct.get("lock:BLOB_CLEANUP")
    assert len(base64.b64decode(holder, validate=True)) == 18
    ttl = direct.ttl("lock:BLOB_CLEANUP")
    assert 570 <= ttl <= 600
    assert lock.fencing_token > 0
    assert not other(server, "BLOB_CLEANUP").acquire(blocking=False)
    # As of the reference: not re-entrant.
    assert not GlobalLock("BLOB_CLEANUP", wait=0).acquire()
    lock.release()
    assert not direct.exists("lock:BLOB_CLEANUP")
    assert direct.lrange("lock-signal:BLOB_CLEANUP", 0, -1) in ([b"1"], [])
    lock.release()
    assert other(server, "BLOB_CLEANUP").acquire(blocking=False)


def test_without_a_time_to_live(server: Server) -> None:
    for ttl in (0, None):
        lock = GlobalLock("n", ttl)
        assert lock.acquire()
        assert server.direct().ttl("lock:n") == -1
        lock.release()
    assert not GlobalLock("n", 0, auto_renewal=True).acquire()


def test_wakes_the_other_and_is_woken(server: Server) -> None:
    lock, holder = GlobalLock("W"), other(server, "W")
    assert lock.acquire()
    woken = threading.Thread(target=holder.acquire, daemon=True)
    woken.start()
    eventually(lambda: blocked(server), "the other waits")
    lock.release()
    woken.join(30)
    assert not woken.is_alive()
    again: list[bool] = []
    waiting = threading.Thread(target=lambda: again.append(lock.acquire()), daemon=True)
    waiting.start()
    eventually(lambda: blocked(server), "the gateway waits")
    holder.release()
    waiting.join(30)
    assert again == [True]


def blocked(server: Server) -> bool:
    return int(server.direct().info("clients")["blocked_clients"]) > 0


def test_released_by_the_next_gateway(gateway: Gateway, server: Server) -> None:
    lock = GlobalLock("N")
    assert lock.acquire()
    gateway.kill()
    releasing = threading.Thread(target=lock.release)
    releasing.start()
    gateway.start()
    releasing.join()
    assert not server.direct().exists("lock:N")


def test_release_of_a_lost_lock_touches_nothing(server: Server) -> None:
    lock = GlobalLock("L")
    assert lock.acquire()
    server.direct().set("lock:L", "someone-else")
    lock.release()
    assert server.direct().get("lock:L") == b"someone-else"
    assert not server.direct().exists("lock-signal:L")


def test_as_a_context(server: Server) -> None:
    with GlobalLock("C"):
        assert server.direct().exists("lock:C")
        with pytest.raises(LockNotAcquiredException), GlobalLock("C", wait=0):
            pytest.fail("entered without the lock")
    assert not server.direct().exists("lock:C")


def test_without_a_wait_is_asked_once(server: Server) -> None:
    with GlobalLock("B"), server.direct().monitor() as monitor:
        assert not GlobalLock("B", wait=0).acquire()
        server.direct().echo("behind it")
        seen = list(iter(lambda: monitor.next_command()["command"], "ECHO behind it"))
    assert seen.count("GET lock:B") == 1


def test_not_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GlobalLock, "_client", None)
    with pytest.raises(LockNotAcquiredException):
        GlobalLock("x")


def test_renewed_also_over_another_gateway(server: Server, gateway: Gateway) -> None:
    direct = server.direct()
    lock = GlobalLock("R", 9, auto_renewal=True)
    assert lock.acquire()
    holder, token = direct.get("lock:R"), lock.fencing_token
    outlives(server, "R")
    gateway.kill()
    gateway.start()
    # Taken up again by the same holder, before its time to live is over.
    outlives(server, "R")
    assert (direct.get("lock:R"), lock.fencing_token, lock.lost) == (holder, token, False)
    lock.release()
    assert not direct.exists("lock:R")
    eventually(lambda: not any(thread.name == "lock R" for thread in threading.enumerate()), "nobody renews it")


def outlives(server: Server, name: str) -> None:
    """Waits until a lock lives for longer again."""
    left: list[int] = [server.direct().pttl(f"lock:{name}")]

    def renewed() -> bool:
        left.append(server.direct().pttl(f"lock:{name}"))
        assert left[-1] != -2, "the lock is gone"
        return left[-1] > left[-2]

    eventually(renewed, "renewed")


def test_tells_that_it_is_lost(server: Server) -> None:
    lock = GlobalLock("gone", 600, auto_renewal=True)
    assert lock.acquire()
    assert not lock.lost
    server.direct().delete("lock:gone")
    eventually(lambda: lock.lost, "lost")
    lock.release()
    assert not server.direct().exists("lock-signal:gone")


def test_lost_while_no_gateway_can_say_so(gateway: Gateway) -> None:
    lock = GlobalLock("silent", 2, auto_renewal=True)
    assert lock.acquire()
    gateway.kill()
    eventually(lambda: lock.lost, "lost")


def test_lost_when_its_grace_is_over_until_it_is_taken_up(
    gateway: Gateway, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis_gateway.quay._keeper._GRACE", 1)
    lock = GlobalLock("cut", 20 * int(PATIENCE), auto_renewal=True)
    assert lock.acquire()
    holder = server.direct().get("lock:cut")
    gateway.kill()
    # Another gateway that only lost its caller would release it by then.
    eventually(lambda: lock.lost, "lost")
    gateway.start()
    eventually(lambda: not lock.lost, "taken up")
    assert server.direct().get("lock:cut") == holder
    lock.release()
    assert not server.direct().exists("lock:cut")


HOLD = """
import sys
from redis_gateway.quay import _keeper
from redis_gateway.quay.locking import GlobalLock

_keeper._GRACE = 1
GlobalLock.configure({"USER_EVENTS_REDIS": {"gateway": sys.argv[1]}})
lock = GlobalLock("D", 3600, auto_renewal=True)
assert lock.acquire()
sys.stdin.read()
"""


def test_ends_soon_after_its_process(server: Server, gateway: Gateway) -> None:
    watching: Any = redis.Redis(unix_socket_path=str(server.socket), socket_timeout=PATIENCE)
    args = [sys.executable, "-c", HOLD, gateway.target]
    with watching.monitor() as monitor, subprocess.Popen(args, stdin=subprocess.PIPE) as process:
        # The stream takes up what the call has got.
        eventually(lambda: "EXPIRE lock:D" in monitor.next_command()["command"], "kept")
        process.kill()
    eventually(lambda: not server.direct().exists("lock:D"), "released")


def test_gateway_or_redis_down_is_not_acquired(server: Server, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redis_gateway.quay.locking._TIMEOUT", 0.5)
    server.kill()
    assert not GlobalLock("x").acquire()
    gateway.kill()
    assert not GlobalLock("x").acquire()
    with pytest.raises(LockNotAcquiredException), GlobalLock("x"):
        pytest.fail("entered without the lock")
