//! Subscriptions: many channels over one connection that carries nothing else, confirmed, made again after a loss, and told
//! of as a gap wherever messages may be missing.

use std::collections::HashSet;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use fred::types::{Message, Value};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::connection::{Connection, Role};
use super::error::{Error, Reply};
use crate::config;
use crate::deadline::Deadline;

/// Events that a receiver may be behind by; then it loses its oldest and is told how many, as `Lagged`.
const EVENT_BUFFER: usize = 16_384;
/// Requests in line; callers wait for a place until their deadline.
const REQUEST_BUFFER: usize = 1_024;
/// Channels taken up again in one `SUBSCRIBE`.
const RESUBSCRIBE_CHUNK: usize = 1_000;
/// The wait before another attempt to connect. Listeners already know of the gap.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);

/// What a subscriber hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something was published.
    Message {
        /// The channel's name.
        channel: Bytes,
        /// The payload.
        payload: Bytes,
    },
    /// The connection was lost and the channels are subscribed to again: what was published in between is missing.
    Reconnected,
    /// The gateway was too slow for the connection: so many messages are missing.
    Dropped(u64),
}

/// The subscriptions of an endpoint. Its task, and with it the connection, ends when it is dropped.
pub struct Subscriber {
    requests: mpsc::Sender<Request>,
    events: broadcast::Sender<Event>,
    _task: AbortOnDropHandle<()>,
}

struct Request {
    channel: Bytes,
    wanted: bool,
    deadline: Deadline,
    answer: oneshot::Sender<Result<(), Error>>,
}

impl Subscriber {
    pub(super) fn open(endpoint: &'static str, config: config::Endpoint) -> Self {
        let (requests, taken) = mpsc::channel(REQUEST_BUFFER);
        let (events, _) = broadcast::channel(EVENT_BUFFER);
        let task = Task {
            endpoint,
            config,
            events: events.clone(),
            channels: HashSet::new(),
            connection: None,
            gap: false,
        };
        Subscriber {
            requests,
            events,
            _task: AbortOnDropHandle::new(tokio::spawn(task.run(taken))),
        }
    }

    /// What is heard from now on, on all channels.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Subscribes to a channel: once this answers, Redis has confirmed it.
    pub async fn subscribe(&self, channel: Bytes, deadline: Deadline) -> Result<(), Error> {
        self.request(channel, true, deadline).await
    }

    /// Ends a subscription.
    pub async fn unsubscribe(&self, channel: Bytes, deadline: Deadline) -> Result<(), Error> {
        self.request(channel, false, deadline).await
    }

    async fn request(&self, channel: Bytes, wanted: bool, deadline: Deadline) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let ask = async {
            // The task lives as long as this subscriber.
            let request = Request {
                channel,
                wanted,
                deadline,
                answer,
            };
            self.requests.send(request).await.map_err(|_| Error::Unavailable)?;
            answered.await.unwrap_or(Err(Error::Unavailable))
        };
        tokio::time::timeout_at(deadline.instant(), ask)
            .await
            .unwrap_or(Err(Error::Timeout))
    }
}

/// A connection and what comes in on it.
struct Live {
    connection: Connection,
    messages: broadcast::Receiver<Message>,
}

struct Task {
    endpoint: &'static str,
    config: config::Endpoint,
    events: broadcast::Sender<Event>,
    /// What is subscribed to on the connection that there is, or will be on the next one.
    channels: HashSet<Bytes>,
    connection: Option<Live>,
    /// Whether a loss has not been told yet: it is told when the channels are subscribed to again.
    gap: bool,
}

