"""The orchestrator: the reference's bytes and events, both sides of the channel, and what a cut makes up."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from redis_gateway.quay.orchestrator import (
    KeyChange,
    KeyEvent,
    OrchestratorConnectionError,
    OrchestratorError,
    RedisOrchestrator,
    orchestrator_from_config,
)

from .conftest import Gateway, Server, eventually
from .recording import SCENARIOS, check_keys, check_result, replay


@pytest.fixture
def orchestrator(config: dict[str, Any]) -> Iterator[RedisOrchestrator]:
    orchestrator = RedisOrchestrator(**config)
    yield orchestrator
    orchestrator.shutdown()


class Heard(list[KeyChange]):
    """What a callback was called with."""

    def __call__(self, change: KeyChange) -> None:
        self.append(change)

    def next(self) -> KeyChange:
        eventually(lambda: self, "a change")
        return self.pop(0)


def test_does_what_the_reference_does(orchestrator: RedisOrchestrator, server: Server) -> None:
    channel = server.direct().pubsub()
    channel.subscribe("orchestrator_events")
    assert eventually(lambda: channel.get_message(timeout=1))["type"] == "subscribe"
    [steps] = [scenario["steps"] for scenario in SCENARIOS if scenario["name"] == "keys, events, expiry"]
    orchestrator.on_key_change(steps[0]["args"]["prefix"], heard := Heard())
    better = ""
    for step in steps[1:]:
        args, published, told = step["args"], step.get("published", []), step["watch_events"]
        check_result(f"{args}", step["result"], partial(getattr(orchestrator, step["op"]), **args))
        if args.get("key") == "building/absent":
            # Nothing is stored, so nothing is left and nothing told.
            published, told, better = [], [], f"0|{args['key']}/expiring"
        for message in published:
            assert eventually(lambda: channel.get_message(timeout=1))["data"] == message["payload"].encode()
        for event in told:
            assert heard.next() == KeyChange(KeyEvent[event["event"]], event["key"], event["value"])
        check_keys(f"{args}", server, {key: entry for key, entry in step["keys_after"].items() if key != better})
    assert heard == []
    assert channel.get_message(timeout=0.1) is None


def test_hears_a_manager_without_the_gateway(orchestrator: RedisOrchestrator, server: Server) -> None:
    heard = Heard()
    orchestrator.on_key_change("cancel/", heard)
    direct = server.direct()
    direct.set("cancel/7", "7")
    direct.publish("orchestrator_events", json.dumps({"event": 1, "key": "cancel/7", "value": "7"}))
    assert heard.next() == KeyChange(KeyEvent.CREATE, "cancel/7", "7")


def test_each_prefix_has_its_callback_and_the_last_one_counts(orchestrator: RedisOrchestrator) -> None:
    first, second, cancels = Heard(), Heard(), Heard()
    orchestrator.on_key_change("building/", first)
    orchestrator.on_key_change("cancel/", cancels)
    orchestrator.on_key_change("building/", second)
    orchestrator.set_key("building/1", "b")
    orchestrator.set_key("cancel/1", "c")
    assert cancels.next() == KeyChange(KeyEvent.CREATE, "cancel/1", "c")
    assert second.next() == KeyChange(KeyEvent.CREATE, "building/1", "b")
    assert first == []


def test_what_a_cut_hides_is_made_up(orchestrator: RedisOrchestrator, gateway: Gateway, server: Server) -> None:
    for key in ("stays", "changes", "goes"):
        orchestrator.set_key(f"building/{key}", "before")
    heard = Heard()
    orchestrator.on_key_change("building/", heard)
    gateway.kill()
    direct = server.direct()
    direct.set("building/changes", "after")
    direct.delete("building/goes")
    direct.set("building/comes", "new")
    gateway.start()
    eventually(lambda: len(heard) == 3, "the differences")
    assert sorted(heard) == [
        KeyChange(KeyEvent.CREATE, "building/comes", "new"),
        KeyChange(KeyEvent.SET, "building/changes", "after"),
        KeyChange(KeyEvent.DELETE, "building/goes", "before"),
    ]
    heard.clear()
    # Safe to repeat, so it finds out that the connection of the calls is dead, if gRPC has not yet.
    assert len(orchestrator.get_prefixed_keys("building/")) == 3
    orchestrator.set_key("building/later", "x")
    assert heard.next() == KeyChange(KeyEvent.CREATE, "building/later", "x")


def test_an_expiry_is_one_managers(orchestrator: RedisOrchestrator, config: dict[str, Any], server: Server) -> None:
    heard = Heard()
    orchestrator.on_key_change("building/", heard)
    second = RedisOrchestrator(**config)
    second.on_key_change("building/", heard)
    for n in range(10):
        orchestrator.set_key(f"building/{n}", "", expiration=1)
    eventually(lambda: sum(change.event == KeyEvent.EXPIRE for change in heard) >= 10, "expiries")
    # Behind what was told before.
    orchestrator.set_key("building/last", "x")
    eventually(lambda: sum(change.key == "building/last" for change in heard) == 2, "the last")
    expired = [change.key for change in heard if change.event == KeyEvent.EXPIRE]
    assert sorted(expired) == [f"building/{n}" for n in range(10)]
    # Acknowledged, so that nobody is given them again.
    eventually(lambda: not server.direct().exists("redis-gateway:v1:orchestrator:claims"), "acknowledged")
    second.shutdown()


def test_an_expiry_that_was_not_taken_care_of_is_given_to_another(
    orchestrator: RedisOrchestrator, config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()

    def fail(change: KeyChange) -> None:
        if change.event == KeyEvent.EXPIRE:
            failed.set()
            raise RuntimeError("no machine for this build")

    failing = RedisOrchestrator(**config)
    failing.on_key_change("building/", fail)
    orchestrator.set_key("building/1", "job", expiration=1)
    eventually(failed.is_set, "the first manager is told")
    heard = Heard()
    orchestrator.on_key_change("building/", heard)
    # Its stream ends, so what it has not acknowledged is free.
    failing.shutdown()
    assert heard.next() == KeyChange(KeyEvent.EXPIRE, "building/1", "job")
    assert "no machine for this build" in caplog.text


def test_an_expiry_that_nobody_heard_comes_with_the_watch(
    orchestrator: RedisOrchestrator, gateway: Gateway, server: Server
) -> None:
    orchestrator.set_key("building/1", "job", expiration=1)
    gateway.kill()
    eventually(lambda: not server.direct().exists("building/1/expiring"), "due")
    gateway.start()
    heard = Heard()
    orchestrator.on_key_change("building/", heard)
    assert heard.next() == KeyChange(KeyEvent.EXPIRE, "building/1", "job")


def test_lists_page_by_page(orchestrator: RedisOrchestrator) -> None:
    for n in range(250):
        orchestrator.set_key(f"metric/{n}", str(n))
    assert orchestrator.get_prefixed_keys("metric/") == {f"metric/{n}": str(n) for n in range(250)}
    assert orchestrator.get_prefixed_keys("none/") == {}


def test_errors(orchestrator: RedisOrchestrator, gateway: Gateway) -> None:
    for expiration in (0, -1):
        with pytest.raises(OrchestratorError):
            orchestrator.set_key("building/1", "x", expiration=expiration)
    with pytest.raises(OrchestratorError) as caught:
        orchestrator.get_key("")
    assert not isinstance(caught.value, OrchestratorConnectionError)
    gateway.kill()
    with pytest.raises(OrchestratorConnectionError):
        orchestrator.set_key("building/1", "x")


def test_watch_begins_when_there_is_a_gateway(
    orchestrator: RedisOrchestrator, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis_gateway.quay.orchestrator._PATIENCE", 0.1)
    gateway.kill()
    heard = Heard()
    orchestrator.on_key_change("building/", heard)
    gateway.start()
    assert orchestrator._watches["building/"].wait(30)
    orchestrator.set_key("building/1", "x")
    assert heard.next() == KeyChange(KeyEvent.CREATE, "building/1", "x")


def test_canceller_only_sets(config: dict[str, Any], server: Server) -> None:
    canceller = RedisOrchestrator(**config, canceller_only=True)
    assert replay(server, "canceller", lambda op, args: getattr(canceller, op)(**args)) == 1
    with pytest.raises(AssertionError):
        canceller.get_key("cancel/1f2e")
    canceller.shutdown()


def test_configuration(gateway: Gateway) -> None:
    settings = {
        "REDIS_GATEWAY": gateway.target,
        "REDIS_HOST": "redis",
        "REDIS_PORT": 6379,
        "REDIS_SKIP_KEYSPACE_EVENT_SETUP": True,
        "REDIS_CA_CERT": None,
    }
    orchestrator = orchestrator_from_config({"ORCHESTRATOR": settings, "ORCHESTRATOR_PREFIX": "p/"})
    assert orchestrator.lock("lock/1")
    assert not orchestrator.lock("lock/1")
    assert orchestrator_from_config({"ORCHESTRATOR": settings}, canceller_only=True).is_canceller_only
    with pytest.raises(AssertionError):
        orchestrator_from_config({"ORCHESTRATOR": {"REDIS_PREFIX": "p/"}})
    with pytest.raises(ValueError, match="MEM_SIZE"):
        orchestrator_from_config({"ORCHESTRATOR": {"MEM_SIZE": 1}})
