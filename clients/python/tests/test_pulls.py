"""The background stream of pulls: counted once, told truly, gone on with after a fork, a drain, a Redis that was away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

import pytest

from redis_gateway import Client
from redis_gateway.pulls import PullStream
from redisgateway.v1 import pull_metrics_pb2 as pb
from redisgateway.v1 import user_events_pb2 as events_pb

from .conftest import PATIENCE, Gateway, Server, eventually

PULL = pb.Pull(repository_id=7, tag="latest", digest="sha256:5f70bf18", timestamp="1700000000")
EVENT = events_pb.PublishRequest(username="devtable", event_id="test", payload=b"{}")
KEY = "pull_events:repo:7:tag:latest:sha256:5f70bf18"


def counted(server: Server) -> int:
    return int(server.direct(db=1).hget(KEY, "pull_count") or 0)


def test_each_pull_is_counted_once(client: Client, server: Server) -> None:
    pulls = client.background_pulls
    for _ in range(2_500):
        assert pulls.put(PULL)
    assert pulls.flush(PATIENCE)
    counts = pulls.counts
    assert (counts.stood, counts.sent, counts.waiting) == (2_500, 2_500, 0)
    assert counted(server) == 2_500


def test_pulls_that_follow_a_batch_soon_leave_together(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redis_gateway._batches._APART", 3_600.0)
    batches: list[int] = []

    class Pulls(PullStream):
        def _batch(self, number: int, things: Sequence[pb.Pull]) -> pb.StreamPullsRequest:
            batches.append(len(things))
            return super()._batch(number, things)

    pulls = Pulls(client.pull_metrics)
    assert pulls.put(PULL)
    assert pulls.flush(PATIENCE)
    for _ in range(3):
        assert pulls.put(PULL)
    assert not pulls.flush(0.1)
    # Whoever ends does not wait for as long.
    pulls.close(PATIENCE)
    assert (batches, pulls.counts.stood) == ([1, 3], 4)


def test_a_pull_that_breaks_a_rule_costs_no_other(client: Client, server: Server) -> None:
    pulls = client.background_pulls
    for tag in ("latest", "x" * 256, "latest", "y" * 256):
        pulls.put(pb.Pull(repository_id=7, tag=tag, digest=PULL.digest, timestamp=PULL.timestamp))
    assert pulls.flush(PATIENCE)
    assert (pulls.counts.stood, pulls.counts.failed) == (2, 2)
    assert counted(server) == 2


def test_a_gateway_that_takes_less_gets_less(gateway: Gateway, client: Client, server: Server) -> None:
    gateway.kill()
    gateway.start("--limits-max-request-bytes", "1KiB")
    pulls = client.background_pulls
    large = pb.Pull(repository_id=7, tag="x" * 2_000, digest=PULL.digest, timestamp=PULL.timestamp)
    for n in range(100):
        assert pulls.put(large if n in (10, 99) else PULL)
    assert pulls.flush(PATIENCE)
    counts = pulls.counts
    assert (counts.stood, counts.failed, counts.unknown, counts.dropped) == (98, 2, 0, 0)
    assert counted(server) == 98


def test_pulls_wait_for_redis(client: Client, server: Server) -> None:
    pulls = client.background_pulls
    pulls.put(PULL)
    assert pulls.flush(PATIENCE)
    server.kill()
    # Told as not counted, and kept.
    pulls.put(PULL)
    eventually(lambda: pulls.counts.sent > 1, "the pull was tried")
    assert not pulls.flush(0)
    server.start()
    assert pulls.flush(PATIENCE)
    counts = pulls.counts
    # What was under way when Redis fell may be unknown; then it is one or the other.
    assert counts.stood + counts.unknown == 2 and counts.failed == 0
    assert counts.stood <= counted(server) <= 2


def test_pulls_wait_for_a_gateway(gateway: Gateway, client: Client, server: Server) -> None:
    pulls = client.background_pulls
    gateway.kill()
    for _ in range(10):
        pulls.put(PULL)
    assert not pulls.flush(0.2)
    assert pulls.counts.sent == 0
    gateway.start()
    assert pulls.flush(PATIENCE)
    assert (pulls.counts.stood, counted(server)) == (10, 10)


def test_a_drain_loses_none(gateway: Gateway, client: Client, server: Server) -> None:
    pulls = client.background_pulls
    for n in range(1, 4):
        before = pulls.counts.sent
        for _ in range(9_000):
            assert pulls.put(PULL)
        # Between two batches: the next one leaves while the stream ends.
        eventually(lambda: pulls.counts.sent > before, "batches are on their way")  # noqa: B023
        gateway.process.terminate()
        gateway.process.wait(PATIENCE)
        gateway.start()
        assert pulls.flush(PATIENCE)
        assert pulls.counts.stood == counted(server) == 9_000 * n


def test_a_killed_gateway_makes_what_is_on_its_way_unknown(gateway: Gateway, client: Client, server: Server) -> None:
    pulls = client.background_pulls
    pulls.put(PULL)
    assert pulls.flush(PATIENCE)
    # It takes the next one and answers nothing.
    gateway.process.send_signal(signal.SIGSTOP)
    pulls.put(PULL)
    eventually(lambda: pulls.counts.sent == 2, "the pull was sent")
    pulls.put(PULL)
    gateway.kill()
    gateway.start()
    assert pulls.flush(PATIENCE)
    counts = pulls.counts
    assert (counts.stood, counts.unknown, counts.failed) == (2, 1, 0)
    assert 2 <= counted(server) <= 3


def test_the_queue_is_bounded_and_says_so(gateway: Gateway, client: Client) -> None:
    gateway.process.send_signal(signal.SIGSTOP)
    pulls = client.background_pulls
    taken = sum(pulls.put(PULL) for _ in range(10_500))
    counts = pulls.counts
    assert counts.dropped == 10_500 - taken > 0
    pulls.close(0.2)
    counts = pulls.counts
    assert counts.stood + counts.unknown + counts.dropped == 10_500
    gateway.process.send_signal(signal.SIGCONT)
    # Closed, it begins anew.
    assert pulls.put(PULL)
    assert pulls.flush(PATIENCE)
    assert pulls.counts.stood >= 1


def test_closed_it_begins_anew(client: Client, server: Server) -> None:
    pulls = client.background_pulls
    for _ in range(2):
        assert pulls.put(PULL)
        assert pulls.flush(PATIENCE)
        pulls.close(PATIENCE)
    assert pulls.counts.stood == counted(server) == 2


def test_a_thread_outlives_what_nobody_thought_of(client: Client, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    events, pulls = client.background_events, client.background_pulls

    def stand(n: int) -> None:
        for queue in (events, pulls):
            assert queue.flush(PATIENCE)
            assert queue.counts.stood + queue.counts.unknown == n

    pulls.put(PULL)
    events.put(EVENT)
    stand(1)
    # Calls on such a channel fail, and not with an error of gRPC's.
    client._streams.channel().close()
    pulls.put(PULL)
    events.put(EVENT)
    eventually(lambda: caplog.text.count("what was in hand may") >= 2, "both have failed")
    client._streams.take()
    pulls.put(PULL)
    events.put(EVENT)
    stand(3)
    assert pulls.counts.stood <= counted(server) <= 3


def test_queues_are_closed_side_by_side(gateway: Gateway, client: Client) -> None:
    events, pulls = client.background_events, client.background_pulls
    gateway.process.send_signal(signal.SIGSTOP)
    for _ in range(10):
        assert events.put(EVENT)
    assert pulls.put(PULL)
    closing = threading.Thread(target=client.close, daemon=True)
    closing.start()
    try:
        eventually(lambda: not events.put(EVENT) and not pulls.put(PULL), "neither takes anything")
    finally:
        gateway.process.send_signal(signal.SIGCONT)
    closing.join(PATIENCE)
    assert not closing.is_alive()


CHILD = """
import os, sys
from redis_gateway import Client
from redisgateway.v1 import pull_metrics_pb2 as pb

client = Client(sys.argv[1])
pull = pb.Pull(repository_id=7, tag="latest", digest="sha256:5f70bf18")
# The parent works already when it forks, with things waiting.
for _ in range(50):
    client.background_pulls.put(pull)
child = os.fork()
for _ in range(100):
    client.background_pulls.put(pull)
if child:
    os.waitpid(child, 0)
# Both end without a word; the end of the process sends what waits.
"""


def test_what_waits_is_sent_at_the_end_of_each_process(gateway: Gateway, server: Server) -> None:
    subprocess.run([sys.executable, "-c", CHILD, gateway.target], check=True, timeout=PATIENCE, env=dict(os.environ))
    assert counted(server) == 250
