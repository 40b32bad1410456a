"""The recording of the reference, replayed: what it answered, and what stood in Redis after each step."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from redis_gateway import GatewayError

from .conftest import ROOT, Server

SCENARIOS = json.loads((ROOT / "tests/vectors/recorded.json").read_text())["scenarios"]

# redis-py's error, as callers of a gateway see it; or no message can be made of what they gave.
ERRORS = {"ResponseError": (GatewayError, TypeError)}

# How a key's value is read, as text.
READ: dict[str, Callable[[Any, str], Any]] = {
    "list": lambda redis, name: [item.decode() for item in redis.lrange(name, 0, -1)],
    "string": lambda redis, name: redis.get(name).decode(),
    "hash": lambda redis, name: {field.decode(): value.decode() for field, value in redis.hgetall(name).items()},
}
SLACK = 30  # seconds that a step may have come later than in the recording, or earlier


def replay(server: Server, name: str, do: Callable[[str, dict[str, Any]], Any]) -> int:
    """Replays a scenario: `do` carries out a step. Returns how many steps there were."""
    [scenario] = [scenario for scenario in SCENARIOS if scenario["name"] == name]
    for n, step in enumerate(scenario["steps"]):
        where = f"{name}, step {n}: {step['op']} {step['args']}"
        if step["op"] == "redis":
            server.direct(db=step["args"]["db"]).execute_command(*step["args"]["command"])
        else:
            check_result(where, step["result"], partial(do, step["op"], step["args"]))
        if "keys_after" in step:
            check_keys(where, server, step["keys_after"])
    return len(scenario["steps"])


def check_result(where: str, expected: dict[str, Any], do: Callable[[], Any]) -> None:
    try:
        found: Any = do()
    except Exception as error:
        name = expected.get("error")
        assert type(error).__name__ == name or isinstance(error, ERRORS.get(str(name), ())), f"{where}: {error!r}"
        return
    assert "error" not in expected, f"{where}: {found}"
    if expected["value"] == "float":
        assert isinstance(found, float), where
    else:
        assert found == expected["value"], where


def check_keys(where: str, server: Server, expected: dict[str, dict[str, Any]]) -> None:
    for place, key in expected.items():
        db, name = place.split("|", 1)
        redis = server.direct(db=int(db))
        assert redis.type(name).decode() == key["type"], f"{where}: {name}"
        value = READ[key["type"]](redis, name)
        if name.startswith("quay:"):
            assert value == str(float(value)), f"{where}: {name} is no time"
        else:
            assert value == key["value"], f"{where}: {name}"
        ttl = redis.ttl(name)
        assert ttl == key["ttl"] or ttl > 0 and abs(ttl - key["ttl"]) <= SLACK, f"{where}: {name} has TTL {ttl}"
    for number in (0, 1):
        names = {name.decode() for name in server.direct(db=number).scan_iter("*")}
        # The gateway looks whether Redis takes writes, as the reference does, and has keys of its own.
        there = {f"{number}|{name}" for name in names if name != "_health" and not name.startswith("redis-gateway:")}
        assert there == {place for place in expected if place.startswith(f"{number}|")}, where
