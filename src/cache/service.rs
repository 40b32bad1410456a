//! The RPCs of the cache: checks, one call to the store, an answer that says when it is degraded.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::Token;
use super::leases::{Cache, Found, Question};
use super::store::{Item, Loaded, Refusal, Store, Terms, Written};
use crate::config::EndpointName;
use crate::key;
use crate::layer::{Call, Degraded};
use crate::proto::cache_fill_response::Refusal as Cause;
use crate::proto::cache_get_or_lease_response::Outcome;
use crate::proto::cache_server::Cache as Rpcs;
use crate::proto::{
    CacheBatchDeleteRequest, CacheBatchDeleteResponse, CacheBatchGetRequest, CacheBatchGetResponse,
    CacheBatchSetRequest, CacheBatchSetResponse, CacheBusy, CacheDeleteRequest, CacheDeleteResponse, CacheFillRequest,
    CacheFillResponse, CacheGetOrLeaseRequest, CacheGetOrLeaseResponse, CacheGetRequest, CacheGetResponse,
    CacheGiveUpRequest, CacheGiveUpResponse, CacheLease, CacheSetRequest, CacheSetResponse, CacheValue, DegradedReason,
};
use crate::redis::{Error, Existing, Freshness, Position};
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

/// The `redisgateway.v1.Cache` service.
pub struct Service {
    cache: Option<Arc<Cache>>,
}

impl Service {
    /// A service on `cache`; without one every call is answered `NOT_CONFIGURED`.
    pub fn new(cache: Option<Arc<Cache>>) -> Self {
        Service { cache }
    }

    fn cache(&self, call: &Call) -> Result<&Cache, Status> {
        self.cache
            .as_deref()
            .ok_or_else(|| status::not_configured(EndpointName::Cache, call.method))
    }

    fn store(&self, call: &Call) -> Result<&Store, Status> {
        self.cache(call).map(Cache::store)
    }
}

