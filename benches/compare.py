"""Measures Cache.Get: the gateway with all its layers, from Redis, from memory and with traces, a bare tonic RPC of the same size, Redis
itself; and the gateway at rest.

All on this machine and its loopback, load generators included, in interleaved rounds; the median of the rounds counts, and
ratios within one run say more than numbers. An answer counts only if it carried the value: the bytes that came are counted.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grpc
from stand import CONNECTIONS, IN_FLIGHT, RELEASE, Stack, channel, cpu_seconds, framed, free_port, h2load, memory, number

from redisgateway.v1 import cache_pb2 as pb  # noqa: E402
from redisgateway.v1 import cache_pb2_grpc  # noqa: E402

KEY, NEAR_KEY = "bench", "near:bench"
VALUE = b"v" * 256
ROUNDS = 3
CALLS = int(os.environ.get("CALLS", "200000"))
REDIS_CONNECTIONS = 50
NOT_SAMPLED = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


class Collector(grpc.GenericRpcHandler):
    """Takes spans over OTLP, and counts the bytes."""

    def __init__(self):
        self.received = 0

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self._take)

    def _take(self, request, context):
        self.received += len(request)
        return b""


class Contestant(NamedTuple):
    name: str
    port: int
    pid: int
    body: str
    headers: tuple = ()


def redis_benchmark(port):
    """GETs a second by redis-benchmark, each of a value that is there."""
    command = ["redis-benchmark", "-p", str(port), "-t", "set,get", "-c", str(REDIS_CONNECTIONS)]
    command += ["-d", str(len(VALUE)), "-n", str(CALLS), "--csv"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return number(r'"GET","([\d.]+)"', text)


def load(contestant, calls):
    """Calls a second by h2load; fails unless each call was answered with the value."""
    rate, data = h2load(contestant.port, "Cache/Get", contestant.body, calls, *contestant.headers)
    if data != calls * len(framed(pb.CacheGetResponse(value=VALUE))):
        sys.exit(f"answers of {contestant.name} without the value")
    return rate


def measure(stack):
    redis_port, redis = stack.redis()
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(1), [collector])
    otlp = ["--telemetry-otlp-endpoint", f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"]
    server.start()
    stack.callback(server.stop, None)
    gateway = stack.gateway("gateway", redis_port, "--cache-near-prefixes", "near:")
    print(f"at rest: {memory(gateway.pid) / 2**20:.1f} MiB; serves {gateway.ready_after * 1000:.0f} ms after its start\n")
    watched = stack.gateway("traced", redis_port, *otlp, "--telemetry-sample-ratio", "0")
    sampling = stack.gateway("sampling", redis_port, *otlp, "--telemetry-sample-ratio", "0.01")
    bare_port = free_port()
    bare = stack.start("bare", RELEASE / "examples/bare", bare_port)
    grpc.channel_ready_future(channel(bare_port)).result(timeout=10)

    stub = cache_pb2_grpc.CacheStub(channel(gateway.port))
    for key in (KEY, NEAR_KEY):
        stub.Set(pb.CacheSetRequest(key=key, value=VALUE, overwrite=True), timeout=5)
        if stub.Get(pb.CacheGetRequest(key=key), timeout=5).value != VALUE:
            sys.exit("the gateway does not answer with the value that was set")
    get, near = stack.body(pb.CacheGetRequest(key=KEY)), stack.body(pb.CacheGetRequest(key=NEAR_KEY))
    contestants = [
        Contestant("bare tonic RPC", bare_port, bare, get),
        Contestant("gateway", gateway.port, gateway.pid, get),
        Contestant("gateway, value in memory", gateway.port, gateway.pid, near),
        Contestant("traces, ratio 0", watched.port, watched.pid, get),
        Contestant("traces, callers do not sample", watched.port, watched.pid, get, (NOT_SAMPLED,)),
        Contestant("traces, 1 % sampled", sampling.port, sampling.pid, get),
    ]
    for contestant in contestants:
        load(contestant, CALLS // 10)

    rates, costs = ({contestant.name: [] for contestant in contestants} for _ in range(2))
    rates["redis-benchmark"], costs["redis-server"] = [], []
    for _ in range(ROUNDS):
        for contestant in contestants:
            name = contestant.name
            before, redis_before = cpu_seconds(contestant.pid), cpu_seconds(redis)
            rates[name].append(load(contestant, CALLS))
            costs[name].append(cpu_seconds(contestant.pid) - before)
            asked = cpu_seconds(redis) - redis_before
            if name == "gateway":
                costs["redis-server"].append(asked)
            elif name == "gateway, value in memory" and asked > CALLS * 1e-6:
                sys.exit(f"Redis was asked for what is in memory: {asked} s of its time")
        rates["redis-benchmark"].append(redis_benchmark(redis_port))
    if not collector.received:
        sys.exit("no span was received")
    rate = {name: statistics.median(all_of) for name, all_of in rates.items()}
    cost = {name: statistics.median(all_of) / CALLS * 1e6 for name, all_of in costs.items()}
    return rate, cost


def main():
    with tempfile.TemporaryDirectory() as folder, Stack(folder) as stack:
        rate, cost = measure(stack)
    print(f"Cache.Get, {len(VALUE)}-byte values, {CONNECTIONS} connections with {IN_FLIGHT} calls in flight each,")
    print(f"{CALLS} calls a round, median of {ROUNDS} interleaved rounds, {os.cpu_count()} cores\n")
    print(f"{'':34}{'calls/s':>10}{'CPU of the server per call':>30}")
    for name, calls in rate.items():
        print(f"{name:34}{calls:10.0f}" + (f"{cost[name]:27.1f} µs" if name in cost else ""))
    print(f"{'redis-server of the gateway':44}{cost['redis-server']:27.1f} µs\n")
    bare, gateway = "bare tonic RPC", "gateway"
    for name, of in (
        (gateway, bare),
        ("gateway, value in memory", bare),
        (gateway, "redis-benchmark"),
        ("traces, ratio 0", gateway),
        ("traces, callers do not sample", gateway),
        ("traces, 1 % sampled", gateway),
    ):
        cpu = f", CPU {cost[name] / cost[of]:.2f}" if of in cost else ""
        print(f"{f'{name} / {of}':48}{rate[name] / rate[of]:.2f}{cpu}")


if __name__ == "__main__":
    main()
