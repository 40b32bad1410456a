//! The RPCs of locks: checks, one call to the desk, an answer.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status};

use super::desk::{Acquired, Locks};
use super::hold::{Event, Opening};
use super::keeper::Cause;
use super::store::{Held, Refused, Want};
use super::{Holder, Name, Session, Ttl};
use crate::config::EndpointName;
use crate::layer::Call;
use crate::proto::hold_lost::Cause as LostCause;
use crate::proto::hold_response::Event as Form;
use crate::proto::locks_server::Locks as Rpcs;
use crate::proto::{
    AcquireRequest, AcquireResponse, HoldAcquired, HoldBusy, HoldLost, HoldRenewed, HoldRequest, HoldResponse,
    HoldWaiting, LocksGetRequest, LocksGetResponse, ReleaseRequest, ReleaseResponse, RenewRequest, RenewResponse,
    ResetRequest, ResetResponse,
};
use crate::redis::Error;
use crate::status;

/// A lock's time to live at most, in milliseconds: a day. The longest wait of a stream too.
const MAX_TTL: i64 = 86_400_000;
/// The least time to live of a lock that is kept: time enough to renew it.
const MIN_KEPT: i64 = 1_000;
/// The longest wait of a call, in milliseconds.
const MAX_WAIT: i64 = 3_600_000;

/// The `redisgateway.v1.Locks` service.
pub struct Service {
    locks: Option<Arc<Locks>>,
}

impl Service {
    /// A service on `locks`; without them every call is answered `NOT_CONFIGURED`.
    pub fn new(locks: Option<Arc<Locks>>) -> Self {
        Service { locks }
    }

    fn locks(&self, call: &Call) -> Result<&Locks, Status> {
        self.locks
            .as_deref()
            .ok_or_else(|| status::not_configured(EndpointName::UserEvents, call.method))
    }
}

#[tonic::async_trait]
impl Rpcs for Service {
    async fn acquire(&self, request: Request<AcquireRequest>) -> Result<Response<AcquireResponse>, Status> {
        let call = Call::of(&request);
        let (want, patience) = parse_acquire(&request.into_inner())?;
        let locks = self.locks(&call)?;
        let until = call.due().capped(patience).instant();
        let acquired = locks.acquire(want, until, call.due()).await;
        match acquired.map_err(failed(locks, &call))? {
            Acquired::Draining => Err(status::draining(call.method)),
            acquired => Ok(Response::new(acquired.into())),
        }
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        let call = Call::of(&request);
        let ReleaseRequest { name, holder_id } = request.into_inner();
        let (name, holder) = (parse_name(&name)?, parse_holder(&holder_id)?);
        let locks = self.locks(&call)?;
        let released = locks.release(&name, &holder, call.due()).await;
        if released.map_err(failed(locks, &call))? {
            Ok(Response::new(ReleaseResponse {}))
        } else {
            Err(status::lock_lost(call.method))
        }
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let call = Call::of(&request);
        let RenewRequest {
            name,
            holder_id,
            ttl_ms,
        } = request.into_inner();
        let (name, holder) = (parse_name(&name)?, parse_holder(&holder_id)?);
        let ttl = parse_millis("ttl_ms", ttl_ms, 1, MAX_TTL)?;
        let locks = self.locks(&call)?;
        let renewed = locks.renew(&name, &holder, Ttl::of_millis(ttl), call.due()).await;
        match renewed.map_err(failed(locks, &call))? {
            Ok(()) => Ok(Response::new(RenewResponse {})),
            Err(Refused::NoTtl) => Err(status::no_ttl(call.method)),
            Err(_) => Err(status::lock_lost(call.method)),
        }
    }

    async fn reset(&self, request: Request<ResetRequest>) -> Result<Response<ResetResponse>, Status> {
        let call = Call::of(&request);
        let ResetRequest { name: lock } = request.into_inner();
        let name = parse_name(&lock)?;
        let locks = self.locks(&call)?;
        let held = locks.reset(&name, call.due()).await;
        // With the name, though it is part of a key: by that it is asked who took a lock.
        match &held {
            Ok(held) => tracing::warn!(caller = %call.caller, lock, held, "a lock was released by force"),
            Err(error) => tracing::warn!(caller = %call.caller, lock, %error, "a lock was to be released by force"),
        }
        let held = held.map_err(failed(locks, &call))?;
        Ok(Response::new(ResetResponse { held }))
    }

    async fn get(&self, request: Request<LocksGetRequest>) -> Result<Response<LocksGetResponse>, Status> {
        let call = Call::of(&request);
        let name = parse_name(&request.into_inner().name)?;
        let locks = self.locks(&call)?;
        let (held, waiters) = locks.get(&name, call.due()).await.map_err(failed(locks, &call))?;
        let waiters = i64::try_from(waiters).unwrap_or(i64::MAX);
        Ok(Response::new(LocksGetResponse {
            waiters,
            ..held.map(Into::into).unwrap_or_default()
        }))
    }

    type HoldStream = Pin<Box<dyn Stream<Item = Result<HoldResponse, Status>> + Send>>;

