"""Measures Cache.Get: the gateway with all its layers, from Redis and from memory, a bare tonic RPC of the same size, Redis itself.

All on this machine and its loopback, load generators included, in interleaved rounds; the median of the rounds counts, and
ratios within one run say more than numbers. An answer counts only if it carried the value: the bytes that came are counted.
"""

import os
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import grpc

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples/python"))

from redisgateway.v1 import cache_pb2 as pb  # noqa: E402
from redisgateway.v1 import cache_pb2_grpc  # noqa: E402

RELEASE = ROOT / "target/release"
KEY, NEAR_KEY = "bench", "near:bench"
VALUE = b"v" * 256
ROUNDS = 3
CALLS = int(os.environ.get("CALLS", "200000"))
CONNECTIONS, IN_FLIGHT, REDIS_CONNECTIONS = 8, 32, 50
GET = "/redisgateway.v1.Cache/Get"


def framed(message):
    """A message as it travels: a flag, its length, itself."""
    data = message.SerializeToString()
    return struct.pack(">BI", 0, len(data)) + data


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(stack, name, *command):
    """Starts a server that ends with the stack."""
    log = open(f"{stack.folder}/{name}.log", "wb")
    process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, cwd=stack.folder)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process.pid


def ready(stack, name, port):
    """A stub of a server that takes connections."""
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    try:
        grpc.channel_ready_future(channel).result(timeout=10)
    except grpc.FutureTimeoutError:
        sys.exit(f"{name} does not listen:\n" + Path(f"{stack.folder}/{name}.log").read_text())
    return cache_pb2_grpc.CacheStub(channel)


def cpu_seconds(pid):
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def number(pattern, text):
    match = re.search(pattern, text)
    if match is None:
        sys.exit(f"no {pattern!r} in:\n{text}")
    return float(match.group(1))


def load(port, body, calls):
    """Calls a second by h2load; fails unless each call was answered with the value."""
    command = ["h2load", f"-n{calls}", f"-c{CONNECTIONS}", f"-m{IN_FLIGHT}", "-d", body]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{port}{GET}"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    succeeded = number(r", (\d+) succeeded", text)
    data = number(r"headers \(space savings [\d.]+%\), [\d.]+[KMG]?B \((\d+)\) data", text)
    if succeeded != calls or data != calls * len(framed(pb.CacheGetResponse(value=VALUE))):
        sys.exit(f"answers without the value among {calls}:\n{text}")
    return number(r"finished in .*, ([\d.]+) req/s", text)


def redis_benchmark(port):
    """GETs a second by redis-benchmark, each of a value that is there."""
    command = ["redis-benchmark", "-p", str(port), "-t", "set,get", "-c", str(REDIS_CONNECTIONS)]
    command += ["-d", str(len(VALUE)), "-n", str(CALLS), "--csv"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return number(r'"GET","([\d.]+)"', text)


def measure(stack):
    redis_port, gateway_port, bare_port = free_port(), free_port(), free_port()
    redis = start(stack, "redis-server", "redis-server", "--port", redis_port, "--bind", "127.0.0.1", "--save", "")
    gateway = start(
        stack, "gateway", RELEASE / "redis-gateway", "--grpc-listen", f"127.0.0.1:{gateway_port}",
        "--admin-listen", "127.0.0.1:0", "--endpoints-cache-host", "127.0.0.1", "--endpoints-cache-port", redis_port,
        "--cache-near-prefixes", "near:",
    )  # fmt: skip
    bare = start(stack, "bare", RELEASE / "examples/bare", bare_port)

    stub = ready(stack, "gateway", gateway_port)
    ready(stack, "bare", bare_port)
    servers = {"bare": (bare_port, bare), "gateway": (gateway_port, gateway), "memory": (gateway_port, gateway)}
    bodies = {name: f"{stack.folder}/{name}" for name in servers}
    for name, body in bodies.items():
        key = NEAR_KEY if name == "memory" else KEY
        for _ in range(500):
            # Degraded until the gateway has its connection.
            answer = stub.Set(pb.CacheSetRequest(key=key, value=VALUE, overwrite=True), timeout=5)
            if not answer.degraded:
                break
            time.sleep(0.02)
        if stub.Get(pb.CacheGetRequest(key=key), timeout=5).value != VALUE:
            sys.exit("the gateway does not answer with the value that was set")
        Path(body).write_bytes(framed(pb.CacheGetRequest(key=key)))
    for name, (port, _) in servers.items():
        load(port, bodies[name], CALLS // 10)

    rates = {"bare": [], "gateway": [], "memory": [], "redis-benchmark": []}
    costs = {"bare": [], "gateway": [], "memory": [], "redis-server": []}
    for _ in range(ROUNDS):
        for name, (port, pid) in servers.items():
            before, redis_before = cpu_seconds(pid), cpu_seconds(redis)
            rates[name].append(load(port, bodies[name], CALLS))
            costs[name].append(cpu_seconds(pid) - before)
            asked = cpu_seconds(redis) - redis_before
            if name == "gateway":
                costs["redis-server"].append(asked)
            elif name == "memory" and asked > CALLS * 1e-6:
                sys.exit(f"Redis was asked for what is in memory: {asked} s of its time")
        rates["redis-benchmark"].append(redis_benchmark(redis_port))
    rate = {name: statistics.median(all_of) for name, all_of in rates.items()}
    cost = {name: statistics.median(all_of) / CALLS * 1e6 for name, all_of in costs.items()}
    return rate, cost


def main():
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.folder = folder
        rate, cost = measure(stack)
    print(f"Cache.Get, {len(VALUE)}-byte values, {CONNECTIONS} connections with {IN_FLIGHT} calls in flight each,")
    print(f"{CALLS} calls a round, median of {ROUNDS} interleaved rounds, {os.cpu_count()} cores\n")
    print(f"{'':34}{'calls/s':>10}{'CPU of the server per call':>30}")
    print(f"{'bare tonic RPC':34}{rate['bare']:10.0f}{cost['bare']:27.1f} µs")
    print(f"{'gateway':34}{rate['gateway']:10.0f}{cost['gateway']:27.1f} µs")
    print(f"{'  its redis-server':34}{'':10}{cost['redis-server']:27.1f} µs")
    print(f"{'gateway, value in memory':34}{rate['memory']:10.0f}{cost['memory']:27.1f} µs")
    print(f"{f'redis-benchmark, {REDIS_CONNECTIONS} connections':34}{rate['redis-benchmark']:10.0f}\n")
    print(f"gateway / bare RPC         {rate['gateway'] / rate['bare']:.2f}")
    print(f"memory / bare RPC          {rate['memory'] / rate['bare']:.2f}")
    print(f"gateway / redis-benchmark  {rate['gateway'] / rate['redis-benchmark']:.2f}")
    print(f"CPU, gateway / bare RPC    {cost['gateway'] / cost['bare']:.2f}")
    print(f"CPU, memory / bare RPC     {cost['memory'] / cost['bare']:.2f}")


if __name__ == "__main__":
    main()
