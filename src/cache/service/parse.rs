//! Requests as the types that the pattern works with, or what is wrong with them.

use std::time::Duration;

use bytes::Bytes;
use tonic::Status;

use super::super::Token;
use super::super::leases::Question;
use super::super::limits::Limits;
use super::super::store::{Item, Loaded, Terms};
use super::super::values::Wish;
use crate::key;
use crate::proto::{CacheFillRequest, CacheGetOrLeaseRequest, CacheSetRequest};
use crate::redis::{Existing, Freshness, Position};
use crate::status;

/// The longest key, in bytes.
const MAX_KEY: usize = 4_096;
/// The most keys or items in one call.
const MAX_BATCH: usize = 1_000;
/// The longest time to live, in seconds: ten years. Redis refuses what overflows its clock.
const MAX_TTL: i64 = 315_360_000;
/// The greatest staleness, in milliseconds: a day.
const MAX_STALENESS: i64 = 86_400_000;
/// The longest wait, and the longest lease, in milliseconds: ten minutes.
const MAX_WAIT: i64 = 600_000;

pub(super) fn parse_key(field: &str, key: String) -> Result<Bytes, Status> {
    key::check(&key, MAX_KEY).map_err(|error| status::invalid(field, error.to_string()))?;
    Ok(Bytes::from(key))
}

pub(super) fn parse_keys(keys: Vec<String>) -> Result<Vec<Bytes>, Status> {
    check_count("keys", keys.len())?;
    keys.into_iter()
        .enumerate()
        .map(|(n, key)| parse_key(&format!("keys[{n}]"), key))
        .collect()
}

pub(super) fn check_count(field: &str, count: usize) -> Result<(), Status> {
    if (1..=MAX_BATCH).contains(&count) {
        return Ok(());
    }
    Err(status::invalid(
        field,
        format!("must have from 1 to {MAX_BATCH} items, not {count}"),
    ))
}

pub(super) fn parse_item(at: &str, request: CacheSetRequest, limits: &Limits) -> Result<Item, Status> {
    let CacheSetRequest {
        key,
        value,
        ttl_seconds,
        overwrite,
        want_token,
    } = request;
    let ttl = parse_ttl(&format!("{at}ttl_seconds"), ttl_seconds)?;
    let existing = if overwrite { Existing::Replace } else { Existing::Keep };
    Ok(Item {
        key: parse_key(&format!("{at}key"), key)?,
        value: parse_value(&format!("{at}value"), value, limits)?,
        ttl,
        existing,
        tell: want_token,
    })
}

fn parse_value(field: &str, value: Bytes, limits: &Limits) -> Result<Bytes, Status> {
    limits
        .check(&value)
        .map(|()| value)
        .map_err(|expected| status::invalid(field, expected))
}

fn parse_ttl(field: &str, seconds: i64) -> Result<Option<u64>, Status> {
    match seconds {
        0 => Ok(None),
        1..=MAX_TTL => Ok(Some(seconds.unsigned_abs())),
        _ => Err(status::invalid(field, format!("must be from 0 to {MAX_TTL}"))),
    }
}

pub(super) fn parse_wish(fresh: bool, max_staleness: i64, write_token: &str, stale: i64) -> Result<Wish, Status> {
    Ok(Wish {
        freshness: parse_freshness(fresh, max_staleness, write_token)?,
        stale: parse_upto("allow_stale_ms", stale, 0, MAX_STALENESS)?,
    })
}

fn parse_freshness(fresh: bool, max_staleness: i64, write_token: &str) -> Result<Freshness, Status> {
    let millis = parse_upto("max_staleness_ms", max_staleness, 0, MAX_STALENESS)?;
    let invalid = || status::invalid("write_token", "must be that of a write");
    let after = match write_token {
        "" => None,
        token => Some(Position::parse(token).ok_or_else(invalid)?),
    };
    if fresh {
        return Ok(Freshness::Latest);
    }
    let within = (max_staleness > 0).then_some(millis);
    Ok(Freshness::Replica { within, after })
}

fn parse_millis(field: &str, millis: i64, least: i64) -> Result<Duration, Status> {
    parse_upto(field, millis, least, MAX_WAIT)
}

fn parse_upto(field: &str, millis: i64, least: i64, most: i64) -> Result<Duration, Status> {
    if !(least..=most).contains(&millis) {
        return Err(status::invalid(field, format!("must be from {least} to {most}")));
    }
    Ok(Duration::from_millis(millis.unsigned_abs()))
}

pub(super) fn parse_token(token: &str) -> Result<Token, Status> {
    Token::parse(token).ok_or_else(|| status::invalid("token", "must be that of a lease"))
}

pub(super) fn parse_question(request: CacheGetOrLeaseRequest) -> Result<Question, Status> {
    Ok(Question {
        key: parse_key("key", request.key)?,
        wish: parse_wish(
            request.fresh,
            request.max_staleness_ms,
            &request.write_token,
            request.allow_stale_ms,
        )?,
        patience: parse_millis("wait_ms", request.wait_ms, 0)?,
        terms: Terms {
            lease: parse_millis("lease_ms", request.lease_ms, 1)?,
            early: request.early_refresh,
        },
    })
}

pub(super) fn parse_loaded(request: CacheFillRequest, limits: &Limits) -> Result<Loaded, Status> {
    Ok(Loaded {
        key: parse_key("key", request.key)?,
        token: parse_token(&request.token)?,
        value: parse_value("value", request.value, limits)?,
        ttl: parse_ttl("ttl_seconds", request.ttl_seconds)?,
        tell: request.want_token,
    })
}