#[tonic::async_trait]
impl Rpcs for Service {
    async fn get(&self, request: Request<CacheGetRequest>) -> Result<Response<CacheGetResponse>, Status> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let freshness = parse_freshness(request.fresh, request.max_staleness_ms, &request.write_token)?;
        let key = parse_key("key", request.key)?;
        let result = self.store(&call)?.get(key, freshness, call.due()).await;
        Ok(answer(result, |value, degraded| CacheGetResponse {
            value: value.flatten(),
            degraded,
        }))
    }

    async fn batch_get(
        &self,
        request: Request<CacheBatchGetRequest>,
    ) -> Result<Response<CacheBatchGetResponse>, Status> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let freshness = parse_freshness(request.fresh, request.max_staleness_ms, &request.write_token)?;
        let keys = parse_keys(request.keys)?;
        let len = keys.len();
        let result = self.store(&call)?.get_many(keys, freshness, call.due()).await;
        Ok(answer(result, |values, degraded| {
            let values = values.unwrap_or_else(|| vec![None; len]);
            CacheBatchGetResponse {
                values: values.into_iter().map(|value| CacheValue { value }).collect(),
                degraded,
            }
        }))
    }

    async fn set(&self, request: Request<CacheSetRequest>) -> Result<Response<CacheSetResponse>, Status> {
        let call = Call::of(&request);
        let item = parse_item("", request.into_inner())?;
        let tell = item.tell;
        let result = self.store(&call)?.set(item, call.due()).await;
        Ok(answer(result, set_response(tell)))
    }

    async fn batch_set(
        &self,
        request: Request<CacheBatchSetRequest>,
    ) -> Result<Response<CacheBatchSetResponse>, Status> {
        let call = Call::of(&request);
        let items = request.into_inner().items;
        check_count("items", items.len())?;
        let items: Vec<Item> = items
            .into_iter()
            .enumerate()
            .map(|(n, item)| parse_item(&format!("items[{n}]."), item))
            .collect::<Result<_, _>>()?;
        let tell: Vec<bool> = items.iter().map(|item| item.tell).collect();
        let results = self.store(&call)?.set_many(items, call.due()).await;
        // The call counts as degraded once, by the first reason.
        let first = results
            .iter()
            .find_map(|result| result.as_ref().err())
            .map(status::degraded);
        let results = results
            .into_iter()
            .zip(tell)
            .map(|(result, tell)| reason(result, set_response(tell)))
            .collect();
        Ok(mark(Response::new(CacheBatchSetResponse { results }), first))
    }

    async fn delete(&self, request: Request<CacheDeleteRequest>) -> Result<Response<CacheDeleteResponse>, Status> {
        let call = Call::of(&request);
        let CacheDeleteRequest { key, want_token } = request.into_inner();
        let keys = vec![parse_key("key", key)?];
        let result = self.store(&call)?.delete(keys, want_token, call.due()).await;
        Ok(answer(result, |done, degraded| CacheDeleteResponse {
            deleted: done.is_some_and(|(deleted, _)| deleted == 1),
            degraded,
            write_token: write_token(want_token, done),
        }))
    }

    async fn batch_delete(
        &self,
        request: Request<CacheBatchDeleteRequest>,
    ) -> Result<Response<CacheBatchDeleteResponse>, Status> {
        let call = Call::of(&request);
        let CacheBatchDeleteRequest { keys, want_token } = request.into_inner();
        let keys = parse_keys(keys)?;
        let result = self.store(&call)?.delete(keys, want_token, call.due()).await;
        Ok(answer(result, |done, degraded| CacheBatchDeleteResponse {
            deleted: done.map_or(0, |(deleted, _)| deleted),
            degraded,
            write_token: write_token(want_token, done),
        }))
    }

    async fn get_or_lease(
        &self,
        request: Request<CacheGetOrLeaseRequest>,
    ) -> Result<Response<CacheGetOrLeaseResponse>, Status> {
        let call = Call::of(&request);
        let question = parse_question(request.into_inner())?;
        match self.cache(&call)?.get_or_lease(question, call.due()).await {
            Ok(Found::Draining) => Err(status::draining(call.method)),
            result => Ok(answer(result, |found, degraded| {
                let (outcome, refresh) = found.map(outcome).unwrap_or_default();
                CacheGetOrLeaseResponse {
                    outcome,
                    degraded,
                    refresh,
                }
            })),
        }
    }

    async fn fill(&self, request: Request<CacheFillRequest>) -> Result<Response<CacheFillResponse>, Status> {
        let call = Call::of(&request);
        let loaded = parse_loaded(request.into_inner())?;
        let tell = loaded.tell;
        let result = self.cache(&call)?.fill(loaded, call.due()).await;
        Ok(answer(result, |done, degraded| CacheFillResponse {
            stored: done.is_some_and(|(filled, _)| filled.stored.is_ok()),
            refusal: done
                .and_then(|(filled, _)| filled.stored.err())
                .map_or(Cause::Unspecified, Cause::from)
                .into(),
            degraded,
            write_token: write_token(tell, done),
        }))
    }

    async fn give_up(&self, request: Request<CacheGiveUpRequest>) -> Result<Response<CacheGiveUpResponse>, Status> {
        let call = Call::of(&request);
        let CacheGiveUpRequest { key, token } = request.into_inner();
        let (key, token) = (parse_key("key", key)?, parse_token(&token)?);
        let result = self.cache(&call)?.give_up(&key, token, call.due()).await;
        Ok(answer(result, |given_up, degraded| CacheGiveUpResponse {
            given_up: given_up == Some(true),
            degraded,
        }))
    }
}

fn parse_key(field: &str, key: String) -> Result<Bytes, Status> {
    key::check(&key, MAX_KEY).map_err(|error| status::invalid(field, error.to_string()))?;
    Ok(Bytes::from(key))
}

fn parse_keys(keys: Vec<String>) -> Result<Vec<Bytes>, Status> {
    check_count("keys", keys.len())?;
    keys.into_iter()
        .enumerate()
        .map(|(n, key)| parse_key(&format!("keys[{n}]"), key))
        .collect()
}

fn check_count(field: &str, count: usize) -> Result<(), Status> {
    if (1..=MAX_BATCH).contains(&count) {
        return Ok(());
    }
    Err(status::invalid(
        field,
        format!("must have from 1 to {MAX_BATCH} items, not {count}"),
    ))
}

