"""A caller in Python by redis-py, as Quay uses it: the same commands, on as many connections, made when they are made there."""

import base64
import contextlib
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import redis
import redis_lock
from work import CACHED, DIGEST, EVENT, MESSAGE, USER, Work, expect

SCRIPT = Path(__file__).resolve().parents[2] / "src/pull_metrics/track_tag_pull-1.lua"
WEEK = 604_800


class Caller(Work):
    def __init__(self, name, target, redis_port):
        super().__init__(name)
        self.redis_port = redis_port
        self.logs = self.connect(1, 2)
        self.pulls = self.connect(5, 5, db=1)
        self.track = self.pulls.register_script(SCRIPT.read_text())
        self.workers = ThreadPoolExecutor(max_workers=5)
        self.cache = self.connect(1, 2, health_check_interval=2)
        self.locks = self.connect(5, 5)
        self.orchestrator = self.connect(1, None)
        self.background = []
        self.failures = []

    def connect(self, connect_timeout, timeout, **options):
        options |= {"socket_connect_timeout": connect_timeout, "socket_timeout": timeout}
        return redis.Redis(host="127.0.0.1", port=self.redis_port, **options)

    def __exit__(self, *_):
        self.settle()
        self.workers.shutdown()

    def settle(self):
        left, self.background = self.background, []
        threads = [one for one in left if isinstance(one, threading.Thread)]
        for thread in threads:
            thread.join()
        for pull in wait(set(left).difference(threads)).done:
            pull.result()
        expect(not self.failures, f"events that were not published: {self.failures}")

    def append(self, build):
        message = {"message": MESSAGE}
        key = f"builds/{build}/logs"
        pipeline = self.logs.pipeline(transaction=False)
        pipeline.expire(key, WEEK)
        pipeline.rpush(key, json.dumps(message))
        return pipeline.execute()[1] - 1

    def log(self, build):
        key = f"builds/{build}/logs"
        length = self.logs.llen(key)
        return length, (json.loads(entry) for entry in self.logs.lrange(key, 0, -1))

    def publish(self):
        """A thread and a connection of its own for each event."""
        thread = threading.Thread(target=self.publish_now, args=(self.connect(2, 2),))
        self.background.append(thread)
        thread.start()

    def publish_now(self, connection):
        try:
            connection.publish(f"user/{USER}/events/docker-cli", json.dumps(EVENT))
        except redis.RedisError as error:
            self.failures.append(error)

    @contextlib.contextmanager
    def listening(self):
        connection = self.connect(5, None)
        pubsub = connection.pubsub()
        pubsub.subscribe(f"user/{USER}/events/docker-cli")
        expect(pubsub.get_message(timeout=5)["type"] == "subscribe", "a subscription")
        yield (json.loads(item["data"]) for item in iter(lambda: pubsub.get_message(timeout=5), None))
        pubsub.close()
        connection.close()

    def pull(self):
        self.background.append(self.workers.submit(self.pull_now, 7, "latest", DIGEST))

    def pull_now(self, repository, tag, digest):
        """Asks first whether Redis is there."""
        self.pulls.ping()
        key = f"pull_events:repo:{repository}:tag:{tag}:{digest}"
        self.track(keys=[key], args=[repository, tag, digest, int(time.time()), "tag"])

    def cache_get(self, key):
        value = self.cache.get(key)
        if value is None:
            self.cache.set(key, json.dumps(CACHED), ex=300, nx=True)
        else:
            expect(json.loads(value) == CACHED, "a cached value")

    def check(self):
        """Mostly nothing was revoked, and then the other key is not asked for."""
        key = f"quay:repo_content_tracker:permission_revoked:5:{USER}:simple"
        expect(self.cache.get(key) is None, "a read that is blocked")

    def lock(self):
        holder = base64.b64encode(os.urandom(18)).decode()
        lock = redis_lock.Lock(self.locks, f"BENCH_{self.name}", id=holder, expire=30)
        expect(lock.acquire(), "a lock that was acquired")
        lock.release()

    def orchestrator_set(self, key, overwrite):
        client, expiring = self.orchestrator, f"{key}/expiring"
        existed = client.exists(key)
        expect(overwrite or not existed, "a key that is new")
        client.set(key, "{}", xx=overwrite)
        client.expire(key, 100 + 86_400)
        client.set(expiring, "", xx=bool(client.exists(expiring)), ex=100)
        client.delete(f"{key}/expired")
        event = {"event": 2 if existed else 1, "key": key, "value": "{}"}
        client.publish("orchestrator_events", json.dumps(event))

    def orchestrator_get(self, key):
        expect(self.orchestrator.get(key) == b"{}", "a key of the orchestrator")
