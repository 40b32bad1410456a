//! Lines that say who did what to a lock, for those who ask later.

use std::env;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::Desk;
use crate::commands::screen;
use crate::locks::Lock;

/// What each line of one release says.
pub(super) struct Audit(Value);

impl Audit {
    pub(super) fn new(desk: &Desk, name: &str, lock: &Lock, reason: &str) -> Self {
        // What the environment calls the user can be anything; the number is the system's.
        let user = ["SUDO_USER", "LOGNAME", "USER"]
            .iter()
            .find_map(|name| env::var(name).ok());
        let host = rustix::system::uname();
        Audit(json!({
            "audit": "locks release",
            "uid": rustix::process::getuid().as_raw(),
            "user": user,
            "host": host.nodename().to_string_lossy(),
            "endpoint": desk.name.as_str(),
            "server": desk.config.server.to_string(),
            "db": desk.config.db,
            "lock": name,
            "holder": lock.holder,
            "ttl_ms": lock.left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            "fencing_token": lock.handed_out.map(|(token, _)| token),
            "reason": reason,
        }))
    }

    /// One line on standard error.
    pub(super) fn say(&self, outcome: &str) {
        let mut line = self.0.clone();
        line["time"] = json!(prost_types::Timestamp::from(SystemTime::now()).to_string());
        line["outcome"] = json!(outcome);
        screen::aside(&line);
    }
}
