"""Measures what a caller pays: by the gateway and past it, as Quay uses Redis, in Python and in Go; see docs/clients.md.

All on this machine and its loopback, in interleaved rounds. Waits are of all rounds together; CPU, the caller's own and the
gateway's, is the median of the rounds, and so are ratios, each of two that ran one after the other: they say more than numbers.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import grpc
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.backoff import ConstantBackoff
from redis.retry import Retry

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GO_CALLER = ROOT / "target/bench/caller"
ENDPOINTS = ("build-logs", "user-events", "pull-metrics", "cache", "orchestrator")
SERVICES = ("BuildLogs", "UserEvents", "PullMetrics", "Cache", "ContentTracker", "Locks", "Orchestrator")

# What is done so many times in a round, and what it is.
WORKS = {
    "append": (200, "append a line to a build's log"),
    "read": (50, "read a log of 100 lines"),
    "publish": (20, "publish an event, 20 a second"),
    "publish-burst": (200, "publish events, one right after the other"),
    "listen": (150, "hear an event"),
    "pull": (20, "count a pull, 20 a second"),
    "pull-burst": (200, "count pulls, one right after the other"),
    "cache-hit": (200, "get a cached value"),
    "cache-miss": (100, "miss a cached value, and store it"),
    "check": (200, "check whether content is blocked"),
    "lock": (100, "acquire a lock, and release it"),
    "orchestrator-set": (100, "set a key of the orchestrator"),
    "orchestrator-get": (200, "get a key of the orchestrator"),
    "manifest": (50, "a pull of a manifest"),
    "manifest-batched": (50, "  its five reads in one call"),
    "build": (1, "the log of a build, 1,000 lines"),
    "build-batched": (1, "  100 lines in a call"),
}
# What is compared with another work of those who go past the gateway.
PAST = {"manifest-batched": "manifest", "build-batched": "build"}
# Seconds between two events, for those who listen.
PACE = 0.002


class Caller:
    """A process that does the work of one who calls."""

    def __init__(self, stack, name, *command):
        self.name = name
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        stack.callback(self.end)
        self.works = self.answer()

    def ask(self, work, count):
        self.process.stdin.write(f"{work} {count}\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} has ended")
        return json.loads(line)

    def end(self):
        """Ends the process, which may find by then that something was wrong."""
        self.process.stdin.close()
        try:
            ended = self.process.wait(30)
        except subprocess.TimeoutExpired:
            # It waits for what never comes.
            self.process.kill()
            ended = self.process.wait()
        if ended != 0:
            sys.exit(f"{self.name} has failed")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(stack, *command):
    """Starts a server that ends with the stack."""
    # Variables of the gateway's prefix would be its settings.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REDIS_GATEWAY_")}
    command = [str(part) for part in command]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=stack.folder, env=environment)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process.pid


def serving(target):
    """Returns once all of the gateway's services are served from Redis."""
    with grpc.insecure_channel(target) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        for service in SERVICES:
            request = health_pb2.HealthCheckRequest(service=f"redisgateway.v1.{service}")
            for answer in health_pb2_grpc.HealthStub(channel).Watch(request, timeout=10):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    break


