//! A primary and its replicas, and which of them a command goes to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::TryFutureExt as _;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::command::{self, Command, Repeat, Repeatable};
use super::connection::{Connection, Role};
use super::error::{Error, Reply};
use super::info::Info;
use super::link::Link;
use super::metrics::{Metrics, Reads};
use super::position::{Freshness, Position, Said};
use super::replication::{History, Shortfall, Watch};
use super::reply::FromReply;
use super::span;
use super::state::Seen;
use crate::config::{self, EndpointName, Server};
use crate::deadline::Deadline;

/// How long a read waits for a replica before the primary is asked, and at most for half of its time. One that has not answered
/// is not asked again until it answers a probe.
const PATIENCE: Duration = Duration::from_millis(100);

/// What the links of an endpoint have in common.
pub(super) struct Plan {
    pub(super) name: EndpointName,
    pub(super) config: config::Endpoint,
    pub(super) metrics: Metrics,
}

impl Plan {
    fn link(&self, server: &Server, label: String, watch: Watch, role: Role) -> Arc<Link> {
        let name = self.name.as_str();
        let metrics = self.metrics.server(name, &label);
        let link = Link::open(name, label, server.clone(), self.config.clone(), metrics, watch, role);
        Arc::new(link)
    }
}

/// A primary, and those of its replicas that are read from.
pub(super) struct Shard {
    pub(super) primary: Arc<Link>,
    replicas: Vec<Arc<Link>>,
    history: Arc<History>,
    max_staleness: Duration,
    reads: Reads,
    next_replica: AtomicUsize,
}

impl Shard {
    /// Starts connecting to the servers; the links of `before` to servers that have kept their roles are kept. Labels of servers
    /// begin with `prefix`.
    pub(super) fn open(
        plan: &Plan,
        prefix: &str,
        primary: &Server,
        replicas: &[Server],
        before: Option<&Shard>,
    ) -> Self {
        let history = before.map_or_else(Arc::default, |before| before.history.clone());
        let (watched, role) = match &plan.config.cluster {
            Some(cluster) => (cluster.read_from_replicas, Role::Reader),
            None => (!replicas.is_empty(), Role::Commands),
        };
        let open_primary = || {
            let watch = if watched {
                Watch::Primary(history.clone())
            } else {
                Watch::Nothing
            };
            plan.link(primary, format!("{prefix}primary"), watch, Role::Commands)
        };
        let kept = before.map(|before| &before.primary);
        let kept = kept.filter(|link| link.server() == primary).cloned();
        let open_replica = |server: &Server, label: String| {
            let metrics = plan.metrics.replica(plan.name.as_str(), &label);
            plan.link(server, label, Watch::Replica(history.clone(), metrics), role)
        };
        let had = before.map_or(&[][..], |before| &before.replicas);
        let had: Vec<_> = had.iter().filter(|link| replicas.contains(link.server())).collect();
        let taken = |label: &String| had.iter().any(|link| link.label() == label);
        let mut free = (0..)
            .map(|n| format!("{prefix}replica-{n}"))
            .filter(|label| !taken(label));
        let link = |server: &Server| match had.iter().find(|link| link.server() == server) {
            Some(link) => Some((*link).clone()),
            None => Some(open_replica(server, free.next()?)),
        };
        let links: Vec<Arc<Link>> = replicas.iter().filter_map(link).collect();
        let primary = kept.unwrap_or_else(open_primary);
        let labels: Vec<&str> = links.iter().map(|link| link.label()).collect();
        Shard {
            reads: plan.metrics.reads(plan.name.as_str(), primary.label(), &labels),
            primary,
            replicas: links,
            history,
            max_staleness: plan.config.max_staleness,
            next_replica: AtomicUsize::new(0),
        }
    }

    /// Its servers as they are seen now, the primary first.
    pub(super) fn seen(&self) -> impl Iterator<Item = Seen> {
        std::iter::once(&self.primary)
            .chain(&self.replicas)
            .map(|link| link.seen())
    }

    /// Whether there are replicas.
    pub(super) fn has_replicas(&self) -> bool {
        !self.replicas.is_empty()
    }

