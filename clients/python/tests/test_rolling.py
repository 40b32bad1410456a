"""Three gateways that end and start again in turn, below callers of all patterns, in Python and in Go: nothing is lost, and
nobody is told of it but by what their pattern declares.

`REDISGATEWAY_SOAK` makes it more rounds. `REDISGATEWAY_TEST_PREVIOUS` names a gateway of the release before: the rounds then go
from it to the present one, and back. Callers in Go are there where `make go-peers` has built them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from redis_gateway import shared
from redis_gateway.quay.locking import GlobalLock

from .callers import Batches, Cache, Caller, Flush, Lines, Marks, Pulls, Tail
from .conftest import ENDPOINTS, Gateway, Machine, Server, eventually, unused_port
from .go_callers import ALL, GO, GoPulls
from .watchers import Contender, Keeper, Listener, Manager, Publisher

SOAK = bool(os.environ.get("REDISGATEWAY_SOAK"))
PREVIOUS = os.environ.get("REDISGATEWAY_TEST_PREVIOUS")
ROUNDS = 20 if SOAK else 2
# A machine that has much to do is no Redis that is away.
PATIENT = [f"--endpoints-{name.replace('_', '-')}-probe-timeout=5s" for name in ENDPOINTS]
LATE = 0.25  # seconds, from which on a machine has too much to do
STEPS = 20 if SOAK else 3  # of each caller between two restarts


@pytest.fixture
def gateways(folder: Path, server: Server) -> Iterator[list[Gateway]]:
    gateways: list[Gateway] = []
    for number in range(3):
        (own := folder / str(number)).mkdir()
        gateway = Gateway(own, server, f"127.0.0.1:{unused_port()}", *PATIENT)
        gateways.append(gateway)
        gateway.serving()
    yield gateways
    for gateway in gateways:
        gateway.kill()


@pytest.fixture
def targets(gateways: list[Gateway], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """All gateways, in another order each, as a caller finds them behind a name."""
    monkeypatch.setattr(GlobalLock, "_client", None)
    addresses = [gateway.target for gateway in gateways]
    targets = ["ipv4:" + ",".join(addresses[n:] + addresses[:n]) for n in range(3)]
    yield targets
    for target in targets:
        shared(target).close()


def test_restarts_in_turn_lose_nothing(server: Server, gateways: list[Gateway], targets: list[str]) -> None:
    present = gateways[0].binary
    releases = [Path(PREVIOUS), present] if PREVIOUS else [present]
    if PREVIOUS:
        # From the release before, to the present one, and back.
        for gateway in gateways:
            gateway.drain()
            gateway.binary = releases[0]
            gateway.start()
            gateway.serving()

    lines, batches = Lines(targets[0]), Batches(targets[1])
    tails = [Tail(targets[2], build) for build in (lines.build, batches.build)]
    pulls = [Pulls(target) for target in targets[:2]]
    go = [caller(targets[n % 3]) for n, caller in enumerate(ALL)] if GO.exists() else []
    if not go:
        print("\nnot run: callers in Go (no target/peers/rolling: make go-peers)")
    publisher = Publisher(targets[1])
    listeners = [Listener(target, publisher) for target in targets]
    managers = [Manager(target) for target in targets[:2]]
    callers: list[Caller] = [
        lines,
        batches,
        *tails,
        *pulls,
        Flush(targets[2], [*pulls, *(caller for caller in go if isinstance(caller, GoPulls))]),
        Cache(targets[0]),
        Marks(targets[1]),
        *managers,
        *(Contender(target) for target in targets),
        Keeper(targets[2], targets[0]),
        publisher,
        *listeners,
        *go,
    ]
    for caller in callers:
        caller.start()
    machine, slowest, cuts = Machine(), 0.0, 0
    for number in range(ROUNDS):
        for gateway in gateways:
            _work(callers)
            # The release before cuts a connection on which a call begins just while it is told to end.
            cuts += gateway.binary != present
            slowest = max(slowest, gateway.drain())
            gateway.binary = releases[(number + 1) % len(releases)]
            gateway.start()
    _work(callers)
    for caller in callers:
        caller.end()
    for caller in callers:
        caller.join()

    late = machine.end()
    print(f"\n{ROUNDS} rounds of {len(gateways)} restarts; drains of {slowest:.2f} s at most; the machine late by {late:.2f} s")
    for caller in callers:
        print(f"  {caller}")
    # Redis is away for a machine that has too much to do. None makes more than three calls at a time, which a cut may end.
    missed = {str(caller): caller.missed for caller in callers if caller.missed > 3 * cuts}
    assert late > LATE or not missed, missed
    failures = {str(caller): caller.failures[:3] for caller in callers if caller.failures}
    assert not failures, failures
    for caller in callers:
        caller.judge(server)
    _judge_expiries(managers)
    moves, unheard = sum(tail.moved for tail in tails), sum(listener.unheard for listener in listeners)
    print(f"  tails moved {moves} times; listeners missed {unheard} events where a gap was told")
    assert moves, "no tail was moved: it proves nothing"


def _work(callers: list[Caller]) -> None:
    """Lets each caller get on: none stands still behind a gateway that is gone."""
    before = [caller.done for caller in callers]

    def behind() -> list[str]:
        return [str(caller) for caller, done in zip(callers, before, strict=True) if caller.done < done + STEPS]

    eventually(lambda: not behind(), "all callers get on")


def _judge_expiries(managers: list[Manager]) -> None:
    """Each is one manager's; a second time only if the first one's acknowledgement was lost with its gateway."""
    due = {key for manager in managers for key in manager.set_to_expire}
    assert due
    eventually(lambda: due <= {key for manager in managers for key in manager.expired}, "all expiries are told")
    told = sum(sum(manager.expired.values()) for manager in managers)
    print(f"  {len(due)} keys expired, told {told} times")
    for manager in managers:
        manager.stop()
