//! The RPCs of the orchestrator: checks, one call to the desk, an answer.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::time::timeout_at;
use tonic::{Request, Response, Status, Streaming};

use super::desk::Orchestrator;
use super::hub::Expiries;
use super::queue::Gap;
use super::store::may_be_set;
use super::watch::{Opening, Told, Watch};
use super::{ClaimId, Key, Prefix};
use crate::config::EndpointName;
use crate::deadline::Deadline;
use crate::layer::{Call, Draining};
use crate::proto::orchestrator_gap::Cause;
use crate::proto::orchestrator_server::Orchestrator as Rpcs;
use crate::proto::orchestrator_watch_open::Expiries as Asked;
use crate::proto::orchestrator_watch_request::Message;
use crate::proto::orchestrator_watch_response::Event as Form;
use crate::proto::{
    DegradedReason, OrchestratorConfirmed, OrchestratorDeleteRequest, OrchestratorDeleteResponse, OrchestratorDeleted,
    OrchestratorEntry, OrchestratorExpired, OrchestratorGap, OrchestratorGetRequest, OrchestratorGetResponse,
    OrchestratorHeartbeat, OrchestratorListRequest, OrchestratorListResponse, OrchestratorLockRequest,
    OrchestratorLockResponse, OrchestratorSetRequest, OrchestratorSetResponse, OrchestratorSynced,
    OrchestratorUnlockRequest, OrchestratorUnlockResponse, OrchestratorWatchOpen, OrchestratorWatchRequest,
    OrchestratorWatchResponse,
};
use crate::redis::Error;
use crate::{key, status};

/// The longest value, in bytes.
const MAX_VALUE: usize = 1 << 20;
/// The longest expiration, in seconds: ten years.
const MAX_EXPIRATION: i64 = 315_360_000;
/// That of a lock that names none, in seconds.
const LOCK_EXPIRATION: u64 = 10_000;
/// Keys looked at for one page, and how many may be asked for.
const PAGE: i32 = 100;
const MAX_PAGE: i32 = 1_000;
/// The longest name of a client, in bytes.
const MAX_CLIENT: usize = 255;

/// The `redisgateway.v1.Orchestrator` service.
pub struct Service {
    orchestrator: Option<Arc<Orchestrator>>,
}

impl Service {
    /// A service on `orchestrator`; without it every call is answered `NOT_CONFIGURED`.
    pub fn new(orchestrator: Option<Arc<Orchestrator>>) -> Self {
        Service { orchestrator }
    }

    fn orchestrator(&self, call: &Call) -> Result<&Orchestrator, Status> {
        self.orchestrator
            .as_deref()
            .ok_or_else(|| status::not_configured(EndpointName::Orchestrator, call.method))
    }

    async fn take_away(&self, call: &Call, key: &str) -> Result<Bytes, Status> {
        let key = parse_key(key)?;
        let deleted = self.orchestrator(call)?.delete(&key, call.due()).await;
        let value = deleted.map_err(failed(call))?;
        value.ok_or_else(|| status::key_not_found(call.method))
    }
}

