//! Requests as the pattern's own types.

use std::time::Duration;

use tonic::Status;

use super::super::claim_store::ClaimId;
use super::super::store::looks_claimed;
use super::super::{Pull, Target, Timestamp, is_digest};
use crate::{key, proto, status};

/// The longest tag, and the longest digest, in bytes.
const MAX_PART: usize = 255;
/// The longest timestamp, in bytes.
const MAX_TIMESTAMP: usize = 32;
/// The most pulls of one batch.
const MAX_BATCH: usize = 1_000;
/// The most keys of one claim, and how many it has unless told. With the longest names they fit into one answer.
const MAX_KEYS: i32 = 2_000;
const DEFAULT_KEYS: usize = 1_000;
/// A lease in seconds, at most and unless told.
const MAX_LEASE: i64 = 3_600;
const DEFAULT_LEASE: Duration = Duration::from_mins(5);

/// What a timestamp should be.
pub(super) const WHOLE_SECONDS: &str = "must be whole seconds since 1970, above 0";

fn invalid(at: &str, field: &str, expected: impl Into<String>) -> Status {
    status::invalid(format!("{at}{field}"), expected)
}

fn parse_part(at: &str, field: &str, part: String) -> Result<String, Status> {
    key::check(&part, MAX_PART).map_err(|error| invalid(at, field, error.to_string()))?;
    Ok(part)
}

pub(super) fn parse_manifest(at: &str, repository: i64, digest: String) -> Result<Target, Status> {
    if repository <= 0 {
        return Err(invalid(at, "repository_id", "must be above 0"));
    }
    let digest = parse_part(at, "digest", digest)?;
    if !is_digest(digest.as_bytes()) {
        let expected = "must be an algorithm, a colon and hexadecimal digits, such as sha256:01ef";
        return Err(invalid(at, "digest", expected));
    }
    Ok(Target {
        repository,
        tag: None,
        digest,
    })
}

pub(super) fn parse_tag(at: &str, repository: i64, tag: String, digest: String) -> Result<Target, Status> {
    let tag = Some(parse_part(at, "tag", tag)?);
    let target = Target {
        tag,
        ..parse_manifest(at, repository, digest)?
    };
    if looks_claimed(&target) {
        return Err(invalid(at, "tag", "must not make the key look like a claimed one"));
    }
    Ok(target)
}

pub(super) fn parse_timestamp(at: &str, timestamp: Option<String>) -> Result<Timestamp, Status> {
    match timestamp {
        None => Ok(Timestamp::now()),
        Some(text) if text.is_empty() || text.len() > MAX_TIMESTAMP => Err(invalid(at, "timestamp", WHOLE_SECONDS)),
        Some(text) => Ok(Timestamp(text.into())),
    }
}

pub(super) fn parse_pulls(pulls: Vec<proto::Pull>) -> Result<Vec<Pull>, Status> {
    if !(1..=MAX_BATCH).contains(&pulls.len()) {
        return Err(status::invalid(
            "pulls",
            format!("must be from 1 to {MAX_BATCH} pulls, not {}", pulls.len()),
        ));
    }
    pulls
        .into_iter()
        .enumerate()
        .map(|(n, pull)| parse_pull(&format!("pulls[{n}]."), pull))
        .collect()
}

fn parse_pull(at: &str, pull: proto::Pull) -> Result<Pull, Status> {
    let proto::Pull {
        repository_id,
        tag,
        digest,
        timestamp,
    } = pull;
    let target = if tag.is_empty() {
        parse_manifest(at, repository_id, digest)?
    } else {
        parse_tag(at, repository_id, tag, digest)?
    };
    let timestamp = parse_timestamp(at, timestamp)?;
    if !timestamp.is_whole() {
        return Err(invalid(at, "timestamp", WHOLE_SECONDS));
    }
    Ok(Pull { target, timestamp })
}

pub(super) fn parse_most(max_keys: i32) -> Result<usize, Status> {
    match usize::try_from(max_keys) {
        Ok(0) => Ok(DEFAULT_KEYS),
        Ok(most) if max_keys <= MAX_KEYS => Ok(most),
        _ => Err(status::invalid("max_keys", format!("must be from 0 to {MAX_KEYS}"))),
    }
}

pub(super) fn parse_lease(seconds: i64) -> Result<Duration, Status> {
    match seconds {
        0 => Ok(DEFAULT_LEASE),
        1..=MAX_LEASE => Ok(Duration::from_secs(seconds.unsigned_abs())),
        _ => Err(status::invalid(
            "lease_seconds",
            format!("must be from 0 to {MAX_LEASE}"),
        )),
    }
}

pub(super) fn parse_claim(id: &str) -> Result<ClaimId, Status> {
    ClaimId::parse(id).ok_or_else(|| status::invalid("claim_id", "must be an id that ClaimPulls answered"))
}
