"""What grpcio reads from the environment as it is imported, or as it begins: so this is imported before it.

A process that imports grpcio earlier sets `GRPC_ENABLE_FORK_SUPPORT=1` itself, if it forks after its first call.
"""

import os

# Without it grpcio 1.67 crashes, parent and child, where a process forks while a stream is open. With it, such a
# fork takes about a second.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")
# While no call is under way, it looks only so often whether a new connection stands: by itself every 5 s. In milliseconds.
os.environ.setdefault("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "200")
