"""caller.py gateway|direct TARGET REDIS_PORT: does the work of a caller in Python, and measures what it pays.

A line `WORK COUNT` on stdin is answered by a line of JSON on stdout: `waits`, the seconds that the caller waited for each, and
`cpu`, the seconds that its process worked for all of them, all of its threads and what they do in the background included.
Before it listens it says `ready`: then as many events may be published, each with the time of day, in nanoseconds, as `at`.
"""

import json
import sys
import time

# Seconds between two works that are done seldom: so that each finds the background at rest.
PAUSE = 0.05


def main():
    kind, target, redis_port = sys.argv[1:]
    # What the others import must not stand in their processes.
    if kind == "gateway":
        from through import Caller
    else:
        from direct import Caller
    with Caller(f"python-{kind}", target, int(redis_port)) as caller:
        works = caller.works()
        print(json.dumps(list(works)), flush=True)
        for line in sys.stdin:
            work, count = line.split()
            print(json.dumps(listen(caller, int(count)) if work == "listen" else do(caller, *works[work], int(count))), flush=True)


def do(caller, work, seldom, count):
    for _ in range(count // 10):
        # Not measured: others have worked meanwhile, and the machine's caches are theirs.
        work()
    caller.settle()
    waits = []
    cpu = time.process_time()
    for _ in range(count):
        begun = time.perf_counter()
        work()
        waits.append(time.perf_counter() - begun)
        if seldom:
            time.sleep(PAUSE)
    caller.settle()
    return {"waits": waits, "cpu": time.process_time() - cpu}


def listen(caller, count):
    waits = []
    with caller.listening() as events:
        print(json.dumps("ready"), flush=True)
        cpu = time.process_time()
        for event in events:
            waits.append(time.time() - event["at"] / 1e9)
            if len(waits) == count:
                return {"waits": waits, "cpu": time.process_time() - cpu}
    raise RuntimeError(f"the listener ended after {len(waits)} of {count} events")


if __name__ == "__main__":
    main()
