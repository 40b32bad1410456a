"""What the measurements stand on: servers that end with them, h2load, and what a process has cost."""

import os
import re
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import grpc

ROOT = Path(__file__).resolve().parent.parent
RELEASE = ROOT / "target/release"
sys.path.insert(0, str(ROOT / "examples/python"))

CONNECTIONS, IN_FLIGHT = 8, 32
ENDPOINTS = ("build_logs", "user_events", "pull_metrics", "cache", "orchestrator", "locks")


class Gateway(NamedTuple):
    """A gateway that runs: its ports, its process, and the seconds from its start to its readiness."""

    port: int
    admin: int
    pid: int
    ready_after: float


class Stack(ExitStack):
    """Servers, and a folder for their logs and bodies of calls."""

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)

    def start(self, name, *command):
        """Starts a server that ends with the stack."""
        log = self.enter_context((self.folder / f"{name}.log").open("wb"))
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, cwd=self.folder)
        self.callback(process.wait)
        self.callback(process.terminate)
        return process.pid

    def redis(self):
        """Its port and its process."""
        port = free_port()
        pid = self.start("redis-server", "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "")
        self._until("redis-server", lambda: socket.create_connection(("127.0.0.1", port)).close() is None)
        return port, pid

    def gateway(self, name, redis_port, *settings):
        """A gateway with all endpoints on one Redis, once they serve."""
        port, admin = free_port(), free_port()
        endpoints = [f"  {endpoint}: {{host: 127.0.0.1, port: {redis_port}}}" for endpoint in ENDPOINTS]
        config = self.folder / f"{name}.yaml"
        config.write_text("\n".join(["readiness: [all]", "endpoints:", *endpoints, ""]))
        addresses = ["--grpc-listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admin}"]
        began = time.monotonic()
        pid = self.start(name, RELEASE / "redis-gateway", "--config", config, *addresses, *settings)
        self._until(name, lambda: urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz").status == 200)
        return Gateway(port, admin, pid, time.monotonic() - began)

    def body(self, message):
        """A file with a message as it travels."""
        path = self.folder / f"body-{len(list(self.folder.glob('body-*')))}"
        path.write_bytes(framed(message))
        return path

    def _until(self, name, ready):
        give_up = time.monotonic() + 10
        while time.monotonic() < give_up:
            try:
                if ready():
                    return
            except (OSError, urllib.error.URLError):
                time.sleep(0.001)
        sys.exit(f"{name} does not serve:\n" + (self.folder / f"{name}.log").read_text())


def channel(port, **options):
    """A channel with a connection of its own."""
    alone = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.insecure_channel(f"127.0.0.1:{port}", alone, **options)


def framed(message):
    """A message as it travels: a flag, its length, itself."""
    data = message.SerializeToString()
    return struct.pack(">BI", 0, len(data)) + data


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_seconds(pid):
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid):
    """Resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def number(pattern, text):
    match = re.search(pattern, text)
    if match is None:
        sys.exit(f"no {pattern!r} in:\n{text}")
    return float(match.group(1))


def h2load(port, method, body, calls, *headers, connections=CONNECTIONS, in_flight=IN_FLIGHT):
    """Calls a second, and the bytes of all answers; fails unless all were answered."""
    command = ["h2load", f"-n{calls}", f"-c{connections}", f"-m{in_flight}", "-d", str(body)]
    for header in ("content-type: application/grpc", "te: trailers", *headers):
        command += ["-H", header]
    command.append(f"http://127.0.0.1:{port}/redisgateway.v1.{method}")
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if number(r", (\d+) succeeded", text) != calls:
        sys.exit(f"calls without an answer:\n{text}")
    data = number(r"headers \(space savings [\d.]+%\), [\d.]+[KMG]?B \((\d+)\) data", text)
    return number(r"finished in .*, ([\d.]+) req/s", text), int(data)
