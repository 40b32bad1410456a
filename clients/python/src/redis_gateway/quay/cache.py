"""`data.cache`: the model cache. Of all processes one loads what is missing, and no failure of the cache is its caller's."""

from __future__ import annotations

import json
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from redisgateway.v1 import cache_pb2 as pb
from redisgateway.v1.common_pb2 import DegradedReason

from .. import _fork
from ..errors import MENDED_BY_TIME, GatewayError, OutcomeUnknown, Unavailable, name_of
from ._config import client_of

logger = logging.getLogger(__name__)

# Seconds for a call, beside what it waits: as long as the reference waits for Redis.
_TIMEOUT = 2.0
# The most keys of one BatchGet.
_BATCH = 1000
# The most values that a process loads again at a time.
_MOST_REFRESHES = 4
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

Loader = Callable[[], Any]
ShouldCache = Callable[[Any], bool]


class CacheKey(NamedTuple):
    """A key, and for how long its value stays: `60s`, `5m`, `2h`, `1d` or `1w`. None: without end."""

    key: str
    expiration: str | None


def is_not_none(value: Any) -> bool:
    return value is not None


class DataModelCache(ABC):
    """What callers of any model cache call."""

    def __init__(self, cache_config: Mapping[str, Any]) -> None:
        self.cache_config = cache_config

    @abstractmethod
    def retrieve(self, cache_key: CacheKey, loader: Loader, should_cache: ShouldCache = is_not_none) -> Any:
        """The cached value, or what the loader returns, which is cached if it should be."""

    @abstractmethod
    def invalidate(self, cache_key: CacheKey) -> None:
        """Drops the value of a key."""


class NoopDataModelCache(DataModelCache):
    """Caches nothing."""

    def retrieve(self, cache_key: CacheKey, loader: Loader, should_cache: ShouldCache = is_not_none) -> Any:
        return loader()

    def invalidate(self, cache_key: CacheKey) -> None:
        pass


