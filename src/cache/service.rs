//! The RPCs of the cache: checks, one call to the store, an answer that says when it is degraded.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::store::{Item, Store};
use crate::config::EndpointName;
use crate::key;
use crate::layer::{Call, Degraded};
use crate::proto::cache_server::Cache;
use crate::proto::{
    CacheBatchDeleteRequest, CacheBatchDeleteResponse, CacheBatchGetRequest, CacheBatchGetResponse,
    CacheBatchSetRequest, CacheBatchSetResponse, CacheDeleteRequest, CacheDeleteResponse, CacheGetRequest,
    CacheGetResponse, CacheSetRequest, CacheSetResponse, CacheValue, DegradedReason,
};
use crate::redis::{Endpoint, Error, Existing};
use crate::status;

/// The longest key, in bytes.
const MAX_KEY: usize = 4_096;
/// The most keys or items in one call.
const MAX_BATCH: usize = 1_000;
/// The longest time to live, in seconds: ten years. Redis refuses what overflows its clock.
const MAX_TTL: i64 = 315_360_000;

/// The `redisgateway.v1.Cache` service.
pub struct Service {
    store: Option<Store>,
}

impl Service {
    /// A service on `endpoint`; without one every call is answered `NOT_CONFIGURED`.
    pub fn new(endpoint: Option<Arc<Endpoint>>) -> Self {
        Service {
            store: endpoint.map(Store::new),
        }
    }

    fn store(&self, call: &Call) -> Result<&Store, Status> {
        self.store
            .as_ref()
            .ok_or_else(|| status::not_configured(EndpointName::Cache, call.method))
    }
}

#[tonic::async_trait]
impl Cache for Service {
    async fn get(&self, request: Request<CacheGetRequest>) -> Result<Response<CacheGetResponse>, Status> {
        let call = Call::of(&request);
        let CacheGetRequest { key, fresh } = request.into_inner();
        let key = parse_key("key", key)?;
        let result = self.store(&call)?.get(key, fresh, call.due()).await;
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
        let CacheBatchGetRequest { keys, fresh } = request.into_inner();
        let keys = parse_keys(keys)?;
        let len = keys.len();
        let result = self.store(&call)?.get_many(keys, fresh, call.due()).await;
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
        let result = self.store(&call)?.set(item, call.due()).await;
        Ok(answer(result, set_response))
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
        let results = self.store(&call)?.set_many(items, call.due()).await;
        // The call counts as degraded once, by the first reason.
        let first = results
            .iter()
            .find_map(|result| result.as_ref().err())
            .map(status::degraded);
        let results = results.into_iter().map(|result| reason(result, set_response)).collect();
        Ok(mark(Response::new(CacheBatchSetResponse { results }), first))
    }

    async fn delete(&self, request: Request<CacheDeleteRequest>) -> Result<Response<CacheDeleteResponse>, Status> {
        let call = Call::of(&request);
        let key = parse_key("key", request.into_inner().key)?;
        let result = self.store(&call)?.delete(vec![key], call.due()).await;
        Ok(answer(result, |deleted, degraded| CacheDeleteResponse {
            deleted: deleted == Some(1),
            degraded,
        }))
    }

    async fn batch_delete(
        &self,
        request: Request<CacheBatchDeleteRequest>,
    ) -> Result<Response<CacheBatchDeleteResponse>, Status> {
        let call = Call::of(&request);
        let keys = parse_keys(request.into_inner().keys)?;
        let result = self.store(&call)?.delete(keys, call.due()).await;
        Ok(answer(result, |deleted, degraded| CacheBatchDeleteResponse {
            deleted: deleted.unwrap_or_default(),
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
    } = request;
    let ttl = match ttl_seconds {
        0 => None,
        1..=MAX_TTL => Some(ttl_seconds.unsigned_abs()),
        _ => {
            return Err(status::invalid(
                format!("{at}ttl_seconds"),
                format!("must be from 0 to {MAX_TTL}"),
            ));
        }
    };
    let existing = if overwrite { Existing::Replace } else { Existing::Keep };
    Ok(Item {
        key: parse_key(&format!("{at}key"), key)?,
        value,
        ttl,
        existing,
    })
}

fn set_response(stored: Option<bool>, degraded: i32) -> CacheSetResponse {
    CacheSetResponse {
        stored: stored == Some(true),
        degraded,
    }
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
