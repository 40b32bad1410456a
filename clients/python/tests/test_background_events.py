"""The background stream of events: in order, heard once at most, told truly, over drains, kills, forks and older gateways."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from redis_gateway import Client
from redisgateway.v1 import user_events_pb2 as pb
from redisgateway.v1 import user_events_pb2_grpc

from .conftest import PATIENCE, Gateway, Server, eventually


def event(n: int, event_id: str = "test") -> pb.PublishRequest:
    return pb.PublishRequest(username="devtable", event_id=event_id, payload=str(n).encode())


class Witness:
    """Hears all that is published on a server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._heard = server.direct().pubsub()
        self._heard.psubscribe("user/*")
        assert self._heard.get_message(timeout=PATIENCE)["type"] == "psubscribe"

    def numbers(self) -> list[int]:
        """What was heard since the last time."""
        self._server.direct().publish("user/end", "end")
        heard: list[int] = []
        while True:
            message = eventually(lambda: self._heard.get_message(timeout=PATIENCE), "a message")
            if message["channel"] == b"user/end":
                return heard
            heard.append(int(message["data"]))


@pytest.fixture
def witness(server: Server) -> Witness:
    return Witness(server)


def test_each_event_is_heard_once_and_in_order(client: Client, witness: Witness) -> None:
    events = client.background_events
    for n in range(2_500):
        assert events.put(event(n))
    assert events.flush(PATIENCE)
    counts = events.counts
    assert (counts.stood, counts.sent, counts.waiting) == (2_500, 2_500, 0)
    assert witness.numbers() == list(range(2_500))


def test_large_events_slow_down_no_later_ones(client: Client, witness: Witness) -> None:
    events = client.background_events
    for _ in range(12):
        events.put(pb.PublishRequest(username="devtable", event_id="test", payload=b" " * (900 << 10) + b"0"))
    assert events.flush(PATIENCE)
    for n in range(1, 5_001):
        events.put(event(n))
    assert events.flush(PATIENCE)
    # At three to a batch, which large ones fit by, and 50 ms apart, it would have taken longer than that.
    assert events.counts.stood == 5_012
    assert witness.numbers() == [0] * 12 + list(range(1, 5_001))


