"""What a call may fail with: one small hierarchy, made of the gateway's statuses, and of those that others on the way made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2, status_pb2

from redisgateway.v1 import common_pb2

DOMAIN = "redisgateway"

# Made by anybody on the way, these still say that the call was not executed.
_REFUSED = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
}

# Nothing was executed, and the next try may fare better.
MENDED_BY_TIME = frozenset(
    {
        common_pb2.DEGRADED_REASON_REDIS_UNAVAILABLE,
        common_pb2.DEGRADED_REASON_REDIS_TIMEOUT,
        common_pb2.DEGRADED_REASON_OVERLOADED,
    }
)


class GatewayError(Exception):
    """A call failed. `reason` is the gateway's word for why, as in the proto files; empty if the gateway did not say it."""

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        # Seconds to wait before the next try, where the gateway knows.
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.args[0]}"


class Unavailable(GatewayError):
    """Nothing was executed, or a repetition is safe; later, the same call may fare better."""


class OutcomeUnknown(GatewayError):
    """The call may or may not have been executed, and a repetition is not safe."""


def from_rpc(error: grpc.RpcError, safe: bool) -> GatewayError:
    """The error of a call; `safe` says whether its method may be repeated."""
    # Every RpcError that a call raises is a grpc.Call too; only the types do not say so.
    call = cast(Any, error)
    code: grpc.StatusCode = call.code()
    message: str = call.details() or ""
    info, retry_after = _details(call.trailing_metadata())
    if info is None:
        kind = GatewayError if code in _REFUSED else Unavailable if safe else OutcomeUnknown
        return kind(message, code)
    return _kind(code, info.reason)(message, code, info.reason, info.metadata, retry_after)


def from_degraded(reason: common_pb2.DegradedReason.ValueType) -> GatewayError:
    """The error that an answer tells of which is OK in spite of it."""
    name = name_of(common_pb2.DegradedReason, reason).removeprefix("DEGRADED_REASON_")
    if reason == common_pb2.DEGRADED_REASON_OUTCOME_UNKNOWN:
        return OutcomeUnknown("the change may or may not stand in redis", grpc.StatusCode.UNKNOWN, name)
    kind = Unavailable if reason in MENDED_BY_TIME else GatewayError
    return kind("redis did not do what was asked", grpc.StatusCode.UNAVAILABLE, name)


def name_of(enum: Any, value: int) -> str:
    """The name of an enum's value; `UNKNOWN_n` of one that only a newer gateway knows."""
    return str(enum.Name(value)) if value in enum.values() else f"UNKNOWN_{value}"


def _kind(code: grpc.StatusCode, reason: str) -> type[GatewayError]:
    if reason == "OUTCOME_UNKNOWN":
        return OutcomeUnknown
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED) or reason == "OVERLOADED":
        return Unavailable
    return GatewayError


def _details(metadata: Any) -> tuple[error_details_pb2.ErrorInfo | None, float]:
    info, retry_after = None, 0.0
    for key, value in metadata or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            found, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(found) and found.domain == DOMAIN:
                info = found
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return info, retry_after
