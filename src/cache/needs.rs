//! What the cache needs of its Redis.

use crate::config;
use crate::needs::{Needs, channels, keys, server};

/// What values begin with that the reference stores; see `forms.rs`.
const VALUES: &[&str] = &[
    "repo_blob__",
    "catalog_page__",
    "repo_active_tags__",
    "repo_active_tags_gen__",
    "security_report__",
    "repository_lookup_",
    "repository_manifest__",
    "manifest_referrers__",
    "upstream_token__",
];

/// As `docs/cache.md` lists it.
pub fn needs(config: &config::Cache) -> Needs {
    let values = |commands| VALUES.iter().map(move |start| keys(format!("{start}*"), commands));
    let slower = "who waits for a load looks each half second";
    let mut rights: Vec<_> = values("get mget set del pttl evalsha").collect();
    rights.extend([
        keys(
            "redis-gateway:v1:cache:*",
            "get set del hmget hset hsetnx hdel hexists pttl pexpire evalsha",
        ),
        server("time script|load"),
        server("client|info").or(slower),
        channels("redis-gateway:v1:cache:wake", "publish subscribe unsubscribe").or(slower),
    ]);
    if !config.near_prefixes.is_empty() {
        let nothing = "nothing is kept in memory";
        rights.extend([
            server("client|id client|tracking").or(nothing),
            channels("__redis__:invalidate", "subscribe").or(nothing),
        ]);
    }
    Needs {
        pattern: "cache",
        rights,
        rights_on_replicas: values("get mget pttl").collect(),
        listens: true,
        ..Needs::default()
    }
}
