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
use super::metrics::{Metrics, Reads};
use super::position::{Freshness, Position, Said};
use super::pubsub::Subscriber;
use super::replication::{History, Shortfall, Watch};
use super::reply::FromReply;
use super::script::Script;
use super::tracking::{Heard, Tracking};
use crate::config::{self, EndpointName};
use crate::deadline::Deadline;

/// How long a read waits for a replica before the primary is asked, and at most for half of its time. One that has not answered
/// is not asked again until it answers a probe.
const PATIENCE: Duration = Duration::from_millis(100);

/// One endpoint. Starts with its servers up or down, and follows them by itself.
pub struct Endpoint {
    name: EndpointName,
    config: config::Endpoint,
    primary: Arc<Link>,
    replicas: Vec<Link>,
    reads: Reads,
    next_replica: AtomicUsize,
    changes: TaskTracker,
}

impl Endpoint {
    /// Starts connecting to all servers of the endpoint.
    pub fn open(name: EndpointName, config: &config::Endpoint, metrics: &Metrics) -> Arc<Self> {
        let link = |server: &config::Server, label: &str, watch| {
            let metrics = metrics.server(name.as_str(), label);
            Link::open(
                name.as_str(),
                label.to_owned(),
                server.clone(),
                config.clone(),
                metrics,
                watch,
            )
        };
        let history = Arc::new(History::default());
        let labels: Vec<String> = (0..config.replicas.len()).map(|n| format!("replica-{n}")).collect();
        let watch = if labels.is_empty() {
            Watch::Nothing
        } else {
            Watch::Primary(history.clone())
        };
        let replica = |(server, label): (&config::Server, &String)| {
            let watch = Watch::Replica(history.clone(), metrics.replica(name.as_str(), label));
            link(server, label, watch)
        };
        Arc::new(Endpoint {
            name,
            config: config.clone(),
            primary: Arc::new(link(&config.server, "primary", watch)),
            replicas: config.replicas.iter().zip(&labels).map(replica).collect(),
            reads: metrics.reads(name.as_str(), &labels),
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

    /// Runs a change on the primary; if `tell`, asks in the same pipeline how far the primary is after it.
    pub async fn primary_then<T: FromReply>(
        &self,
        command: Command<Once, T>,
        tell: bool,
        deadline: Deadline,
    ) -> Result<(T, Position), Error> {
        let deadline = deadline.capped(self.config.command_timeout);
        let primary = self.primary.clone();
        self.change(async move { run(&primary, command, tell, deadline).await })
            .await
    }

    /// Runs a read on a replica that is known to be fresh enough, in turn; on the primary if there is none, or if the replica
    /// fails or does not answer soon. One that would do, but is cut off from its primary, is asked while the primary is down.
    pub async fn read<T: FromReply>(
        &self,
        command: Command<Repeatable, T>,
        freshness: Freshness,
        deadline: Deadline,
    ) -> Result<T, Error> {
        if self.replicas.is_empty() {
            return self.primary(command, deadline).await;
        }
        let Freshness::Replica { within, after } = freshness else {
            self.reads.latest();
            return self.primary(command, deadline).await;
        };
        let deadline = deadline.capped(self.config.command_timeout);
        let now = Instant::now();
        let within = within.unwrap_or(self.config.max_staleness);
        let (n, connection, unlinked) = match self.sufficient_replica(now, within, after.as_ref()) {
            Ok(found) => found,
            Err(why) => {
                self.reads.short(why);
                return self.primary(command, deadline).await;
            }
        };
        let half = deadline.instant().saturating_duration_since(now) / 2;
        let soon = Deadline::at(now + half.min(PATIENCE));
        let answer = self.replicas[n]
            .run_on(Some(connection.clone()), command.clone(), soon)
            .await;
        if matches!(answer, Err(Error::Timeout)) && half >= PATIENCE {
            connection.standing.store(None);
        }
        match answer {
            Err(Error::Unavailable | Error::Timeout | Error::Overloaded | Error::Reply(Reply::NotServing(_))) => {
                self.reads.failed();
                self.primary(command, deadline).await
            }
            answer => {
                self.reads.replica(n, unlinked);
                answer
            }
        }
    }

    /// Whether there are replicas, which a read may go to.
    pub fn has_replicas(&self) -> bool {
        !self.replicas.is_empty()
    }

    /// The age up to which reads are accepted unless the caller says otherwise.
    pub fn max_staleness(&self) -> Duration {
        self.config.max_staleness
    }

    /// Runs reads on the primary as one pipeline: the first, and right after it all others. The first that fails is told.
    pub async fn primary_with<A: FromReply, B: FromReply>(
        &self,
        first: Command<Repeatable, A>,
        rest: Vec<Command<Repeatable, B>>,
        deadline: Deadline,
    ) -> Result<(A, Vec<B>), Error> {
        let deadline = deadline.capped(self.config.command_timeout);
        self.primary.run_with(first, rest, deadline).await
    }

    /// How far the primary is.
    pub async fn position(&self, deadline: Deadline) -> Position {
        let deadline = deadline.capped(self.config.command_timeout);
        position(self.primary.run(command::info_replication(), deadline).await)
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
        let (value, _) = self.eval_then(script, keys, args, false, deadline).await?;
        Ok(value)
    }

    /// Runs a pinned script on the primary; if `tell`, asks in the same pipeline how far the primary is after it.
    pub async fn eval_then<R: Repeat, T: FromReply>(
        &self,
        script: &'static Script<R>,
        keys: Vec<Bytes>,
        args: Vec<Bytes>,
        tell: bool,
        deadline: Deadline,
    ) -> Result<(T, Position), Error> {
        let deadline = deadline.capped(self.config.command_timeout);
        let primary = self.primary.clone();
        let eval = async move {
            let command = command::evalsha::<R, T>(script.sha1, keys, args);
            match run(&primary, command.clone(), tell, deadline).await {
                // Nothing was executed. The server is new, restarted, failed over or flushed.
                Err(Error::Reply(Reply::NoScript)) => {
                    primary.run(command::script_load(script.source), deadline).await?;
                    run(&primary, command, tell, deadline).await
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

    /// Tells `hear` of each key that begins with one of `prefixes` and is changed on the primary, on a connection of its own.
    pub fn track(&self, prefixes: Vec<Bytes>, hear: impl Fn(Heard) + Send + Sync + 'static) -> Tracking {
        Tracking::open(self.name.as_str(), self.config.clone(), prefixes, self.state(), hear)
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

    /// The next replica in turn that will do, by its connection, and whether it is one that is cut off; else what the replicas
    /// lack.
    fn sufficient_replica(
        &self,
        now: Instant,
        within: Duration,
        after: Option<&Position>,
    ) -> Result<(usize, Arc<Connection>, bool), Shortfall> {
        let len = self.replicas.len();
        let first = self.next_replica.fetch_add(1, Ordering::Relaxed);
        let find = |unlinked| {
            let mut short = Shortfall::Down;
            for n in (0..len).map(|n| first.wrapping_add(n) % len) {
                match self.replicas[n].sufficient(now, within, after, unlinked) {
                    Ok(connection) => return Ok((n, connection, unlinked)),
                    Err(why) => short = short.max(why),
                }
            }
            Err(short)
        };
        match find(false) {
            Err(Shortfall::Unlinked) if !self.primary.is_up() => find(true),
            found => found,
        }
    }
}

/// Runs a command and, if `tell`, asks right after it how far the primary is: as far as the command, or further.
async fn run<R: Repeat, T: FromReply>(
    primary: &Link,
    command: Command<R, T>,
    tell: bool,
    deadline: Deadline,
) -> Result<(T, Position), Error> {
    if !tell {
        return Ok((primary.run(command, deadline).await?, Position::NEVER));
    }
    let (value, info) = primary.run_pair(command, command::info_replication(), deadline).await;
    Ok((value?, position(info)))
}

/// The position in an answer of the primary's. Where nobody knows it, one that no replica reaches.
fn position(info: Result<Bytes, Error>) -> Position {
    info.ok()
        .and_then(|info| Said::read(&info)?.of_primary())
        .unwrap_or(Position::NEVER)
}

/// A connection for a few commands. See [`Endpoint::fresh`].
pub struct Fresh(Connection);

impl Fresh {
    /// Runs a command.
    pub async fn run<R: Repeat, T: FromReply>(&self, command: Command<R, T>, deadline: Deadline) -> Result<T, Error> {
        self.0.ask(command, deadline).await
    }
}
