//! Keys as they should be, by the ten thousands, and one of each kind of those that are not.

use crate::harness::RedisServer;

/// Where the keys of pulls are, by default.
pub(super) const PULLS: i64 = 1;
/// How many keys [`plant_right`] leaves.
pub(super) const RIGHT: u64 = 100_000;

/// So many keys at once: `count` is the script's `ARGV[1]`.
const VALUES: &str =
    "for i = 1, ARGV[1] do redis.call('SET', 'upstream_token__org/reg/' .. i, '{\"token\": \"t\"}', 'EX', 86400) end";
const LOGS: &str = "for i = 1, ARGV[1] do
    redis.call('RPUSH', 'builds/' .. i .. '/logs', '{\"message\": \"a\"}', '{\"message\": \"b\"}')
    redis.call('EXPIRE', 'builds/' .. i .. '/logs', 604800)
    redis.call('SET', 'builds/' .. i .. '/status', '{\"phase\": \"building\"}', 'EX', 604800)
end";
const JOBS: &str = "for i = 1, ARGV[1] do
    redis.call('SET', 'building/' .. i, 'job', 'EX', 90000)
    redis.call('SET', 'building/' .. i .. '/expiring', '', 'EX', 3600)
end";
const COUNTS: &str = "for i = 1, ARGV[1] do
    redis.call('HSET', 'pull_events:repo:' .. i .. ':tag:latest:sha256:ab', 'repository_id', i, 'tag_name', 'latest',
        'manifest_digest', 'sha256:ab', 'pull_count', 3, 'last_pull_timestamp', 1700000000, 'pull_method', 'tag')
end";

/// Leaves keys that are as they should be, in two databases.
pub(super) async fn plant_right(server: &RedisServer) {
    for (db, script, count) in [
        (0, VALUES, "50000"),
        (0, LOGS, "10000"),
        (0, JOBS, "10000"),
        (PULLS, COUNTS, "10000"),
    ] {
        server.run_on::<()>(db, &["EVAL", script, "0", count]).await;
    }
}

