"""The drop-ins in the registry's processes: gunicorn with preload and gevent workers, while the gateway is killed and started.

`REDISGATEWAY_SOAK` makes it 8 workers of 50 greenlets, for longer.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, Gateway, Machine, eventually

SOAK = bool(os.environ.get("REDISGATEWAY_SOAK"))
WORKERS, GREENLETS, KILLS = (8, 50, 10) if SOAK else (2, 20, 2)
RECOVERY = 3.0  # seconds after which each pattern answers again, in each worker
STEADY = RECOVERY  # seconds that the gateway is there: killed before, who has just not called would seem not to recover
AWAY = 1.0  # seconds that it is not
SLACK = 0.5  # seconds past a deadline, beside what the machine was late
PAUSE = (
    WORKERS * GREENLETS / 400
)  # seconds between two calls of a greenlet: the same load for a machine, however many there are


class UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


class Service:
    """gunicorn with the workers of `gunicorn_app`."""

    def __init__(self, folder: Path, target: str) -> None:
        self._socket = folder / "gunicorn.sock"
        self.log = folder / "gunicorn.log"
        args = ["--preload", "-k", "gevent", "-w", str(WORKERS), "--worker-connections", str(GREENLETS)]
        args += ["--bind", f"unix:{self._socket}", "tests.gunicorn_app:app"]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *args],
                cwd=ROOT / "clients/python",
                env={**os.environ, "TEST_GATEWAY": target, "TEST_PAUSE": str(PAUSE)},
                stdout=log,
                stderr=log,
            )
        eventually(self._listens, "gunicorn listens")

    def run(self, until: float) -> dict[str, Any]:
        """Lets one greenlet of a worker call until a time; what became of its calls."""
        connection = UnixConnection(self._socket)
        connection.request("GET", f"/?until={until}")
        answer = connection.getresponse()
        assert answer.status == 200, self.log.read_text()
        found: dict[str, Any] = json.load(answer)
        return found

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)

    def _listens(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        return self._socket.exists()


@pytest.fixture
def service(folder: Path, gateway: Gateway) -> Iterator[Service]:
    service = Service(folder, gateway.target)
    yield service
    service.stop()


def test_calls_end_in_time_and_workers_recover(service: Service, gateway: Gateway) -> None:
    machine, back = Machine(), []
    until = time.monotonic() + KILLS * (STEADY + AWAY) + STEADY + RECOVERY
    with ThreadPoolExecutor(WORKERS * GREENLETS) as pool:
        running = [pool.submit(service.run, until) for _ in range(WORKERS * GREENLETS)]
        for _ in range(KILLS):
            # As long as a machine takes for it, and a pause in which nothing is awaited: it is the traffic that counts.
            time.sleep(STEADY)
            gateway.kill()
            time.sleep(AWAY)
            gateway.start()
            back.append(time.monotonic())
        answers = [future.result() for future in running]
    late, held_up = machine.end(), max(answer["late"] for answer in answers)
    calls = [{**call, "pid": answer["pid"]} for answer in answers for call in answer["calls"]]
    log = service.log.read_text()
    assert log.count("Booting worker") == WORKERS, log
    assert len({call["pid"] for call in calls}) == WORKERS

    slowest = recovery(answers, calls, back)
    report(calls, slowest, late)
    # No call holds up the other greenlets of its worker.
    assert held_up < SLACK + late
    failures = [call for call in calls if call["failure"]]
    assert failures, "nothing failed while the gateway was away: it proves nothing"
    overdue = [call for call in calls if call["seconds"] > call["most"] + SLACK + late]
    assert not overdue, overdue[:5]
    assert max(slowest.values()) < RECOVERY + late, slowest


def recovery(answers: list[dict[str, Any]], calls: list[dict[str, Any]], back: list[float]) -> dict[str, float]:
    """For each pattern the seconds from a gateway's start to the first success, in the worker where that took the longest."""
    successes: dict[tuple[int, str], list[float]] = defaultdict(list)
    for call in calls:
        # Also for what never succeeds.
        times = successes[call["pid"], call["name"]]
        if not call["failure"]:
            times.append(call["ended"])
    for answer in answers:
        successes[answer["pid"], "hear"] = answer["heard"]
        successes[answer["pid"], "watch"] = answer["changed"]
        # What leaves in the background never fails for its caller; it succeeds when it stands.
        for name, times in answer["stood"].items():
            successes[answer["pid"], name] = times
    slowest: dict[str, float] = defaultdict(float)
    for (_, name), times in successes.items():
        for began in back:
            slowest[name] = max(slowest[name], min(at - began for at in [*times, float("inf")] if at > began))
    return slowest


def report(calls: list[dict[str, Any]], slowest: dict[str, float], late: float) -> None:
    print(
        f"\n{WORKERS} workers of {GREENLETS} greenlets, {KILLS} kills, {len(calls)} calls; the machine was late by {late:.2f} s"
    )
    for name in slowest:
        of_name = [call for call in calls if call["name"] == name]
        failed = sum(bool(call["failure"]) for call in of_name)
        most = max((call["seconds"] for call in of_name), default=0)
        print(f"  {name:13} {len(of_name):6} calls, {failed:4} failed, {most:.2f} s at most, back after {slowest[name]:.2f} s")
