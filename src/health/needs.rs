//! What the check of health needs of its Redis.

use super::store::HEALTH_KEY;
use crate::needs::{Needs, keys};

/// As `docs/build-logs.md` lists it.
pub fn needs() -> Needs {
    Needs {
        pattern: "health",
        rights: vec![keys(HEALTH_KEY, "set get").or("build logs are told as NOT_SERVING")],
        ..Needs::default()
    }
}
