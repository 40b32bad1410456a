"""What a pair does, pattern by pattern. Whoever writes and whoever reads, it comes to the same."""

from base64 import b64encode

from pair import Pair

# Names as no service should choose them.
ODD = "o d%d:*?[ab]^\\\"'\n\t{tag} ünï-\u2028-\U0001f433"
DIGEST = "sha256:5F70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

# JSON as no service should spell it, and none may be told by its spelling.
TEXTS = [
    '{"z":1,"a":{"ü":"\U0001f433\u2028\u007f/\\/\\u0041\\b\\f\\n\\r\\t\\"\\\\"},"":[],"m":{}}',
    "[0,-0,123456789012345678901234567890,-9007199254740993,9223372036854775808,18446744073709551616]",
    "[1.0,-0.0,0.1,1e5,1E16,1.5e-7,0.00001,0.0001,123456789.125,9007199254740993.0,1e22,5e-324,1.7976931348623157e308]",
    ' [ true , false , null , "" , " <&> \'\\u00e9\\ud83d\\udc33" ] ',
]
FALSY = ["{}", "[]", "0", '""', "null", "false", "0.0"]


def build_log(pair: Pair):
    for entry in TEXTS:
        pair.write("append_entry", build=ODD, entry=entry)
    for kind, data in [("", ""), ("phase", TEXTS[0]), ("command", "{}"), ("", TEXTS[2]), ("error", "[null]")]:
        pair.write("append_message", build=ODD, message=f"\x1b[1mStep 1/9\x00\u2028é\U0001f433{kind}\n", kind=kind, data=data)
    for start in (0, 3, -2, 9, 100, -100):
        pair.read("read_log", build=ODD, start=start)
    pair.read("read_log", build="another", start=0)
    pair.write("append_message", build=ODD, message="", kind="", data="")
    pair.read("read_log", build=ODD, start=9)


def build_status(pair: Pair):
    pair.read("get_status", build=ODD)
    for status in [*TEXTS, *FALSY]:
        pair.write("set_status", build=ODD, status=status)
        pair.read("get_status", build=ODD)


def archived_build(pair: Pair):
    for _ in range(2):
        pair.write("append_entry", build=ODD, entry=TEXTS[1])
    pair.write("set_status", build=ODD, status='{"phase":"complete"}')
    pair.read("expire_log", build=ODD)
    pair.read("expire_status", build=ODD)
    pair.write("append_entry", build=ODD, entry="7")
    pair.read("delete_log", build=ODD)
    pair.write("append_entry", build=ODD, entry="8")
    pair.read("read_log", build=ODD, start=0)
    # Of a build that is not there.
    pair.write("expire_log", build="another")
    pair.write("expire_status", build="another")
    pair.write("delete_log", build="another")


def user_events(pair: Pair):
    user = ODD.replace("/", "")
    pair.write("publish", user=user, event="docker-cli", payload='{"to":"nobody"}')
    pair.read("listen", user=user, events=["docker-cli", ODD])
    for payload in [*FALSY, *TEXTS]:
        for event in ("docker-cli", ODD, "unheard"):
            pair.write("publish", user=user, event=event, payload=payload)
    pair.read("heard", count=2 * len(TEXTS))
    pair.read("unlisten")


def tag_pulls(pair: Pair):
    pull = {"repository": 9223372036854775807, "tag": ODD, "digest": DIGEST}
    pair.read("statistics", **pull)
    for who in (pair.write, pair.write, pair.read):
        who("track", **pull)
        pair.read("statistics", **pull)
        pair.write("statistics", **pull)


def manifest_pulls(pair: Pair):
    pull = {"repository": 1, "tag": "", "digest": "sha512+b64.u-x_y:0aF"}
    pair.read("statistics", **pull)
    for who in (pair.write, pair.write, pair.read):
        who("track", **pull)
        pair.read("statistics", **pull)
        pair.write("statistics", **pull)


def flush(pair: Pair):
    pair.read("flush")
    for repository, tag, times in [(7, ODD, 3), (7, "", 2), (7, "latest", 1), (9007199254740993, "latest", 2), (8, "", 1)]:
        for _ in range(times):
            pair.write("track", repository=repository, tag=tag, digest=DIGEST)
    odds = [{"manifest_digest": "no digest"}, {"pull_count": "0"}, {"repository_id": "0"}, {"pull_method": ""}]
    for n, odd in enumerate(odds):
        fields = {"repository_id": "5", "tag_name": "t", "manifest_digest": DIGEST, "pull_count": "4", "pull_method": "tag"}
        key = f"pull_events:repo:5:tag:{n}:{DIGEST}"
        pair.pulls.hset(key, mapping={**fields, "last_pull_timestamp": "1700000000", **odd})
    pair.read("flush")
    pair.write("track", repository=7, tag=ODD, digest=DIGEST)
    pair.write("flush")
    pair.read("flush")


def model_cache(pair: Pair):
    for seconds, text in zip((60, 5, 0, 604_800), TEXTS, strict=True):
        key = f"security_report__{ODD}{seconds}"
        pair.write("retrieve", key=key, seconds=seconds, loaded=text)
        pair.read("retrieve", key=key, seconds=300, loaded='"the reader\'s own"')
        pair.read("invalidate", key=key)
        pair.write("retrieve", key=key, seconds=120, loaded="[]")
        pair.read("retrieve", key=key, seconds=300, loaded="null")
    pair.write("retrieve", key="nothing", seconds=60, loaded="null")
    pair.read("retrieve", key="nothing", seconds=60, loaded="false")


