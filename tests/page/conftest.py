"""A gateway before a redis-server with a password, traffic of most patterns, and Debian's Chromium."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from playwright.sync_api import Browser, sync_playwright

from redis_gateway import Client, GatewayError
from redisgateway.v1 import build_logs_pb2, cache_pb2, locks_pb2, pull_metrics_pb2, user_events_pb2

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30  # seconds
PASSWORD = "a-secret-of-the-test"
ENDPOINTS = ("build_logs", "user_events", "pull_metrics", "cache", "orchestrator")


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """What `condition` gives once it is true; fails when patience is over."""
    give_up = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < give_up, f"not within {PATIENCE} s: {what}"
        time.sleep(0.02)
    return found


class Server:
    """A redis-server on a port of its own, which asks for a password."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        args = ["--port", str(self.port), "--requirepass", PASSWORD, "--dir", str(self._folder)]
        args += ["--appendonly", "yes", "--notify-keyspace-events", "Kg$xe"]
        with (self._folder / "redis.log").open("a") as log:
            self.process = subprocess.Popen(["redis-server", *args], stdout=log, stderr=log)
        eventually(self._answers, "redis-server answers")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            return bool(redis.Redis(port=self.port, password=PASSWORD).ping())
        except redis.RedisError:
            return False


class Gateway:
    """A gateway process; `url` is its admin port."""

    def __init__(self, folder: Path, server: Server) -> None:
        self._folder = folder
        self.target = f"unix:{folder}/gateway.sock"
        secret = folder / "password"
        secret.write_text(PASSWORD)
        endpoint = f"{{host: 127.0.0.1, port: {server.port}, password_file: {secret}}}"
        lines = ["endpoints:", *(f"  {name}: {endpoint}" for name in ENDPOINTS), "cache:", "  near:", "    prefixes: [hot_]", ""]
        (folder / "gateway.yaml").write_text("\n".join(lines))
        self.start("127.0.0.1:0")

    def start(self, listen: str) -> None:
        path = Path(os.environ.get("REDIS_GATEWAY_BIN", ROOT / "target/debug/redis-gateway"))
        assert path.exists(), f"no gateway at {path}: cargo build, or set REDIS_GATEWAY_BIN"
        args = ["--config", str(self._folder / "gateway.yaml"), "--grpc-listen", self.target, "--admin-listen", listen]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("REDIS_GATEWAY_")}
        self._log = self._folder / "gateway.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen([path, *args], stdout=log, stderr=log, env=environment)
        self.listen = eventually(self._listens, "the gateway listens")
        self.url = f"http://{self.listen}/"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def json(self) -> dict[str, Any]:
        """What `/status.json` says."""
        with urllib.request.urlopen(self.url + "status.json", timeout=5) as answer:
            return json.load(answer)

    def _listens(self) -> str | None:
        text = self._log.read_text()
        assert self.process.poll() is None, text
        found = re.search(r"admin[^\n]*?(127\.0\.0\.1:[1-9]\d*)", text)
        return found and found[1]


class Traffic(threading.Thread):
    """Calls of most patterns until it is ended, beside a listener, a held lock, somebody who waits for it, and a claim."""

    def __init__(self, target: str) -> None:
        super().__init__(daemon=True)
        self._client = Client(target)
        self._end = threading.Event()
        self.rounds = 0

    def run(self) -> None:
        with self._client as client:
            events = user_events_pb2.ListenRequest(username="devtable", event_ids=["docker-cli"])
            open_for_good = [
                client.user_events.Listen(events),
                client.locks.Hold(locks_pb2.HoldRequest(name="upload", ttl_ms=10_000)),
            ]
            next(open_for_good[1])
            open_for_good.append(client.locks.Hold(locks_pb2.HoldRequest(name="upload", ttl_ms=10_000, wait_ms=600_000)))
            pull = pull_metrics_pb2.Pull(repository_id=8, tag="claimed", digest="sha256:" + "8" * 64)
            client.pull_metrics.BatchTrackPulls(pull_metrics_pb2.BatchTrackPullsRequest(pulls=[pull]))
            client.pull_metrics.ClaimPulls(pull_metrics_pb2.ClaimPullsRequest(lease_seconds=600))
            while not self._end.wait(0.01):
                self._round(client)
            for stream in open_for_good:
                stream.cancel()

    def end(self) -> None:
        self._end.set()
        self.join()

    def _round(self, client: Client) -> None:
        self.rounds += 1
        message = build_logs_pb2.LogMessage(message=f"Step {self.rounds}/9")
        entry = build_logs_pb2.LogEntry(message=message)
        pull = pull_metrics_pb2.Pull(repository_id=7, tag="latest", digest="sha256:" + "0" * 64)
        publish = user_events_pb2.PublishRequest(username="devtable", event_id="docker-cli", payload=b"{}")
        for call, request in (
            (client.cache.Get, cache_pb2.CacheGetRequest(key="<script>alert(1)</script>")),
            (client.cache.Set, cache_pb2.CacheSetRequest(key="hot_key", value=b"value", ttl_seconds=60)),
            (client.build_logs.Append, build_logs_pb2.AppendRequest(build_id="7", entries=[entry])),
            (client.pull_metrics.BatchTrackPulls, pull_metrics_pb2.BatchTrackPullsRequest(pulls=[pull], buffered=True)),
            (client.user_events.Publish, publish),
        ):
            with contextlib.suppress(GatewayError):  # it is for the page to tell of them
                call(request, timeout=1)


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="rg") as folder:
        server = Server(Path(folder))
        yield server
        server.kill()


@pytest.fixture
def gateway(server: Server) -> Iterator[Gateway]:
    with tempfile.TemporaryDirectory(prefix="rg") as folder:
        gateway = Gateway(Path(folder), server)
        yield gateway
        gateway.kill()


@pytest.fixture
def traffic(gateway: Gateway) -> Iterator[Traffic]:
    traffic = Traffic(gateway.target)
    traffic.start()
    yield traffic
    traffic.end()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or pytest.fail("no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        # No sandbox of its own: root, as in a container, may not have one. It opens this test's page alone.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
