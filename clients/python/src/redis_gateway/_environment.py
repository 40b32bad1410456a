"""What grpcio reads from the environment as it is imported, or as it begins: so this is imported before it.

A process that imports grpcio earlier sets `GRPC_ENABLE_FORK_SUPPORT=1` itself, if it forks after its first call.
"""

import os
import sys


def gevent_has_patched() -> bool:
    """Whether sockets, and so all that waits, are gevent's."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("socket"))


# Without it grpcio 1.67 crashes, parent and child, where a process forks while a stream is open. With it, such a
# fork takes about a second; under gevent it does not come back in the child, which without it hears an error (see `_channel`).
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0" if gevent_has_patched() else "1")
# While no call is under way, it looks only so often whether a new connection stands: by itself every 5 s. In milliseconds.
os.environ.setdefault("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "200")
# A call is answered to the thread that waits for it. By itself gRPC lets one thread of all look at the sockets, which wakes the
# others: beside an open stream that is three more switches for each call (see `Client`), and half as much again of its CPU.
os.environ.setdefault("GRPC_POLL_STRATEGY", "poll")
