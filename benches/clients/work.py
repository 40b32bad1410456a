"""What the callers in Python do: the same things, on keys of their own, so that both kinds leave the same in Redis."""

import itertools

MESSAGE = "Step 4/9 : RUN make -C /src all install PREFIX=/usr/local"
LINES, LINES_AT_ONCE = 1000, 100
READ = 100  # entries of a log
CACHED = {"id": 7, "name": "repository", "tags": ["latest", "v1"], "text": "v" * 180}
EVENT = {"action": "pull_repo", "namespace": "devtable", "repository": "simple"}
DIGEST = "sha256:" + "5f70bf18" * 8
READS = 5  # of the cache, for a pull of a manifest
USER = "devtable"


class Work:
    """A caller says how; `works` says what, and whether it is done seldom."""

    def __init__(self, name):
        self.name = name
        self.fresh = map(str, itertools.count())
        self.keys = [f"repository_manifest__{name}_{n}" for n in range(READS)]
        self.build = f"{name}-read"

    def __enter__(self):
        for key in self.keys:
            self.cache_get(key)  # loads it
        for _ in range(READ):
            self.append(self.build)
        self.orchestrator_set(f"building/{self.name}", overwrite=False)
        return self

    def works(self):
        return {
            "append": (lambda: self.append(f"{self.name}-append"), False),
            "read": (self.read, False),
            "publish": (self.publish, True),
            "publish-burst": (self.publish, False),
            "listen": (None, False),
            "pull": (self.pull, True),
            "pull-burst": (self.pull, False),
            "cache-hit": (lambda: self.cache_get(self.keys[0]), False),
            "cache-miss": (lambda: self.cache_get(f"{self.name}-{next(self.fresh)}"), False),
            "check": (self.check, False),
            "lock": (self.lock, False),
            "orchestrator-set": (lambda: self.orchestrator_set(f"building/{self.name}", overwrite=True), False),
            "orchestrator-get": (lambda: self.orchestrator_get(f"building/{self.name}"), False),
            "manifest": (self.manifest, False),
            "build": (lambda: self.lines(f"{self.name}-build-{next(self.fresh)}"), False),
        }

    def read(self):
        length, entries = self.log(self.build)
        expect(length == READ and [entry["message"] for entry in entries] == [MESSAGE] * READ, "a log")

    def manifest(self):
        """What a pull of a manifest asks of Redis."""
        self.check()
        for key in self.keys:
            self.cache_get(key)
        self.pull()
        self.publish()

    def lines(self, build):
        for _ in range(LINES):
            self.append(build)


def expect(true, what):
    if not true:
        raise RuntimeError(f"not as it should be: {what}")
