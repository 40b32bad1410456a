"""Traces: from a caller's span through the gateway to Redis, received over OTLP."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import Tracer, format_trace_id

from redis_gateway import AsyncClient, Client, Unavailable
from redisgateway.v1 import build_logs_pb2 as logs_pb
from redisgateway.v1 import cache_pb2 as cache_pb

from .conftest import PATIENCE, Gateway, Machine, Server, eventually
from .receiver import Receiver, attributes, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def tracer(sampler: Sampler = ALWAYS_ON) -> Tracer:
    """The caller's."""
    return TracerProvider(sampler=sampler).get_tracer("caller")


def start(gateway: Gateway, target: str, ratio: float) -> None:
    """Starts the gateway again, with traces."""
    gateway.kill()
    gateway.start("--telemetry-otlp-endpoint", target, "--telemetry-sample-ratio", str(ratio))
    health = health_pb2.HealthCheckRequest(service="redisgateway.v1.Cache")
    with Client(gateway.target) as client, tracer(ALWAYS_OFF).start_as_current_span("start"):
        eventually(lambda: client.health.Check(health).status == health_pb2.HealthCheckResponse.SERVING, "Redis serves")


def drain(gateway: Gateway) -> None:
    """Ends the gateway; its last spans leave before."""
    gateway.process.terminate()
    assert gateway.process.wait(PATIENCE) == 0


def get(key: str) -> cache_pb.CacheGetRequest:
    return cache_pb.CacheGetRequest(key=key)


def only(spans: list[Span], name: str) -> Span:
    [span] = [span for span in spans if span.name == name]
    return span