def test_a_stream_that_does_not_open_is_told_once(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    gateway.kill()
    with Client(gateway.target) as client:
        client.background_events.put(event(1))
        eventually(lambda: "does not open" in caplog.text, "a warning")
        client.background_events.close(timeout=2)
    assert caplog.text.count("does not open") == 1
    assert caplog.text.count("are dropped at the end") == 1


def test_an_event_that_breaks_a_rule_costs_no_other(client: Client, witness: Witness) -> None:
    events = client.background_events
    for n, name in enumerate(("a", "x" * 256, "b", "y" * 256)):
        events.put(event(n, name))
    assert events.flush(PATIENCE)
    assert (events.counts.stood, events.counts.failed) == (2, 2)
    assert witness.numbers() == [0, 2]


def test_a_gateway_that_takes_less_gets_less(gateway: Gateway, client: Client, witness: Witness) -> None:
    gateway.kill()
    gateway.start("--limits-max-request-bytes", "1KiB")
    events = client.background_events
    for n in range(100):
        assert events.put(pb.PublishRequest(username="x" * 2_000) if n in (10, 99) else event(n))
    assert events.flush(PATIENCE)
    counts = events.counts
    assert (counts.stood, counts.failed, counts.unknown, counts.dropped) == (98, 2, 0, 0)
    assert witness.numbers() == [n for n in range(99) if n != 10]


def test_events_wait_for_redis(client: Client, server: Server) -> None:
    events = client.background_events
    server.kill()
    for n in range(10):
        events.put(event(n))
    eventually(lambda: events.counts.sent > 1, "an event was tried")
    assert not events.flush(0)
    server.start()
    witness = Witness(server)
    assert events.flush(PATIENCE)
    counts = events.counts
    # What was under way when Redis fell may be unknown; then it is one or the other.
    assert counts.stood + counts.unknown == 10 and counts.failed == 0
    numbers = witness.numbers()
    assert counts.stood <= len(numbers) <= 10 and numbers == sorted(set(numbers))


def test_events_wait_for_a_gateway(gateway: Gateway, client: Client, witness: Witness) -> None:
    events = client.background_events
    gateway.kill()
    for n in range(10):
        events.put(event(n))
    assert not events.flush(0.2)
    assert events.counts.sent == 0
    gateway.start()
    assert events.flush(PATIENCE)
    assert witness.numbers() == list(range(10))


def test_a_drain_loses_none(gateway: Gateway, client: Client, witness: Witness) -> None:
    events = client.background_events
    for _ in range(3):
        before = events.counts.sent
        for n in range(9_000):
            assert events.put(event(n))
        # Between two batches: the next one leaves while the stream ends.
        eventually(lambda: events.counts.sent > before, "batches are on their way")  # noqa: B023
        gateway.process.terminate()
        gateway.process.wait(PATIENCE)
        gateway.start()
        assert events.flush(PATIENCE)
        assert witness.numbers() == list(range(9_000))
    assert events.counts.stood == 27_000


def test_a_killed_gateway_makes_what_is_on_its_way_unknown(gateway: Gateway, client: Client, witness: Witness) -> None:
    events = client.background_events
    events.put(event(0))
    assert events.flush(PATIENCE)
    # It takes the next one and answers nothing.
    gateway.process.send_signal(signal.SIGSTOP)
    events.put(event(1))
    eventually(lambda: events.counts.sent == 2, "the event was sent")
    events.put(event(2))
    gateway.kill()
    gateway.start()
    assert events.flush(PATIENCE)
    counts = events.counts
    assert (counts.stood, counts.unknown, counts.failed) == (2, 1, 0)
    assert witness.numbers() in ([0, 2], [0, 1, 2])


def test_the_queue_is_bounded_and_says_so(gateway: Gateway, client: Client) -> None:
    gateway.process.send_signal(signal.SIGSTOP)
    events = client.background_events
    taken = sum(events.put(event(n)) for n in range(10_500))
    assert events.counts.dropped == 10_500 - taken > 0
    events.close(0.2)
    counts = events.counts
    assert counts.stood + counts.unknown + counts.dropped == 10_500
    gateway.process.send_signal(signal.SIGCONT)
    # Closed, it begins anew.
    assert events.put(event(0))
    assert events.flush(PATIENCE)
    assert events.counts.stood == 1


CHILD = """
import os, sys
from redis_gateway import Client
from redisgateway.v1 import user_events_pb2 as pb

client = Client(sys.argv[1])
# The parent works already when it forks, with things waiting.
for n in range(50):
    client.background_events.put(pb.PublishRequest(username="devtable", event_id="test", payload=b"%d" % n))
child = os.fork()
first = 50 if child else 1_000
for n in range(first, first + 100):
    client.background_events.put(pb.PublishRequest(username="devtable", event_id="test", payload=b"%d" % n))
if child:
    os.waitpid(child, 0)
# Both end without a word; the end of the process sends what waits.
"""


def test_what_waits_is_sent_at_the_end_of_each_process(gateway: Gateway, witness: Witness) -> None:
    subprocess.run([sys.executable, "-c", CHILD, gateway.target], check=True, timeout=PATIENCE, env=dict(os.environ))
    numbers = witness.numbers()
    assert [n for n in numbers if n < 1_000] == list(range(150))
    assert [n for n in numbers if n >= 1_000] == list(range(1_000, 1_100))


class Older(user_events_pb2_grpc.UserEventsServicer):
    """A gateway from before there were streams of events."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def Publish(self, request: Any, context: Any) -> Any:
        self.heard.append(int(request.payload))
        return pb.PublishResponse()


@pytest.fixture
def older(folder: Path) -> Iterator[tuple[Older, str]]:
    server, gateway = grpc.server(ThreadPoolExecutor(4)), Older()  # type: ignore[abstract]
    user_events_pb2_grpc.add_UserEventsServicer_to_server(gateway, server)
    target = f"unix:{folder}/older.sock"
    server.add_insecure_port(target)
    server.start()
    yield gateway, target
    server.stop(None).wait()


def test_an_older_gateway_gets_calls(older: tuple[Older, str]) -> None:
    gateway, target = older
    with Client(target) as client:
        events = client.background_events
        for n in range(100):
            assert events.put(event(n))
        assert events.flush(PATIENCE)
        assert (events.counts.stood, events.counts.sent) == (100, 100)
        assert events.put(event(100))
        assert events.flush(PATIENCE)
    assert gateway.heard == list(range(101))
