//! The way to one server: a connection that is watched, replaced when it dies, and kept away from while there is none.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::TryFutureExt as _;
use futures_util::future::try_join_all;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::backoff::delay;
use super::command::{self, Command, Repeat, Repeatable};
use super::connection::{Connection, Role};
use super::error::Error;
use super::metrics::{Place, ServerMetrics};
use super::position::Position;
use super::replication::{Shortfall, Watch};
use super::reply::FromReply;
use super::span;
use super::state::{Course, Seen, State};
use crate::config::{self, Server};
use crate::deadline::Deadline;

/// How long calls wait for a lost connection to be made again before the breaker opens: a restart of a proxy or an idle
/// connection cut by a firewall then costs callers a moment and no error.
const RECONNECT_GRACE: Duration = Duration::from_millis(250);

/// A connection that stood so long was a good one: the next starts without a wait.
const GOOD_CONNECTION: Duration = Duration::from_secs(1);

/// The way to one server. Its task lives as long as it does.
pub(super) struct Link {
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    endpoint: &'static str,
    label: String,
    server: Server,
    config: config::Endpoint,
    /// None unless [`State::Up`]. Calls in flight keep the connection that they are on until each is answered or due: a
    /// server that stalls for a moment makes no call unknown whose deadline is later.
    current: ArcSwapOption<Connection>,
    course: Course,
    metrics: ServerMetrics,
    watch: Watch,
    role: Role,
    /// Held while a command is asked for that needs `ASKING` right before it, with nothing of others in between.
    asking: Mutex<Option<Connection>>,
}