    /// Runs a read on a replica that is known to be fresh enough, in turn. None: there is none, or it failed, or has not answered
    /// soon, and the primary is to be asked. A replica that would do, but is cut off from its primary, is asked while that is down.
    pub(super) async fn read_replica<T: FromReply>(
        &self,
        command: &Command<Repeatable, T>,
        freshness: &Freshness,
        deadline: Deadline,
    ) -> Option<Result<T, Error>> {
        if self.replicas.is_empty() {
            return None;
        }
        let Freshness::Replica { within, after } = freshness else {
            self.reads.latest();
            return None;
        };
        let now = Instant::now();
        let within = within.unwrap_or(self.max_staleness);
        let (n, connection, unlinked) = match self.sufficient_replica(now, within, after.as_ref()) {
            Ok(found) => found,
            Err(why) => {
                self.reads.short(why);
                return None;
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
            Err(
                Error::Unavailable
                | Error::Timeout
                | Error::Overloaded
                | Error::Reply(Reply::NotServing(_) | Reply::Elsewhere(_)),
            ) => {
                self.reads.failed();
                None
            }
            answer => {
                self.reads.replica(n, unlinked);
                Some(answer)
            }
        }
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

/// Runs a command on a primary. If it is that of a `script` which the server does not know, gives it the script and asks again. If
/// `tell`, asks right after the command how far the primary is: as far as the command, or further.
pub(super) async fn run<R: Repeat, T: FromReply>(
    primary: &Link,
    command: Command<R, T>,
    script: Option<&'static str>,
    tell: bool,
    deadline: Deadline,
) -> Result<(T, Position), Error> {
    let Some(source) = script else {
        return run_once(primary, command, tell, deadline).await;
    };
    primary.metrics().script_runs.inc();
    match run_once(primary, command.clone(), tell, deadline).await {
        // Nothing was executed. The server is new, restarted, failed over or flushed.
        Err(Error::Reply(Reply::NoScript)) => {
            let again = async {
                primary.run(command::script_load(source), deadline).await?;
                primary.metrics().script_loads.inc();
                run_once(primary, command, tell, deadline).await
            };
            Box::pin(again).await
        }
        result => result,
    }
}

async fn run_once<R: Repeat, T: FromReply>(
    primary: &Link,
    command: Command<R, T>,
    tell: bool,
    deadline: Deadline,
) -> Result<(T, Position), Error> {
    if !tell {
        return Ok((primary.run(command, deadline).await?, Position::NEVER));
    }
    // In a place of its own, so that the many who are told nothing do not carry its size.
    let both = primary.run_pair(command, command::info("replication"), deadline);
    let (value, info) = Box::pin(both).await;
    Ok((value?, position(info)))
}

/// Runs commands on a primary as one pipeline: in their order, on one connection. Each has its own outcome.
pub(super) async fn run_all<R: Repeat, T: FromReply>(
    primary: &Link,
    commands: Vec<Command<R, T>>,
    deadline: Deadline,
) -> Vec<Result<T, Error>> {
    let (started, len) = (Instant::now(), commands.len());
    let ask = |connection: Arc<Connection>| async move {
        // Each is handed over when it is first looked at, which is in this order.
        let asked = commands
            .into_iter()
            .map(|command| connection.ask(command, deadline).inspect_err(span::fail));
        Ok(join_all(asked).await)
    };
    let asked = primary.on_connection(None, "PIPELINE", len, deadline, ask).await;
    let results = asked.unwrap_or_else(|error| (0..len).map(|_| Err(error.clone())).collect());
    for result in &results {
        primary.metrics().observe(started.elapsed(), result);
    }
    results
}

/// How far a primary is.
pub(super) async fn position_of(primary: &Link, deadline: Deadline) -> Position {
    position(primary.run(command::info("replication"), deadline).await)
}

/// The position in an answer of the primary's. Where nobody knows it, one that no replica reaches.
fn position(info: Result<Info, Error>) -> Position {
    info.ok()
        .and_then(|info| Said::read(&info)?.of_primary())
        .unwrap_or(Position::NEVER)
}
