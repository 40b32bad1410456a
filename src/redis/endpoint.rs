//! A Redis endpoint: a primary, its replicas, and which of them a command goes to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::blocking::Blocking;
use super::command::{self, Command, Once, Repeat, Repeatable};
use super::connection::{Connection, Role};
use super::error::{Error, Reply};
use super::link::{Link, State};
use super::metrics::Metrics;
use super::pubsub::Subscriber;
use super::reply::FromReply;
use super::script::Script;
use crate::config::{self, EndpointName};
use crate::deadline::Deadline;

/// One endpoint. Starts with its servers up or down, and follows them by itself.
pub struct Endpoint {
    name: EndpointName,
    config: config::Endpoint,
    primary: Arc<Link>,
    replicas: Vec<Link>,
    next_replica: AtomicUsize,
    changes: TaskTracker,
}

impl Endpoint {
    /// Starts connecting to all servers of the endpoint.
    pub fn open(name: EndpointName, config: &config::Endpoint, metrics: &Metrics) -> Arc<Self> {
        let link = |server: &config::Server, label: String| {
            let metrics = metrics.server(name.as_str(), &label);
            Link::open(name.as_str(), label, server.clone(), config.clone(), metrics)
        };
        let replicas = config.replicas.iter().enumerate();
        Arc::new(Endpoint {
            name,
            config: config.clone(),
            primary: Arc::new(link(&config.server, "primary".to_owned())),
            replicas: replicas
                .map(|(n, server)| link(server, format!("replica-{n}")))
                .collect(),
            next_replica: AtomicUsize::new(0),
            changes: TaskTracker::new(),
        })
    }

    /// The endpoint's name.
    pub fn name(&self) -> EndpointName {
        self.name
    }

    /// The limit of a command, and the deadline of a call that brings none.
    pub fn command_timeout(&self) -> Duration {
        self.config.command_timeout
    }

    /// The number of the database.
    pub fn db(&self) -> u8 {
        self.config.db
    }

    /// The primary's state, and its changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.primary.state()
    }

    /// Runs a command on the primary. One that changes data runs to its end in its own task, whoever stops waiting.
    pub async fn primary<R: Repeat, T: FromReply>(
        &self,
        command: Command<R, T>,
        deadline: Deadline,
    ) -> Result<T, Error> {
        let deadline = deadline.capped(self.config.command_timeout);
        if R::REPEATABLE {
            return self.primary.run(command, deadline).await;
        }
        let primary = self.primary.clone();
        self.change(async move { primary.run(command, deadline).await }).await
    }

    /// Runs a read on a replica that is up, in turn; on the primary if there is none, or if the replica fails or has not
    /// answered after half of the time.
    pub async fn replica<T: FromReply>(&self, command: Command<Repeatable, T>, deadline: Deadline) -> Result<T, Error> {
        let Some(replica) = self.serving_replica() else {
            return self.primary(command, deadline).await;
        };
        let deadline = deadline.capped(self.config.command_timeout);
        let half = deadline.instant().saturating_duration_since(Instant::now()) / 2;
        match replica.run(command.clone(), Deadline::within(half)).await {
            Err(Error::Unavailable | Error::Timeout | Error::Overloaded | Error::Reply(Reply::NotServing(_))) => {
                self.primary(command, deadline).await
            }
            result => result,
        }
    }

    /// Runs two commands on the primary as one pipeline, no transaction: the second right after the first. Each has its own
    /// outcome, so that one that was carried out is not taken for one that was not.
    pub async fn pipeline<A: FromReply, B: FromReply>(
        &self,
        first: Command<Once, A>,
        second: Command<Once, B>,
        deadline: Deadline,
    ) -> (Result<A, Error>, Result<B, Error>) {
        let deadline = deadline.capped(self.config.command_timeout);
        let primary = self.primary.clone();
        let both = self.change(async move { Ok(primary.run_pair(first, second, deadline).await) });
        both.await.unwrap_or_else(|error| (Err(error.clone()), Err(error)))
    }

    /// Runs commands of one kind on the primary as one pipeline, each with its own outcome, in their order.
    pub async fn batch<T: FromReply>(
        &self,
        commands: Vec<Command<Once, T>>,
        deadline: Deadline,
    ) -> Vec<Result<T, Error>> {
        let deadline = deadline.capped(self.config.command_timeout);
        let primary = self.primary.clone();
        let len = commands.len();
        let batch = async move {
            let runs = commands.into_iter().map(|command| primary.run(command, deadline));
            Ok(futures_util::future::join_all(runs).await)
        };
        self.change(batch)
            .await
            .unwrap_or_else(|error| (0..len).map(|_| Err(error.clone())).collect())
    }

    /// Runs a pinned script on the primary.
    pub async fn eval<R: Repeat, T: FromReply>(
        &self,
        script: &'static Script<R>,
        keys: Vec<Bytes>,
        args: Vec<Bytes>,
        deadline: Deadline,
    ) -> Result<T, Error> {
        let deadline = deadline.capped(self.config.command_timeout);
        let primary = self.primary.clone();
        let eval = async move {
            let command = command::evalsha::<R, T>(script.sha1, keys, args);
            match primary.run(command.clone(), deadline).await {
                // Nothing was executed. The server is new, restarted, failed over or flushed.
                Err(Error::Reply(Reply::NoScript)) => {
                    primary.run(command::script_load(script.source), deadline).await?;
                    primary.run(command, deadline).await
                }
                result => result,
            }
        };
        if R::REPEATABLE {
            eval.await
        } else {
            self.change(eval).await
        }
    }

    /// Subscriptions, on a connection of their own.
    pub fn subscriber(&self) -> Subscriber {
        Subscriber::open(self.name.as_str(), self.config.clone())
    }

    /// Blocking commands, on a connection of their own.
    pub fn blocking(&self) -> Blocking {
        Blocking::new(self.config.clone())
    }

    /// A new connection to the primary for a few commands, closed when dropped: shows that one can be had.
    pub async fn fresh(&self) -> Result<Fresh, Error> {
        match Connection::open(&self.config.server, &self.config, Role::Commands).await {
            Ok(connection) => Ok(Fresh(connection)),
            Err(error) => {
                tracing::debug!(endpoint = self.name.as_str(), %error, "cannot connect to redis");
                Err(Error::Unavailable)
            }
        }
    }

    /// Waits until every change that was taken on has ended. For the end of the gateway, when no more come in.
    pub async fn settled(&self) {
        self.changes.close();
        self.changes.wait().await;
    }

    async fn change<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let task = self.changes.spawn(change.instrument(tracing::Span::current()));
        // The task is never aborted; should it have panicked, nobody knows what it did before.
        task.await.unwrap_or(Err(Error::Unknown))
    }

    fn serving_replica(&self) -> Option<&Link> {
        let len = self.replicas.len();
        if len == 0 {
            return None;
        }
        let first = self.next_replica.fetch_add(1, Ordering::Relaxed);
        (0..len)
            .map(|n| &self.replicas[first.wrapping_add(n) % len])
            .find(|replica| replica.is_up())
    }
}

/// A connection for a few commands. See [`Endpoint::fresh`].
pub struct Fresh(Connection);

impl Fresh {
    /// Runs a command.
    pub async fn run<R: Repeat, T: FromReply>(&self, command: Command<R, T>, deadline: Deadline) -> Result<T, Error> {
        self.0.ask(command, deadline).await
    }
}