impl Link {
    /// Starts connecting; never fails. `label` names the server in metrics, such as `primary` or `replica-N`.
    pub(super) fn open(
        endpoint: &'static str,
        label: String,
        server: Server,
        config: config::Endpoint,
        metrics: ServerMetrics,
        watch: Watch,
        role: Role,
    ) -> Self {
        let shared = Arc::new(Shared {
            endpoint,
            label,
            server,
            config,
            current: ArcSwapOption::empty(),
            course: Course::begin(),
            metrics,
            watch,
            role,
            asking: Mutex::default(),
        });
        let task = tokio::spawn(supervise(shared.clone()));
        Link {
            shared,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// The server's state, and its changes.
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.shared.course.follow()
    }

    /// The server as it is seen now.
    pub(super) fn seen(&self) -> Seen {
        Seen {
            label: self.shared.label.clone(),
            server: self.shared.server.clone(),
            state: self.shared.course.now(),
            since: self.shared.course.since(),
        }
    }

    /// The server.
    pub(super) fn server(&self) -> &Server {
        &self.shared.server
    }

    /// What it is called in metrics.
    pub(super) fn label(&self) -> &str {
        &self.shared.label
    }

    /// What is counted of the server.
    pub(super) fn metrics(&self) -> &ServerMetrics {
        &self.shared.metrics
    }

    /// Whether commands are taken without a wait.
    pub(super) fn is_up(&self) -> bool {
        self.shared
            .current
            .load()
            .as_ref()
            .is_some_and(|connection| !connection.has_ended())
    }

    /// The connection, if what is read on it lacks nothing that was written longer ago than `within`, or up to `after`; else why not. One to a
    /// replica that is cut off from its primary is wanted if `unlinked`.
    pub(super) fn sufficient(
        &self,
        now: Instant,
        within: Duration,
        after: Option<&Position>,
        unlinked: bool,
    ) -> Result<Arc<Connection>, Shortfall> {
        let current = self.shared.current.load();
        let connection = current.as_ref().filter(|connection| !connection.has_ended());
        let connection = connection.ok_or(Shortfall::Down)?;
        let standing = connection.standing.load();
        match standing
            .as_ref()
            .ok_or(Shortfall::Unknown)?
            .suffices(now, within, after)
        {
            Err(Shortfall::Unlinked) if unlinked => {}
            suffices => suffices?,
        }
        Ok(connection.clone())
    }

    /// Runs a command and counts what became of it.
    pub(super) async fn run<R: Repeat, T: FromReply>(
        &self,
        command: Command<R, T>,
        deadline: Deadline,
    ) -> Result<T, Error> {
        self.run_on(None, command, deadline).await
    }

    /// The same, on that connection and no other.
    pub(super) async fn run_on<R: Repeat, T: FromReply>(
        &self,
        connection: Option<Arc<Connection>>,
        command: Command<R, T>,
        deadline: Deadline,
    ) -> Result<T, Error> {
        let started = Instant::now();
        let name = command.name;
        let ask = |connection: Arc<Connection>| async move { connection.ask(command, deadline).await };
        let result = self.on_connection(connection, name, 1, deadline, ask).await;
        self.shared.metrics.observe(started.elapsed(), &result);
        result
    }

    /// Runs two commands in one pipeline: the second is sent right after the first, on the same connection. Each has its own
    /// outcome.
    pub(super) async fn run_pair<R1: Repeat, A: FromReply, R2: Repeat, B: FromReply>(
        &self,
        first: Command<R1, A>,
        second: Command<R2, B>,
        deadline: Deadline,
    ) -> (Result<A, Error>, Result<B, Error>) {
        let started = Instant::now();
        let ask = |connection: Arc<Connection>| async move {
            Ok(tokio::join!(
                connection.ask(first, deadline).inspect_err(span::fail),
                connection.ask(second, deadline).inspect_err(span::fail),
            ))
        };
        let asked = self.on_connection(None, "PIPELINE", 1, deadline, ask).await;
        let (first, second) = asked.unwrap_or_else(|error| (Err(error.clone()), Err(error)));
        self.shared.metrics.observe(started.elapsed(), &first);
        self.shared.metrics.observe(started.elapsed(), &second);
        (first, second)
    }

    /// Runs reads in one pipeline: the first, and right after it all others, on the same connection. The first that fails is told.
    pub(super) async fn run_with<A: FromReply, B: FromReply>(
        &self,
        first: Command<Repeatable, A>,
        rest: Vec<Command<Repeatable, B>>,
        deadline: Deadline,
    ) -> Result<(A, Vec<B>), Error> {
        let started = Instant::now();
        let commands = 1 + rest.len();
        let ask = |connection: Arc<Connection>| async move {
            let rest = rest.into_iter().map(|command| connection.ask(command, deadline));
            tokio::try_join!(connection.ask(first, deadline), try_join_all(rest))
        };
        let result = self.on_connection(None, "PIPELINE", commands, deadline, ask).await;
        for _ in 0..commands {
            self.shared.metrics.observe(started.elapsed(), &result);
        }
        result
    }

    /// Runs a command for a slot that is on its way to the server: right after `ASKING`, on a connection for such pairs alone.
    pub(super) async fn run_asking<R: Repeat, T: FromReply>(
        &self,
        command: Command<R, T>,
        deadline: Deadline,
    ) -> Result<T, Error> {
        let (started, name) = (Instant::now(), command.name);
        let connect = async {
            let mut held = self.shared.asking.lock().await;
            // Taken out, and put back once all is answered: dropped in between, it is closed.
            let connection = match held.take().filter(|connection| !connection.has_ended()) {
                Some(connection) => connection,
                None => Connection::open(&self.shared.server, &self.shared.config, Role::Commands)
                    .await
                    .map_err(|_| Error::Unavailable)?,
            };
            Ok((held, connection))
        };
        let ask = async {
            let _place = self.place(1)?;
            let connected = tokio::time::timeout_at(deadline.instant(), connect).await;
            let (mut held, connection) = connected.unwrap_or(Err(Error::Timeout))?;
            let asking = connection.ask(command::asking(), deadline);
            let (asked, answer) = tokio::join!(asking, connection.ask(command, deadline));
            if asked.is_ok() {
                *held = Some(connection);
            }
            answer
        };
        let result = self.traced(name, ask).await;
        self.shared.metrics.observe(started.elapsed(), &result);
        result
    }

    /// Runs `ask` on `on`, or else on the connection that there is, within places among the commands in flight, and in a span if the
    /// call is traced.
    pub(super) fn on_connection<T, F: Future<Output = Result<T, Error>>>(
        &self,
        on: Option<Arc<Connection>>,
        name: &'static str,
        places: usize,
        deadline: Deadline,
        ask: impl FnOnce(Arc<Connection>) -> F,
    ) -> impl Future<Output = Result<T, Error>> {
        let ask = async move {
            let _place = self.place(places)?;
            let connection = match on {
                Some(connection) => connection,
                None => self.connection(deadline).await?,
            };
            ask(connection).await
        };
        self.traced(name, ask)
    }

    /// Runs `ask` in a span if the call is traced. No `async fn`, nor is the one above: each would hold `ask` twice.
    fn traced<T>(
        &self,
        name: &'static str,
        ask: impl Future<Output = Result<T, Error>>,
    ) -> impl Future<Output = Result<T, Error>> {
        let shared = &self.shared;
        let span = span::open(name, shared.endpoint, &shared.label, &shared.server, shared.config.db);
        ask.inspect_err(span::fail).instrument(span)
    }

    /// The connection to send on: at once where there is one, after a moment while one is being made.
    async fn connection(&self, deadline: Deadline) -> Result<Arc<Connection>, Error> {
        if let Some(connection) = self.live() {
            return Ok(connection);
        }
        let mut state = self.shared.course.follow();
        let wait = async {
            loop {
                match *state.borrow_and_update() {
                    State::Down => return Err(Error::Unavailable),
                    State::Up => {
                        if let Some(connection) = self.live() {
                            return Ok(connection);
                        }
                    }
                    State::Connecting => {}
                }
                // The sender lives in `self.shared`.
                if state.changed().await.is_err() {
                    return Err(Error::Unavailable);
                }
            }
        };
        tokio::time::timeout_at(deadline.instant(), wait)
            .await
            .unwrap_or(Err(Error::Timeout))
    }

    /// The connection, if there is one now.
    pub(super) fn live(&self) -> Option<Arc<Connection>> {
        self.shared
            .current
            .load_full()
            .filter(|connection| !connection.has_ended())
    }

    /// So many places, or all that there are.
    fn place(&self, count: usize) -> Result<Place<'_>, Error> {
        let gauge = &self.shared.metrics.in_flight;
        let limit = i64::try_from(self.shared.config.max_in_flight).unwrap_or(i64::MAX);
        let place = Place::take(gauge, i64::try_from(count).unwrap_or(i64::MAX).min(limit));
        if gauge.get() > limit {
            return Err(Error::Overloaded);
        }
        Ok(place)
    }
}

