"""watch.py PREFIX: watches keys of build managers and prints what happens to them; with --set KEY VALUE, sets one instead.

Takes each expiry that no other client is given, and acknowledges it. A stream that is cut is opened again under the same name,
with a snapshot of what is there.
"""

import argparse
import queue
import sys
import time
import uuid

import grpc

from client import TRANSIENT, Service, backoff
from redisgateway.v1 import orchestrator_pb2 as pb, orchestrator_pb2_grpc


def watch(keys, opening):
    """What happens, as pairs of a kind and an event, without end."""
    waits = backoff()
    while True:
        asks = queue.SimpleQueue()
        asks.put(pb.OrchestratorWatchRequest(open=opening))
        try:
            for answer in keys.stub.Watch(iter(asks.get, None), wait_for_ready=True):
                waits = backoff()
                kind = answer.WhichOneof("event")
                yield kind, getattr(answer, kind)
                # Taken care of, once whoever iterates comes back for more.
                if kind == "expire" and answer.expire.ack_id:
                    acknowledge = pb.OrchestratorWatchAcknowledge(ack_id=answer.expire.ack_id)
                    asks.put(pb.OrchestratorWatchRequest(acknowledge=acknowledge))
        except grpc.RpcError as error:
            if error.code() not in TRANSIENT:
                raise
        finally:
            asks.put(None)
        print("cut off: what is there is told again", file=sys.stderr, flush=True)
        time.sleep(next(waits))


def show(kind, event):
    """One line for what people want to see."""
    if kind in ("confirmed", "synced"):
        print(kind, file=sys.stderr, flush=True)
    elif kind == "gap":
        cause = pb.OrchestratorGap.Cause.Name(event.cause)
        print(f"values may be missing: {cause}", file=sys.stderr, flush=True)
    elif kind != "heartbeat":
        print(kind, event.key, event.value.decode(), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prefix", help="such as building/, or the key to set")
    parser.add_argument("--set", metavar="VALUE")
    parser.add_argument("--expiration", type=int, default=0, metavar="SECONDS")
    args = parser.parse_args()
    keys = Service(pb, orchestrator_pb2_grpc.OrchestratorStub)
    if args.set is not None:
        value = args.set.encode()
        request = pb.OrchestratorSetRequest(key=args.prefix, value=value, expiration_seconds=args.expiration)
        return keys.call("Set", request)
    opening = pb.OrchestratorWatchOpen(
        prefix=args.prefix, snapshot=True, expiries=pb.OrchestratorWatchOpen.EXPIRIES_ONE, client_id=str(uuid.uuid4())
    )
    for kind, event in watch(keys, opening):
        show(kind, event)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except grpc.RpcError as error:
        sys.exit(error.details())
