//! What pull metrics, and their flush, need of their Redis.

use crate::needs::{Loss, Needs, keys, server};

/// As `docs/pull-metrics.md` lists it.
pub fn needs() -> Needs {
    Needs {
        pattern: "pull metrics",
        rights: vec![
            keys(
                "pull_events:*",
                "evalsha exists hset hincrby hgetall hmget type del renamenx",
            ),
            keys(
                "redis-gateway:v1:pull_metrics:*",
                "evalsha get set hset hsetnx hget hgetall hkeys hlen hdel hexists exists del pexpire",
            ),
            server("scan time script|load"),
        ],
        evicted: Some(Loss {
            what: "pulls that were counted vanish, and claims end early",
            grave: true,
        }),
        restarted: Some("pulls that are counted and not flushed"),
        ..Needs::default()
    }
}