/// A key that is not as it should be: where, what leaves it, its name, and a part of what is wrong.
pub(super) type Planted = (i64, &'static [&'static [&'static str]], &'static str, &'static str);

const ID: &str = "AAAAAAAAAAAAAAAAAAAAAAAA";
const FIELDS: [&str; 12] = [
    "repository_id",
    "9",
    "tag_name",
    "",
    "manifest_digest",
    "sha256:ab",
    "pull_count",
    "3",
    "last_pull_timestamp",
    "1700000000",
    "pull_method",
    "digest",
];

/// Each of what may be wrong.
pub(super) const WRONG: &[Planted] = &[
    (
        0,
        &[&["RPUSH", "builds/x1/logs", "{}", "{}"]],
        "builds/x1/logs",
        "has no time to live",
    ),
    (0, &[&["SET", "builds/x2/logs", "{}"]], "builds/x2/logs", "is a string"),
    (
        0,
        &[
            &["RPUSH", "builds/x3/logs", "{}", "{}"],
            &["EXPIRE", "builds/x3/logs", "999999"],
        ],
        "builds/x3/logs",
        "lives for longer",
    ),
    (
        0,
        &[
            &["RPUSH", "builds/x4/logs", "plain", "{}", "{\"a\":1}"],
            &["EXPIRE", "builds/x4/logs", "9999"],
        ],
        "builds/x4/logs",
        "its first entry: not json",
    ),
    (0, &[], "builds/x4/logs", "its last entry: is JSON in another form"),
    (
        0,
        &[&["SET", "builds/x1/status", "{}"]],
        "builds/x1/status",
        "has no time to live",
    ),
    (
        0,
        &[&["SET", "builds/x2/status", "done", "EX", "9999"]],
        "builds/x2/status",
        "not json",
    ),
    (
        0,
        &[&["SET", "builds/x3/status", "{\"a\":1}", "EX", "9999"]],
        "builds/x3/status",
        "another form",
    ),
    (0, &[&["SET", "_health", "1", "EX", "9999"]], "_health", "lives for"),
    (
        0,
        &[&[
            "SET",
            "quay:repo_content_tracker:repo_modified:ns",
            "1700000000.5",
            "EX",
            "300",
        ]],
        "quay:repo_content_tracker:repo_modified:ns",
        "its name lacks a part",
    ),
    (
        0,
        &[&[
            "SET",
            "quay:repo_content_tracker:permission_revoked:7:ns:repo",
            "soon",
            "EX",
            "300",
        ]],
        "quay:repo_content_tracker:permission_revoked:7:ns:repo",
        "holds no time",
    ),
    (
        0,
        &[&["SET", "repo_blob__x", "{}", "EX", "9999"]],
        "repo_blob__x",
        "lives for",
    ),
    (
        0,
        &[&["SET", "security_report__x", "{}"]],
        "security_report__x",
        "has no time to live",
    ),
    (
        0,
        &[&["SET", "repository_manifest__x", "plain", "EX", "300"]],
        "repository_manifest__x",
        "not json",
    ),
    (
        0,
        &[&["HSET", "redis-gateway:v1:cache:lease:{k}", "a", "1"]],
        "redis-gateway:v1:cache:lease:{k}",
        "has no time to live",
    ),
    (0, &[&["SET", "lock:x", ID]], "lock:x", "held for ever"),
    (
        0,
        &[&["SET", "lock:y", "me", "EX", "9999"]],
        "lock:y",
        "holds no id of a holder",
    ),
    (
        0,
        &[&["RPUSH", "lock-signal:x", "1"]],
        "lock-signal:x",
        "has no time to live",
    ),
    (
        0,
        &[&["SET", "redis-gateway:v1:locks:token", "abc"]],
        "redis-gateway:v1:locks:token",
        "is no number",
    ),
    (
        0,
        &[&[
            "SET",
            "redis-gateway:v1:locks:holding:gone",
            "1 2 00000000000000ff AAAA",
        ]],
        "redis-gateway:v1:locks:holding:gone",
        "no lock without one beside it",
    ),
    (
        0,
        &[&["SET", "redis-gateway:v1:locks:holding:y", "nonsense", "EX", "9999"]],
        "redis-gateway:v1:locks:holding:y",
        "is no record of a holder",
    ),
    (
        0,
        &[
            &["SET", "building/x1", "v", "EX", "99999"],
            &["SET", "building/x1/expiring", "", "EX", "3600"],
        ],
        "building/x1",
        "and expires in",
    ),
    (
        0,
        &[&["SET", "building/x2", "v", "EX", "200000"]],
        "building/x2",
        "nothing at /expiring beside it",
    ),
    (
        0,
        &[&["SET", "building/x3", "v", "EX", "80000"]],
        "building/x3",
        "nobody has taken it",
    ),
    (
        0,
        &[&["SET", "building/x4/expiring", "", "EX", "3600"]],
        "building/x4/expiring",
        "nothing stands at the key that it is beside",
    ),
    (
        0,
        &[
            &["SET", "cancel/x5", "x5", "EX", "90000"],
            &["SET", "cancel/x5/expiring", "x", "EX", "3600"],
        ],
        "cancel/x5/expiring",
        "is not empty",
    ),
    (
        0,
        &[&["SET", "building/x6/expired", "v", "EX", "9999"]],
        "building/x6/expired",
        "lives for",
    ),
    (
        0,
        &[&["SET", "redis-gateway:v9:x", "1"]],
        "redis-gateway:v9:x",
        "is of no form that this version",
    ),
    (
        0,
        &[&["HSET", "pull_events:repo:1:tag:a:sha256:ab", "pull_count", "1"]],
        "pull_events:repo:1:tag:a:sha256:ab",
        "is where its readers do not look",
    ),
    (
        PULLS,
        &[&["SET", "upstream_token__here", "{}", "EX", "9999"]],
        "upstream_token__here",
        "is where its readers do not look",
    ),
    (
        PULLS,
        &[&[
            "HSET",
            "pull_events:repo:9:digest:sha256:a1",
            "repository_id",
            "9",
            "pull_count",
            "many",
        ]],
        "pull_events:repo:9:digest:sha256:a1",
        "so a flush drops it",
    ),
    (
        PULLS,
        &[&hset("pull_events:repo:7:digest:sha256:ab")],
        "pull_events:repo:7:digest:sha256:ab",
        "its name is not that of what it counts",
    ),
    (
        PULLS,
        &[
            &hset("pull_events:repo:9:digest:sha256:ab"),
            &["EXPIRE", "pull_events:repo:9:digest:sha256:ab", "9999"],
        ],
        "pull_events:repo:9:digest:sha256:ab",
        "lives for",
    ),
    (
        PULLS,
        &[&["HSET", "pull_events:other", "a", "1"]],
        "pull_events:other",
        "no name of a key of pulls",
    ),
    (
        PULLS,
        &[&hset(
            "pull_events:repo:9:digest:sha256:ab:processing:1700000000000:0123abcd",
        )],
        "pull_events:repo:9:digest:sha256:ab:processing:1700000000000:0123abcd",
        "an orphan",
    ),
    (
        PULLS,
        &[&hset("pull_events:repo:9:digest:sha256:ab:processing:soon")],
        "pull_events:repo:9:digest:sha256:ab:processing:soon",
        "no name of a claimed key",
    ),
    (
        PULLS,
        &[&["HSET", "redis-gateway:v1:pull_metrics:claim:x", "a", "1"]],
        "redis-gateway:v1:pull_metrics:claim:x",
        "has no time to live",
    ),
];

/// Leaves one key of each kind that is not as it should be; how many keys those are.
pub(super) async fn plant_wrong(server: &RedisServer) -> u64 {
    let before = keys(server).await;
    for (db, commands, ..) in WRONG {
        for words in *commands {
            server.run_on::<()>(*db, words).await;
        }
    }
    keys(server).await - before
}

/// How many keys there are.
pub(super) async fn keys(server: &RedisServer) -> u64 {
    server.run_on::<u64>(0, &["DBSIZE"]).await + server.run_on::<u64>(PULLS, &["DBSIZE"]).await
}

/// The words that leave the pulls of repository 9 at `key`.
const fn hset(key: &'static str) -> [&'static str; 14] {
    let mut words = ["HSET"; 14];
    words[1] = key;
    let mut n = 0;
    while n < FIELDS.len() {
        words[n + 2] = FIELDS[n];
        n += 1;
    }
    words
}
