"""Callers of what is told between them: managers, holders of locks, listeners."""

from __future__ import annotations

import threading
import uuid
from collections import Counter, defaultdict
from typing import Any

from redis_gateway import shared
from redis_gateway.quay.locking import GlobalLock
from redis_gateway.quay.orchestrator import KeyChange, KeyEvent, RedisOrchestrator
from redis_gateway.quay.userevent import UserEvent, UserEventListener

from .callers import Caller
from .conftest import Server, eventually


class Manager(Caller):
    """A build manager: sets keys, sees them change, and takes care of those that expire."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._keys = RedisOrchestrator(gateway=target)
        self._key = f"building/{uuid.uuid4().hex}"
        self._last = self._asked = -1
        self.heard: dict[str, list[int]] = defaultdict(list)
        self.set_to_expire: list[str] = []
        self.expired: Counter[str] = Counter()

    def start(self) -> None:
        self._keys.on_key_change("building/", self._hear)
        self._keys.on_key_change("metric/", self._hear)
        super().start()

    def step(self) -> None:
        self._asked = number = self._asked + 1
        self._keys.set_key(self._key, str(number), overwrite=number > 0)
        self._last = number
        assert self._keys.get_key(self._key) == str(number)
        if number % 10 == 0:
            key = f"metric/{uuid.uuid4().hex}"
            self._keys.set_key(key, "x", expiration=1)
            self.set_to_expire.append(key)

    def judge(self, server: Server) -> None:
        stands = int(server.direct().get(self._key))
        assert self._last <= stands <= self._asked
        eventually(lambda: self.heard[self._key][-1] == stands, "the last change is heard")
        # Each net change once, in order.
        heard = self.heard[self._key]
        wrong = [heard[max(at - 2, 0) : at + 3] for at in range(1, len(heard)) if heard[at] <= heard[at - 1]]
        assert not wrong, wrong

    def stop(self) -> None:
        self._keys.shutdown()

    def _hear(self, change: KeyChange) -> None:
        if change.event is KeyEvent.EXPIRE:
            self.expired[change.key] += 1
        elif change.key.startswith("building/"):
            self.heard[change.key].append(int(change.value))


class Contender(Caller):
    """One of many who want a lock; what it protects sees one at a time, by growing tokens."""

    _inside = threading.Lock()
    _tokens: list[int] = []

    def step(self) -> None:
        lock = _lock_at(self.target, "CONTENDED", 30)
        assert lock.acquire(), "busy for longer than anybody holds it"
        assert self._inside.acquire(blocking=False), "two holders"
        try:
            assert all(lock.fencing_token > token for token in self._tokens[-1:]), "a token that does not grow"
            self._tokens.append(lock.fencing_token)
        finally:
            self._inside.release()
            lock.release()

    def judge(self, server: Server) -> None:
        assert not server.direct().exists("lock:CONTENDED")


class Keeper(Caller):
    """Holds a lock all along, by a stream; nobody else gets it."""

    def __init__(self, target: str, other: str) -> None:
        super().__init__(target)
        self._other = other
        self._name = uuid.uuid4().hex
        self._lock = _lock_at(target, self._name, 20, auto_renewal=True)
        assert self._lock.acquire()

    def step(self) -> None:
        assert not self._lock.lost
        assert not _lock_at(self._other, self._name, 20, wait=0).acquire(), "two holders"

    def judge(self, server: Server) -> None:
        assert not self._lock.lost
        self._lock.release()
        assert not server.direct().exists(f"lock:{self._name}")


class Publisher(Caller):
    """Publishes numbers, in their order."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.user = uuid.uuid4().hex
        self._event = UserEvent(self.config, self.user)
        self._asked = 0
        self.published: list[int] = []

    def step(self) -> None:
        self._asked += 1
        self._event.publish_event_data_sync("docker-cli", self._asked)
        self.published.append(self._asked)

    def judge(self, server: Server) -> None:
        assert self.published


class Listener(Caller):
    """Hears the numbers; where one is missing, a gap was told."""

    def __init__(self, target: str, publisher: Publisher) -> None:
        super().__init__(target)
        self._publisher = publisher
        self._listener = UserEventListener(self.config, publisher.user, ["docker-cli"], tell_gaps=True)
        self._heard: list[int | None] = []
        self.unheard = 0

    def end(self) -> None:
        super().end()
        self._listener.stop()

    def step(self) -> None:
        for kind, data in self._listener.event_stream():
            if kind == "docker-cli":
                self._heard.append(data)
                self.done += 1
            elif kind == "gap":
                self._heard.append(None)

    def judge(self, server: Server) -> None:
        numbers = [number for number in self._heard if number is not None]
        assert numbers == sorted(set(numbers))
        last, told = 0, False
        for number in self._heard:
            if number is None:
                told = True
                continue
            missed = [n for n in self._publisher.published if last < n < number]
            assert told or not missed, missed
            self.unheard += len(missed)
            last, told = number, False


def _lock_at(target: str, name: str, ttl: int, **options: Any) -> GlobalLock:
    """A lock by one of several gateways; a process has one otherwise."""
    GlobalLock._client = shared(target)
    return GlobalLock(name, ttl, **options)
