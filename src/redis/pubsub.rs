//! Subscriptions: many channels over one connection that carries nothing else, confirmed, made again after a loss, and told
//! of as a gap wherever messages may be missing.

use std::collections::HashMap;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use fred::types::{KeyspaceEvent, Message};
use prometheus::IntCounter;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::beside::Count;
use super::connection::{Connection, Kind, Role};
use super::error::{Error, Reply};
use super::event::Event;
use super::replication::Watch;
use crate::config;
use crate::deadline::Deadline;

/// Events that a receiver may be behind by; then it loses its oldest and is told how many, as `Lagged`.
const EVENT_BUFFER: usize = 16_384;
/// Requests in line; callers wait for a place until their deadline.
const REQUEST_BUFFER: usize = 1_024;
/// Messages in a row, before requests have their turn. One a turn would be slower than Redis publishes.
const BURST: usize = 256;
/// Channels taken up again in one `SUBSCRIBE`.
const RESUBSCRIBE_CHUNK: usize = 1_000;
/// The wait before another attempt to connect. Listeners already know of the gap.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);

/// The server for the next connection.
type ServerToday = Box<dyn Fn() -> config::Server + Send>;

/// The subscriptions of an endpoint. Its task, and with it the connection, ends when it is dropped.
pub struct Subscriber {
    requests: mpsc::Sender<Request>,
    events: broadcast::Sender<Event>,
    _task: AbortOnDropHandle<()>,
}

enum Request {
    Subscribe(Wanted),
    Mark(u64),
}

struct Wanted {
    topic: Topic,
    deadline: Deadline,
    answer: oneshot::Sender<Result<Subscription, Error>>,
}

type Topic = (Kind, Bytes);

/// One of the subscriptions to a channel or a pattern. Redis is told to end it when the last of them is dropped.
#[derive(Debug)]
pub struct Subscription {
    topic: Topic,
    ended: mpsc::UnboundedSender<Topic>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // The subscriber may have ended before.
        let (kind, name) = (self.topic.0, std::mem::take(&mut self.topic.1));
        drop(self.ended.send((kind, name)));
    }
}

