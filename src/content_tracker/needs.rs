//! What the content tracker needs of its Redis.

use crate::needs::{Loss, Needs, keys, server};

/// As `docs/content-tracker.md` lists it.
pub fn needs() -> Needs {
    Needs {
        pattern: "content tracker",
        rights: vec![
            keys("quay:repo_content_tracker:*", "get set evalsha"),
            server("time script|load"),
        ],
        evicted: Some(Loss {
            what: "marks vanish, so stale content is read that they block",
            grave: false,
        }),
        ..Needs::default()
    }
}
