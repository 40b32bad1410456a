//! What keys of pulls should look like.

use std::time::Duration;

use bytes::Bytes;

use super::claim_store::{LEASES, RECORDS};
use super::{Target, rows, store};
use crate::config::EndpointName;
use crate::forms::{Form, Kind, Left, Life, Reads, Seen, Value, Wrong, between, fine, wrong};

/// What stands between the name of a key and the time of its claim.
const CLAIMED: &str = ":processing:";

/// The kinds of keys.
pub const FORMS: &[Form] = &[
    Form {
        beside: Some(|key| [LEASES.as_bytes(), key].concat().into()),
        check: check_claimed,
        ..pulls("pull_events:…:processing:{ms}:{8 hex digits}", |key| {
            key.starts_with(b"pull_events:") && contains(key, CLAIMED)
        })
    },
    pulls("pull_events:repo:{repository}:tag:{tag}:{digest}", |key| {
        key.starts_with(b"pull_events:repo:") && contains(key, ":tag:")
    }),
    pulls("pull_events:repo:{repository}:digest:{digest}", |key| {
        key.starts_with(b"pull_events:repo:") && contains(key, ":digest:")
    }),
    Form {
        check: |_| {
            vec![wrong(
                "no name of a key of pulls",
                "pull_events:repo:{repository}:tag:… or :digest:…",
            )]
        },
        ..pulls("pull_events:{another}", |key| key.starts_with(b"pull_events:"))
    },
    own("redis-gateway:v1:pull_metrics:claim:{claim}", Kind::Hash, |key| {
        between(key, RECORDS, "")
    }),
    own("redis-gateway:v1:pull_metrics:lease:{key}", Kind::String, |key| {
        between(key, LEASES, "")
    }),
];

const fn pulls(name: &'static str, is: fn(&[u8]) -> bool) -> Form {
    Form {
        name,
        home: EndpointName::PullMetrics,
        is,
        kind: Kind::Hash,
        life: Life::Endless,
        reads: Reads::Fields,
        beside: None,
        check: |seen| check(seen, seen.key),
    }
}

const fn own(name: &'static str, kind: Kind, is: fn(&[u8]) -> bool) -> Form {
    Form {
        kind,
        life: Life::Ends,
        reads: Reads::Nothing,
        check: fine,
        ..pulls(name, is)
    }
}

fn contains(key: &[u8], part: &str) -> bool {
    key.windows(part.len()).any(|window| window == part.as_bytes())
}

/// What a flush would drop, and a name that is not that of what is counted.
fn check(seen: &Seen, name: &[u8]) -> Vec<Wrong> {
    if !matches!(seen.value, Value::Fields(_)) {
        return Vec::new();
    }
    let fields = rows::FIELDS.map(|field| seen.value.field(field).cloned());
    match rows::parse(&Bytes::copy_from_slice(name), false, &fields) {
        Err(dropped) => {
            let what = format!(
                "its field {}: {}, so a flush drops it",
                dropped.field,
                dropped.reason.as_str()
            );
            vec![wrong(what, "all fields of a pull, numbers whole and above 0")]
        }
        Ok(key) => {
            let target = Target {
                repository: key.repository,
                tag: key.tag,
                digest: key.digest,
            };
            let counted = store::key(&target);
            let right = "the name that its fields make";
            if counted == name {
                Vec::new()
            } else {
                vec![wrong("its name is not that of what it counts", right)]
            }
        }
    }
}

/// The same by the name before the claim, and the claim's age, if nobody is known to work on it.
fn check_claimed(seen: &Seen) -> Vec<Wrong> {
    let claim = std::str::from_utf8(seen.key).ok().and_then(|key| {
        let (name, claim) = key.rsplit_once(CLAIMED)?;
        let (at, id) = claim.split_once(':')?;
        let hex = id.len() == 8 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
        let digits = at.bytes().all(|digit| digit.is_ascii_digit());
        (hex && digits && !name.contains(CLAIMED)).then_some((name, at.parse::<u64>().ok()?))
    });
    let Some((name, at)) = claim else {
        return vec![wrong(
            "no name of a claimed key",
            "{key}:processing:{ms since 1970}:{8 hexadecimal digits}",
        )];
    };
    let mut found = check(seen, name.as_bytes());
    let age = Duration::from_millis(seen.now.saturating_sub(at));
    if seen.beside == Left::Gone && age >= seen.orphan_age {
        let what = format!("claimed {} s ago, and nobody works on it: an orphan", age.as_secs());
        found.push(wrong(
            what,
            "a flush takes it: by a gateway's ClaimPulls, or by the reference's worker",
        ));
    }
    found
}