impl Subscriber {
    pub(super) fn open(
        endpoint: &'static str,
        config: config::Endpoint,
        count: Count,
        server: ServerToday,
        lost: IntCounter,
    ) -> Self {
        let (requests, taken) = mpsc::channel(REQUEST_BUFFER);
        let (events, _) = broadcast::channel(EVENT_BUFFER);
        #[expect(
            clippy::disallowed_methods,
            reason = "holds at most one entry for each subscription that there was"
        )]
        let (ended, ends) = mpsc::unbounded_channel();
        let task = Task {
            endpoint,
            config,
            count,
            server,
            events: events.clone(),
            channels: HashMap::new(),
            patterns: HashMap::new(),
            ended,
            connection: None,
            gap: false,
            lost,
        };
        Subscriber {
            requests,
            events,
            _task: AbortOnDropHandle::new(tokio::spawn(task.run(taken, ends))),
        }
    }

    /// What is heard from now on, on all channels.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Subscribes to a channel, or takes part in its subscription: once this answers, Redis has confirmed it.
    pub async fn subscribe(&self, channel: Bytes, deadline: Deadline) -> Result<Subscription, Error> {
        self.ask((Kind::Channel, channel), deadline).await
    }

    /// The same for all channels whose names match a glob pattern.
    pub async fn subscribe_pattern(&self, pattern: Bytes, deadline: Deadline) -> Result<Subscription, Error> {
        self.ask((Kind::Pattern, pattern), deadline).await
    }

    /// Asks for [`Event::Mark`].
    pub async fn mark(&self, number: u64) {
        // The task lives as long as this subscriber.
        drop(self.requests.send(Request::Mark(number)).await);
    }

    async fn ask(&self, topic: Topic, deadline: Deadline) -> Result<Subscription, Error> {
        let (answer, answered) = oneshot::channel();
        let ask = async {
            // The task lives as long as this subscriber.
            let request = Request::Subscribe(Wanted {
                topic,
                deadline,
                answer,
            });
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
    notifications: broadcast::Receiver<KeyspaceEvent>,
}

struct Task {
    endpoint: &'static str,
    config: config::Endpoint,
    count: Count,
    server: ServerToday,
    events: broadcast::Sender<Event>,
    /// What is subscribed to on the connection that there is, or will be on the next one, and how often.
    channels: HashMap<Bytes, usize>,
    patterns: HashMap<Bytes, usize>,
    ended: mpsc::UnboundedSender<Topic>,
    connection: Option<Live>,
    /// Whether a loss has not been told yet: it is told when the channels are subscribed to again.
    gap: bool,
    /// Counts the losses.
    lost: IntCounter,
}

enum Happened {
    Request(Option<Request>),
    Ended(Option<Topic>),
    Heard(Result<Option<Event>, RecvError>),
    Dead(&'static str),
    Retry,
}

impl Task {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>, mut ends: mpsc::UnboundedReceiver<Topic>) {
        loop {
            let happened = {
                let Task {
                    connection,
                    config,
                    channels,
                    patterns,
                    ..
                } = &mut self;
                let lost = connection.is_none() && !(channels.is_empty() && patterns.is_empty());
                let (dead, message, notification) = match connection {
                    Some(live) => (
                        Some(live.connection.dead(config, &Watch::Nothing)),
                        Some(live.messages.recv()),
                        Some(live.notifications.recv()),
                    ),
                    None => (None, None, None),
                };
                tokio::select! {
                    message = or_never(message) => Happened::Heard(message.map(Event::of)),
                    event = or_never(notification) => Happened::Heard(event.map(Event::of_key).map(Some)),
                    request = requests.recv() => Happened::Request(request),
                    topic = ends.recv() => Happened::Ended(topic),
                    cause = or_never(dead) => Happened::Dead(cause),
                    () = tokio::time::sleep(RECONNECT_DELAY), if lost => Happened::Retry,
                }
            };
            match happened {
                Happened::Request(None) | Happened::Ended(None) => return,
                Happened::Request(Some(Request::Subscribe(wanted))) => self.take(wanted).await,
                Happened::Request(Some(Request::Mark(number))) => self.mark(number).await,
                Happened::Ended(Some(topic)) => self.end(topic).await,
                Happened::Heard(Ok(event)) => {
                    self.tell(event);
                    (1..BURST).take_while(|_| self.hear_next()).for_each(drop);
                }
                Happened::Heard(Err(RecvError::Lagged(missed))) => self.tell(Event::Dropped(missed)),
                Happened::Heard(Err(RecvError::Closed)) => self.lose("lost"),
                Happened::Dead(cause) => self.lose(cause),
                // Tried again after the delay, for as long as a channel is wanted.
                Happened::Retry => drop(self.connected().await),
            }
        }
    }

    async fn take(&mut self, wanted: Wanted) {
        let Wanted {
            topic,
            deadline,
            answer,
        } = wanted;
        let result = self.subscribe(&topic, deadline).await;
        match &result {
            Ok(()) => *self.topics(topic.0).entry(topic.1.clone()).or_default() += 1,
            // The connection is as it was.
            Err(Error::Reply(Reply::Denied(_))) => {}
            // Whether it is subscribed to is not known: a new connection knows.
            Err(_) => self.lose("lost"),
        }
        let ended = self.ended.clone();
        // If the caller has gone away meanwhile, its subscription ends with the answer.
        drop(answer.send(result.map(|()| Subscription { topic, ended })));
    }

    async fn subscribe(&mut self, topic: &Topic, deadline: Deadline) -> Result<(), Error> {
        let (kind, name) = topic;
        let topics = self.topics(*kind);
        let (held, total) = (topics.contains_key(name), topics.len() + 1);
        let connected = tokio::time::timeout_at(deadline.instant(), self.connected());
        connected.await.unwrap_or(Err(Error::Timeout))?;
        let Some(live) = &self.connection else {
            return Err(Error::Unavailable);
        };
        if held {
            // The connection has it, or has just been made with it.
            return Ok(());
        }
        // Not the caller's deadline: one that is in a hurry, or gone, must not cost all others the connection.
        let name = std::slice::from_ref(name);
        live.connection.subscribe(*kind, name, total, self.notice()).await
    }

    /// Tells that all that was published before has been told.
    async fn mark(&mut self, number: u64) {
        // Without a connection, that it is there again is what is told.
        let Some(live) = &self.connection else { return };
        if !matches!(live.connection.echoes(self.notice()).await, Ok(true)) {
            return self.lose("lost");
        }
        while self.hear_next() {}
        self.tell(Event::Mark(number));
    }

    /// Ends one of the subscriptions to a topic, and with the last of them Redis' own.
    async fn end(&mut self, topic: Topic) {
        let (kind, name) = topic;
        let topics = self.topics(kind);
        let Some(count) = topics.get_mut(&name) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        topics.remove(&name);
        let total = topics.len();
        let Some(live) = &self.connection else { return };
        let deadline = Deadline::within(self.config.command_timeout);
        let ended = live.connection.unsubscribe(kind, &name, total, deadline).await;
        if ended.is_err_and(|error| !matches!(error, Error::Reply(Reply::Denied(_)))) {
            self.lose("lost");
        }
    }

    fn topics(&mut self, kind: Kind) -> &mut HashMap<Bytes, usize> {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
        }
    }

    /// Within this time a dead connection would be noticed.
    fn notice(&self) -> Deadline {
        Deadline::within(self.config.probe_interval + 2 * self.config.probe_timeout)
    }

    /// The connection, made anew with all channels if there is none.
    async fn connected(&mut self) -> Result<(), Error> {
        if self.connection.is_none() {
            let connection = Connection::open(&(self.server)(), &self.config, Role::Subscriber)
                .await
                .map_err(|_| Error::Unavailable)?
                .counted(&self.count);
            let (messages, notifications) = (connection.messages(), connection.notifications());
            for kind in [Kind::Channel, Kind::Pattern] {
                let names: Vec<Bytes> = self.topics(kind).keys().cloned().collect();
                let mut subscribed = 0;
                for chunk in names.chunks(RESUBSCRIBE_CHUNK) {
                    subscribed += chunk.len();
                    let deadline = Deadline::within(self.config.command_timeout);
                    connection.subscribe(kind, chunk, subscribed, deadline).await?;
                }
            }
            self.connection = Some(Live {
                connection,
                messages,
                notifications,
            });
            if std::mem::take(&mut self.gap) {
                self.tell(Event::Reconnected);
            }
        }
        Ok(())
    }

    fn lose(&mut self, cause: &'static str) {
        if self.connection.take().is_some() && !(self.channels.is_empty() && self.patterns.is_empty()) {
            self.gap = true;
            self.lost.inc();
            self.tell(Event::Lost);
            tracing::warn!(
                endpoint = self.endpoint,
                cause,
                "replacing the subscription connection to redis"
            );
        }
    }

    /// Tells what has come already; false if that is nothing.
    fn hear_next(&mut self) -> bool {
        let Some(live) = &mut self.connection else { return false };
        let next = match live.messages.try_recv().map(Event::of) {
            Err(TryRecvError::Empty) => live.notifications.try_recv().map(Event::of_key).map(Some),
            next => next,
        };
        match next {
            Ok(event) => self.tell(event),
            Err(TryRecvError::Lagged(missed)) => self.tell(Event::Dropped(missed)),
            Err(_) => return false,
        }
        true
    }

    fn tell(&self, event: impl Into<Option<Event>>) {
        if let Some(event) = event.into() {
            // Nobody may be listening just now.
            drop(self.events.send(event));
        }
    }
}

/// The future's output, or nothing ever.
async fn or_never<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
