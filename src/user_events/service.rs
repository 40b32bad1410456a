//! The RPCs of user events: checks, one call to the store or the hub, an answer.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tonic::{Request, Response, Status, Streaming};

use super::MAX_PART;
use super::events::Events;
use super::listener::{Listener, Told};
use super::queue::{Gap, Item};
use super::store;
use crate::config::EndpointName;
use crate::deadline::Deadline;
use crate::layer::{Batch, Call, Degraded, answers};
use crate::proto::listen_gap::Cause;
use crate::proto::user_events_server::UserEvents;
use crate::proto::{
    DegradedReason, ListenGap, ListenHeartbeat, ListenOpened, ListenRequest, ListenResponse, PublishFailure,
    PublishRequest, PublishResponse, StreamPublishRequest, StreamPublishResponse, UserEvent, listen_response,
};
use crate::redis::Error;
use crate::{json, key, status};

/// The most events of one listener.
const MAX_EVENTS: usize = 100;
/// The most events of one batch.
const MAX_BATCH: usize = 1_000;
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

    fn events(&self, call: &Call) -> Result<&Arc<Events>, Status> {
        self.events
            .as_ref()
            .ok_or_else(|| status::not_configured(EndpointName::UserEvents, call.method))
    }
}

#[tonic::async_trait]
impl UserEvents for Service {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let call = Call::of(&request);
        let event = parse_event("", &request.into_inner())?;
        let published = self.events(&call)?.store.publish(event, call.due()).await;
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

    type StreamPublishStream = Pin<Box<dyn Stream<Item = Result<StreamPublishResponse, Status>> + Send>>;

    async fn stream_publish(
        &self,
        request: Request<Streaming<StreamPublishRequest>>,
    ) -> Result<Response<Self::StreamPublishStream>, Status> {
        let events = self.events(&Call::of(&request))?.clone();
        let timeout = events.store.timeout();
        let answers = answers(request, timeout, move |batch, by| {
            publish_batch(events.clone(), batch, by)
        });
        Ok(Response::new(Box::pin(answers)))
    }

    type ListenStream = Pin<Box<dyn Stream<Item = Result<ListenResponse, Status>> + Send>>;

    async fn listen(&self, request: Request<ListenRequest>) -> Result<Response<Self::ListenStream>, Status> {
        let call = Call::of(&request);
        let ListenRequest { username, event_ids } = request.into_inner();
        parse_part("", "username", &username)?;
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

impl Batch for StreamPublishRequest {
    type Answer = StreamPublishResponse;

    fn number(&self) -> u64 {
        self.number
    }

    fn last(number: u64) -> StreamPublishResponse {
        StreamPublishResponse {
            number,
            ..Default::default()
        }
    }

    fn degraded(answer: &StreamPublishResponse) -> DegradedReason {
        answer.failures.first().map(PublishFailure::reason).unwrap_or_default()
    }
}

/// Publishes a batch by `by`.
async fn publish_batch(
    events: Arc<Events>,
    batch: StreamPublishRequest,
    by: Deadline,
) -> Result<StreamPublishResponse, Status> {
    let published = events.store.publish_all(parse_batch(&batch.events)?, by).await;
    let failure = |(index, result): (i32, &Result<i64, Error>)| {
        let reason = status::degraded(result.as_ref().err()?).into();
        Some(PublishFailure { index, reason })
    };
    Ok(StreamPublishResponse {
        number: batch.number,
        failures: (0..).zip(&published).filter_map(failure).collect(),
        receivers: published.into_iter().map(Result::unwrap_or_default).collect(),
    })
}

fn parse_batch(events: &[PublishRequest]) -> Result<Vec<store::Event>, Status> {
    if !(1..=MAX_BATCH).contains(&events.len()) {
        let expected = format!("must be from 1 to {MAX_BATCH} events, not {}", events.len());
        return Err(status::invalid("events", expected));
    }
    (0..)
        .zip(events)
        .map(|(n, event)| parse_event(&format!("events[{n}]."), event))
        .collect()
}

fn parse_event(at: &str, event: &PublishRequest) -> Result<store::Event, Status> {
    parse_part(at, "username", &event.username)?;
    parse_part(at, "event_id", &event.event_id)?;
    Ok(store::Event {
        payload: parse_payload(at, &event.payload)?,
        channel: store::channel(&event.username, &event.event_id),
    })
}

fn parse_part(at: &str, field: &str, part: &str) -> Result<(), Status> {
    key::check(part, MAX_PART).map_err(|error| invalid(at, field, error.to_string()))
}

fn parse_payload(at: &str, payload: &[u8]) -> Result<Bytes, Status> {
    let json = json::normalize(payload).map_err(|error| invalid(at, "payload", error.to_string()))?;
    if json.len() > MAX_PAYLOAD {
        let expected = format!(
            "must be at most {MAX_PAYLOAD} bytes in the form of python's json.dumps, not {}",
            json.len()
        );
        return Err(invalid(at, "payload", expected));
    }
    Ok(json.into())
}

fn invalid(at: &str, field: &str, expected: impl Into<String>) -> Status {
    status::invalid(format!("{at}{field}"), expected)
}

fn parse_events(ids: Vec<String>) -> Result<Vec<String>, Status> {
    if !(1..=MAX_EVENTS).contains(&ids.len()) {
        let expected = format!("must be from 1 to {MAX_EVENTS} events, not {}", ids.len());
        return Err(status::invalid("event_ids", expected));
    }
    for (n, id) in ids.iter().enumerate() {
        parse_part("", &format!("event_ids[{n}]"), id)?;
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