def cache_values(pair: Pair):
    values = [b"", bytes(range(256)), b"\x00\xff" * 40_000, "\U0001f433".encode("utf-16"), b"\x1f\x8b\x08\x00"]
    keys = [f"{ODD}{n}" for n in range(len(values))]
    for seconds, key, value in zip((0, 5, 60, 300, 31_536_000), keys, values, strict=True):
        pair.write("store", key=key, value=b64encode(value).decode(), seconds=seconds, overwrite=False)
    pair.read("lookup", keys=[*keys, "another"])
    pair.read("store", key=keys[0], value=b64encode(b"second").decode(), seconds=5, overwrite=False)
    pair.read("store", key=keys[1], value=b64encode(b"third").decode(), seconds=0, overwrite=True)
    pair.write("lookup", keys=keys[:2])
    pair.write("drop", keys=keys[1:3])
    pair.read("lookup", keys=keys)


def content_tracker(pair: Pair):
    repo, users = {"namespace": ODD, "repo": f"{ODD}/x"}, [7, 1, 2**63 - 1]
    pair.read("blocked", user_id=7, **repo)
    pair.write("mark_modified", **repo)
    pair.read("blocked", user_id=7, **repo)
    pair.write("mark_revoked", users=users, **repo)
    pair.read("blocked", user_id=7, **repo)
    pair.write("mark_modified", **repo)
    for user in [*users, 8]:
        pair.read("blocked", user_id=user, **repo)
    pair.read("mark_revoked", users=[7], **repo)
    pair.write("blocked", user_id=7, **repo)
    pair.write("blocked", user_id=1, **repo)


def locks(pair: Pair):
    lock = {"name": ODD, "seconds": 30}
    pair.write("acquire", wait=0, **lock)
    pair.read("acquire", wait=0, **lock)
    pair.write("release")
    # A second later nobody would be woken by it.
    pair.redis.delete(f"lock-signal:{ODD}")
    pair.read("acquire", wait=0, **lock)
    pair.write("acquire", wait=0, **lock)
    # One who waits is woken, and not by the end of its patience.
    waiting, holder = pair.parties["writer"], pair.parties["reader"]
    waiting.tell("acquire", wait=20, **lock)
    pair.until(lambda: pair.redis.info("clients")["blocked_clients"], "somebody waits")
    holder.tell("release")
    holder.answer()
    pair.note("woken by a release", waiting.answer())
    waiting.tell("release")
    waiting.answer()
    # A gateway may have gone on listening for a moment. What it takes then it gives back.
    pair.until(lambda: pair.redis.exists(f"lock-signal:{ODD}"), "others can be woken")
    pair.note("released again", None)


def orchestrator_keys(pair: Pair):
    prefix = f"building/{ODD}"
    key, other, gone = (f"{prefix}{name}" for name in ("key", "other", "gone"))
    pair.write("create_key", key=key, value=TEXTS[0], seconds=0)
    pair.read("get_key", key=key)
    pair.read("create_key", key=key, value="refused", seconds=0)
    pair.write("create_key", key=other, value="", seconds=0)
    pair.write("create_key", key=gone, value="ends", seconds=2_592_000)
    pair.read("list_keys", prefix=prefix)
    pair.read("list_keys", prefix=f"{prefix}[")
    pair.read("overwrite_key", key=gone, value="\U0001f433\x00\u2028", seconds=60)
    pair.write("get_key", key=gone)
    pair.write("overwrite_key", key=gone, value="stays", seconds=0)
    pair.read("list_keys", prefix=prefix)
    for name in (key, gone, "missing"):
        pair.read("delete_key", key=name)
        pair.write("get_key", key=name)
    pair.write("lock_key", key=f"lock/{ODD}")
    pair.read("lock_key", key=f"lock/{ODD}")
    pair.read("delete_key", key=f"lock/{ODD}")
    pair.read("lock_key", key=f"lock/{ODD}")


def orchestrator_watch(pair: Pair):
    prefix = f"building/{ODD}"
    key, empty = f"{prefix}key", f"{prefix}empty"
    pair.read("watch", prefix=prefix)
    pair.write("create_key", key="elsewhere", value="unwatched", seconds=0)
    for value in TEXTS:
        pair.write("create_key", key=key, value=value, seconds=0)
        pair.write("overwrite_key", key=key, value="\U0001f433\u2028", seconds=60)
        pair.write("delete_key", key=key)
    pair.read("changed", count=3 * len(TEXTS))
    pair.write("create_key", key=key, value=TEXTS[0], seconds=600)
    pair.write("create_key", key=empty, value="", seconds=700)
    pair.read("changed", count=2)
    for name in (key, empty):
        # As if the time had come: beside its expiration a key lives for a day.
        pair.redis.expire(name, 86_400)
        pair.redis.pexpire(f"{name}/expiring", 1)
        # Redis tells of an expiry when it comes upon the key.
        pair.until(lambda name=name: not pair.redis.exists(f"{name}/expiring"), "it has expired")
        pair.read("changed", count=1)
    # Who ends before comes back for it.
    pair.until(lambda: not pair.redis.hlen("redis-gateway:v1:orchestrator:claims"), "expiries are acknowledged")
    pair.read("unwatch")


PATTERNS = [
    build_log,
    build_status,
    archived_build,
    user_events,
    tag_pulls,
    manifest_pulls,
    flush,
    model_cache,
    cache_values,
    content_tracker,
    locks,
    orchestrator_keys,
    orchestrator_watch,
]
