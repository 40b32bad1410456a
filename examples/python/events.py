"""events.py USERNAME EVENT [EVENT...]: listens to a user's events and prints them; with --publish JSON, publishes one instead.

Takes up listening again where it was cut, and says on stderr where events may be missing.
"""

import argparse
import json
import sys
import time

import grpc

from client import Service, backoff
from redisgateway.v1 import common_pb2, user_events_pb2 as pb, user_events_pb2_grpc


def listen(events, request):
    """All events, without end."""
    waits = backoff()
    while True:
        try:
            for answer in events.stub.Listen(request, wait_for_ready=True):
                waits = backoff()
                kind = answer.WhichOneof("item")
                if kind == "event":
                    yield answer.event
                elif kind == "opened":
                    print("listening", file=sys.stderr, flush=True)
                elif kind == "gap":
                    cause = pb.ListenGap.Cause.Name(answer.gap.cause)
                    print(f"events may be missing: {cause}, {answer.gap.dropped} dropped", file=sys.stderr, flush=True)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
        print("cut off: what is published now is missed", file=sys.stderr, flush=True)
        time.sleep(next(waits))


def publish(events, username, event_id, text):
    request = pb.PublishRequest(username=username, event_id=event_id, payload=text.encode())
    answer = events.stub.Publish(request, timeout=2)
    if answer.degraded:
        sys.exit(f"not published, or perhaps: {common_pb2.DegradedReason.Name(answer.degraded)}")
    print(f"{answer.receivers} receivers")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("username")
    parser.add_argument("events", nargs="+", metavar="event")
    parser.add_argument("--publish", metavar="JSON")
    parser.add_argument("--count", type=int, help="end after so many events")
    args = parser.parse_args()
    events = Service(pb, user_events_pb2_grpc.UserEventsStub)
    if args.publish is not None:
        return publish(events, args.username, args.events[0], args.publish)
    request = pb.ListenRequest(username=args.username, event_ids=args.events)
    for heard, event in enumerate(listen(events, request), start=1):
        print(event.event_id, json.loads(event.payload), flush=True)
        if heard == args.count:
            break


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
