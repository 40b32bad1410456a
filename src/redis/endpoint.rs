//! A Redis endpoint: a primary with its replicas, or a Cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus::IntCounter;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::beside::{Beside, Counts};
use super::blocking::Blocking;
use super::cluster::Cluster;
use super::command::{self, Command, Once, Repeat, Repeatable};
use super::connection::{Connection, Role};
use super::error::Error;
use super::metrics::Metrics;
use super::position::{Freshness, Position};
use super::pubsub::Subscriber;
use super::reply::FromReply;
use super::script::Script;
use super::shard::{self, Plan, Shard};
use super::slot::slot;
use super::state::{Seen, State};
use super::tracking::{Heard, Tracking};
use crate::config::{self, EndpointName};
use crate::deadline::Deadline;

/// One endpoint. Starts with its servers up or down, and follows them by itself.
pub struct Endpoint {
    name: EndpointName,
    config: config::Endpoint,
    topology: Topology,
    subscriptions_lost: IntCounter,
    changes: TaskTracker,
    beside: Counts,
}

/// What stands behind an endpoint.
#[derive(Clone)]
enum Topology {
    Single(Arc<Shard>),
    Cluster(Arc<Cluster>),
}

impl Topology {
    /// Runs a command on the primary, which is that of its slot on a Cluster; see [`shard::run`].
    async fn run<R: Repeat, T: FromReply>(
        &self,
        command: Command<R, T>,
        script: Option<&'static str>,
        tell: bool,
        deadline: Deadline,
    ) -> Result<(T, Position), Error> {
        match self {
            Topology::Single(shard) => shard::run(&shard.primary, command, script, tell, deadline).await,
            // In a place of its own, so that calls of a single server do not carry its size.
            Topology::Cluster(cluster) => Box::pin(cluster.run(command, script, tell, deadline)).await,
        }
    }
}

