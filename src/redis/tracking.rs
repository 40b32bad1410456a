//! News of keys that were changed: a connection of its own on the primary, which is told of all that begin with given prefixes.
//!
//! Redis tells by messages on a channel, once a connection redirects its tracking to itself and subscribes to it. The library's own
//! way, by RESP3, drops the news that everything was flushed.

use std::time::Duration;

use bytes::Bytes;
use fred::types::{Message, Value};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::beside::Count;
use super::command;
use super::connection::{Connection, Role};
use super::error::{Error, Reply};
use super::replication::Watch;
use super::state::State;
use crate::config;
use crate::deadline::Deadline;

const CHANNEL: &str = "__redis__:invalidate";

/// Before another attempt.
const RETRY: Duration = Duration::from_millis(100);

/// Before another attempt where Redis refuses: its rules change seldom.
const REFUSED_RETRY: Duration = Duration::from_secs(5);

/// What is heard, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// All is told that changes from now on.
    Began(Instant),
    /// This key was changed, deleted or expired.
    Changed(Bytes),
    /// All keys may have been changed.
    AllChanged,
    /// All has been told that anybody could know of at that time.
    AsOf(Instant),
    /// From now on nothing is told.
    Lost,
}

/// Keys that are tracked. Its task, and with it the connection, ends when it is dropped.
pub struct Tracking {
    _task: AbortOnDropHandle<()>,
}

impl Tracking {
    /// `primary` is the state of the connection that values are read on: whenever that is replaced it may lead to another server, so
    /// tracking begins anew.
    pub(super) fn open(
        endpoint: &'static str,
        config: config::Endpoint,
        count: Count,
        prefixes: Vec<Bytes>,
        primary: watch::Receiver<State>,
        hear: impl Fn(Heard) + Send + Sync + 'static,
    ) -> Self {
        let task = Task {
            endpoint,
            config,
            count,
            prefixes,
            primary,
            hear,
        };
        Tracking {
            _task: AbortOnDropHandle::new(tokio::spawn(task.run())),
        }
    }
}

struct Task<H> {
    endpoint: &'static str,
    config: config::Endpoint,
    count: Count,
    prefixes: Vec<Bytes>,
    primary: watch::Receiver<State>,
    hear: H,
}

impl<H: Fn(Heard) + Send + Sync> Task<H> {
    async fn run(mut self) {
        let mut refused = false;
        // It ends with the endpoint.
        while self.primary.wait_for(|state| *state == State::Up).await.is_ok() {
            let began = Instant::now();
            match self.begin().await {
                Ok((connection, messages)) => {
                    refused = false;
                    (self.hear)(Heard::Began(began));
                    let cause = self.follow(&connection, messages).await;
                    (self.hear)(Heard::Lost);
                    tracing::warn!(
                        endpoint = self.endpoint,
                        cause,
                        "keys are not tracked until redis is connected again"
                    );
                    sleep(RETRY).await;
                }
                Err(error @ Error::Reply(_)) if !matches!(error, Error::Reply(Reply::NotServing(_))) => {
                    // Once, not for each attempt.
                    if !std::mem::replace(&mut refused, true) {
                        tracing::warn!(endpoint = self.endpoint, %error, "redis refuses to track keys: nothing is kept in memory");
                    }
                    sleep(REFUSED_RETRY).await;
                }
                Err(error) => {
                    tracing::debug!(endpoint = self.endpoint, %error, "cannot track keys");
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn begin(&self) -> Result<(Connection, Receiver<Message>), Error> {
        let opened = Connection::open(&self.config.server, &self.config, Role::Tracker).await;
        let connection = opened.map_err(|_| Error::Unavailable)?.counted(&self.count);
        let messages = connection.messages();
        let deadline = Deadline::within(self.config.command_timeout);
        let id = connection.ask(command::client_id(), deadline).await?;
        connection
            .ask(command::client_tracking(id, &self.prefixes), deadline)
            .await?;
        connection.ask_for(CHANNEL).await?;
        // Answered in this form once subscribed. An error is that to the subscription.
        match connection.ask(command::subscribed_ping(), deadline).await {
            Err(Error::Protocol(_)) => Err(Error::Reply(Reply::Denied("SUBSCRIBE"))),
            answer => answer.map(|_| (connection, messages)),
        }
    }

    /// Tells until the connection is no good any more; why.
    async fn follow(&mut self, connection: &Connection, mut messages: Receiver<Message>) -> &'static str {
        let (answered, mut probed) = watch::channel(Instant::now());
        let watch = Watch::Tracked(answered);
        let mut dead = std::pin::pin!(connection.dead(&self.config, &watch));
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Ok(message) => hear(&self.hear, message),
                    Err(RecvError::Lagged(_)) => (self.hear)(Heard::AllChanged),
                    Err(RecvError::Closed) => return "lost",
                },
                // Its sender lives as long as this.
                _ = probed.changed() => {
                    let at = *probed.borrow_and_update();
                    // What Redis had told before it answered has come in by then.
                    loop {
                        match messages.try_recv() {
                            Ok(message) => hear(&self.hear, message),
                            Err(TryRecvError::Lagged(_)) => (self.hear)(Heard::AllChanged),
                            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                        }
                    }
                    (self.hear)(Heard::AsOf(at));
                },
                cause = &mut dead => return cause,
                _ = self.primary.changed() => return "primary_replaced",
            }
        }
    }
}

fn hear(tell: &impl Fn(Heard), message: Message) {
    let Value::Array(keys) = message.value else {
        return tell(Heard::AllChanged);
    };
    for key in keys {
        tell(match key {
            Value::Bytes(key) => Heard::Changed(key),
            Value::String(key) => Heard::Changed(key.into_inner()),
            // Redis names keys by strings alone.
            _ => Heard::AllChanged,
        });
    }
}
