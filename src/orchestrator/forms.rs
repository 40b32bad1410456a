//! What keys of build managers should look like. Callers name them whole; these are the reference's, under any prefix.

use std::time::Duration;

use bytes::Bytes;

use super::store::{CLAIMS, EXPIRED, EXPIRING, MARKS, VALUES};
use crate::config::EndpointName;
use crate::forms::{Form, Kind, Left, Life, Reads, Seen, Value, Wrong, between, fine, wrong};

/// What a key lives on for after its expiration.
const DAY: Duration = Duration::from_hours(24);
/// How far two times to live may be apart that were set together: they are not read together.
const APART: Duration = Duration::from_secs(5);
/// How long an expiry may wait for somebody who looks for those that nobody was told of.
const UNTAKEN: Duration = Duration::from_mins(2);

/// The kinds of keys.
pub const FORMS: &[Form] = &[
    Form {
        life: Life::Ends,
        beside: Some(|key| Bytes::copy_from_slice(&key[..key.len() - EXPIRING.len()])),
        check: check_expiring,
        ..form("{key}/expiring", |key| jobs(key) && key.ends_with(EXPIRING.as_bytes()))
    },
    Form {
        life: Life::Endless,
        reads: Reads::Nothing,
        check: fine,
        ..form("{key}/expired", |key| jobs(key) && key.ends_with(EXPIRED.as_bytes()))
    },
    form("[prefix]building/{id}", |key| of(key, "building/")),
    form("[prefix]cancel/{id}", |key| of(key, "cancel/")),
    form("[prefix]lock/{id}", |key| of(key, "lock/")),
    form("[prefix]metric/{id}", |key| of(key, "metric/")),
    own(CLAIMS, Kind::Hash, |key| key == CLAIMS.as_bytes()),
    own(VALUES, Kind::Hash, |key| key == VALUES.as_bytes()),
    own("redis-gateway:v1:orchestrator:expired:{key}", Kind::String, |key| {
        between(key, MARKS, "")
    }),
];

const fn form(name: &'static str, is: fn(&[u8]) -> bool) -> Form {
    Form {
        name,
        home: EndpointName::Orchestrator,
        is,
        kind: Kind::String,
        life: Life::Any,
        reads: Reads::Text,
        beside: Some(|key| [key, EXPIRING.as_bytes()].concat().into()),
        check,
    }
}

const fn own(name: &'static str, kind: Kind, is: fn(&[u8]) -> bool) -> Form {
    Form {
        kind,
        life: Life::Ends,
        reads: Reads::Nothing,
        beside: None,
        check: fine,
        ..form(name, is)
    }
}

/// Whether a key is one of those that begin with `kind`, under any prefix.
fn of(key: &[u8], kind: &str) -> bool {
    let mut windows = key.windows(kind.len()).enumerate();
    let begins = |at: usize| at == 0 || key[at - 1] == b'/';
    !key.starts_with(b"redis-gateway:")
        && windows.any(|(at, window)| window == kind.as_bytes() && begins(at) && at + kind.len() < key.len())
}

fn jobs(key: &[u8]) -> bool {
    ["building/", "cancel/", "lock/", "metric/"]
        .iter()
        .any(|kind| of(key, kind))
}

fn check(seen: &Seen) -> Vec<Wrong> {
    let Left::For(left) = seen.left else { return Vec::new() };
    match (seen.beside, &seen.value) {
        (Left::For(expiration), _) if left.abs_diff(expiration + DAY) > APART => {
            let what = format!(
                "lives for {} s, and expires in {} s",
                left.as_secs(),
                expiration.as_secs()
            );
            vec![wrong(what, "86400 s between them")]
        }
        (Left::Gone, _) if left > DAY + APART => {
            vec![wrong(
                "has a time to live, and nothing at /expiring beside it",
                "nobody hears when it expires",
            )]
        }
        // An empty value stays after its expiry, whoever has taken it.
        (Left::Gone, Value::Text(value)) if !value.is_empty() && left + UNTAKEN < DAY => {
            let what = format!(
                "expired {} s ago, and nobody has taken it",
                DAY.saturating_sub(left).as_secs()
            );
            vec![wrong(
                what,
                "a watch of a gateway or a build manager takes it; without either it is gone a day after",
            )]
        }
        _ => Vec::new(),
    }
}

fn check_expiring(seen: &Seen) -> Vec<Wrong> {
    let mut found = Vec::new();
    if seen.beside == Left::Gone {
        found.push(wrong(
            "nothing stands at the key that it is beside",
            "a key, whose expiration it is",
        ));
    }
    if let Value::Text(value) = &seen.value
        && !value.is_empty()
    {
        found.push(wrong(
            "is not empty",
            "an empty string: its time to live is what counts",
        ));
    }
    found
}
