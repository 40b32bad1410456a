"""A gateway that is newer than this client, and has reasons that it does not know."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from redis_gateway import GatewayError, shared
from redis_gateway.errors import from_degraded
from redis_gateway.quay.cache import CacheKey, GatewayDataModelCache
from redis_gateway.quay.userevent import UserEvent
from redisgateway.v1 import cache_pb2, cache_pb2_grpc, user_events_pb2, user_events_pb2_grpc

NEW: Any = 4711


class Cache(cache_pb2_grpc.CacheServicer):
    def GetOrLease(self, request: Any, context: Any) -> Any:
        if request.key == "degraded":
            return cache_pb2.CacheGetOrLeaseResponse(degraded=NEW)
        return cache_pb2.CacheGetOrLeaseResponse(lease=cache_pb2.CacheLease(token="t"))

    def Fill(self, request: Any, context: Any) -> Any:
        return cache_pb2.CacheFillResponse(refusal=NEW)

    def Delete(self, request: Any, context: Any) -> Any:
        return cache_pb2.CacheDeleteResponse(degraded=NEW)


class Events(user_events_pb2_grpc.UserEventsServicer):
    def Publish(self, request: Any, context: Any) -> Any:
        return user_events_pb2.PublishResponse(degraded=NEW)


@pytest.fixture
def newer(folder: Path) -> Iterator[dict[str, Any]]:
    server = grpc.server(ThreadPoolExecutor(4))
    cache_pb2_grpc.add_CacheServicer_to_server(Cache(), server)  # type: ignore[abstract]
    user_events_pb2_grpc.add_UserEventsServicer_to_server(Events(), server)  # type: ignore[abstract]
    target = f"unix:{folder}/newer.sock"
    server.add_insecure_port(target)
    server.start()
    yield {"gateway": target}
    shared(target).close()
    server.stop(None).wait()


def test_a_new_reason_is_an_error_like_any_other() -> None:
    error = from_degraded(NEW)
    assert type(error) is GatewayError
    assert error.reason == "UNKNOWN_4711"


def test_what_is_new_costs_no_caller(newer: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    cache = GatewayDataModelCache({"redis_config": newer})
    with caplog.at_level("DEBUG", "redis_gateway"):
        for key in ("degraded", "refused"):
            assert cache.retrieve(CacheKey(key, "60s"), lambda: 1) == 1
            assert f"{key} " in caplog.text and "UNKNOWN_4711" in caplog.text
            caplog.clear()
        cache.invalidate(CacheKey("gone", "60s"))
        assert "gone is not invalidated: UNKNOWN_4711" in caplog.text
    with pytest.raises(GatewayError, match="UNKNOWN_4711"):
        UserEvent(newer, "devtable").publish_event_data_sync("test", {"a": 1})
