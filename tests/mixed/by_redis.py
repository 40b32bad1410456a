"""by_redis.py SOCKET: a service in Python that has not moved, on redis-py, command by command as the reference works."""

import json
import sys
from base64 import b64decode, b64encode
from contextlib import contextmanager
from pathlib import Path

import redis_lock
from party import serve

import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers"))

from build_manager import CREATE, DELETE, EXPIRED, EXPIRING, SET, Keys  # noqa: E402
from produce_pulls import Producer  # noqa: E402
from reference_flush import Worker  # noqa: E402

WEEK, DAY = 604_800, 86_400
EVENTS = {CREATE: "create", SET: "set", DELETE: "delete"}


class Redis:
    def __init__(self, socket):
        self.url = f"unix://{socket}"
        self.redis = redis.Redis.from_url(self.url)
        self.text = redis.Redis.from_url(self.url, decode_responses=True)
        self.pulls = Producer(f"{self.url}?db=1", timeout=5)
        self.keys = Keys(self.text)

    def append_entry(self, build, entry):
        return self._append(build, json.loads(entry))

    def append_message(self, build, message, kind, data):
        entry = {"message": message}
        if kind:
            entry["type"] = kind
        data = json.loads(data) if data else None
        if data:
            entry["data"] = data
        return self._append(build, entry) - 1

    def _append(self, build, entry):
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.expire(_log(build), WEEK)
        pipeline.rpush(_log(build), json.dumps(entry))
        return pipeline.execute()[-1]

    def read_log(self, build, start):
        length, entries = self.redis.llen(_log(build)), self.redis.lrange(_log(build), start, -1)
        return [length, [json.dumps(json.loads(entry)) for entry in entries]]

    def set_status(self, build, status):
        self.redis.set(_status(build), json.dumps(json.loads(status)), ex=WEEK)

    def get_status(self, build):
        return json.dumps(json.loads(self.redis.get(_status(build)) or "null"))

    def expire_status(self, build):
        self.redis.expire(_status(build), DAY)

    def expire_log(self, build):
        self.redis.expire(_log(build), DAY)

    def delete_log(self, build):
        self.redis.delete(_log(build))

    def publish(self, user, event, payload):
        return self.redis.publish(f"user/{user}/events/{event}", json.dumps(json.loads(payload)))

    def listen(self, user, events):
        self.events = self.text.pubsub()
        self.events.subscribe(*[f"user/{user}/events/{event}" for event in events])
        for _ in events:
            assert self.events.get_message(timeout=None)["type"] == "subscribe"

    def heard(self, count):
        heard = []
        while len(heard) < count:
            message = self.events.get_message(timeout=None)
            data = json.loads(message["data"])
            if data:
                heard.append([message["channel"].split("/")[3], json.dumps(data)])
        return heard

    def unlisten(self):
        self.events.close()

    def track(self, repository, tag, digest):
        before = dict(self.pulls.counts)
        self.pulls.count(repository, tag, digest)
        assert self.pulls.counts == {**before, "acknowledged": before["acknowledged"] + 1}

    def statistics(self, repository, tag, digest):
        fields = self.pulls.redis.hgetall(self.pulls.key(repository, tag, digest))
        found = {name.decode(): value.decode() for name, value in fields.items()}
        return {**found, "pull_count": int(found["pull_count"])} if found else None

    def flush(self):
        rows = Rows()
        Worker(f"{self.url}?db=1", rows, leave_out_known=False).run()
        return {"tags": sorted(rows.tags), "manifests": sorted(rows.manifests)}

    def retrieve(self, key, seconds, loaded):
        cached = self.redis.get(key)
        if cached is not None:
            return [json.dumps(json.loads(cached)), False]
        value = json.loads(loaded)
        if value is not None:
            self.redis.set(key, json.dumps(value), nx=True, ex=seconds or None)
        return [json.dumps(value), True]

    def invalidate(self, key):
        self.redis.delete(key)

    def store(self, key, value, seconds, overwrite):
        return bool(self.redis.set(key, b64decode(value), nx=not overwrite, ex=seconds or None))

    def lookup(self, keys):
        return [value if value is None else b64encode(value).decode() for value in self.redis.mget(keys)]

    def drop(self, keys):
        self.redis.delete(*keys)

    def mark_modified(self, namespace, repo):
        return self._mark(f"repo_modified:{namespace}:{repo}")

    def mark_revoked(self, users, namespace, repo):
        return self._mark(*[f"permission_revoked:{user}:{namespace}:{repo}" for user in users])

    def _mark(self, *names):
        seconds, micros = self.redis.time()
        now = seconds + micros / 1_000_000
        pipeline = self.redis.pipeline()
        for name in names:
            pipeline.set(f"quay:repo_content_tracker:{name}", str(now), ex=300)
        pipeline.execute()
        return now

    def blocked(self, user_id, namespace, repo):
        names = [f"repo_modified:{namespace}:{repo}", f"permission_revoked:{user_id}:{namespace}:{repo}"]
        modified, revoked = (self.redis.get(f"quay:repo_content_tracker:{name}") for name in names)
        return modified is not None and revoked is not None and float(modified) > float(revoked)

    def acquire(self, name, seconds, wait):
        self.lock = redis_lock.Lock(self.redis, name, expire=seconds)
        return self.lock.acquire(blocking=wait > 0, timeout=wait or None)

    def release(self):
        self.lock.release()

    def create_key(self, key, value, seconds):
        return self._done(self.keys.set, key, value, False, seconds or None)

    def overwrite_key(self, key, value, seconds):
        return self._done(self.keys.set, key, value, True, seconds or None)

    def get_key(self, key):
        return self.text.get(key)

    def delete_key(self, key):
        return self._done(self.keys.delete, key)

    def lock_key(self, key):
        return self._done(self.keys.set, key, "", False, 10_000)

    def _done(self, do, *arguments):
        try:
            do(*arguments)
        except KeyError:
            return False
        return True

    def list_keys(self, prefix):
        names = [name for name in self.text.scan_iter() if name.startswith(prefix)]
        return {
            name: self.text.get(name) for name in names if not name.endswith((EXPIRING, EXPIRED)) and self.text.ttl(name) == -1
        }

    def watch(self, prefix):
        self.text.config_set("notify-keyspace-events", "Kx")
        self.prefix, self.changes = prefix, self.text.pubsub()
        self.changes.subscribe(self.keys.channel)
        self.changes.psubscribe(f"__keyspace@0__:*{EXPIRING}")
        for kind in ("subscribe", "psubscribe"):
            assert self.changes.get_message(timeout=None)["type"] == kind

    def changed(self, count):
        changed = []
        while len(changed) < count:
            message = self.changes.get_message(timeout=None)
            if message["type"] == "message":
                told = json.loads(message["data"])
                change = [EVENTS[told["event"]], told["key"], told["value"]]
            elif message["data"] == "expired":
                change = self._expired(message["channel"].split(":", 1)[1].removesuffix(EXPIRING))
            else:
                continue
            if change and change[1].startswith(self.prefix):
                changed.append(change)
        return changed

    def _expired(self, key):
        value = self.text.get(key)
        if value:
            self.text.set(key + EXPIRED, value)
            self.text.delete(key)
        return None if value is None else ["expire", key, value]

    def unwatch(self):
        self.changes.close()


class Rows:
    """Where the flush writes."""

    @contextmanager
    def transaction(self):
        yield

    def add(self, manifests, tags):
        self.manifests = [[key.repository_id, *_counted(key)] for key in manifests]
        self.tags = [[key.repository_id, key.tag, *_counted(key)] for key in tags]


def _counted(key):
    return key.digest, key.pull_count, key.last_pull_timestamp


def _log(build):
    return f"builds/{build}/logs"


def _status(build):
    return f"builds/{build}/status"


if __name__ == "__main__":
    serve(Redis(sys.argv[1]))