def cpu_seconds(pid):
    """How long a process's threads have worked."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


class Bench:
    def __init__(self, stack, gateway, rounds, share):
        redis_port, gateway_port = free_port(), free_port()
        start(stack, "redis-server", "--port", redis_port, "--bind", "127.0.0.1", "--save", "", "--loglevel", "warning")
        # Tries again until Redis is there.
        self.redis = redis.Redis(port=redis_port, retry=Retry(ConstantBackoff(0.02), 500, (OSError, redis.ConnectionError)))
        self.redis.ping()
        flags = ["--grpc-listen", f"127.0.0.1:{gateway_port}", "--admin-listen", "127.0.0.1:0", "--telemetry-log-level", "warn"]
        for endpoint in ENDPOINTS:
            flags += [f"--endpoints-{endpoint}-host", "127.0.0.1", f"--endpoints-{endpoint}-port", redis_port]
        self.gateway = start(stack, gateway, *flags)
        target = f"127.0.0.1:{gateway_port}"
        serving(target)
        self.rounds, self.share = rounds, share
        programs = {"Python": (sys.executable, "-B", HERE / "caller.py")}
        if GO_CALLER.exists():
            programs["Go"] = (GO_CALLER,)
        else:
            print("not run: callers in Go (no go)")
        self.callers = {
            language: [Caller(stack, f"{language}, {kind}", *program, kind, target, redis_port) for kind in ("gateway", "direct")]
            for language, program in programs.items()
        }
        self.paid = {}

    def run(self):
        for _ in range(self.rounds):
            self.round(self.share)

    def round(self, share):
        for work, (count, _) in WORKS.items():
            for callers in self.callers.values():
                for caller in callers:
                    if work in caller.works:
                        self.paid.setdefault((caller.name, work), []).append(self.measure(caller, work, max(1, int(count * share))))

    def measure(self, caller, work, count):
        worked = cpu_seconds(self.gateway)
        paid = caller.ask(work, count)
        if work == "listen":
            paid = self.listened(caller, count)
        worked = cpu_seconds(self.gateway) - worked
        return paid["waits"], paid["cpu"] / count * 1e6, worked / count * 1e6

    def listened(self, caller, count):
        for _ in range(count):
            # Neither of the two waits for the other.
            time.sleep(PACE)
            event = json.dumps({"at": time.time_ns()})
            # The one before may still be listening for a moment.
            if self.redis.publish("user/devtable/events/docker-cli", event) < 1:
                sys.exit(f"{caller.name} does not listen")
        return caller.answer()

    def report(self):
        for language in self.callers:
            print(f"\n{language + ', µs':48}{'p50':>9}{'p99':>9}{'CPU':>9}{'gateway':>9} |{'p50':>9}{'p99':>9}{'CPU':>9} |{'p50':>6}{'CPU':>6}")
            for work, (_, what) in WORKS.items():
                by_gateway = self.paid[f"{language}, gateway", work]
                direct = self.paid[f"{language}, direct", PAST.get(work, work)]
                p50, p99, cpu, worked = figures(by_gateway)
                direct_p50, direct_p99, direct_cpu, _ = figures(direct)
                waits = statistics.median(ratio(statistics.median, a[0], b[0]) for a, b in zip(by_gateway, direct, strict=True))
                cpus = statistics.median(a[1] / b[1] for a, b in zip(by_gateway, direct, strict=True))
                print(f"{what:48}{p50:9.0f}{p99:9.0f}{cpu:9.0f}{worked:9.0f} |", end="")
                print(f"{direct_p50:9.0f}{direct_p99:9.0f}{direct_cpu:9.0f} |{waits:6.2f}{cpus:6.2f}")


def ratio(of, one, other):
    return of(one) / of(other)


def figures(rounds):
    """Microseconds: the waits' median and 99th percentile, and the CPU of the caller and of the gateway for each."""
    waits = sorted(wait * 1e6 for waits, _, _ in rounds for wait in waits)
    return (
        statistics.median(waits),
        waits[int(len(waits) * 0.99)],
        statistics.median(cpu for _, cpu, _ in rounds),
        statistics.median(worked for _, _, worked in rounds),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gateway", type=Path, help="the program")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--share", type=float, default=1.0, help="of the usual counts in a round")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.folder = folder
        bench = Bench(stack, args.gateway.resolve(), args.rounds, args.share)
        bench.run()
        stack.close()
    print("The caller by the gateway, with the gateway's own CPU | past it | ratios, below 1 in favour of the gateway.")
    print(f"Median of {args.rounds} interleaved rounds, {os.cpu_count()} cores.")
    bench.report()


if __name__ == "__main__":
    main()
