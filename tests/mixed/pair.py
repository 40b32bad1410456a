"""A pair: one party that writes, one that reads, and all that Redis holds after each step."""

import json
import math
import os
import re
import selectors
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "clients/python"))

from tests.conftest import PATIENCE  # noqa: E402

# What stands in the databases that the patterns use, of one moment: the time in ms, then of each key its database, name, end in
# ms, type and value. What the gateway keeps for itself no other program looks at; `_health` is what it probes with.
LOOK = """
local now, found = redis.call('TIME'), {}
for db = 0, 1 do
  redis.call('SELECT', db)
  for _, key in ipairs(redis.call('KEYS', '*')) do
    if key:sub(1, 14) ~= 'redis-gateway:' and key ~= '_health' then
      local kind, value = redis.call('TYPE', key).ok, false
      if kind == 'string' then value = redis.call('GET', key)
      elseif kind == 'list' then value = redis.call('LRANGE', key, 0, -1)
      elseif kind == 'hash' then value = redis.call('HGETALL', key) end
      table.insert(found, {db, key, redis.call('PEXPIRETIME', key), kind, value})
    end
  end
end
return {now[1] * 1000 + math.floor(now[2] / 1000), found}
"""
# Longer than this, and a step cannot tell one time to live from the next.
SECOND = 1_000  # ms


class Slow(Exception):
    """A step took so long that what it left cannot be judged: all of it is tried again."""


class Party:
    """A program that does what it is told."""

    def __init__(self, name, command, log):
        self.name, self.log = name, log
        # Variables of its prefix would be settings, of whoever reads them.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("REDIS")}
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True
            )
        self.answers = selectors.DefaultSelector()
        self.answers.register(self.process.stdout, selectors.EVENT_READ)
        self.ready = False

    def begin(self):
        """Waits until it is ready."""
        self.ready = self.ready or self.answer() == "ready"

    def tell(self, do, **arguments):
        print(json.dumps({"do": do, "with": arguments}), file=self.process.stdin, flush=True)

    def answer(self):
        assert self.answers.select(PATIENCE), f"{self.name} has not answered within {PATIENCE} s"
        line = self.process.stdout.readline()
        assert line, f"{self.name} has ended: {self.log.read_text()}"
        told = json.loads(line)
        assert "error" not in told, f"{self.name}: {told['error']}, {self.log.read_text()}"
        return told["answer"]

    def end(self):
        self.process.kill()
        self.process.wait()
        for end in (self.answers, self.process.stdin, self.process.stdout):
            end.close()


class Pair:
    """Two parties at work. `record` holds of each step who did what, the answer, and what stood in Redis then. What is new each
    time, such as the time of day and a holder's id, stands there as what it is."""

    def __init__(self, server, writer, reader):
        self.redis, self.pulls = server.direct(), server.direct(db=1)
        self.parties = {"writer": writer, "reader": reader}
        for redis in (self.redis, self.pulls):
            for key in redis.scan_iter():
                # By that mark the gateway knows an expiry from one that came a second later, as all do but those of a test.
                if not key.startswith(b"redis-gateway:") or key.startswith(b"redis-gateway:v1:orchestrator:expired:"):
                    redis.delete(key)
        self.record, self.ends, self.lives = [], {}, {}
        self.began, found = self.redis.eval(LOOK, 0)
        self.looked = self.began
        assert not found

    def write(self, do, **arguments):
        return self._step("writer", do, arguments)

    def read(self, do, **arguments):
        return self._step("reader", do, arguments)

    def note(self, what, answer):
        """Notes what a step has answered, and what stands now."""
        held = self._held()
        self.record.append([what, self._known(answer), held])
        return answer

    def until(self, holds, what):
        """Waits for what is to come about within a step."""
        end = time.monotonic() + 1
        while not holds():
            if time.monotonic() > end:
                raise Slow(f"it was not so that {what}")
            time.sleep(0.01)

    def _step(self, role, do, arguments):
        self.parties[role].tell(do, **arguments)
        return self.note(f"{role}: {do} {arguments}", self.parties[role].answer())

    def _held(self):
        before = self.looked
        self.looked, found = self.redis.eval(LOOK, 0)
        if self.looked - before >= SECOND:
            raise Slow("a step was not done")
        ends, held = {}, {}
        for db, key, end, kind, value in found:
            place = f"{db}|{key.decode()}"
            ends[place] = end
            if self.ends.get(place) != end:
                self.lives[place] = self._life(before, end)
            held[self._place(place)] = [kind.decode(), self._stored(value), self.lives[place]]
        self.ends = ends
        return held

    def _life(self, before, end):
        """The time to live that a key was given between the last look and this one, in seconds."""
        if end < 0:
            return None
        life = math.ceil((end - self.looked) / SECOND)
        return life if end - life * SECOND >= before else f"no whole seconds: {end - self.looked} ms are left"

    def _stored(self, value):
        if isinstance(value, list):
            return [self._stored(item) for item in value]
        text = value.decode("latin-1")
        if re.fullmatch(r"\d{10}(\.\d{1,6})?", text) and self._is_now(float(text)):
            return "seconds" if text.isdigit() else "seconds as python writes them" if str(float(text)) == text else text
        return "holder" if re.fullmatch(r"[A-Za-z0-9+/]{24}", text) else text

    def _known(self, answer):
        """An answer without the time of day in it."""
        if isinstance(answer, list):
            return [self._known(item) for item in answer]
        if isinstance(answer, dict):
            return {name: self._known(item) for name, item in answer.items()}
        now = isinstance(answer, float | int) and self._is_now(answer)
        return "now" if now or isinstance(answer, str) and answer.isdecimal() and self._is_now(int(answer)) else answer

    def _is_now(self, seconds):
        return self.began // SECOND <= seconds <= (self.looked + 1) / SECOND

    @staticmethod
    def _place(place):
        """A claimed key's name ends with a time and eight digits by chance."""
        return re.sub(r":processing:\d{13}:[0-9a-f]{8}$", ":processing:", place)