enum Happened {
    Request(Option<Request>),
    Message(Result<Message, broadcast::error::RecvError>),
    Dead(&'static str),
    Retry,
}

impl Task {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            let happened = {
                let Task {
                    connection,
                    config,
                    channels,
                    ..
                } = &mut self;
                let lost = connection.is_none() && !channels.is_empty();
                let (dead, message) = match connection {
                    Some(live) => (Some(live.connection.dead(config)), Some(live.messages.recv())),
                    None => (None, None),
                };
                tokio::select! {
                    message = or_never(message) => Happened::Message(message),
                    request = requests.recv() => Happened::Request(request),
                    cause = or_never(dead) => Happened::Dead(cause),
                    () = tokio::time::sleep(RECONNECT_DELAY), if lost => Happened::Retry,
                }
            };
            match happened {
                Happened::Request(None) => return,
                Happened::Request(Some(request)) => self.take(request).await,
                Happened::Message(Ok(message)) => self.hear(message),
                Happened::Message(Err(broadcast::error::RecvError::Lagged(missed))) => {
                    self.tell(Event::Dropped(missed));
                }
                Happened::Message(Err(broadcast::error::RecvError::Closed)) => self.lose("lost"),
                Happened::Dead(cause) => self.lose(cause),
                Happened::Retry => {
                    // Tried again after the delay, for as long as a channel is wanted.
                    drop(self.connected().await);
                }
            }
        }
    }

    async fn take(&mut self, request: Request) {
        let Request {
            channel,
            wanted,
            deadline,
            mut answer,
        } = request;
        let result = tokio::select! {
            result = self.change(&channel, wanted, deadline) => result,
            // Its caller is gone, and nobody is to wait behind it.
            () = answer.closed() => Err(Error::Timeout),
        };
        match &result {
            Ok(()) if wanted => drop(self.channels.insert(channel)),
            Ok(()) => drop(self.channels.remove(&channel)),
            // The connection is as it was.
            Err(Error::Reply(Reply::Denied(_))) => {}
            // Whether it is subscribed to is not known: a new connection knows.
            Err(_) => self.lose("lost"),
        }
        // The caller may have gone away meanwhile.
        drop(answer.send(result));
    }

    async fn change(&mut self, channel: &Bytes, wanted: bool, deadline: Deadline) -> Result<(), Error> {
        let held = self.channels.contains(channel);
        if !wanted && !held {
            return Ok(());
        }
        let channels = self.channels.len();
        let connected = tokio::time::timeout_at(deadline.instant(), self.connected());
        let live = connected.await.unwrap_or(Err(Error::Timeout))?;
        match (wanted, held) {
            // The connection has it, or has just been made with it.
            (true, true) => Ok(()),
            (true, false) => {
                let channel = std::slice::from_ref(channel);
                live.connection.subscribe(channel, channels + 1, deadline).await
            }
            (false, _) => live.connection.unsubscribe(channel, channels - 1, deadline).await,
        }
    }

    /// The connection, made anew with all channels if there is none.
    async fn connected(&mut self) -> Result<&Live, Error> {
        if self.connection.is_none() {
            let server = &self.config.server;
            let connection = Connection::open(server, &self.config, Role::Subscriber)
                .await
                .map_err(|_| Error::Unavailable)?;
            let messages = connection.messages();
            let channels: Vec<Bytes> = self.channels.iter().cloned().collect();
            let mut subscribed = 0;
            for chunk in channels.chunks(RESUBSCRIBE_CHUNK) {
                subscribed += chunk.len();
                let deadline = Deadline::within(self.config.command_timeout);
                connection.subscribe(chunk, subscribed, deadline).await?;
            }
            self.connection = Some(Live { connection, messages });
            if std::mem::take(&mut self.gap) {
                self.tell(Event::Reconnected);
            }
        }
        self.connection.as_ref().ok_or(Error::Unavailable)
    }

    fn lose(&mut self, cause: &'static str) {
        if self.connection.take().is_some() && !self.channels.is_empty() {
            self.gap = true;
            tracing::warn!(
                endpoint = self.endpoint,
                cause,
                "replacing the subscription connection to redis"
            );
        }
    }

    fn hear(&self, message: Message) {
        let channel = Bytes::copy_from_slice(message.channel.as_bytes());
        let payload = match message.value {
            Value::Bytes(bytes) => bytes,
            Value::String(text) => text.into_inner(),
            // Redis publishes strings alone.
            _ => return,
        };
        self.tell(Event::Message { channel, payload });
    }

    fn tell(&self, event: Event) {
        // Nobody may be listening just now.
        drop(self.events.send(event));
    }
}

/// The future's output, or nothing ever.
async fn or_never<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
