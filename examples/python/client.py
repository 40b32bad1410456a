"""What the examples share: a channel, and retries as the proto allows them."""

import os
import time

import grpc

TARGET = os.environ.get("GATEWAY", "127.0.0.1:50051")
TIMEOUT = 5.0  # seconds, for one attempt
PATIENCE = 60.0  # seconds, for all attempts of one call

# With these, the next attempt may fare better. Whether there may be one is up to the proto.
TRANSIENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
}


def channel(target=TARGET):
    """A channel to the gateway, over TCP or a Unix socket."""
    # grpcio would name a Unix socket's path as the authority, percent-encoded, which HTTP/2 servers in Rust refuse.
    options = [("grpc.default_authority", "localhost")] if target.startswith("unix:") else []
    return grpc.insecure_channel(target, options)


class Service:
    """Calls of one service, repeated where the method's `idempotency_level` says that this is safe.

    `pb` is the module of its messages, `stub` the class that was made for it, such as `BuildLogsStub`.
    """

    def __init__(self, pb, stub, target=TARGET):
        self.stub = stub(channel(target))
        self.methods = pb.DESCRIPTOR.services_by_name[stub.__name__.removesuffix("Stub")].methods_by_name

    def call(self, method, request):
        options = self.methods[method].GetOptions()
        safe = options.idempotency_level != options.IDEMPOTENCY_UNKNOWN
        give_up = time.monotonic() + PATIENCE
        for wait in backoff():
            try:
                return getattr(self.stub, method)(request, timeout=TIMEOUT)
            except grpc.RpcError as error:
                if not (safe and error.code() in TRANSIENT and time.monotonic() + wait < give_up):
                    raise
            time.sleep(wait)


def backoff(first=0.05, most=1.0):
    """Waits between attempts, in seconds: the first, doubled up to the most."""
    wait = first
    while True:
        yield wait
        wait = min(2 * wait, most)


def lines_of(path):
    """The lines of a file, as text that protobuf and JSON take."""
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        return [line.rstrip("\n") for line in file]
