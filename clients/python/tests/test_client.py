"""Calls: sync and asyncio, errors, repetitions, forks, threads."""

from __future__ import annotations

import asyncio
import resource
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from redis_gateway import AsyncClient, Client, GatewayError, OutcomeUnknown, Unavailable
from redis_gateway._calls import Method, _Attempts
from redisgateway.v1 import build_logs_pb2 as logs_pb
from redisgateway.v1 import cache_pb2, locks_pb2
from redisgateway.v1 import pull_metrics_pb2 as pulls_pb

from .conftest import PATIENCE, Gateway, Server, eventually


def append(build: str, line: str) -> logs_pb.AppendRequest:
    return logs_pb.AppendRequest(build_id=build, entries=[logs_pb.LogEntry(message=logs_pb.LogMessage(message=line))])


def test_call(client: Client, server: Server) -> None:
    assert client.build_logs.Append(append("7", "one")).length == 1
    assert server.direct().lrange("builds/7/logs", 0, -1) == [b'{"message": "one"}']


def test_asyncio(gateway: Gateway) -> None:
    async def main() -> list[int]:
        async with AsyncClient(gateway.target) as client:
            answers = await asyncio.gather(*(client.build_logs.Append(append("7", "x")) for _ in range(20)))
            with pytest.raises(GatewayError) as caught:
                await client.build_logs.Append(append("", "x"))
            assert caught.value.reason == "INVALID_ARGUMENT"
            tail = client.build_logs.Tail(logs_pb.TailRequest(build_id="7"))
            entries = 0
            async for item in tail:
                entries += len(item.entries.entries)
                if entries == 20:
                    tail.cancel()
            return sorted(answer.length for answer in answers)

    assert asyncio.run(main()) == list(range(1, 21))


def test_threads_share_the_channel(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        lengths = pool.map(lambda _: client.build_logs.Append(append("7", "x")).length, range(100))
    assert sorted(lengths) == list(range(1, 101))


def test_error_names_the_reason(client: Client) -> None:
    with pytest.raises(GatewayError) as caught:
        client.build_logs.Append(append("", "x"))
    error = caught.value
    assert type(error) is GatewayError
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT
    assert error.metadata["field"] == "build_id"


def test_without_a_gateway_what_is_not_safe_is_unknown() -> None:
    with Client("127.0.0.1:1", timeout=2) as client:
        with pytest.raises(OutcomeUnknown):
            client.build_logs.Append(append("7", "x"))
        began = time.monotonic()
        with pytest.raises(Unavailable):
            client.build_logs.GetStatus(logs_pb.GetStatusRequest(build_id="7"))
        # It was tried again for as long as another try was in time, and not past its deadline.
        assert 1 <= time.monotonic() - began < PATIENCE


def test_a_safe_call_outlives_a_restart(gateway: Gateway, client: Client) -> None:
    request = logs_pb.CompareAndAppendRequest(build_id="7", entries=append("7", "x").entries)
    gateway.kill()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.build_logs.CompareAndAppend, request, timeout=PATIENCE)
        gateway.start()
        assert answer.result().appended


def test_a_call_that_is_not_safe_is_not_repeated(gateway: Gateway, client: Client) -> None:
    gateway.kill()
    began = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        client.build_logs.Append(append("7", "x"), timeout=10 * PATIENCE)
    assert time.monotonic() - began < PATIENCE


def test_what_was_not_executed_is_told_as_such(client: Client, server: Server) -> None:
    server.kill()

    def told() -> bool:
        with pytest.raises(GatewayError) as caught:
            client.build_logs.Append(append("7", "x"), timeout=1)
        # Not the first, which may have been on its way when Redis fell.
        return isinstance(caught.value, Unavailable) and caught.value.retry_after > 0

    eventually(told, "the gateway knows that Redis is away")


def test_asyncio_repeats_what_is_safe(gateway: Gateway) -> None:
    async def main() -> bool:
        async with AsyncClient(gateway.target) as client:
            gateway.kill()
            call = asyncio.ensure_future(client.build_logs.GetStatus(logs_pb.GetStatusRequest(build_id="7"), timeout=PATIENCE))
            await asyncio.sleep(0)
            await asyncio.to_thread(gateway.start)
            return (await call).HasField("status")

    assert not asyncio.run(main())


def test_a_call_wakes_nobody_who_waits_for_a_stream(client: Client) -> None:
    assert client.background_pulls.put(pulls_pb.Pull(repository_id=7, digest="sha256:5f70bf18", timestamp="1700000000"))
    assert client.background_pulls.flush(PATIENCE)
    calls = 200

    def switches() -> float:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        for _ in range(calls):
            client.build_logs.GetStatus(logs_pb.GetStatusRequest(build_id="7"))
        return (resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before) / calls

    # One, where the caller waits for its answer; four, where threads hand it to each other. What else happens here adds some.
    assert min(switches() for _ in range(5)) < 2


def test_what_was_waited_is_not_waited_again() -> None:
    attempts = _Attempts(Method.__new__(Method), time.monotonic() - 4, time.monotonic() + 6)
    request = locks_pb2.AcquireRequest(name="nightly", wait_ms=5_000)
    rest = attempts.rest_of(request)
    assert 0 < rest.wait_ms <= 1_000 and rest.name == "nightly" and request.wait_ms == 5_000
    # Counted from the attempt before, not from the first.
    assert attempts.rest_of(rest).wait_ms > 0
    other = cache_pb2.CacheGetRequest(key="k")
    assert attempts.rest_of(other) is other
