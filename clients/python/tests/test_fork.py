"""Forks, as gunicorn's with preload: what is made before serves after, whatever was done with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

from .conftest import PATIENCE, Gateway, Server, eventually, state_of

# Makes all before the fork, and forks twice. Each process appends two lines to a log.
PROGRAM = """
import os, sys
from redis_gateway import Client
from redis_gateway.quay.userevent import UserEventListener
from redisgateway.v1 import build_logs_pb2 as pb

target, before = sys.argv[1:]
client = Client(target)

def append(who):
    entry = pb.LogEntry(message=pb.LogMessage(message=who))
    client.build_logs.Append(pb.AppendRequest(build_id="7", entries=[entry]), timeout=20)

if before != "unused":
    append("before")
if before == "listening":
    # A stream is open, and a thread waits on it.
    listener = UserEventListener({"gateway": target}, "devtable", ["test"])
    stream = listener.event_stream()
    next(stream)
child = os.fork()
grandchild = os.fork() if not child else 0
append("parent" if child else "child" if grandchild else "grandchild")
append("parent" if child else "child" if grandchild else "grandchild")
for pid in filter(None, (child, grandchild)):
    assert os.waitpid(pid, 0)[1] == 0
if before == "listening" and child:
    listener.stop()
    assert list(stream) == []
"""


def run(*args: str) -> None:
    # Ends by itself, with all that runs at the end of a process.
    subprocess.run([sys.executable, "-c", *args], check=True, timeout=PATIENCE)


def lines(server: Server) -> list[Any]:
    return sorted(json.loads(line)["message"] for line in server.direct().lrange("builds/7/logs", 0, -1))


FAMILY = sorted(["parent", "child", "grandchild"] * 2)


def test_made_before_the_fork(gateway: Gateway, server: Server) -> None:
    run(PROGRAM, gateway.target, "unused")
    assert lines(server) == FAMILY


def test_used_before_the_fork(gateway: Gateway, server: Server) -> None:
    run(PROGRAM, gateway.target, "used")
    assert lines(server) == sorted(["before", *FAMILY])


def test_used_before_the_fork_by_those_who_imported_grpcio_first(gateway: Gateway, server: Server) -> None:
    run(f"import grpc\n{PROGRAM}", gateway.target, "used")
    assert lines(server) == sorted(["before", *FAMILY])


def test_listening_while_it_forks(gateway: Gateway, server: Server) -> None:
    run(PROGRAM, gateway.target, "listening")
    assert lines(server) == sorted(["before", *FAMILY])


DEADLINE = """
import os, sys, time
from redis_gateway import Client, Unavailable
from redisgateway.v1 import build_logs_pb2 as pb

client = Client(sys.argv[1])
get = pb.GetStatusRequest(build_id="7")
client.build_logs.GetStatus(get)
print("ready", flush=True)
sys.stdin.readline()
child = os.fork()
began = time.monotonic()
try:
    client.build_logs.GetStatus(get, timeout=0.5)
except Unavailable:
    assert 0.2 < time.monotonic() - began
else:
    raise SystemExit("nobody can have answered")
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_deadlines_hold_in_a_child(gateway: Gateway) -> None:
    """A gateway that accepts and never answers: a child whose gRPC were half there would wait without end."""
    with subprocess.Popen(
        [sys.executable, "-c", DEADLINE, gateway.target], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        gateway.process.send_signal(signal.SIGSTOP)
        eventually(lambda: state_of(gateway.process.pid) == "T", "the gateway is stopped")
        try:
            process.communicate("go on\n", timeout=PATIENCE)
        finally:
            os.kill(gateway.process.pid, signal.SIGCONT)
            process.kill()
    assert process.returncode == 0