impl Endpoint {
    /// Starts connecting to all servers of the endpoint.
    pub fn open(name: EndpointName, config: &config::Endpoint, metrics: &Metrics) -> Arc<Self> {
        let plan = Plan {
            name,
            config: config.clone(),
            metrics: metrics.clone(),
        };
        let topology = if config.cluster.is_some() {
            Topology::Cluster(Arc::new(Cluster::open(plan)))
        } else {
            let shard = Shard::open(&plan, "", &config.server, &config.replicas, None);
            Topology::Single(Arc::new(shard))
        };
        Arc::new(Endpoint {
            name,
            config: config.clone(),
            topology,
            subscriptions_lost: metrics.subscriptions_lost(name.as_str()),
            changes: TaskTracker::new(),
            beside: Counts::default(),
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

    /// The primary's state, and its changes; on a Cluster the best of all primaries.
    pub fn state(&self) -> watch::Receiver<State> {
        match &self.topology {
            Topology::Single(shard) => shard.primary.state(),
            Topology::Cluster(cluster) => cluster.state(),
        }
    }

    /// The servers as they are seen now, primaries before their replicas; on a Cluster none before it was found.
    pub fn servers(&self) -> Vec<Seen> {
        match &self.topology {
            Topology::Single(shard) => shard.seen().collect(),
            Topology::Cluster(cluster) => cluster.seen(),
        }
    }

    /// How many commands each of its servers may have in flight.
    pub fn max_in_flight(&self) -> usize {
        self.config.max_in_flight
    }

    /// The connections beside those that commands share.
    pub fn beside(&self) -> Beside {
        self.beside.now()
    }

    /// Which keys one command can name: all of them, or on a Cluster those of one slot. By their places among `keys`.
    pub fn together(&self, keys: &[Bytes]) -> Vec<Vec<usize>> {
        match &self.topology {
            Topology::Single(_) => vec![(0..keys.len()).collect()],
            Topology::Cluster(_) => {
                let mut by_slot: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
                for (n, key) in keys.iter().enumerate() {
                    by_slot.entry(slot(key)).or_default().push(n);
                }
                by_slot.into_values().collect()
            }
        }
    }

    /// Runs a command on the primary. One that changes data runs to its end in its own task, whoever stops waiting.
    pub async fn primary<R: Repeat, T: FromReply>(
        &self,
        command: Command<R, T>,
        deadline: Deadline,
    ) -> Result<T, Error> {
        let (value, _) = self.run(command, None, false, deadline).await?;
        Ok(value)
    }

    /// Runs a change on the primary; if `tell`, asks in the same pipeline how far the primary is after it.
    pub async fn primary_then<T: FromReply>(
        &self,
        command: Command<Once, T>,
        tell: bool,
        deadline: Deadline,
    ) -> Result<(T, Position), Error> {
        self.run(command, None, tell, deadline).await
    }

    /// Runs a read on a replica that is known to be fresh enough, in turn; on the primary if there is none, or if the replica
    /// fails or does not answer soon. One that would do, but is cut off from its primary, is asked while the primary is down.
    pub async fn read<T: FromReply>(
        &self,
        command: Command<Repeatable, T>,
        freshness: Freshness,
        deadline: Deadline,
    ) -> Result<T, Error> {
        let deadline = deadline.capped(self.config.command_timeout);
        match &self.topology {
            Topology::Single(shard) => match shard.read_replica(&command, &freshness, deadline).await {
                Some(answer) => answer,
                None => shard.primary.run(command, deadline).await,
            },
            Topology::Cluster(cluster) => Box::pin(cluster.read(command, &freshness, deadline)).await,
        }
    }

    /// Whether there are replicas, which a read may go to.
    pub fn has_replicas(&self) -> bool {
        match (&self.topology, &self.config.cluster) {
            (Topology::Single(shard), _) => shard.has_replicas(),
            (Topology::Cluster(_), cluster) => cluster.as_ref().is_some_and(|cluster| cluster.read_from_replicas),
        }
    }

    /// The age up to which reads are accepted unless the caller says otherwise.
    pub fn max_staleness(&self) -> Duration {
        self.config.max_staleness
    }

    /// Runs two reads on the primary as one pipeline. The first that fails is told. On a Cluster one after the other.
    pub async fn primary_pair<A: FromReply, B: FromReply>(
        &self,
        first: Command<Repeatable, A>,
        second: Command<Repeatable, B>,
        deadline: Deadline,
    ) -> Result<(A, B), Error> {
        let deadline = deadline.capped(self.config.command_timeout);
        let Topology::Single(shard) = &self.topology else {
            return Ok((
                self.primary(first, deadline).await?,
                self.primary(second, deadline).await?,
            ));
        };
        let (first, second) = shard.primary.run_pair(first, second, deadline).await;
        Ok((first?, second?))
    }

    /// Runs reads on the primary as one pipeline: the first, and right after it all others. The first that fails is told. On a Cluster
    /// the others come after the first.
    pub async fn primary_with<A: FromReply, B: FromReply>(
        &self,
        first: Command<Repeatable, A>,
        rest: Vec<Command<Repeatable, B>>,
        deadline: Deadline,
    ) -> Result<(A, Vec<B>), Error> {
        let deadline = deadline.capped(self.config.command_timeout);
        let Topology::Single(shard) = &self.topology else {
            let first = self.primary(first, deadline).await?;
            let rest = rest.into_iter().map(|command| self.primary(command, deadline));
            return Ok((first, futures_util::future::try_join_all(rest).await?));
        };
        shard.primary.run_with(first, rest, deadline).await
    }

    /// How far the primary of each key is.
    pub async fn positions(&self, keys: &[Bytes], deadline: Deadline) -> Vec<Position> {
        let deadline = deadline.capped(self.config.command_timeout);
        match &self.topology {
            Topology::Single(shard) => vec![shard::position_of(&shard.primary, deadline).await; keys.len()],
            Topology::Cluster(cluster) => Box::pin(cluster.positions(keys, deadline)).await,
        }
    }

    /// `TIME` of the primary, on a Cluster of the one that has the key: seconds since 1970 UTC, and microseconds.
    pub async fn time(&self, key: &Bytes, deadline: Deadline) -> Result<(Bytes, Bytes), Error> {
        let deadline = deadline.capped(self.config.command_timeout);
        match &self.topology {
            Topology::Single(shard) => shard.primary.run(command::time(), deadline).await,
            Topology::Cluster(cluster) => {
                let primary = cluster.primary(Some(slot(key)), deadline).await?;
                primary.run(command::time(), deadline).await
            }
        }
    }

    /// Runs two commands on the primary as one pipeline, no transaction: the second right after the first. Each has its own
    /// outcome, so that one that was carried out is not taken for one that was not. On a Cluster one after the other.
    pub async fn pipeline<A: FromReply, B: FromReply>(
        &self,
        first: Command<Once, A>,
        second: Command<Once, B>,
        deadline: Deadline,
    ) -> (Result<A, Error>, Result<B, Error>) {
        let deadline = deadline.capped(self.config.command_timeout);
        let topology = self.topology.clone();
        let both = self.change(async move {
            let Topology::Single(shard) = &topology else {
                let first = topology.run(first, None, false, deadline).await;
                let second = topology.run(second, None, false, deadline).await;
                return Ok((first.map(|(value, _)| value), second.map(|(value, _)| value)));
            };
            Ok(shard.primary.run_pair(first, second, deadline).await)
        });
        both.await.unwrap_or_else(|error| (Err(error.clone()), Err(error)))
    }

    /// Runs commands of one kind on the primary as one pipeline, in their order, each with its own outcome; on a Cluster as one for
    /// each primary.
    pub async fn batch<T: FromReply>(
        &self,
        commands: Vec<Command<Once, T>>,
        deadline: Deadline,
    ) -> Vec<Result<T, Error>> {
        let deadline = deadline.capped(self.config.command_timeout);
        let topology = self.topology.clone();
        let len = commands.len();
        let batch = async move {
            if let Topology::Single(shard) = &topology {
                return Ok(shard::run_all(&shard.primary, commands, deadline).await);
            }
            let runs = commands.into_iter().map(|command| async {
                let (value, _) = topology.run(command, None, false, deadline).await?;
                Ok(value)
            });
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

    /// Runs a pinned script on the primary; if `tell`, asks in the same pipeline how far the primary is after it. On a Cluster all
    /// keys have to be in one slot.
    pub async fn eval_then<R: Repeat, T: FromReply>(
        &self,
        script: &'static Script<R>,
        keys: Vec<Bytes>,
        args: Vec<Bytes>,
        tell: bool,
        deadline: Deadline,
    ) -> Result<(T, Position), Error> {
        let command = command::evalsha::<R, T>(script.sha1, keys, args);
        self.run(command, Some(script.source), tell, deadline).await
    }

    /// Subscriptions, on a connection of their own; on a Cluster to any server, since each tells what was published on all.
    pub fn subscriber(&self) -> Subscriber {
        let (topology, server) = (self.topology.clone(), self.config.server.clone());
        let server = move || match &topology {
            Topology::Single(_) => server.clone(),
            Topology::Cluster(cluster) => cluster.any_server(),
        };
        let (count, lost) = (self.beside.subscriptions.clone(), self.subscriptions_lost.clone());
        Subscriber::open(self.name.as_str(), self.config.clone(), count, Box::new(server), lost)
    }

    /// Tells `hear` of each key that begins with one of `prefixes` and is changed on the primary, on a connection of its own.
    pub fn track(&self, prefixes: Vec<Bytes>, hear: impl Fn(Heard) + Send + Sync + 'static) -> Tracking {
        let (config, count) = (self.config.clone(), self.beside.tracking.clone());
        Tracking::open(self.name.as_str(), config, count, prefixes, self.state(), hear)
    }

    /// Blocking commands, on a connection of their own.
    pub fn blocking(&self) -> Blocking {
        Blocking::new(self.config.clone(), self.beside.blocking.clone())
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

    async fn run<R: Repeat, T: FromReply>(
        &self,
        command: Command<R, T>,
        script: Option<&'static str>,
        tell: bool,
        deadline: Deadline,
    ) -> Result<(T, Position), Error> {
        let deadline = deadline.capped(self.config.command_timeout);
        if R::REPEATABLE {
            return self.topology.run(command, script, tell, deadline).await;
        }
        let topology = self.topology.clone();
        self.change(async move { topology.run(command, script, tell, deadline).await })
            .await
    }

    async fn change<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let task = self.changes.spawn(change.instrument(tracing::Span::current()));
        // The task is never aborted; should it have panicked, nobody knows what it did before.
        task.await.unwrap_or(Err(Error::Unknown))
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
