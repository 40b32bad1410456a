//! What marks should look like.

use super::store::{MODIFIED, REVOKED, TTL};
use crate::config::EndpointName;
use crate::forms::{Form, Kind, Life, Reads, Seen, Value, Wrong, wrong};

/// The kinds of keys.
pub const FORMS: &[Form] = &[
    mark(
        "quay:repo_content_tracker:repo_modified:{namespace}:{repository}",
        |key| key.starts_with(MODIFIED.as_bytes()),
    ),
    mark(
        "quay:repo_content_tracker:permission_revoked:{user}:{namespace}:{repository}",
        |key| key.starts_with(REVOKED.as_bytes()),
    ),
];

const fn mark(name: &'static str, is: fn(&[u8]) -> bool) -> Form {
    Form {
        name,
        home: EndpointName::Cache,
        is,
        kind: Kind::String,
        life: Life::AtMost(TTL),
        reads: Reads::Text,
        beside: None,
        check,
    }
}

fn check(seen: &Seen) -> Vec<Wrong> {
    let mut found = Vec::new();
    let parts = |text: &str, least: usize| text.split(':').filter(|part| !part.is_empty()).count() >= least;
    let named = std::str::from_utf8(seen.key).is_ok_and(|key| match key.strip_prefix(REVOKED) {
        Some(rest) => parts(rest, 3) && rest.split(':').next().is_some_and(|user| user.parse::<i64>().is_ok()),
        None => key.strip_prefix(MODIFIED).is_some_and(|rest| parts(rest, 2)),
    });
    if !named {
        let right = "a namespace and a repository, after the user's number where it was revoked";
        found.push(wrong("its name lacks a part", right));
    }
    if let Value::Text(text) = &seen.value {
        let time = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok());
        if !time.is_some_and(|time| time.is_finite() && time > 0.0) {
            found.push(wrong("holds no time", "seconds since 1970, with a fraction"));
        }
    }
    found
}
