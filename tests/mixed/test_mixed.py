"""Services that have moved to the gateway and services that have not, in Python and in Go, on the same data: whoever writes and
whoever reads, each answer and each byte in Redis are what redis-py alone would have left and read."""

import itertools
import re
import sys
import tempfile
import urllib.request
from pathlib import Path

import pytest
from pair import ROOT, Pair, Party, Slow
from patterns import PATTERNS
from tests.conftest import Gateway, Server, eventually

HERE = Path(__file__).parent
GO = ROOT / "target/peers/mixed"
# By which all others are judged.
REFERENCE = "redis-py"
PARTIES = ["python-client", REFERENCE, *(["go-client", "go-redis"] if GO.exists() else [])]


class Stand:
    """A Redis, a gateway, and of each kind of party one that writes and one that reads."""

    def __init__(self, folder):
        self.folder = folder
        self.server = Server(folder)
        self.gateway = Gateway(folder, self.server)
        self.parties, self.references = {}, {}
        for role, name in itertools.product(("writer", "reader"), PARTIES):
            self._party(role, name)
        [admin] = re.findall(r"127\.0\.0\.1:\d+", (folder / "gateway.log").read_text())
        self.metrics = f"http://{admin}/metrics"

    def end(self):
        for party in self.parties.values():
            party.end()
        self.gateway.kill()
        self.server.kill()

    def reference(self, pattern):
        if pattern not in self.references:
            self.references[pattern] = self.run(pattern, REFERENCE, REFERENCE)
        return self.references[pattern]

    def run(self, pattern, writer, reader):
        """What the pair did, and what stood in Redis after each step."""
        for _ in range(10):
            eventually(self._quiet, "nobody listens or watches any more")
            names = {"writer": writer, "reader": reader}
            parties = [self._party(role, name) for role, name in names.items()]
            for party in parties:
                party.begin()
            pair = Pair(self.server, *parties)
            try:
                pattern(pair)
                return pair.record
            except Slow as slow:
                why = slow
                self._forget(names)
            except BaseException:
                self._forget(names)
                raise
        pytest.fail(f"10 times in a row {why} within a second")

    def _quiet(self):
        """Whether what a pair does is heard by nobody else, and taken by nobody."""
        redis = self.server.direct()
        # One pattern is the gateway's own.
        if redis.pubsub_channels("user/*") or redis.pubsub_numpat() != 1:
            return False
        text = urllib.request.urlopen(self.metrics).read().decode()
        return "\nredis_gateway_orchestrator_watches 0\n" in text

    def _party(self, role, name):
        if (role, name) not in self.parties:
            command = {
                "python-client": [sys.executable, HERE / "by_gateway.py", self.gateway.target],
                "redis-py": [ROOT / ".venv/bin/python", HERE / "by_redis.py", self.server.socket],
                "go-client": [GO, "client", self.gateway.target],
                "go-redis": [GO, "redis", self.server.socket, ROOT / "src/pull_metrics"],
            }[name]
            self.parties[role, name] = Party(f"{role} {name}", command, self.folder / f"{role}-{name}.log")
        return self.parties[role, name]

    def _forget(self, names):
        """What they were at is not known."""
        for party in names.items():
            self.parties.pop(party).end()


@pytest.fixture(scope="session")
def stand():
    with tempfile.TemporaryDirectory(prefix="rg") as name:
        stand = Stand(Path(name))
        yield stand
        stand.end()


@pytest.mark.parametrize("reader", PARTIES)
@pytest.mark.parametrize("writer", PARTIES)
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.__name__)
def test_it_comes_to_the_same(stand, pattern, writer, reader):
    expected = stand.reference(pattern)
    found = stand.run(pattern, writer, reader)
    assert len(found) == len(expected)
    for (step, answer, held), (_, right_answer, right) in zip(found, expected, strict=True):
        assert answer == right_answer, f"{step}: the answer of {writer} to {reader}"
        assert held == right, f"{step}: what stands in Redis"
