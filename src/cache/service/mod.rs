//! The RPCs of the cache: checks, one call to the store, an answer that says when it is degraded.

mod parse;

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use self::parse::{
    check_count, parse_item, parse_key, parse_keys, parse_loaded, parse_question, parse_token, parse_wish,
};
use super::Token;
use super::leases::{Cache, Found};
use super::store::{Item, Refusal, Written};
use super::values::Read;
use crate::config::EndpointName;
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
use crate::redis::{Error, Position};
use crate::status;

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
}

#[tonic::async_trait]
impl Rpcs for Service {
    async fn get(&self, request: Request<CacheGetRequest>) -> Result<Response<CacheGetResponse>, Status> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let wish = parse_wish(
            request.fresh,
            request.max_staleness_ms,
            &request.write_token,
            request.allow_stale_ms,
        )?;
        let key = parse_key("key", request.key)?;
        let (read, failed) = self.cache(&call)?.get(key, wish, call.due()).await;
        let (degraded, reason) = degradation(failed.as_ref());
        let response = CacheGetResponse {
            value: read.value,
            degraded,
            stale_age_ms: millis(read.stale_age),
        };
        Ok(mark(Response::new(response), reason))
    }

    async fn batch_get(
        &self,
        request: Request<CacheBatchGetRequest>,
    ) -> Result<Response<CacheBatchGetResponse>, Status> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let wish = parse_wish(
            request.fresh,
            request.max_staleness_ms,
            &request.write_token,
            request.allow_stale_ms,
        )?;
        let keys = parse_keys(request.keys)?;
        let (reads, failed) = self.cache(&call)?.get_many(keys, wish, call.due()).await;
        Ok(partly(failed.as_ref(), |degraded| CacheBatchGetResponse {
            values: reads.into_iter().map(CacheValue::from).collect(),
            degraded,
        }))
    }

    async fn set(&self, request: Request<CacheSetRequest>) -> Result<Response<CacheSetResponse>, Status> {
        let call = Call::of(&request);
        let item = parse_item("", request.into_inner())?;
        let tell = item.tell;
        let result = self.cache(&call)?.set(item, call.due()).await;
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
        let results = self.cache(&call)?.set_many(items, call.due()).await;
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
        let keys = [parse_key("key", key)?];
        let (done, failed) = self.cache(&call)?.delete(&keys, want_token, call.due()).await;
        Ok(partly(failed.as_ref(), |degraded| CacheDeleteResponse {
            deleted: done.0 == 1,
            degraded,
            write_token: write_token(want_token, Some(done)),
        }))
    }

    async fn batch_delete(
        &self,
        request: Request<CacheBatchDeleteRequest>,
    ) -> Result<Response<CacheBatchDeleteResponse>, Status> {
        let call = Call::of(&request);
        let CacheBatchDeleteRequest { keys, want_token } = request.into_inner();
        let keys = parse_keys(keys)?;
        let (done, failed) = self.cache(&call)?.delete(&keys, want_token, call.due()).await;
        Ok(partly(failed.as_ref(), |degraded| CacheBatchDeleteResponse {
            deleted: done.0,
            degraded,
            write_token: write_token(want_token, Some(done)),
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
            Ok(Found::Stale(read, failed)) => {
                let (degraded, reason) = degradation(failed.as_ref());
                let response = CacheGetOrLeaseResponse {
                    outcome: read.value.map(Outcome::Value),
                    degraded,
                    stale_age_ms: millis(read.stale_age),
                    refresh: None,
                };
                Ok(mark(Response::new(response), reason))
            }
            result => Ok(answer(result, |found, degraded| {
                let (outcome, refresh) = found.map(outcome).unwrap_or_default();
                CacheGetOrLeaseResponse {
                    outcome,
                    degraded,
                    stale_age_ms: 0,
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
        Found::Stale(..) | Found::Draining => (None, None),
    }
}

impl From<Read> for CacheValue {
    fn from(read: Read) -> Self {
        CacheValue {
            value: read.value,
            stale_age_ms: millis(read.stale_age),
        }
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
    let (value, failed) = match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error)),
    };
    partly(failed.as_ref(), |degraded| form(value, degraded))
}

/// The same, where a part may have been done.
fn partly<A>(failed: Option<&Error>, form: impl FnOnce(i32) -> A) -> Response<A> {
    let degraded = failed.map(status::degraded);
    mark(Response::new(form(degraded.unwrap_or_default().into())), degraded)
}

/// Why an answer is degraded, as its field and for the layers.
fn degradation(failed: Option<&Error>) -> (i32, Option<DegradedReason>) {
    let reason = failed.map(status::degraded);
    (reason.unwrap_or_default().into(), reason)
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
