//! The RPCs of the cache: checks, one call to the store, an answer that says when it is degraded.

mod parse;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tonic::{Request, Response, Status};

use self::parse::{
    check_count, parse_item, parse_key, parse_keys, parse_loaded, parse_question, parse_token, parse_wish,
};
use super::Token;
use super::leases::{Cache, Found};
use super::limits::{Held, Limits};
use super::store::{Item, Refusal, Written};
use super::values::Read;
use crate::config::{self, EndpointName};
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
    limits: Limits,
}

impl Service {
    /// A service on `cache`; without one every call is answered `NOT_CONFIGURED`.
    pub fn new(cache: Option<Arc<Cache>>, limits: &config::Limits) -> Self {
        let limits = Limits::new(limits);
        Service { cache, limits }
    }

    fn cache(&self, call: &Call) -> Result<&Cache, Status> {
        self.cache
            .as_deref()
            .ok_or_else(|| status::not_configured(EndpointName::Cache, call.method))
    }

    /// A value, if an answer holds it; else it is degraded.
    fn held(&self, value: Option<Bytes>, degraded: &mut Option<DegradedReason>) -> Option<Bytes> {
        let held = value.as_deref().is_none_or(|value| self.limits.holds(value));
        if !held {
            degraded.get_or_insert(DegradedReason::ValueTooLarge);
        }
        value.filter(|_| held)
    }

    fn found(&self, found: Result<Found, Error>) -> Response<CacheGetOrLeaseResponse> {
        let lease = |token: Token, left| CacheLease {
            token: token.to_string(),
            remaining_ms: millis(left),
        };
        let mut response = CacheGetOrLeaseResponse::default();
        let (mut value, mut degraded) = (None, None);
        match found {
            Ok(Found::Value(found)) => value = Some(found),
            Ok(Found::Refresh(found, token, left)) => {
                value = Some(found);
                response.refresh = Some(lease(token, left));
            }
            Ok(Found::Stale(read, failed)) => {
                value = read.value;
                response.stale_age_ms = millis(read.stale_age);
                degraded = failed.as_ref().map(status::degraded);
            }
            Ok(Found::Lease(token, left)) => response.outcome = Some(Outcome::Lease(lease(token, left))),
            Ok(Found::Busy(left)) => {
                let remaining_ms = millis(left);
                response.outcome = Some(Outcome::Busy(CacheBusy { remaining_ms }));
            }
            Ok(Found::Draining) => {}
            Err(error) => degraded = Some(status::degraded(&error)),
        }
        if let Some(value) = self.held(value, &mut degraded) {
            response.outcome = Some(Outcome::Value(value));
        }
        response.degraded = degraded.unwrap_or_default().into();
        mark(Response::new(response), degraded)
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
        let mut degraded = failed.as_ref().map(status::degraded);
        let value = self.held(read.value, &mut degraded);
        Ok(partly(degraded, |degraded| CacheGetResponse {
            value,
            degraded,
            stale_age_ms: millis(read.stale_age),
        }))
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
        let cache = self.cache(&call)?;
        let (values, failed) = self.limits.get_many(cache, &keys, wish, call.due()).await;
        let too_large = values.iter().any(|value| matches!(value, Held::TooLarge));
        let degraded = failed.as_ref().map(status::degraded);
        let degraded = degraded.or(too_large.then_some(DegradedReason::ValueTooLarge));
        Ok(partly(degraded, |degraded| CacheBatchGetResponse {
            values: values.into_iter().map(CacheValue::from).collect(),
            degraded,
        }))
    }

    async fn set(&self, request: Request<CacheSetRequest>) -> Result<Response<CacheSetResponse>, Status> {
        let call = Call::of(&request);
        let item = parse_item("", request.into_inner(), &self.limits)?;
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
            .map(|(n, item)| parse_item(&format!("items[{n}]."), item, &self.limits))
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
        Ok(partly(failed.as_ref().map(status::degraded), |degraded| {
            CacheDeleteResponse {
                deleted: done.0 == 1,
                degraded,
                write_token: write_token(want_token, Some(done)),
            }
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
        Ok(partly(failed.as_ref().map(status::degraded), |degraded| {
            CacheBatchDeleteResponse {
                deleted: done.0,
                degraded,
                write_token: write_token(want_token, Some(done)),
            }
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
            found => Ok(self.found(found)),
        }
    }

    async fn fill(&self, request: Request<CacheFillRequest>) -> Result<Response<CacheFillResponse>, Status> {
        let call = Call::of(&request);
        let loaded = parse_loaded(request.into_inner(), &self.limits)?;
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

impl From<Held> for CacheValue {
    fn from(held: Held) -> Self {
        let left_out = matches!(held, Held::LeftOut);
        let read = match held {
            Held::Read(read) => read,
            Held::TooLarge | Held::LeftOut => Read::default(),
        };
        CacheValue {
            value: read.value,
            stale_age_ms: millis(read.stale_age),
            left_out,
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
    let degraded = result.as_ref().err().map(status::degraded);
    partly(degraded, |degraded| form(result.ok(), degraded))
}

/// The same, where a part may have been done.
fn partly<A>(degraded: Option<DegradedReason>, form: impl FnOnce(i32) -> A) -> Response<A> {
    mark(Response::new(form(degraded.unwrap_or_default().into())), degraded)
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
