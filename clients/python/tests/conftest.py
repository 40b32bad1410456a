"""A gateway and a private redis-server for each test that asks for them, and both sides of it: a client, and redis-py."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from grpc_health.v1 import health_pb2

from redis_gateway import Client, shared

pytest.register_assert_rewrite(f"{__package__}.recording")

ROOT = Path(__file__).resolve().parents[3]
ENDPOINTS = ("build_logs", "user_events", "pull_metrics", "cache", "orchestrator")
SERVICES = ("BuildLogs", "UserEvents", "PullMetrics", "Cache", "ContentTracker", "Orchestrator", "Locks")
PATIENCE = float(os.environ.get("REDISGATEWAY_TEST_PATIENCE", "30"))  # seconds


def eventually(condition: Callable[[], Any], what: str = "condition") -> Any:
    """What `condition` gives once it is true; fails when patience is over."""
    give_up = time.monotonic() + PATIENCE
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < give_up, f"not within {PATIENCE} s: {what}"
        time.sleep(0.01)


def state_of(pid: int) -> str:
    """A process's state, such as T: stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Machine:
    """How late a thread is run that does nothing: what no client can help."""

    def __init__(self) -> None:
        self.late = 0.0
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def end(self) -> float:
        self._ended.set()
        return self.late

    def _watch(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(0.05):
            self.late = max(self.late, time.monotonic() - began - 0.05)
            began = time.monotonic()


class Server:
    """A redis-server in a folder, on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        self._folder = folder
        self.start()

    def start(self) -> None:
        path = shutil.which("redis-server") or pytest.fail("no redis-server: apt-get install redis-server")
        args = ["--port", "0", "--unixsocket", str(self.socket), "--appendonly", "yes", "--appendfsync", "always"]
        with (self._folder / "redis.log").open("a") as log:
            self.process = subprocess.Popen([path, *args, "--dir", str(self._folder)], stdout=log, stderr=log)
        eventually(self._answers, "redis-server answers")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def direct(self, db: int = 0) -> Any:
        """A client past the gateway, as the reference's. Its types are of little use."""
        return redis.Redis(unix_socket_path=str(self.socket), db=db)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self._folder / "redis.log").read_text()
        try:
            return bool(self.direct().ping())
        except redis.RedisError:
            return False


class Gateway:
    """A gateway process on a Unix socket, or where `listen` says, before one redis-server for all endpoints."""

    def __init__(self, folder: Path, server: Server, listen: str = "", *settings: str) -> None:
        self.folder = folder
        self.binary = Path(os.environ.get("REDIS_GATEWAY_BIN", ROOT / "target/debug/redis-gateway"))
        endpoints = [f"  {name}: {{socket: {server.socket}}}" for name in ENDPOINTS]
        (folder / "gateway.yaml").write_text("\n".join(["endpoints:", *endpoints, ""]))
        self.target = listen or f"unix:{folder}/gateway.sock"
        self._settings = settings
        self.start()

    def start(self, *settings: str) -> None:
        assert self.binary.exists(), f"no gateway at {self.binary}: cargo build, or set REDIS_GATEWAY_BIN"
        args = ["--config", str(self.folder / "gateway.yaml"), "--grpc-listen", self.target, "--admin-listen", "127.0.0.1:0"]
        # Variables of its prefix would be settings.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("REDIS_GATEWAY_")}
        with (self.folder / "gateway.log").open("a") as log:
            self.process = subprocess.Popen(
                [self.binary, *args, *self._settings, *settings], stdout=log, stderr=log, env=environment
            )
        eventually(self._listens, "the gateway listens")

    def serving(self) -> None:
        """Waits until it has reached its Redis for each pattern."""
        requests = [health_pb2.HealthCheckRequest(service=f"redisgateway.v1.{service}") for service in SERVICES]
        serving = health_pb2.HealthCheckResponse.SERVING
        with Client(self.target) as client:
            eventually(lambda: all(client.health.Check(request).status == serving for request in requests), "all is served")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def drain(self) -> float:
        """Ends it by SIGTERM; how many seconds it took."""
        began = time.monotonic()
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0, (self.folder / "gateway.log").read_text()
        return time.monotonic() - began

    def _listens(self) -> bool:
        assert self.process.poll() is None, (self.folder / "gateway.log").read_text()
        path = self.target.removeprefix("unix:")
        if path != self.target:
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(path) == 0
        host, _, port = self.target.rpartition(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0


@pytest.fixture
def folder() -> Iterator[Path]:
    # Short: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="rg") as name:
        yield Path(name)


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    yield server
    server.kill()


@pytest.fixture
def gateway(folder: Path, server: Server) -> Iterator[Gateway]:
    gateway = Gateway(folder, server)
    yield gateway
    gateway.kill()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Client]:
    with Client(gateway.target) as client:
        yield client


@pytest.fixture
def config(gateway: Gateway) -> Iterator[dict[str, Any]]:
    """Quay's configuration of a Redis, with the gateway that stands before it."""
    yield {"host": "unused.example", "gateway": gateway.target}
    shared(gateway.target).close()
