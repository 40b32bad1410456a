"""The same callers on the client for Go, each in a process of its own: `tests/peers/go/rolling` says what they do and see."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from .callers import Caller
from .conftest import ROOT, Server

GO = ROOT / "target/peers/rolling"


class GoCaller(Caller):
    """A process that is told to end by the end of its input, and judges the most by itself."""

    pattern: str

    def __init__(self, target: str) -> None:
        super().__init__(target)
        addresses = target.removeprefix("ipv4:").split(",")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([GO, self.pattern, *addresses], stdin=pipe, stdout=pipe)
        self.left: dict[str, Any] = {}

    def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()

    def step(self) -> None:
        """It makes its own."""

    def _run(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            told = json.loads(line)
            self.done, self.missed, self.failures = told["done"], told["missed"], told["failures"] or []
            self.left = told["left"] or {}
        if code := self._process.wait():
            self.failures = [*self.failures, f"it ended with {code}"]


class GoLog(GoCaller):
    """A log by a writer, and its tail."""

    pattern = "log"

    def judge(self, server: Server) -> None:
        entries = server.direct().lrange(f"builds/{self.left['build']}/logs", 0, -1)
        assert [int(entry) for entry in entries] == list(range(self.left["length"]))


class GoEvents(GoCaller):
    """Events, and their listener."""

    pattern = "events"

    def judge(self, server: Server) -> None:
        assert self.left["heard"]


class GoKeys(GoCaller):
    """A key of a build manager, and its watch."""

    pattern = "keys"

    def judge(self, server: Server) -> None:
        assert self.left["last"] <= int(server.direct().get(self.left["key"])) <= self.left["asked"]


class GoLocks(GoCaller):
    """A lock that is held all along, and one that many want."""

    pattern = "locks"

    def judge(self, server: Server) -> None:
        assert not server.direct().exists(*(f"lock:{name}" for name in self.left["locks"]))


class GoPulls(GoCaller):
    """Pulls in batches, in the background."""

    pattern = "pulls"

    @property
    def least(self) -> int:
        return int(self.left["least"])

    @property
    def most(self) -> int:
        return int(self.left["most"])

    def judge(self, server: Server) -> None:
        """With those of others, by the one who flushes."""


class GoCache(GoCaller):
    """Values that are loaded, found and deleted."""

    pattern = "cache"

    def judge(self, server: Server) -> None:
        direct = server.direct()
        assert self.missed * 10 < self.done
        stands: dict[str, int] = self.left["stands"]
        assert {key: int(direct.get(key) or -1) for key in stands} == stands
        assert not any(direct.exists(key) for key in self.left["gone"])


ALL: list[type[GoCaller]] = [GoLog, GoEvents, GoKeys, GoLocks, GoPulls, GoCache]
