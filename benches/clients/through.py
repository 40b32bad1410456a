"""A caller in Python by the gateway: Quay's classes of clients/python, and what is better than one call for each thing."""

import contextlib

from redis_gateway import shared
from redis_gateway.quay.buildlogs import RedisBuildLogs
from redis_gateway.quay.cache import CacheKey, get_model_cache
from redis_gateway.quay.locking import GlobalLock
from redis_gateway.quay.orchestrator import RedisOrchestrator
from redis_gateway.quay.pullmetrics import PullMetricsBuilder
from redis_gateway.quay.repo_modification_tracker import RepoModificationTracker
from redis_gateway.quay.userevent import UserEventBuilder
from redisgateway.v1 import build_logs_pb2 as pb
from work import CACHED, DIGEST, EVENT, LINES, LINES_AT_ONCE, MESSAGE, USER, Work, expect


class Caller(Work):
    def __init__(self, name, target, redis_port):
        super().__init__(name)
        redis = {"gateway": target}
        self.client = shared(target)
        self.logs = RedisBuildLogs(redis)
        self.events = UserEventBuilder(redis)
        self.pulls = PullMetricsBuilder(redis).get_event()
        self.cache = get_model_cache({"DATA_MODEL_CACHE_CONFIG": {"engine": "redis", "redis_config": redis}})
        self.tracker = RepoModificationTracker(redis)
        self.orchestrator = RedisOrchestrator(gateway=target)
        GlobalLock.configure({"USER_EVENTS_REDIS": redis})

    def __exit__(self, *_):
        counts = [self.client.background_pulls.counts, self.client.background_events.counts]
        self.client.close()
        expect(all(one.stood == one.sent and not one.dropped for one in counts), f"what left by the background: {counts}")

    def works(self):
        return super().works() | {
            "manifest-batched": (self.manifest_batched, False),
            "build-batched": (lambda: self.lines_batched(f"{self.name}-build-{next(self.fresh)}"), False),
        }

    def settle(self):
        idle = self.client.background_events.flush(10) and self.client.background_pulls.flush(10)
        expect(idle, "the background, which still works")

    def append(self, build):
        self.logs.append_log_message(build, MESSAGE)

    def log(self, build):
        return self.logs.get_log_entries(build, 0)

    def publish(self):
        self.events.get_event(USER).publish_event_data("docker-cli", EVENT)

    @contextlib.contextmanager
    def listening(self):
        listener = self.events.get_listener(USER, {"docker-cli"})
        try:
            yield (data for event, data in listener.event_stream() if event != "pulse")
        finally:
            listener.stop()

    def pull(self):
        self.pulls.track_tag_pull(7, "latest", DIGEST)

    def cache_get(self, key):
        expect(self.cache.retrieve(CacheKey(key, "300s"), lambda: CACHED) == CACHED, "a cached value")

    def check(self):
        expect(not self.tracker.should_block_read_access(5, USER, "simple"), "a read that is blocked")

    def lock(self):
        with GlobalLock(f"BENCH_{self.name}", lock_ttl=30):
            pass

    def orchestrator_set(self, key, overwrite):
        self.orchestrator.set_key(key, "{}", overwrite=overwrite, expiration=100)

    def orchestrator_get(self, key):
        expect(self.orchestrator.get_key(key) == "{}", "a key of the orchestrator")

    def manifest_batched(self):
        """As `manifest`, with one call for all reads."""
        self.check()
        values = self.cache.retrieve_many([CacheKey(key, "300s") for key in self.keys], lambda key: CACHED)
        expect(values == [CACHED] * len(self.keys), "cached values")
        self.pull()
        self.publish()

    def lines_batched(self, build):
        """As `lines`, many lines in a call."""
        entry = pb.LogEntry(message=pb.LogMessage(message=MESSAGE))
        for length in range(0, LINES, LINES_AT_ONCE):
            request = pb.CompareAndAppendRequest(build_id=build, entries=[entry] * LINES_AT_ONCE, expected_length=length)
            expect(self.client.build_logs.CompareAndAppend(request, timeout=2).appended, "lines that were appended")
