"""`data.buildlogs` on a gateway. Loadable as
`BUILDLOGS_MODULE_AND_CLASS: ["redis_gateway.quay.buildlogs", "RedisBuildLogs"]`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from grpc_health.v1 import health_pb2

from redisgateway.v1 import build_logs_pb2 as pb

from ..errors import GatewayError, name_of
from ._config import Module, client_of, redis_config_of

_TIMEOUT = 2.0  # seconds
_HEALTH_TIMEOUT = 1.0


class BuildStatusRetrievalError(Exception):
    """A log or a status could not be read."""


class RedisBuildLogs:
    """Build logs. Reading fails with `BuildStatusRetrievalError`, all else with a `GatewayError`.

    `append_log_entry` and `append_log_message` know no length to expect, so they are never repeated: `OutcomeUnknown` says that
    the entry may or may not stand. A writer that must know uses `CompareAndAppend` of the stub.
    """

    ERROR = "error"
    COMMAND = "command"
    PHASE = "phase"

    def __init__(self, redis_config: Mapping[str, Any] | None = None) -> None:
        client = client_of(redis_config)
        self._logs = client.build_logs
        self._health = client.health

    def append_log_entry(self, build_id: str, log_obj: Any) -> int:
        """Appends an entry; the log's length with it."""
        entry = pb.LogEntry(json=_text(log_obj))
        return self._logs.Append(pb.AppendRequest(build_id=str(build_id), entries=[entry]), timeout=_TIMEOUT).length

    def append_log_message(self, build_id: str, log_message: Any, log_type: str | None = None, log_data: Any = None) -> int:
        """Appends a message; its index."""
        log_obj = {"message": log_message}
        if log_type:
            log_obj["type"] = log_type
        if log_data:
            log_obj["data"] = log_data
        return self.append_log_entry(build_id, log_obj) - 1

    def get_log_entries(self, build_id: str, start_index: int) -> tuple[int, Iterator[Any]]:
        """The log's length, and the entries from an index on; negative ones count from the end."""
        entries: list[bytes] = []
        try:
            while True:
                request = pb.ListEntriesRequest(build_id=str(build_id), start=start_index)
                page = self._logs.ListEntries(request, timeout=_TIMEOUT)
                entries += page.entries
                start_index = page.next_start
                if start_index >= page.length:
                    return page.length, (json.loads(entry) for entry in entries)
        except GatewayError as error:
            raise BuildStatusRetrievalError(f"Cannot retrieve build logs: {error}") from error

    def expire_status(self, build_id: str) -> None:
        """Lets the status expire in a day."""
        self._logs.ExpireStatus(pb.ExpireStatusRequest(build_id=str(build_id)), timeout=_TIMEOUT)

    def expire_log_entries(self, build_id: str) -> None:
        """Lets the entries expire in a day."""
        self._logs.ExpireEntries(pb.ExpireEntriesRequest(build_id=str(build_id)), timeout=_TIMEOUT)

    def delete_log_entries(self, build_id: str) -> None:
        """Deletes the entries."""
        self._logs.DeleteEntries(pb.DeleteEntriesRequest(build_id=str(build_id)), timeout=_TIMEOUT)

    def set_status(self, build_id: str, status_obj: Any) -> None:
        """Sets the status, for 7 days."""
        self._logs.SetStatus(pb.SetStatusRequest(build_id=str(build_id), status=_text(status_obj)), timeout=_TIMEOUT)

    def get_status(self, build_id: str) -> Any:
        """The status; None if there is none."""
        try:
            status = self._logs.GetStatus(pb.GetStatusRequest(build_id=str(build_id)), timeout=_TIMEOUT).status
        except GatewayError as error:
            raise BuildStatusRetrievalError(f"Cannot retrieve build status: {error}") from error
        return json.loads(status) if status else None

    def check_health(self) -> tuple[bool, str | None]:
        """Whether the gateway serves build logs from its Redis, and why not."""
        request = health_pb2.HealthCheckRequest(service="redisgateway.v1.BuildLogs")
        try:
            status = self._health.Check(request, timeout=_HEALTH_TIMEOUT).status
        except GatewayError as error:
            return False, f"Could not connect to redis: {error}"
        if status != health_pb2.HealthCheckResponse.SERVING:
            name = name_of(health_pb2.HealthCheckResponse.ServingStatus, status)
            return False, f"Could not connect to redis: the gateway says {name}"
        return True, None


class BuildLogs(Module):
    """The extension: `RedisBuildLogs`, or the class that `BUILDLOGS_MODULE_AND_CLASS` names."""

    name = "buildlogs"

    def make(self, app: Any) -> Any:
        module, name = app.config.get("BUILDLOGS_MODULE_AND_CLASS") or (__name__, RedisBuildLogs.__name__)
        options = app.config.get("BUILDLOGS_OPTIONS", [])
        return getattr(importlib.import_module(module), name)(redis_config_of(app, "BUILDLOGS_REDIS"), *options)


def _text(value: Any) -> bytes:
    return json.dumps(value).encode()