def test_one_trace_from_the_caller_to_redis(gateway: Gateway, client: Client, server: Server, receiver: Receiver) -> None:
    start(gateway, receiver.target, ratio=0)
    server.direct().set("secret-key", "secret-value")
    with tracer().start_as_current_span("page") as span:
        # The caller's own metadata goes along.
        answer = client.cache.Get(get("secret-key"), metadata=(("x-request", "1"),))
        caller = span.get_span_context()
    assert answer.value == b"secret-value"
    drain(gateway)

    rpc, redis = only(receiver.spans(), "redisgateway.v1.Cache/Get"), only(receiver.spans(), "GET")
    assert len(receiver.spans()) == 2
    trace = caller.trace_id.to_bytes(16, "big")
    assert (rpc.trace_id, redis.trace_id) == (trace, trace)
    assert (rpc.parent_span_id, redis.parent_span_id) == (caller.span_id.to_bytes(8, "big"), rpc.span_id)
    assert (rpc.kind, redis.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert rpc.start_time_unix_nano <= redis.start_time_unix_nano
    assert redis.end_time_unix_nano <= rpc.end_time_unix_nano
    assert (rpc.status.code, redis.status.code) == (Status.STATUS_CODE_UNSET, Status.STATUS_CODE_UNSET)
    assert attributes(rpc) == {
        "rpc.system": "grpc",
        "rpc.service": "redisgateway.v1.Cache",
        "rpc.method": "Get",
        "rpc.grpc.status_code": 0,
        "trace_id": format_trace_id(caller.trace_id),
    }
    assert attributes(redis) == {
        "db.system.name": "redis",
        "db.operation.name": "GET",
        "db.namespace": "0",
        "server.address": str(server.socket),
        "redis_gateway.endpoint": "cache",
        "redis_gateway.server": "primary",
    }
    [resource] = receiver.resources()
    assert resource["service.name"] == "redis-gateway"
    assert "secret" not in receiver.text()


def test_each_command_of_a_change_has_a_span(gateway: Gateway, client: Client, receiver: Receiver) -> None:
    start(gateway, receiver.target, ratio=0)
    entry = logs_pb.LogEntry(message=logs_pb.LogMessage(message="secret-line"))
    with tracer().start_as_current_span("page"):
        client.build_logs.CompareAndAppend(logs_pb.CompareAndAppendRequest(build_id="secret-build", entries=[entry]))
    drain(gateway)
    rpc = only(receiver.spans(), "redisgateway.v1.BuildLogs/CompareAndAppend")
    commands = [span for span in receiver.spans() if span is not rpc]
    assert {span.parent_span_id for span in commands} == {rpc.span_id}
    commands.sort(key=lambda span: span.start_time_unix_nano)
    # A server that has just been started has no script yet.
    assert [(span.name, attributes(span).get("error.type")) for span in commands] == [
        ("EVALSHA", "NOSCRIPT"),
        ("SCRIPT", None),
        ("EVALSHA", None),
    ]
    assert "secret" not in receiver.text()


def test_streams_and_asyncio_go_on_in_the_trace(gateway: Gateway, receiver: Receiver) -> None:
    start(gateway, receiver.target, ratio=0)

    async def main() -> int:
        async with AsyncClient(gateway.target) as client:
            with tracer().start_as_current_span("page") as span:
                await client.cache.Get(get("k"))
                tail = client.build_logs.Tail(logs_pb.TailRequest(build_id="7"))
                await anext(aiter(tail))
                tail.cancel()
            return span.get_span_context().span_id

    caller = asyncio.run(main()).to_bytes(8, "big")
    with Client(gateway.target) as client, tracer().start_as_current_span("page") as span:
        tail = client.build_logs.Tail(logs_pb.TailRequest(build_id="7"))
        next(tail)
        tail.cancel()
        again = span.get_span_context().span_id.to_bytes(8, "big")
    drain(gateway)
    parents = [(span.name, span.parent_span_id) for span in receiver.spans() if span.kind == Span.SPAN_KIND_SERVER]
    assert sorted(parents) == sorted([
        ("redisgateway.v1.Cache/Get", caller),
        ("redisgateway.v1.BuildLogs/Tail", caller),
        ("redisgateway.v1.BuildLogs/Tail", again),
    ])  # fmt: skip


def test_failures_mark_the_spans(gateway: Gateway, client: Client, server: Server, receiver: Receiver) -> None:
    start(gateway, receiver.target, ratio=0)
    server.direct().lpush("secret-list", 1)
    with tracer().start_as_current_span("page"):
        client.cache.Get(get("secret-list"))
    drain(gateway)
    [rpc] = [span for span in receiver.spans() if span.kind == Span.SPAN_KIND_SERVER]
    [redis] = [span for span in receiver.spans() if span.kind == Span.SPAN_KIND_CLIENT]
    assert (redis.status.code, attributes(redis)["error.type"]) == (Status.STATUS_CODE_ERROR, "WRONGTYPE")
    # The cache answers with a miss, and says why.
    assert rpc.status.code == Status.STATUS_CODE_UNSET

    receiver.forget()
    start(gateway, receiver.target, ratio=0)
    server.kill()
    with tracer().start_as_current_span("page"), pytest.raises(Unavailable):
        client.build_logs.GetStatus(logs_pb.GetStatusRequest(build_id="secret-build"), timeout=1)
    drain(gateway)
    # The call was repeated: all of its attempts are in the trace.
    spans = receiver.spans()
    assert {span.name for span in spans} == {"redisgateway.v1.BuildLogs/GetStatus", "GET"}
    assert {span.status.code for span in spans} == {Status.STATUS_CODE_ERROR}
    assert {attributes(span)["error.type"] for span in spans} == {"UNAVAILABLE", "unavailable"}
    assert "secret" not in receiver.text()


def test_the_caller_decides_what_is_sampled(gateway: Gateway, client: Client, receiver: Receiver) -> None:
    start(gateway, receiver.target, ratio=1)
    with tracer(ALWAYS_OFF).start_as_current_span("page"):
        client.cache.Get(get("k"))
    with tracer().start_as_current_span("page") as span:
        client.cache.Get(get("k"))
        trace = span.get_span_context().trace_id.to_bytes(16, "big")
    drain(gateway)
    assert [span.trace_id for span in receiver.spans()] == [trace, trace]


@pytest.mark.parametrize(("ratio", "least", "most"), [(0, 0, 0), (0.25, 140, 260), (1, 800, 800)])
def test_the_ratio_decides_for_who_does_not(
    gateway: Gateway, client: Client, receiver: Receiver, ratio: float, least: int, most: int
) -> None:
    start(gateway, receiver.target, ratio)
    for _ in range(800):
        client.cache.Get(get("k"))
    drain(gateway)
    assert least <= len({span.trace_id for span in receiver.spans()}) <= most


def memory(pid: int) -> int:
    """Resident memory, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def log(gateway: Gateway) -> list[str]:
    lines = (gateway.folder / "gateway.log").read_text().splitlines()
    return [line for line in lines if "collector" in line or "opentelemetry" in line]


def test_a_collector_that_is_silent_delays_nobody(gateway: Gateway, client: Client) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start(gateway, f"http://127.0.0.1:{silent.getsockname()[1]}", ratio=1)

        def slow(calls: int) -> float:
            times = []
            for _ in range(calls):
                began = time.monotonic()
                client.cache.Get(get("k"), timeout=PATIENCE)
                times.append(time.monotonic() - began)
            return sorted(times)[calls * 99 // 100]

        # More than the queue of spans holds.
        slow(1500)
        full = memory(gateway.process.pid)
        machine = Machine()
        slowest = slow(3000)
        assert slowest < 0.1 + machine.end()
        assert memory(gateway.process.pid) - full < 2 << 20
        began = time.monotonic()
        drain(gateway)
        # What the last spans may take, and the rest of the end.
        assert time.monotonic() - began < 2 + PATIENCE / 3


def test_a_collector_that_refuses_is_told_once(
    gateway: Gateway, client: Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    receiver.refuses = True
    start(gateway, receiver.target, ratio=1)

    def refused() -> bool:
        client.cache.Get(get("k"))
        return receiver.refused >= 5

    eventually(refused, "five exports are refused")
    assert len(log(gateway)) == 1, log(gateway)
    [line] = log(gateway)
    assert "WARN" in line and "spans do not reach the collector" in line
    receiver.refuses = False

    def received() -> bool:
        client.cache.Get(get("k"))
        return bool(receiver.spans())

    eventually(received, "spans come through again")
    drain(gateway)
    [_, line] = log(gateway)
    assert "spans reach the collector again" in line


def test_spans_travel_by_tls(gateway: Gateway, client: Client, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = folder / "key.pem", folder / "cert.pem"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    request += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    request += ["-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run([*request, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    with receiving(credentials) as receiver:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=secret")
        start(gateway, receiver.target, ratio=1)
        client.cache.Get(get("k"))
        drain(gateway)
        assert len(receiver.spans()) == 2
        assert receiver.headers["x-token"] == "secret"
        assert not log(gateway)


WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
from redis_gateway import Client
from redisgateway.v1 import cache_pb2
with Client(sys.argv[1]) as client:
    assert not client.cache.Get(cache_pb2.CacheGetRequest(key="k")).HasField("value")
"""


def test_the_client_works_without_opentelemetry(gateway: Gateway) -> None:
    subprocess.run([sys.executable, "-c", WITHOUT, gateway.target], check=True, timeout=PATIENCE)
