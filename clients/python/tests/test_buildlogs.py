"""`RedisBuildLogs`: the recording of the reference, step by step, and what the recording does not have."""

from __future__ import annotations

import json
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from redis_gateway import OutcomeUnknown
from redis_gateway.quay.buildlogs import BuildLogs, BuildStatusRetrievalError, RedisBuildLogs

from .conftest import Gateway, Server, eventually
from .recording import replay

BUILD = "4f7c2f4e"


def test_leaves_what_the_reference_left(config: dict[str, Any], server: Server) -> None:
    logs = RedisBuildLogs(config)

    def do(op: str, args: dict[str, Any]) -> Any:
        build = args["build_id"]
        match op:
            case "append_log_message":
                return logs.append_log_message(build, args["message"], args.get("type"), args.get("data"))
            case "append_log_entry":
                return logs.append_log_entry(build, args["entry"])
            case "get_log_entries":
                count, entries = logs.get_log_entries(build, args["start"])
                return {"count": count, "entries": list(entries)}
            case "set_status":
                return logs.set_status(build, args["status"])
            case _:
                return getattr(logs, op)(build)

    assert replay(server, "append, read, retention", do) == 21


def test_a_long_log_is_read_whole(config: dict[str, Any], server: Server) -> None:
    entries = [json.dumps({"message": f"{n} " + "x" * 700}) for n in range(4_500)]
    server.direct().rpush(f"builds/{BUILD}/logs", *entries)
    logs = RedisBuildLogs(config)
    count, read = logs.get_log_entries(BUILD, 0)
    assert (count, [json.dumps(entry) for entry in read]) == (4_500, entries)
    count, read = logs.get_log_entries(BUILD, -3_000)
    assert (count, [json.dumps(entry) for entry in read]) == (4_500, entries[-3_000:])


def test_health(config: dict[str, Any], gateway: Gateway) -> None:
    logs = RedisBuildLogs(config)
    # It says so once it has asked its Redis.
    eventually(lambda: logs.check_health() == (True, None), "the gateway serves")
    gateway.process.send_signal(signal.SIGSTOP)
    # A process stops a moment after the signal.
    message = eventually(lambda: logs.check_health()[1])
    assert message.startswith("Could not connect to redis: ")


def test_without_a_gateway(config: dict[str, Any], gateway: Gateway) -> None:
    logs = RedisBuildLogs(config)
    gateway.kill()
    with pytest.raises(BuildStatusRetrievalError, match="Cannot retrieve build logs: "):
        logs.get_log_entries(BUILD, 0)
    with pytest.raises(BuildStatusRetrievalError, match="Cannot retrieve build status: "):
        logs.get_status(BUILD)
    with pytest.raises(OutcomeUnknown):
        logs.append_log_message(BUILD, "line")


def test_the_extension_loads_the_class_that_is_configured(config: dict[str, Any]) -> None:
    app = SimpleNamespace(
        config={
            "BUILDLOGS_REDIS": config,
            "BUILDLOGS_MODULE_AND_CLASS": ("redis_gateway.quay.buildlogs", "RedisBuildLogs"),
        }
    )
    logs = BuildLogs(app)
    assert type(app.extensions["buildlogs"]) is RedisBuildLogs
    assert logs.append_log_message(BUILD, "line") == 0
    assert BuildLogs().get_status is None
