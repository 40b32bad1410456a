//! What keys of locks should look like.

use bytes::Bytes;

use super::Holder;
use super::store::{LOCKS, RECORDS, SIGNALS, STIRS, TOKEN, record};
use crate::config::EndpointName;
use crate::forms::{Form, Kind, Left, Life, Reads, Seen, Value, Wrong, between, fine, wrong};

/// The kinds of keys.
pub const FORMS: &[Form] = &[
    Form {
        check: check_lock,
        ..form("lock:{name}", Kind::String, Life::Any, |key| between(key, LOCKS, ""))
    },
    form("lock-signal:{name}", Kind::List, Life::AtMost(1), |key| {
        between(key, SIGNALS, "")
    }),
    Form {
        check: check_token,
        ..form(TOKEN, Kind::String, Life::Endless, |key| key == TOKEN.as_bytes())
    },
    Form {
        beside: Some(lock_of),
        check: check_record,
        ..form(
            "redis-gateway:v1:locks:holding:{name}",
            Kind::String,
            Life::Any,
            |key| between(key, RECORDS, ""),
        )
    },
    form(
        "redis-gateway:v1:locks:stir:{gateway}",
        Kind::List,
        Life::AtMost(1),
        |key| between(key, STIRS, ""),
    ),
];

const fn form(name: &'static str, kind: Kind, life: Life, is: fn(&[u8]) -> bool) -> Form {
    Form {
        name,
        home: EndpointName::Locks,
        is,
        kind,
        life,
        reads: match kind {
            Kind::String => Reads::Text,
            _ => Reads::Nothing,
        },
        beside: None,
        check: fine,
    }
}

fn lock_of(record: &[u8]) -> Bytes {
    let name = record.strip_prefix(RECORDS.as_bytes()).unwrap_or_default();
    [LOCKS.as_bytes(), name].concat().into()
}

fn check_lock(seen: &Seen) -> Vec<Wrong> {
    let mut found = Vec::new();
    if seen.left == Left::Endless {
        let right = "a time to live, or somebody who is sure to release it: redis-gateway locks release";
        found.push(wrong("has no time to live: held for ever if its holder dies", right));
    }
    if let Value::Text(id) = &seen.value
        && std::str::from_utf8(id).ok().and_then(Holder::parse_new).is_none()
    {
        found.push(wrong("holds no id of a holder", "24 characters of base64"));
    }
    found
}

fn check_token(seen: &Seen) -> Vec<Wrong> {
    match &seen.value {
        Value::Text(text) if super::store::number(text).is_none_or(|token| token < 0) => {
            let right = "the last fencing token; DEL it, and the next one is the time in microseconds";
            vec![wrong("is no number", right)]
        }
        _ => Vec::new(),
    }
}

fn check_record(seen: &Seen) -> Vec<Wrong> {
    let mut found = Vec::new();
    if seen.left == Left::Endless && seen.beside != Left::Endless {
        let right = "the time to live of its lock; DEL it, nobody holds that lock by it";
        found.push(wrong("has no time to live, and no lock without one beside it", right));
    }
    if let Value::Text(text) = &seen.value
        && text
            .splitn(4, |byte| *byte == b' ')
            .nth(3)
            .and_then(|holder| record(text, holder))
            .is_none()
    {
        found.push(wrong("is no record of a holder", "token acquired_at_ms session holder"));
    }
    found
}
