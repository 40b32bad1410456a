"""Connections that end by their age, below calls that must not be repeated: none of them notices."""

from __future__ import annotations

from pathlib import Path

from redis_gateway import shared

from .callers import Batches, Caller, Lines, Pulls, Tail
from .conftest import Gateway, Machine, Server, eventually, unused_port
from .watchers import Keeper, Listener, Publisher

AGES = 20
CALLS = 2_000


def test_no_call_notices_the_end_of_its_connection(folder: Path, server: Server) -> None:
    gateway = Gateway(folder, server, f"127.0.0.1:{unused_port()}", "--grpc-max-connection-age=200ms")
    gateway.serving()
    machine = Machine()
    lines, publisher = [Lines(gateway.target) for _ in range(4)], Publisher(gateway.target)
    tail, listener = Tail(gateway.target, lines[0].build), Listener(gateway.target, publisher)
    calling: list[Caller] = [*lines, Batches(gateway.target), Pulls(gateway.target), publisher]
    callers = [*calling, tail, listener, Keeper(gateway.target, gateway.target)]
    for caller in callers:
        caller.start()
    eventually(lambda: tail.moved >= AGES and sum(caller.done for caller in calling) >= CALLS, "calls over many ages")
    for caller in callers:
        caller.end()
    late = machine.end()
    for caller in callers:
        caller.join()
        print(f"  {caller}")
    for caller in callers:
        assert not caller.failures, (caller, caller.failures[:3])
        # Redis is away for a machine that has too much to do.
        assert not caller.missed or late > 0.25, caller
        caller.judge(server)
    print(f"  {tail.moved} ages; the listener missed {listener.unheard} events where a gap was told")
    shared(gateway.target).close()
    gateway.drain()
