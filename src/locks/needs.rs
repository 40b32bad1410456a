//! What locks need of their Redis.

use super::store::{LOCKS, SIGNALS};
use crate::needs::{Loss, Needs, keys, server};

/// As `docs/locks.md` lists it.
pub fn needs() -> Needs {
    let slower = "who waits looks each second";
    Needs {
        pattern: "locks",
        rights: vec![
            keys(format!("{LOCKS}*"), "get set del exists expire ttl pttl mget evalsha"),
            keys(format!("{SIGNALS}*"), "del lpush pexpire evalsha"),
            keys(format!("{SIGNALS}*"), "blpop").or(slower),
            keys(
                "redis-gateway:v1:locks:*",
                "get set del lpush pexpire expire pttl mget evalsha",
            ),
            keys("redis-gateway:v1:locks:*", "blpop").or(slower),
            server("time script|load"),
        ],
        evicted: Some(Loss {
            what: "a lock vanishes while it is held, and another gets it",
            grave: true,
        }),
        restarted: Some("locks that are held"),
        ..Needs::default()
    }
}
