"""Receives spans over OTLP, as a collector does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Receiver(TraceServiceServicer):
    """Keeps what it receives, unless it is told to refuse it."""

    def __init__(self) -> None:
        self.target = ""
        self.refuses = False
        self.refused = 0
        self.headers: dict[str, Any] = {}
        self._requests: list[ExportTraceServiceRequest] = []
        self._lock = threading.Lock()

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        with self._lock:
            if self.refuses:
                self.refused += 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "refused")
            self._requests.append(request)
            self.headers = dict(context.invocation_metadata())
        return ExportTraceServiceResponse()

    def forget(self) -> None:
        with self._lock:
            self._requests.clear()

    def spans(self) -> list[Span]:
        with self._lock:
            return [span for request in self._requests for group in request.resource_spans for scope in group.scope_spans
                    for span in scope.spans]  # fmt: skip

    def resources(self) -> list[dict[str, Any]]:
        with self._lock:
            return [attributes(group.resource) for request in self._requests for group in request.resource_spans]

    def text(self) -> str:
        """All that was received, to look for what should not be there."""
        with self._lock:
            return "".join(str(request) for request in self._requests)


def attributes(of: Any) -> dict[str, Any]:
    """The attributes of a span or a resource."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}


@contextmanager
def receiving(credentials: grpc.ServerCredentials | None = None) -> Iterator[Receiver]:
    """A receiver on a free port of 127.0.0.1; over TLS with credentials."""
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(4))
    add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    if credentials is None:
        receiver.target = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    else:
        receiver.target = f"https://localhost:{server.add_secure_port('127.0.0.1:0', credentials)}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None)
