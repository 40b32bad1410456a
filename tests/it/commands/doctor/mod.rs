//! The doctor: it finds each fault, and what it says to change makes the fault go away.

mod reach;
mod replicas;
mod rights;
mod servers;
mod version;

use serde_json::Value;

use super::{Ran, run};
use crate::harness::RedisServer;

/// What the doctor says of these endpoints.
struct Said {
    ran: Ran,
    json: Value,
}

impl Said {
    async fn of(endpoints: &[String]) -> Self {
        let ran = run(&["doctor --json"], endpoints).await;
        let json = ran.json();
        Said { ran, json }
    }

    fn code(&self) -> Option<i32> {
        self.ran.code
    }

    fn servers(&self) -> &Vec<Value> {
        self.json["servers"].as_array().unwrap()
    }

    /// All findings.
    fn findings(&self) -> Vec<&Value> {
        let of = |server: &'_ Value| server["findings"].as_array().unwrap().len();
        assert!(self.servers().iter().all(|server| of(server) < 100));
        let all = self
            .servers()
            .iter()
            .map(|server| server["findings"].as_array().unwrap());
        all.flatten().collect()
    }

    /// Those of one check.
    fn of_check(&self, check: &str) -> Vec<&Value> {
        let mut all = self.findings();
        all.retain(|finding| finding["check"] == check);
        all
    }

    /// The only one of a check: its level, what it says and what to change.
    fn only(&self, check: &str) -> (&str, &str, &str) {
        let found = self.of_check(check);
        assert_eq!(found.len(), 1, "{check}: {}", self.ran);
        let text = |name: &str| found[0][name].as_str().unwrap();
        (text("level"), text("what"), text("fix"))
    }

    /// Nothing is found but that the harness' servers keep nothing on disk.
    fn assert_fine(&self) {
        let mut found = self.findings();
        found.retain(|finding| finding["check"] != "persistence");
        assert!(found.is_empty() && self.code() == Some(0), "{}", self.ran);
    }
}

/// Does on a server what a fix says, up to its first semicolon.
async fn apply(server: &RedisServer, fix: &str) {
    let fix = fix.trim_start_matches("there: ");
    let command = fix.split(';').next().unwrap();
    let mut words = Vec::new();
    for (n, part) in command.split('"').enumerate() {
        if n % 2 == 1 {
            words.push(part);
        } else {
            words.extend(part.split_whitespace());
        }
    }
    assert!(["CONFIG", "ACL", "REPLICAOF"].contains(&words[0]), "{fix}");
    server.run::<()>(&words).await;
}

/// The flags for what a fix says to set, up to its first comma: `set a.b to c and d.e to f`.
fn flags(fix: &str) -> Vec<String> {
    let settings = fix.strip_prefix("set ").unwrap_or_else(|| panic!("{fix}"));
    let settings = settings.split(',').next().unwrap().split(" and ");
    let flag = |setting: &str| {
        let (path, value) = setting.split_once(" to ").unwrap();
        format!("--{}={value}", path.replace(['.', '_'], "-"))
    };
    settings.map(flag).collect()
}
