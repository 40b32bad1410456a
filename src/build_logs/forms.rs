//! What keys of builds should look like.

use std::time::Duration;

use super::store::TTL;
use crate::config::EndpointName;
use crate::forms::{Form, Kind, Left, Life, Reads, Seen, Value, Wrong, between, json_text, wrong};

/// The kinds of keys.
pub const FORMS: &[Form] = &[
    Form {
        name: "builds/{id}/logs",
        home: EndpointName::BuildLogs,
        is: |key| between(key, "builds/", "/logs"),
        kind: Kind::List,
        life: Life::Any,
        reads: Reads::Ends,
        beside: None,
        check: check_logs,
    },
    Form {
        name: "builds/{id}/status",
        home: EndpointName::BuildLogs,
        is: |key| between(key, "builds/", "/status"),
        kind: Kind::String,
        life: Life::AtMost(TTL),
        reads: Reads::Text,
        beside: None,
        check: |seen| match &seen.value {
            Value::Text(text) => json_text(text).into_iter().collect(),
            _ => Vec::new(),
        },
    },
];

/// The first append leaves a list without a TTL, each later one sets it.
fn check_logs(seen: &Seen) -> Vec<Wrong> {
    let Value::Ends(length, ends) = &seen.value else {
        return Vec::new();
    };
    let right = format!("a time to live of at most {TTL} s from the second append on");
    let life = match seen.left {
        Left::Endless if *length > 1 => {
            let what =
                format!("has no time to live, and {length} entries: kept for ever, unless they came by one append");
            Some(wrong(what, right))
        }
        Left::For(left) if left > Duration::from_secs(TTL) => Some(wrong("lives for longer", right)),
        _ => None,
    };
    let entries = ["first", "last"].iter().zip(ends).filter_map(|(which, entry)| {
        let found = json_text(entry)?;
        Some(wrong(format!("its {which} entry: {}", found.what), found.right))
    });
    life.into_iter().chain(entries).collect()
}
