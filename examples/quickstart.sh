#!/usr/bin/env bash
# The README's first steps from start to end, beside whatever else runs here: a gateway of its own on sockets and data of its
# own, the lines of a real build log appended, followed, and read back past the gateway, pulls counted and flushed to a
# database; then Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."

python=.venv/bin/python
build=quickstart

make --no-print-directory python-stubs >/dev/null
cargo build --quiet --locked

here=$(mktemp -d)
export REDIS_GATEWAY_EMBEDDED_DATA_DIR="$here/data"
export REDIS_GATEWAY_GRPC_LISTEN="unix:$here/gateway.sock"
export REDIS_GATEWAY_ADMIN_LISTEN=127.0.0.1:0
export GATEWAY=$REDIS_GATEWAY_GRPC_LISTEN
export REDIS_URL="unix://$here/data/redis.sock"

clean() {
  status=$?
  # A group of its own, so that nothing started here outlives this script.
  kill -TERM -- "-$gateway" 2>/dev/null || true
  [ "$status" = 0 ] || cat "$here/gateway.log" >&2
  rm -rf "$here"
}

set -m
make run >"$here/gateway.log" 2>&1 &
gateway=$!
set +m
trap clean EXIT

timeout 30 "$python" examples/python/health.py
timeout 30 "$python" examples/python/health.py redisgateway.v1.BuildLogs

# A few thousand lines that a build of this project really wrote.
CARGO_LOG=cargo::core::compiler::fingerprint=trace cargo build --locked -vv >"$here/build.log" 2>&1
lines=$(wc -l <"$here/build.log")

timeout 60 "$python" examples/python/tail.py "$build" --count "$lines" >"$here/tailed.log" &
tail=$!
timeout 60 "$python" examples/python/append.py "$build" "$here/build.log"
wait "$tail"
cmp "$here/build.log" "$here/tailed.log"
echo "tail: $lines lines, equal to the file"
timeout 30 "$python" examples/python/read.py "$build" --compare "$here/build.log"

# It says when it listens; what is published before is not heard.
mkfifo "$here/listening"
timeout 60 "$python" examples/python/events.py devtable docker-cli --count 1 >"$here/heard" 2>"$here/listening" &
listener=$!
grep -q -m 1 listening "$here/listening"
timeout 30 "$python" examples/python/events.py devtable docker-cli --publish '{"action": "login"}'
wait "$listener"
grep -q "docker-cli {'action': 'login'}" "$here/heard"

[ "$(timeout 30 "$python" examples/python/lock.py nightly sh -c 'echo $FENCING_TOKEN')" -gt 0 ]
echo "lock: held, with a fencing token"

timeout 60 "$python" examples/python/watch.py building/ >"$here/watched" 2>"$here/watching" &
watcher=$!
timeout 30 sh -c "until grep -q synced '$here/watching'; do sleep 0.1; done"
timeout 30 "$python" examples/python/watch.py building/7 --set waiting --expiration 1
timeout 30 sh -c "until grep -q 'expire building/7 waiting' '$here/watched'; do sleep 0.1; done"
kill "$watcher"
[ "$(head -n 1 "$here/watched")" = "create building/7 waiting" ]
echo "watch: created and expired"

pull() { timeout 60 "$python" examples/python/pull.py 7 "$1" sha256:5f70bf18 --count "$2"; }
# By tag, and by tag or digest: what the database must hold.
flushed() {
  "$python" - "$here/pulls.db" "$1" "$2" <<'END'
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
counts = [database.execute(f"SELECT sum(pull_count) FROM {pulls}").fetchone()[0] for pulls in ("tag_pulls", "manifest_pulls")]
sys.exit(counts != [int(count) for count in sys.argv[2:]] and f"error: the database holds {counts}")
END
}
pull latest 2500
pull "" 500
timeout 60 "$python" examples/python/flush.py --database "$here/pulls.db" --once
flushed 2500 3000

if command -v go >/dev/null; then
  (cd examples/go && timeout 120 go run .)
  pull latest 50
  (cd examples/go && timeout 300 go run ./flush -database "$here/pulls.db" -once)
  flushed 2550 3050
else
  echo "not run: examples/go (no go)"
fi

# Ctrl-C reaches all of a terminal's foreground group; both must be gone after it.
kill -INT -- "-$gateway"
wait "$gateway" || true
if timeout 5 "$python" examples/python/read.py "$build" >/dev/null 2>&1; then
  echo "error: redis-server outlived the gateway" >&2
  exit 1
fi
echo "Ctrl-C: gateway and redis-server ended"