    async fn hold(&self, request: Request<HoldRequest>) -> Result<Response<Self::HoldStream>, Status> {
        let call = Call::of(&request);
        let mut opening = parse_hold(&request.into_inner())?;
        opening.by = call.deadline;
        let locks = self.locks(&call)?;
        let failed = failed(locks, &call);
        let holding = locks.hold(opening).await.map_err(&failed)?;
        // Pulled by the transport as the caller takes what comes; the lock is waited for and renewed all the same.
        Ok(Response::new(Box::pin(stream::unfold(
            (holding, failed),
            |(mut holding, failed)| async {
                let event = holding.next().await?;
                Some((event.map(Into::into).map_err(&failed), (holding, failed)))
            },
        ))))
    }
}

fn failed(locks: &Locks, call: &Call) -> impl Fn(Error) -> Status + Send + Sync + use<> {
    let (endpoint, method) = (locks.endpoint(), call.method);
    move |error| status::redis(&error, endpoint, method)
}

fn parse_name(name: &str) -> Result<Name, Status> {
    Name::parse(name).map_err(|error| status::invalid("name", error.to_string()))
}

fn parse_holder(id: &str) -> Result<Holder, Status> {
    Holder::parse(id).map_err(|error| status::invalid("holder_id", error.to_string()))
}

fn parse_millis(field: &str, millis: i64, least: i64, most: i64) -> Result<u64, Status> {
    if !(least..=most).contains(&millis) {
        return Err(status::invalid(field, format!("must be from {least} to {most}")));
    }
    Ok(millis.unsigned_abs())
}

fn parse_acquire(request: &AcquireRequest) -> Result<(Want, Duration), Status> {
    let holder = if request.holder_id.is_empty() {
        Holder::random()
    } else {
        let expected = "must be 24 characters of base64, or empty";
        Holder::parse_new(&request.holder_id).ok_or_else(|| status::invalid("holder_id", expected))?
    };
    let want = Want {
        name: parse_name(&request.name)?,
        holder,
        ttl: Ttl::of_millis(parse_millis("ttl_ms", request.ttl_ms, 0, MAX_TTL)?),
        session: Session::random(),
    };
    let patience = parse_millis("wait_ms", request.wait_ms, 0, MAX_WAIT)?;
    Ok((want, Duration::from_millis(patience)))
}

fn parse_hold(request: &HoldRequest) -> Result<Opening, Status> {
    let (holder, taken_up) = match (request.holder_id.as_str(), request.fencing_token) {
        ("", 0) => (Holder::random(), None),
        (id, token) if !id.is_empty() && token > 0 => (parse_holder(id)?, Some(token)),
        _ => {
            let expected = "must be that of the acquisition whose holder_id is given, or 0 without one";
            return Err(status::invalid("fencing_token", expected));
        }
    };
    let want = Want {
        name: parse_name(&request.name)?,
        holder,
        ttl: Ttl::of_millis(parse_millis("ttl_ms", request.ttl_ms, MIN_KEPT, MAX_TTL)?),
        session: Session::random(),
    };
    let patience = parse_millis("wait_ms", request.wait_ms, 0, MAX_TTL)?;
    let grace = parse_millis("grace_ms", request.grace_ms, 0, request.ttl_ms)?;
    Ok(Opening {
        want,
        patience: Duration::from_millis(patience),
        grace: Duration::from_millis(grace),
        taken_up,
        by: None,
    })
}

fn millis(left: Option<Duration>) -> Option<i64> {
    left.map(|left| i64::try_from(left.as_millis()).unwrap_or(i64::MAX))
}

impl From<Acquired> for AcquireResponse {
    fn from(acquired: Acquired) -> Self {
        match acquired {
            Acquired::Held { holder, token, left } => AcquireResponse {
                acquired: true,
                holder_id: holder.0.to_string(),
                fencing_token: token,
                remaining_ms: millis(left),
            },
            Acquired::Busy(left) => AcquireResponse {
                remaining_ms: millis(left),
                ..AcquireResponse::default()
            },
            Acquired::Draining => AcquireResponse::default(),
        }
    }
}

impl From<Held> for LocksGetResponse {
    fn from(held: Held) -> Self {
        LocksGetResponse {
            held: true,
            holder_id: held.holder,
            fencing_token: held.record.map_or(0, |record| record.token),
            remaining_ms: millis(held.left),
            acquired_at_ms: held.record.map(|record| record.at),
            waiters: 0,
        }
    }
}

impl From<Event> for HoldResponse {
    fn from(event: Event) -> Self {
        let form = match event {
            Event::Waiting => Form::Waiting(HoldWaiting {}),
            Event::Acquired { holder, token } => Form::Acquired(HoldAcquired {
                holder_id: holder.0.to_string(),
                fencing_token: token,
            }),
            Event::Renewed => Form::Renewed(HoldRenewed {}),
            Event::Lost(cause) => Form::Lost(HoldLost {
                cause: LostCause::from(cause).into(),
            }),
            Event::Busy => Form::Busy(HoldBusy {}),
        };
        HoldResponse { event: Some(form) }
    }
}

impl From<Cause> for LostCause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Gone => LostCause::Gone,
            Cause::Taken => LostCause::Taken,
            Cause::Unknown => LostCause::Unknown,
            Cause::TakenUp => LostCause::TakenUp,
        }
    }
}
