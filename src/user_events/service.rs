//! The RPCs of user events: checks, one call to the store or the hub, an answer.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tonic::{Request, Response, Status};

use super::MAX_PART;
use super::events::Events;
use super::listener::{Listener, Told};
use super::queue::{Gap, Item};
use super::store;
use crate::config::EndpointName;
use crate::deadline::Deadline;
use crate::layer::{Call, Degraded};
use crate::proto::listen_gap::Cause;
use crate::proto::user_events_server::UserEvents;
use crate::proto::{
    DegradedReason, ListenGap, ListenHeartbeat, ListenOpened, ListenRequest, ListenResponse, PublishRequest,
    PublishResponse, UserEvent, listen_response,
};
use crate::{json, key, status};

/// The most events of one listener.
const MAX_EVENTS: usize = 100;
/// The longest payload in the form in which it is published, in bytes.
const MAX_PAYLOAD: usize = 1 << 20;

/// The `redisgateway.v1.UserEvents` service.
pub struct Service {
    events: Option<Arc<Events>>,
}

impl Service {
    /// A service on `events`; without them every call is answered `NOT_CONFIGURED`.
    pub fn new(events: Option<Arc<Events>>) -> Self {
        Service { events }
    }

    fn events(&self, call: &Call) -> Result<&Events, Status> {
        self.events
            .as_deref()
            .ok_or_else(|| status::not_configured(EndpointName::UserEvents, call.method))
    }
}

#[tonic::async_trait]
impl UserEvents for Service {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let call = Call::of(&request);
        let PublishRequest {
            username,
            event_id,
            payload,
        } = request.into_inner();
        parse_part("username", &username)?;
        parse_part("event_id", &event_id)?;
        let payload = parse_payload(&payload)?;
        let channel = store::channel(&username, &event_id);
        let published = self.events(&call)?.store.publish(channel, payload, call.due()).await;
        let degraded = published.as_ref().err().map(status::degraded);
        let mut response = Response::new(PublishResponse {
            receivers: published.unwrap_or_default(),
            degraded: degraded.unwrap_or_default().into(),
        });
        if let Some(reason) = degraded {
            response.extensions_mut().insert(Degraded(reason));
        }
        Ok(response)
    }

    type ListenStream = Pin<Box<dyn Stream<Item = Result<ListenResponse, Status>> + Send>>;

    async fn listen(&self, request: Request<ListenRequest>) -> Result<Response<Self::ListenStream>, Status> {
        let call = Call::of(&request);
        let ListenRequest { username, event_ids } = request.into_inner();
        parse_part("username", &username)?;
        let event_ids = parse_events(event_ids)?;
        let events = self.events(&call)?;
        let timeout = events.store.timeout();
        let by = call
            .deadline
            .map_or_else(|| Deadline::within(timeout), |due| due.capped(timeout));
        let listener = Listener::open(&events.hub, &username, event_ids, events.heartbeat, by).await;
        let listener = listener.map_err(|error| status::redis(&error, EndpointName::UserEvents, call.method))?;
        let opened = listen_response::Item::Opened(ListenOpened {});
        let opened = stream::once(std::future::ready(Ok(ListenResponse { item: Some(opened) })));
        // Pulled by the transport as the caller takes what comes.
        let told = stream::unfold(listener, |mut listener| async {
            let told = listener.next().await;
            Some((Ok(answer(told, &listener)), listener))
        });
        Ok(Response::new(Box::pin(opened.chain(told))))
    }
}

fn parse_part(field: &str, part: &str) -> Result<(), Status> {
    key::check(part, MAX_PART).map_err(|error| status::invalid(field, error.to_string()))
}

fn parse_payload(payload: &[u8]) -> Result<Bytes, Status> {
    let json = json::normalize(payload).map_err(|error| status::invalid("payload", error.to_string()))?;
    if json.len() > MAX_PAYLOAD {
        let expected = format!(
            "must be at most {MAX_PAYLOAD} bytes in the form of python's json.dumps, not {}",
            json.len()
        );
        return Err(status::invalid("payload", expected));
    }
    Ok(json.into())
}

fn parse_events(ids: Vec<String>) -> Result<Vec<String>, Status> {
    if !(1..=MAX_EVENTS).contains(&ids.len()) {
        let expected = format!("must be from 1 to {MAX_EVENTS} events, not {}", ids.len());
        return Err(status::invalid("event_ids", expected));
    }
    for (n, id) in ids.iter().enumerate() {
        parse_part(&format!("event_ids[{n}]"), id)?;
    }
    let once: BTreeSet<String> = ids.into_iter().collect();
    Ok(once.into_iter().collect())
}

fn answer(told: Told, listener: &Listener) -> ListenResponse {
    use listen_response::Item as Form;
    let form = match told {
        Told::Item(Item::Event { event, payload }) => Form::Event(UserEvent {
            event_id: listener.event(event).to_owned(),
            payload,
        }),
        Told::Item(Item::Gap(gap)) => {
            let (cause, dropped) = match gap {
                Gap::SlowReader(dropped) => (Cause::SlowReader, dropped),
                Gap::ConnectionLost => (Cause::ConnectionLost, 0),
                Gap::Overloaded(dropped) => (Cause::Overloaded, dropped),
            };
            Form::Gap(ListenGap {
                cause: cause.into(),
                dropped,
            })
        }
        Told::Heartbeat { lost } => {
            let degraded = if lost {
                DegradedReason::RedisUnavailable
            } else {
                DegradedReason::Unspecified
            };
            Form::Heartbeat(ListenHeartbeat {
                degraded: degraded.into(),
            })
        }
    };
    ListenResponse { item: Some(form) }
}