class GatewayDataModelCache(DataModelCache):
    """The model cache in Redis, by the gateway of `redis_config`.

    `lease` is how many seconds a loader gets: what takes longer is not cached, and if its process dies the next one loads that
    much later. `wait` is how many seconds others wait for its value before they load for themselves.

    With `early_refresh` a value that is about to end is loaded again in the background, and its callers go on getting it. The
    loader then runs in a thread of its own, and must bring what it needs there, such as a connection to the database.
    """

    def __init__(
        self, cache_config: Mapping[str, Any], *, wait: float = 5.0, lease: float = 10.0, early_refresh: bool = False
    ) -> None:
        super().__init__(cache_config)
        client = client_of(cache_config.get("redis_config"))
        # Once: while the gateway is down, callers are better served by their database than by a repetition.
        self._once = client.cache_once
        self._cache = client.cache
        self._wait = wait
        self._lease = lease
        self._early_refresh = early_refresh
        self.forked()
        _fork.tell(self)

    def forked(self) -> None:
        """In the child: what is loaded again now, is so by threads of the parent."""
        self._refreshes = threading.Semaphore(_MOST_REFRESHES)

    def retrieve(self, cache_key: CacheKey, loader: Loader, should_cache: ShouldCache = is_not_none) -> Any:
        answer = self._get_or_lease(cache_key.key)
        if answer.HasField("value"):
            try:
                value = json.loads(answer.value)
            except ValueError:
                # As for the reference it stands in the way until it expires.
                logger.warning("The value of %s is not JSON", cache_key.key)
            else:
                if answer.HasField("refresh"):
                    self._refresh(cache_key, answer.refresh.token, loader, should_cache)
                return value
        token = answer.lease.token or answer.refresh.token
        return self._load(cache_key, token, loader, should_cache) if token else loader()

    def retrieve_many(
        self,
        cache_keys: Sequence[CacheKey],
        loader: Callable[[CacheKey], Any],
        should_cache: ShouldCache = is_not_none,
    ) -> list[Any]:
        """What `retrieve` answers for each key. Costs one call for each 1,000 keys, and one or two for each that is not cached.
        A gateway that does not answer, or whose Redis does not, is asked no more: what is missing is loaded, and not cached."""
        found, answered = self._get_many([cache_key.key for cache_key in cache_keys])

        def missing(cache_key: CacheKey) -> Any:
            return self.retrieve(cache_key, lambda: loader(cache_key), should_cache) if answered else loader(cache_key)

        answers = []
        for cache_key in cache_keys:
            try:
                answers.append(json.loads(found[cache_key.key]))
            except (KeyError, ValueError):
                answers.append(missing(cache_key))
        return answers

    def invalidate(self, cache_key: CacheKey) -> None:
        """Also what is loaded now, by whatever process, is not cached any more. A failure is logged."""
        try:
            answer = self._cache.Delete(pb.CacheDeleteRequest(key=cache_key.key), timeout=_TIMEOUT)
        except GatewayError as error:
            logger.warning("%s is not invalidated: %s", cache_key.key, error)
        else:
            _log_degraded("%s is not invalidated: %s", cache_key.key, answer.degraded)

    def _get_or_lease(self, key: str) -> pb.CacheGetOrLeaseResponse:
        request = pb.CacheGetOrLeaseRequest(
            key=key, wait_ms=int(self._wait * 1000), lease_ms=int(self._lease * 1000), early_refresh=self._early_refresh
        )
        try:
            answer = self._once.GetOrLease(request, timeout=_TIMEOUT + self._wait)
        except GatewayError as error:
            logger.warning("%s cannot be read: %s", key, error)
            return pb.CacheGetOrLeaseResponse()
        _log_degraded("%s cannot be read: %s", key, answer.degraded)
        return answer

    def _get_many(self, keys: list[str]) -> tuple[dict[str, bytes], bool]:
        """What is cached, and whether the gateway, and its Redis, answered."""
        found: dict[str, bytes] = {}
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            try:
                answer = self._once.BatchGet(pb.CacheBatchGetRequest(keys=batch), timeout=_TIMEOUT)
            except GatewayError as error:
                logger.warning("%d keys cannot be read: %s", len(keys) - start, error)
                return found, not isinstance(error, (Unavailable, OutcomeUnknown))
            found.update((key, item.value) for key, item in zip(batch, answer.values, strict=True) if item.HasField("value"))
            if answer.degraded in MENDED_BY_TIME:
                _log_degraded("%s and what comes with it cannot be read: %s", batch[0], answer.degraded)
                return found, False
        return found, True

    def _load(self, cache_key: CacheKey, token: str, loader: Loader, should_cache: ShouldCache) -> Any:
        """Loads under a lease, which ends with a value that is stored, or without one."""
        fill = None
        try:
            result = loader()
            if should_cache(result):
                fill = _fill_of(cache_key, token, result)
        finally:
            self._end_lease(cache_key.key, token, fill)
        return result

    def _refresh(self, cache_key: CacheKey, token: str, loader: Loader, should_cache: ShouldCache) -> None:
        """Loads in the background, unless too much is loaded there, or no thread starts: then another caller does it, or
        nobody."""

        def refresh() -> None:
            try:
                self._load(cache_key, token, loader, should_cache)
            except Exception:
                logger.exception("%s is not loaded again", cache_key.key)
            finally:
                self._refreshes.release()

        if self._refreshes.acquire(blocking=False):
            try:
                threading.Thread(target=refresh, name="refresh of the model cache", daemon=True).start()
                return
            except RuntimeError as error:
                self._refreshes.release()
                logger.warning("%s is not loaded again: %s", cache_key.key, error)
        self._end_lease(cache_key.key, token, None)

    def _end_lease(self, key: str, token: str, fill: pb.CacheFillRequest | None) -> None:
        try:
            if fill is None:
                self._once.GiveUp(pb.CacheGiveUpRequest(key=key, token=token), timeout=_TIMEOUT)
                return
            answer = self._once.Fill(fill, timeout=_TIMEOUT)
        except GatewayError as error:
            logger.warning("The lease of %s ends by its time: %s", key, error)
        else:
            if answer.refusal:
                logger.debug("%s is not cached: %s", key, name_of(pb.CacheFillResponse.Refusal, answer.refusal))
            _log_degraded("%s is not cached: %s", key, answer.degraded)


def get_model_cache(config: Mapping[str, Any]) -> DataModelCache:
    """The model cache that `DATA_MODEL_CACHE_CONFIG` asks for: one in Redis, with `early_refresh` if it says so, or none."""
    cache_config = config.get("DATA_MODEL_CACHE_CONFIG", {})
    engine = cache_config.get("engine", "noop")
    if engine == "noop":
        return NoopDataModelCache(cache_config)
    if engine in ("redis", "rediscluster"):
        return GatewayDataModelCache(cache_config, early_refresh=cache_config.get("early_refresh", False))
    raise ValueError(f"model cache engine {engine} has nothing to do with Redis: one of noop, redis, rediscluster would")


def _fill_of(cache_key: CacheKey, token: str, result: Any) -> pb.CacheFillRequest | None:
    """None for what cannot be cached."""
    try:
        # With the defaults of json.dumps, as the reference writes it.
        value, ttl = json.dumps(result).encode(), _seconds(cache_key.expiration)
    except (TypeError, ValueError) as error:
        logger.warning("%s is not cached: %s", cache_key.key, error)
        return None
    return pb.CacheFillRequest(key=cache_key.key, token=token, value=value, ttl_seconds=ttl)


def _seconds(expiration: str | None) -> int:
    """0: without end."""
    if not expiration:
        return 0
    unit = _SECONDS.get(expiration[-1])
    if unit is None:
        raise ValueError(f"an expiration of {expiration} has none of the units {', '.join(_SECONDS)}")
    return int(expiration[:-1]) * unit


def _log_degraded(message: str, key: str, reason: DegradedReason.ValueType) -> None:
    if reason:
        logger.warning(message, key, name_of(DegradedReason, reason))
