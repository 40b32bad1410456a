"""User events: with redis-py on the other side, and over the loss of Redis and of the gateway."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from redis_gateway import GatewayError, shared
from redis_gateway.quay.userevent import (
    CannotReadUserEventsException,
    UserEvent,
    UserEventBuilder,
    UserEventListener,
    UserEventsBuilderModule,
)

from .conftest import PATIENCE, Gateway, Server, eventually
from .recording import SCENARIOS

[SCENARIO] = [scenario for scenario in SCENARIOS if scenario["pattern"] == "user_events"]


@contextmanager
def heard(listener: UserEventListener) -> Iterator[queue.SimpleQueue[tuple[str, Any]]]:
    """What a listener hears, as it comes, in a thread of its own."""
    items: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def listen() -> None:
        for item in listener.event_stream():
            items.put(item)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield items
    finally:
        listener.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "event_stream ends with stop"


def following(items: queue.SimpleQueue[tuple[str, Any]], event: str | None = None) -> tuple[str, Any]:
    """The next item of that name; without one, the next that is no pulse."""

    def wanted() -> tuple[str, Any] | None:
        item = items.get(timeout=PATIENCE)
        return item if item[0] == event or (event is None and item[0] != "pulse") else None

    found: tuple[str, Any] = eventually(wanted, event or "no pulse")
    return found


def test_hears_and_publishes_what_the_reference_did(config: dict[str, Any], server: Server) -> None:
    *steps, listen = SCENARIO["steps"]
    # Published before anybody listens.
    listener = UserEventListener(config, "devtable", set(listen["args"]["events"]))
    direct = server.direct().pubsub()
    direct.psubscribe("user/*")
    assert direct.get_message(timeout=PATIENCE)["type"] == "psubscribe"
    with heard(listener) as items:
        for n, step in enumerate(steps):
            args = step["args"]
            if step["op"] == "redis":
                server.direct().execute_command(*args["command"])
            else:
                publisher = UserEvent(config, args["username"])
                if n % 2:
                    # The gateway for its listener, and the direct one.
                    assert publisher.publish_event_data_sync(args["event_id"], args["data"]) == 2
                else:
                    publisher.publish_event_data(args["event_id"], args["data"])
                    assert shared(config["gateway"]).background_events.flush(PATIENCE)
        published: list[Any] = []
        for _ in steps:
            message = eventually(lambda: direct.get_message(timeout=PATIENCE), "a message")
            published.append({"channel": message["channel"].decode(), "payload": message["data"].decode()})
        assert published == [event for step in steps for event in step["published"]]
        expected = [(item["event"], item["data"]) for item in listen["result"]["value"] if item["event"] != "pulse"]
        # The recording's listener was not there yet for the first.
        expected.insert(0, ("docker-cli", {"action": "login"}))
        assert [following(items) for _ in expected] == expected
    assert shared(config["gateway"]).background_events.counts.stood == 5


def test_pulses_at_once_and_in_silence(config: dict[str, Any]) -> None:
    with heard(UserEventBuilder(config).get_listener("devtable", {"test"})) as items:
        for _ in range(2):
            assert items.get(timeout=PATIENCE) == ("pulse", {})


def test_listens_again_after_the_gateway_was_away(config: dict[str, Any], gateway: Gateway, server: Server) -> None:
    listener = UserEventListener(config, "devtable", ["test"], tell_gaps=True)
    with heard(listener) as items:
        gateway.kill()
        gateway.start()
        assert following(items, "gap")[1] == {"cause": "GATEWAY_LOST", "dropped": 0}
        server.direct().publish("user/devtable/events/test", '{"after": 1}')
        assert following(items, "test")[1] == {"after": 1}
        # stop() ends it also while there is no gateway.
        gateway.kill()
        following(items, "pulse")


def test_a_gap_of_redis_is_told_or_left_out(config: dict[str, Any], server: Server) -> None:
    telling = UserEventListener(config, "devtable", ["test"], tell_gaps=True)
    silent = UserEventListener(config, "devtable", ["test"])
    with heard(telling) as items, heard(silent) as others:
        server.kill()
        server.start()
        assert following(items, "gap")[1]["cause"] == "CONNECTION_LOST"
        server.direct().publish("user/devtable/events/test", '{"after": 1}')
        assert following(items, "test")[1] == {"after": 1}
        assert following(others) == ("test", {"after": 1})


def test_what_cannot_be_listened_to_fails_at_once(config: dict[str, Any], server: Server, gateway: Gateway) -> None:
    with pytest.raises(CannotReadUserEventsException):
        UserEventListener(config, "devtable")
    server.kill()
    with pytest.raises(CannotReadUserEventsException):
        UserEventListener(config, "devtable", ["test"])
    gateway.kill()
    with pytest.raises(CannotReadUserEventsException):
        UserEventListener(config, "devtable", ["test"])


def test_publishing_without_redis(config: dict[str, Any], server: Server) -> None:
    event = UserEvent(config, "devtable")
    server.kill()
    with pytest.raises(GatewayError):
        event.publish_event_data_sync("test", {"a": 1})
    event.publish_event_data("test", {"a": 1})
    event.publish_event_data("test", {"a": object()})
    events = shared(config["gateway"]).background_events
    server.start()
    assert events.flush(PATIENCE)
    assert events.counts.stood + events.counts.unknown == 1


def test_extension(config: dict[str, Any]) -> None:
    app = SimpleNamespace(config={"USER_EVENTS_REDIS": config})
    module = UserEventsBuilderModule(app)
    assert module.get_event("devtable").publish_event_data_sync("test", {"a": 1}) == 0
    assert isinstance(app.extensions["userevents"], UserEventBuilder)
