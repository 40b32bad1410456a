"""by_gateway.py TARGET: a service in Python that has moved, on clients/python."""

import itertools
import json
import queue
import sys
from base64 import b64decode, b64encode

from party import serve
from redis_gateway import shared
from redis_gateway.quay.buildlogs import RedisBuildLogs
from redis_gateway.quay.cache import CacheKey, GatewayDataModelCache
from redis_gateway.quay.locking import GlobalLock
from redis_gateway.quay.orchestrator import RedisOrchestrator
from redis_gateway.quay.pull_stats_flush import PullStatsFlush
from redis_gateway.quay.pullmetrics import PullMetrics
from redis_gateway.quay.repo_modification_tracker import RepoModificationTracker
from redis_gateway.quay.userevent import UserEvent, UserEventListener
from redisgateway.v1 import cache_pb2


class Gateway:
    def __init__(self, target):
        self.config = {"gateway": target}
        self.logs = RedisBuildLogs(self.config)
        self.pulls = PullMetrics(self.config)
        self.cache = GatewayDataModelCache({"redis_config": self.config})
        self.values = shared(target).cache
        self.tracker = RepoModificationTracker(self.config)
        GlobalLock.configure({"USER_EVENTS_REDIS": self.config})

    def append_entry(self, build, entry):
        return self.logs.append_log_entry(build, json.loads(entry))

    def append_message(self, build, message, kind, data):
        return self.logs.append_log_message(build, message, kind, json.loads(data) if data else None)

    def read_log(self, build, start):
        length, entries = self.logs.get_log_entries(build, start)
        return [length, [json.dumps(entry) for entry in entries]]

    def set_status(self, build, status):
        self.logs.set_status(build, json.loads(status))

    def get_status(self, build):
        return json.dumps(self.logs.get_status(build))

    def expire_status(self, build):
        self.logs.expire_status(build)

    def expire_log(self, build):
        self.logs.expire_log_entries(build)

    def delete_log(self, build):
        self.logs.delete_log_entries(build)

    def publish(self, user, event, payload):
        return UserEvent(self.config, user).publish_event_data_sync(event, json.loads(payload))

    def listen(self, user, events):
        self.listener = UserEventListener(self.config, user, events)
        self.stream = self.listener.event_stream()

    def heard(self, count):
        told = (item for item in self.stream if item[0] != "pulse")
        return [[event, json.dumps(data)] for event, data in itertools.islice(told, count)]

    def unlisten(self):
        self.listener.stop()

    def track(self, repository, tag, digest):
        if tag:
            self.pulls.track_tag_pull_sync(repository, tag, digest)
        else:
            self.pulls.track_manifest_pull_sync(repository, digest)

    def statistics(self, repository, tag, digest):
        if tag:
            return self.pulls.get_tag_pull_statistics(repository, tag, digest)
        return self.pulls.get_manifest_pull_statistics(repository, digest)

    def flush(self):
        rows = {"tags": [], "manifests": []}

        def write(table):
            return lambda some: rows[table].extend(map(_row, some)) or len(some)

        PullStatsFlush(write("tags"), write("manifests"), redis_config=self.config).flush()
        return {table: sorted(found) for table, found in rows.items()}

    def retrieve(self, key, seconds, loaded):
        asked = []
        expiration = f"{seconds}s" if seconds else None
        value = self.cache.retrieve(CacheKey(key, expiration), lambda: asked.append(key) or json.loads(loaded))
        return [json.dumps(value), bool(asked)]

    def invalidate(self, key):
        self.cache.invalidate(CacheKey(key, None))

    def store(self, key, value, seconds, overwrite):
        request = cache_pb2.CacheSetRequest(key=key, value=b64decode(value), ttl_seconds=seconds, overwrite=overwrite)
        return self.values.Set(request).stored

    def lookup(self, keys):
        values = self.values.BatchGet(cache_pb2.CacheBatchGetRequest(keys=keys)).values
        return [b64encode(item.value).decode() if item.HasField("value") else None for item in values]

    def drop(self, keys):
        self.values.BatchDelete(cache_pb2.CacheBatchDeleteRequest(keys=keys))

    def mark_modified(self, namespace, repo):
        return self.tracker.mark_repo_modified(namespace, repo)

    def mark_revoked(self, users, namespace, repo):
        return self.tracker.mark_permissions_revoked_batch(users, namespace, repo)

    def blocked(self, user_id, namespace, repo):
        return self.tracker.should_block_read_access(user_id, namespace, repo)

    def acquire(self, name, seconds, wait):
        self.lock = GlobalLock(name, seconds, wait=wait)
        return self.lock.acquire()

    def release(self):
        self.lock.release()

    def create_key(self, key, value, seconds):
        return self._set(key, value, False, seconds)

    def overwrite_key(self, key, value, seconds):
        return self._set(key, value, True, seconds)

    def _set(self, key, value, overwrite, seconds):
        try:
            self._keys().set_key(key, value, overwrite, seconds or None)
        except KeyError:
            return False
        return True

    def get_key(self, key):
        try:
            return self._keys().get_key(key)
        except KeyError:
            return None

    def delete_key(self, key):
        try:
            self._keys().delete_key(key)
        except KeyError:
            return False
        return True

    def list_keys(self, prefix):
        return self._keys().get_prefixed_keys(prefix)

    def lock_key(self, key):
        return self._keys().lock(key)

    def _keys(self):
        return RedisOrchestrator(gateway=self.config["gateway"])

    def watch(self, prefix):
        self.changes = queue.Queue()
        self.watching = self._keys()
        self.watching.on_key_change(prefix, self.changes.put)

    def changed(self, count):
        changes = [self.changes.get() for _ in range(count)]
        return [[change.event.name.lower(), change.key, change.value] for change in changes]

    def unwatch(self):
        self.watching.shutdown()


def _row(row):
    last = row["last_pull_timestamp"]
    tag = [row["tag_name"]] if "tag_name" in row else []
    return [row["repository_id"], *tag, row["manifest_digest"], row["pull_count"], last and int(last.timestamp())]


if __name__ == "__main__":
    serve(Gateway(sys.argv[1]))