#[tonic::async_trait]
impl Rpcs for Service {
    async fn set(&self, request: Request<OrchestratorSetRequest>) -> Result<Response<OrchestratorSetResponse>, Status> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let key = parse_new_key(&request.key)?;
        let value = parse_value(&request.value)?;
        let expiration = parse_expiration(request.expiration_seconds)?;
        let orchestrator = self.orchestrator(&call)?;
        let stored = orchestrator.set(&key, value, request.overwrite, expiration, call.due());
        match stored.await.map_err(failed(&call))? {
            false if !request.overwrite => Err(status::key_exists(call.method)),
            stored => Ok(Response::new(OrchestratorSetResponse { stored })),
        }
    }

    async fn get(&self, request: Request<OrchestratorGetRequest>) -> Result<Response<OrchestratorGetResponse>, Status> {
        let call = Call::of(&request);
        let key = parse_key(&request.into_inner().key)?;
        let value = self.orchestrator(&call)?.get(&key, call.due()).await;
        let value = value.map_err(failed(&call))?;
        let value = value.ok_or_else(|| status::key_not_found(call.method))?;
        Ok(Response::new(OrchestratorGetResponse { value }))
    }

    async fn delete(
        &self,
        request: Request<OrchestratorDeleteRequest>,
    ) -> Result<Response<OrchestratorDeleteResponse>, Status> {
        let call = Call::of(&request);
        let value = self.take_away(&call, &request.into_inner().key).await?;
        Ok(Response::new(OrchestratorDeleteResponse { value }))
    }

    async fn list(
        &self,
        request: Request<OrchestratorListRequest>,
    ) -> Result<Response<OrchestratorListResponse>, Status> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let prefix = match request.prefix.as_str() {
            "" => Prefix::all(),
            prefix => parse_prefix(prefix)?,
        };
        let count = parse_page_size(request.page_size)?;
        let cursor = parse_page_token(&request.page_token)?;
        let found = self.orchestrator(&call)?.list(&prefix, cursor, count, call.due()).await;
        let (found, next) = found.map_err(failed(&call))?;
        Ok(Response::new(OrchestratorListResponse {
            entries: found.into_iter().map(|(key, value)| entry(&key, value)).collect(),
            next_page_token: if next == 0 { String::new() } else { next.to_string() },
        }))
    }

    async fn lock(
        &self,
        request: Request<OrchestratorLockRequest>,
    ) -> Result<Response<OrchestratorLockResponse>, Status> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let key = parse_new_key(&request.key)?;
        let expiration = parse_expiration(request.expiration_seconds)?.unwrap_or(LOCK_EXPIRATION);
        let orchestrator = self.orchestrator(&call)?;
        let locked = orchestrator.set(&key, "", false, Some(expiration), call.due()).await;
        let locked = locked.map_err(failed(&call))?;
        Ok(Response::new(OrchestratorLockResponse { locked }))
    }

    async fn unlock(
        &self,
        request: Request<OrchestratorUnlockRequest>,
    ) -> Result<Response<OrchestratorUnlockResponse>, Status> {
        let call = Call::of(&request);
        self.take_away(&call, &request.into_inner().key).await?;
        Ok(Response::new(OrchestratorUnlockResponse {}))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<OrchestratorWatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<OrchestratorWatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (call, draining) = (Call::of(&request), Draining::of(&request));
        let orchestrator = self.orchestrator(&call)?;
        let mut requests = request.into_inner();
        let within = Deadline::within(orchestrator.timeout());
        let by = call.deadline.map_or(within, |due| due.min(within));
        let first = tokio::select! {
            () = draining.begun() => return Err(status::draining(call.method)),
            first = timeout_at(by.instant(), requests.message()) => first.ok().transpose()?.flatten(),
        };
        let opening = parse_opening(first)?;
        let watch = orchestrator.watch(opening, by).await.map_err(failed(&call))?;
        let watching = Watching {
            watch,
            requests: Some(requests),
            call,
            draining,
        };
        // Pulled by the transport as the caller takes what comes.
        Ok(Response::new(Box::pin(stream::unfold(
            Some(watching),
            |watching| async {
                let mut watching = watching?;
                match watching.next().await {
                    Ok(told) => Some((Ok(told.into()), Some(watching))),
                    Err(status) => Some((Err(status), None)),
                }
            },
        ))))
    }
}

/// A stream in both directions.
struct Watching {
    watch: Watch,
    /// None: the caller has closed its side.
    requests: Option<Streaming<OrchestratorWatchRequest>>,
    call: Call,
    draining: Draining,
}

impl Watching {
    async fn next(&mut self) -> Result<Told, Status> {
        loop {
            let message = async {
                match &mut self.requests {
                    Some(requests) => requests.message().await,
                    None => std::future::pending().await,
                }
            };
            let message = tokio::select! {
                biased;
                () = self.draining.begun() => return Err(status::draining(self.call.method)),
                message = message => message?,
                told = self.watch.next() => {
                    return told.map_err(|_| status::too_many_keys(self.call.method));
                }
            };
            match message.map(|message| message.message) {
                Some(Some(Message::Acknowledge(acknowledge))) => {
                    let (id, key) = parse_ack(&acknowledge.ack_id)?;
                    self.watch.acknowledge(id, key);
                }
                Some(_) => return Err(status::invalid("message", "must be acknowledge after the first")),
                None => self.requests = None,
            }
        }
    }
}

fn failed(call: &Call) -> impl Fn(Error) -> Status + use<> {
    let method = call.method;
    move |error| status::redis(&error, EndpointName::Orchestrator, method)
}

fn parse_key(name: &str) -> Result<Key, Status> {
    Key::parse(name).map_err(|error| status::invalid("key", error.to_string()))
}

fn parse_new_key(name: &str) -> Result<Key, Status> {
    let key = parse_key(name)?;
    if !may_be_set(&key) {
        let expected = "must not begin or end with a slash, nor be named like what stands beside a key";
        return Err(status::invalid("key", expected));
    }
    Ok(key)
}

fn parse_prefix(prefix: &str) -> Result<Prefix, Status> {
    Prefix::parse(prefix).map_err(|error| status::invalid("prefix", error.to_string()))
}

