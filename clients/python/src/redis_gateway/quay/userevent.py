"""`data.userevent` on a gateway."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import grpc

from redisgateway.v1 import user_events_pb2 as pb

from .._calls import Stream
from .._pauses import pauses
from ..errors import GatewayError, Unavailable, name_of
from ..events import publish
from ._config import Module, client_of, redis_config_of

logger = logging.getLogger(__name__)

_OPEN_TIMEOUT = 5.0  # seconds


class CannotReadUserEventsException(Exception):
    """The subscription could not be made."""


class UserEventBuilder:
    """Makes what publishes and what listens."""

    def __init__(self, redis_config: Mapping[str, Any] | None = None) -> None:
        self._redis_config = redis_config

    def get_event(self, username: str) -> UserEvent:
        return UserEvent(self._redis_config, username)

    def get_listener(self, username: str, events: Iterable[str] | None) -> UserEventListener:
        return UserEventListener(self._redis_config, username, events)


class UserEventsBuilderModule(Module):
    """The extension: a `UserEventBuilder`."""

    name = "userevents"

    def make(self, app: Any) -> UserEventBuilder:
        return UserEventBuilder(redis_config_of(app, "USER_EVENTS_REDIS"))


class UserEvent:
    """Publishes a user's events."""

    def __init__(self, redis_config: Mapping[str, Any] | None, username: str) -> None:
        self._client = client_of(redis_config)
        self._username = username

    def publish_event_data_sync(self, event_id: str, data_obj: Any) -> int:
        """Publishes an event; how many subscribers Redis has sent it to, of which a gateway is one.

        Fails with a `GatewayError`; `OutcomeUnknown` says that it may have been heard.
        """
        return publish(self._client.user_events, self._request(event_id, data_obj))

    def publish_event_data(self, event_id: str, data_obj: Any) -> None:
        """Lets an event be published in the background, after those before it, also if it waits for Redis to come back."""
        try:
            request = self._request(event_id, data_obj)
        except (TypeError, ValueError) as error:
            logger.warning("a user event is no JSON: %s", error)
            return
        if not self._client.background_events.put(request):
            logger.warning("a user event was dropped: too many are waiting")

    def _request(self, event_id: str, data_obj: Any) -> pb.PublishRequest:
        return pb.PublishRequest(username=self._username, event_id=event_id, payload=json.dumps(data_obj).encode())


class UserEventListener:
    """Listens to a user's events, from when it is made.

    Subscribes again by itself when the gateway or Redis was away. With `tell_gaps`, `event_stream` says where events may be
    missing: `("gap", {"cause": …, "dropped": n})`, where n is 0 if it is not known how many. The causes are `SLOW_READER`,
    `CONNECTION_LOST` and `OVERLOADED`, as in the proto, and `GATEWAY_LOST`.
    """

    def __init__(
        self,
        redis_config: Mapping[str, Any] | None,
        username: str,
        events: Iterable[str] | None = None,
        *,
        tell_gaps: bool = False,
    ) -> None:
        self._events = client_of(redis_config).user_events
        self._request = pb.ListenRequest(username=username, event_ids=sorted(events or ()))
        self._tell_gaps = tell_gaps
        self._stopped = threading.Event()
        try:
            self._stream = self._open()
        except GatewayError as error:
            logger.warning("cannot listen to user events: %s", error)
            raise CannotReadUserEventsException(str(error)) from error

    def event_stream(self) -> Iterator[tuple[str, Any]]:
        """Events as (event id, data), until `stop`; a `pulse` at the beginning, after each 5 s of silence, and when cut off."""
        stream: Stream[pb.ListenResponse] | None = self._stream
        waits = pauses()
        yield "pulse", {}
        while not self._stopped.is_set():
            try:
                if stream is None:
                    stream = self._open()
                    waits = pauses()
                    if self._tell_gaps:
                        yield "gap", {"cause": "GATEWAY_LOST", "dropped": 0}
                yield from self._heard(stream)
            except GatewayError as error:
                logger.warning("cut off from user events: %s", error)
            stream = None
            if not self._stopped.is_set():
                yield "pulse", {}
                self._stopped.wait(next(waits))

    def stop(self) -> None:
        """Ends listening, and `event_stream`; from any thread."""
        self._stopped.set()
        self._stream.cancel()

    def _open(self) -> Stream[pb.ListenResponse]:
        """Subscribes, and waits until this is confirmed; again, where a gateway or a connection that ends sends it on."""
        give_up = time.monotonic() + _OPEN_TIMEOUT
        waits = pauses()
        while True:
            pause = next(waits)
            try:
                return self._open_once(give_up)
            except GatewayError as error:
                if error.reason != "DRAINING" or time.monotonic() + pause >= give_up:
                    raise
            time.sleep(pause)

    def _open_once(self, give_up: float) -> Stream[pb.ListenResponse]:
        # What a client's stubs really answer.
        stream = self._stream = cast(Stream[pb.ListenResponse], self._events.Listen(self._request))
        if self._stopped.is_set():
            stream.cancel()
        # A stream has no deadline for its beginning alone.
        timer = threading.Timer(max(0.0, give_up - time.monotonic()), stream.cancel)
        timer.daemon = True
        timer.start()
        try:
            if next(stream, None) is None:
                raise Unavailable("the subscription was not confirmed in time", grpc.StatusCode.DEADLINE_EXCEEDED)
        finally:
            timer.cancel()
        return stream

    def _heard(self, stream: Stream[pb.ListenResponse]) -> Iterator[tuple[str, Any]]:
        for answer in stream:
            kind = answer.WhichOneof("item")
            if kind == "event":
                yield answer.event.event_id, json.loads(answer.event.payload)
            elif kind == "heartbeat":
                yield "pulse", {}
            elif kind == "gap" and self._tell_gaps:
                cause = name_of(pb.ListenGap.Cause, answer.gap.cause).removeprefix("CAUSE_")
                yield "gap", {"cause": cause, "dropped": answer.gap.dropped}
