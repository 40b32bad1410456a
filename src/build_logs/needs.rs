//! What build logs need of their Redis.

use crate::needs::{Loss, Needs, keys, server};

/// As `docs/build-logs.md` lists it.
pub fn needs() -> Needs {
    Needs {
        pattern: "build logs",
        rights: vec![
            keys("builds/*", "expire rpush llen lrange set get ttl del evalsha"),
            server("script|load"),
        ],
        evicted: Some(Loss {
            what: "logs of builds vanish",
            grave: false,
        }),
        restarted: Some("logs of builds"),
        ..Needs::default()
    }
}