fn parse_value(value: &[u8]) -> Result<&str, Status> {
    if value.len() > MAX_VALUE {
        let expected = format!("must be at most {MAX_VALUE} bytes, not {}", value.len());
        return Err(status::invalid("value", expected));
    }
    std::str::from_utf8(value).map_err(|_| status::invalid("value", "must be utf-8"))
}

fn parse_expiration(seconds: i64) -> Result<Option<u64>, Status> {
    if !(0..=MAX_EXPIRATION).contains(&seconds) {
        let expected = format!("must be from 0 to {MAX_EXPIRATION}");
        return Err(status::invalid("expiration_seconds", expected));
    }
    Ok((seconds > 0).then(|| seconds.unsigned_abs()))
}

fn parse_page_size(size: i32) -> Result<u64, Status> {
    match size {
        0 => Ok(PAGE.unsigned_abs().into()),
        1..=MAX_PAGE => Ok(size.unsigned_abs().into()),
        _ => Err(status::invalid("page_size", format!("must be from 0 to {MAX_PAGE}"))),
    }
}

fn parse_page_token(token: &str) -> Result<u64, Status> {
    if token.is_empty() {
        return Ok(0);
    }
    let cursor = token.parse().ok().filter(|cursor| *cursor > 0);
    cursor.ok_or_else(|| status::invalid("page_token", "must be that of the page before, or empty"))
}

fn parse_opening(first: Option<OrchestratorWatchRequest>) -> Result<Opening, Status> {
    let Some(Message::Open(open)) = first.and_then(|first| first.message) else {
        return Err(status::invalid("message", "must be open, at first and soon"));
    };
    let expiries = match Asked::try_from(open.expiries) {
        Ok(Asked::Unspecified) => Expiries::None,
        Ok(Asked::One) => Expiries::One,
        Ok(Asked::All) => Expiries::All,
        Err(_) => return Err(status::invalid("open.expiries", "must be one or all, or unspecified")),
    };
    let OrchestratorWatchOpen {
        prefix,
        snapshot,
        client_id,
        ..
    } = open;
    let prefix = Prefix::parse(&prefix).map_err(|error| status::invalid("open.prefix", error.to_string()))?;
    let client = if client_id.is_empty() {
        ClaimId::random().to_string()
    } else {
        key::check(&client_id, MAX_CLIENT).map_err(|error| status::invalid("open.client_id", error.to_string()))?;
        client_id
    };
    Ok(Opening {
        prefix,
        snapshot,
        expiries,
        client: client.into(),
    })
}

/// `claim:key`: any gateway can end it.
fn parse_ack(ack_id: &str) -> Result<(ClaimId, Key), Status> {
    let parts = ack_id.split_once(':');
    parts
        .and_then(|(id, key)| Some((ClaimId::parse(id)?, Key::parse(key).ok()?)))
        .ok_or_else(|| status::invalid("acknowledge.ack_id", "must be that of an expire"))
}

fn entry(key: &Key, value: Bytes) -> OrchestratorEntry {
    OrchestratorEntry {
        key: key.as_str().to_owned(),
        value,
    }
}

impl From<Told> for OrchestratorWatchResponse {
    fn from(told: Told) -> Self {
        let form = match told {
            Told::Confirmed(client) => Form::Confirmed(OrchestratorConfirmed {
                client_id: client.to_string(),
            }),
            Told::Entry(key, value) => Form::Entry(entry(&key, value)),
            Told::Synced => Form::Synced(OrchestratorSynced {}),
            Told::Create(key, value) => Form::Create(entry(&key, value)),
            Told::Set(key, value) => Form::Set(entry(&key, value)),
            Told::Delete(key, value) => Form::Delete(OrchestratorDeleted {
                key: key.as_str().to_owned(),
                value,
                expired: false,
            }),
            Told::Vanish(key, value) => Form::Delete(OrchestratorDeleted {
                key: key.as_str().to_owned(),
                value: Some(value),
                expired: true,
            }),
            Told::Expire(key, value, claim) => Form::Expire(OrchestratorExpired {
                ack_id: claim.map_or_else(String::new, |id| format!("{id}:{}", key.as_str())),
                key: key.as_str().to_owned(),
                value,
            }),
            Told::Gap(gap) => {
                let cause = match gap {
                    Gap::SlowReader => Cause::SlowReader,
                    Gap::ConnectionLost => Cause::ConnectionLost,
                    Gap::Overloaded => Cause::Overloaded,
                };
                Form::Gap(OrchestratorGap { cause: cause.into() })
            }
            Told::Heartbeat { lost } => {
                let degraded = if lost {
                    DegradedReason::RedisUnavailable
                } else {
                    DegradedReason::Unspecified
                };
                Form::Heartbeat(OrchestratorHeartbeat {
                    degraded: degraded.into(),
                })
            }
        };
        OrchestratorWatchResponse { event: Some(form) }
    }
}