fn parse_item(at: &str, request: CacheSetRequest) -> Result<Item, Status> {
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
        value,
        ttl,
        existing,
        tell: want_token,
    })
}

fn parse_ttl(field: &str, seconds: i64) -> Result<Option<u64>, Status> {
    match seconds {
        0 => Ok(None),
        1..=MAX_TTL => Ok(Some(seconds.unsigned_abs())),
        _ => Err(status::invalid(field, format!("must be from 0 to {MAX_TTL}"))),
    }
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

fn parse_token(token: &str) -> Result<Token, Status> {
    Token::parse(token).ok_or_else(|| status::invalid("token", "must be that of a lease"))
}

fn parse_question(request: CacheGetOrLeaseRequest) -> Result<Question, Status> {
    Ok(Question {
        key: parse_key("key", request.key)?,
        freshness: parse_freshness(request.fresh, request.max_staleness_ms, &request.write_token)?,
        patience: parse_millis("wait_ms", request.wait_ms, 0)?,
        terms: Terms {
            lease: parse_millis("lease_ms", request.lease_ms, 1)?,
            early: request.early_refresh,
        },
    })
}

fn parse_loaded(request: CacheFillRequest) -> Result<Loaded, Status> {
    Ok(Loaded {
        key: parse_key("key", request.key)?,
        token: parse_token(&request.token)?,
        value: request.value,
        ttl: parse_ttl("ttl_seconds", request.ttl_seconds)?,
        tell: request.want_token,
    })
}

fn millis(left: Duration) -> i64 {
    i64::try_from(left.as_millis()).unwrap_or(i64::MAX)
}

/// What was found, and the lease to load it again.
fn outcome(found: Found) -> (Option<Outcome>, Option<CacheLease>) {
    let lease = |token: Token, left| CacheLease {
        token: token.to_string(),
        remaining_ms: millis(left),
    };
    match found {
        Found::Value(value) => (Some(Outcome::Value(value)), None),
        Found::Refresh(value, token, left) => (Some(Outcome::Value(value)), Some(lease(token, left))),
        Found::Lease(token, left) => (Some(Outcome::Lease(lease(token, left))), None),
        Found::Busy(left) => {
            let remaining_ms = millis(left);
            (Some(Outcome::Busy(CacheBusy { remaining_ms })), None)
        }
        Found::Draining => (None, None),
    }
}

impl From<Refusal> for Cause {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Written => Cause::Written,
            Refusal::Deleted => Cause::Deleted,
            Refusal::LeaseOver => Cause::LeaseOver,
        }
    }
}

fn set_response(tell: bool) -> impl Fn(Option<Written<bool>>, i32) -> CacheSetResponse {
    move |done, degraded| CacheSetResponse {
        stored: done.is_some_and(|(stored, _)| stored),
        degraded,
        write_token: write_token(tell, done),
    }
}

/// The token of a write, whatever became of it: where nobody knows, one that leads to the primary.
fn write_token<T>(wanted: bool, done: Option<Written<T>>) -> String {
    let at = || done.map_or(Position::NEVER, |(_, at)| at).to_string();
    wanted.then(at).unwrap_or_default()
}

/// The answer to a result: a failing Redis degrades it and never fails it.
fn answer<T, A>(result: Result<T, Error>, form: impl FnOnce(Option<T>, i32) -> A) -> Response<A> {
    let degraded = result.as_ref().err().map(status::degraded);
    mark(Response::new(reason(result, form)), degraded)
}

fn mark<A>(mut response: Response<A>, degraded: Option<DegradedReason>) -> Response<A> {
    if let Some(reason) = degraded {
        response.extensions_mut().insert(Degraded(reason));
    }
    response
}

fn reason<T, A>(result: Result<T, Error>, form: impl FnOnce(Option<T>, i32) -> A) -> A {
    match result {
        Ok(value) => form(Some(value), DegradedReason::Unspecified.into()),
        Err(error) => form(None, status::degraded(&error).into()),
    }
}
