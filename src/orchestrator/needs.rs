//! What the orchestrator needs of its Redis.

use super::claims::missing_flags;
use super::store::{EXPIRING, channel};
use crate::config;
use crate::needs::{Loss, Needs, Notified, channels, keys, server};

/// As `docs/orchestrator.md` lists it, for the database `db`.
pub fn needs(config: &config::Orchestrator, db: u8) -> Needs {
    let slower = "expiries are found by looking alone";
    let events = channel(&config.channel_prefix);
    Needs {
        pattern: "orchestrator",
        rights: vec![
            keys(
                "*",
                "get set del exists ttl pttl expire mget hset hget hgetall hdel evalsha",
            ),
            server("scan time script|load client|info"),
            channels(String::from_utf8_lossy(&events), "publish subscribe unsubscribe"),
            channels(
                format!("redis-gateway:v1:orchestrator:{db}:claimed"),
                "publish subscribe unsubscribe",
            )
            .or(slower),
            channels(format!("__keyspace@{db}__:*{EXPIRING}"), "psubscribe").or(slower),
            server("config|get config|set").or(slower),
        ],
        evicted: Some(Loss {
            what: "builds vanish without an expiry",
            grave: true,
        }),
        restarted: Some("builds that run, and expiries that are owed"),
        notified: Some(Notified {
            missing: missing_flags,
            set_up: !config.skip_keyspace_event_setup,
            without: "expiries are found by looking alone, and build managers without a gateway hear of none",
        }),
        listens: true,
        ..Needs::default()
    }
}