/// Makes connections, one after the other, for as long as the link lives.
async fn supervise(shared: Arc<Shared>) {
    let mut failures = 0_u32;
    loop {
        let attempt = connect(&shared, failures);
        tokio::pin!(attempt);
        // The breaker opens when the first attempt has failed or takes too long.
        let connection = if let Ok(connection) = tokio::time::timeout(RECONNECT_GRACE, &mut attempt).await {
            connection
        } else {
            shared.course.enter(State::Down);
            attempt.await
        };
        let Some(connection) = connection else {
            shared.course.enter(State::Down);
            failures = failures.saturating_add(1);
            continue;
        };
        let since = Instant::now();
        let connection = Arc::new(connection);
        shared.current.store(Some(connection.clone()));
        shared.course.enter(State::Up);
        // Given back with the connection, or with the link: on a Cluster another one of its label may be up by then.
        let up = Place::take(&shared.metrics.up, 1);
        tracing::info!(endpoint = shared.endpoint, server = shared.label, "connected to redis");

        let cause = connection.dead(&shared.config, &shared.watch).await;
        shared.current.store(None);
        shared.course.enter(State::Connecting);
        drop(up);
        shared.metrics.replaced(cause);
        tracing::warn!(
            endpoint = shared.endpoint,
            server = shared.label,
            cause,
            "replacing the connection to redis"
        );
        failures = if since.elapsed() >= GOOD_CONNECTION {
            0
        } else {
            failures.saturating_add(1)
        };
    }
}

/// One attempt, after the wait that so many failures call for.
async fn connect(shared: &Shared, failures: u32) -> Option<Connection> {
    tokio::time::sleep(delay(failures, shared.config.reconnect_max_delay)).await;
    match Connection::open(&shared.server, &shared.config, shared.role).await {
        Ok(connection) => Some(connection),
        Err(error) => {
            shared.metrics.connect_failures.inc();
            // Once for each outage, not for each attempt.
            if shared.course.now() == State::Down {
                tracing::debug!(endpoint = shared.endpoint, server = shared.label, %error, "cannot connect to redis");
            } else {
                tracing::warn!(endpoint = shared.endpoint, server = shared.label, %error, "cannot connect to redis");
            }
            None
        }
    }
}
