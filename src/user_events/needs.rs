//! What user events need of their Redis.

use crate::needs::{Needs, channels, server};

/// As `docs/user-events.md` lists it.
pub fn needs() -> Needs {
    Needs {
        pattern: "user events",
        rights: vec![
            channels("user/*", "publish subscribe unsubscribe"),
            server("client|info"),
        ],
        listens: true,
        ..Needs::default()
    }
}
