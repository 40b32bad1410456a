//! A Redis Cluster: each command goes to the primary that has its slot, by a map of our own over links as to any other server, so that
//! probes, breakers and deadlines are theirs, and nothing is sent twice that may have been executed.

mod follow;
mod map;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use self::follow::Known;
use self::map::Map;
pub(super) use self::map::View;
use super::command::{self, Command, Repeat, Repeatable};
use super::error::{Error, Redirect, Reply};
use super::link::Link;
use super::metrics::Redirects;
use super::position::{Freshness, Position};
use super::reply::FromReply;
use super::shard::{self, Plan};
use super::slot::slot;
use super::state::{Seen, State};
use crate::config::Server;
use crate::deadline::{Deadline, jittered};

/// What metrics call a Cluster of which no server is known.
const CLUSTER: &str = "cluster";

/// How often a command is sent elsewhere without a pause: more than once only while servers disagree.
const AT_ONCE: u32 = 2;

/// Before a command is sent again that was not executed since its slot is on the move.
const PAUSE: Duration = Duration::from_millis(10);

/// A Cluster. Its task and its links live as long as it does.
pub(super) struct Cluster {
    known: Arc<Known>,
    redirects: Redirects,
    _task: AbortOnDropHandle<()>,
}

impl Cluster {
    /// Starts looking for it; never fails.
    pub(super) fn open(plan: Plan) -> Self {
        let redirects = plan.metrics.redirects(plan.name.as_str());
        let known = Arc::new(Known::new(plan));
        let task = tokio::spawn(follow::follow(known.clone()));
        Cluster {
            known,
            redirects,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Whether any of its primaries is there, and the changes of that.
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.known.state.subscribe()
    }

    /// Its servers as they are seen now, by the latest map; none before there is one.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.known.map.load().seen().collect()
    }

    /// A server that is there, as far as is known: for what any will do for.
    pub(super) fn any_server(&self) -> Server {
        let map = self.known.map.load();
        let up = map.primaries().filter(|link| link.is_up()).choose(&mut rand::rng());
        let seeds = || {
            self.known
                .plan
                .config
                .cluster
                .as_ref()?
                .servers
                .choose(&mut rand::rng())
        };
        let server = up.map(|link| link.server()).or_else(seeds);
        server.unwrap_or(&self.known.plan.config.server).clone()
    }

    /// Runs a command on the primary that has its slot, wherever that is by then; see [`shard::run`].
    ///
    /// It is sent again only after replies that say that it was not executed.
    pub(super) async fn run<R: Repeat, T: FromReply>(
        &self,
        command: Command<R, T>,
        script: Option<&'static str>,
        tell: bool,
        deadline: Deadline,
    ) -> Result<(T, Position), Error> {
        let slot = command.slot();
        let mut link = self.primary(slot, deadline).await?;
        let mut asking = false;
        for sent in 1.. {
            let answer = if asking {
                ask(&link, command.clone(), script, deadline).await
            } else {
                shard::run(&link, command.clone(), script, tell, deadline).await
            };
            let answer = match answer {
                Err(Error::Reply(reply)) => reply,
                answer => return answer,
            };
            let elsewhere = match &answer {
                Reply::Elsewhere(redirect) => Some(redirect),
                Reply::NotServing("TRYAGAIN") => None,
                _ => {
                    if matches!(answer, Reply::NotServing(_)) {
                        self.known.look();
                    }
                    return Err(Error::Reply(answer));
                }
            };
            if elsewhere.is_none() || sent > AT_ONCE {
                let due = Instant::now() + jittered(PAUSE);
                if due >= deadline.instant() {
                    return Err(Error::Reply(answer));
                }
                sleep_until(due).await;
            }
            (link, asking) = if let Some(redirect) = elsewhere {
                (self.follow(redirect, &link, deadline).await?, redirect.ask)
            } else {
                self.redirects.try_again.inc();
                (self.primary(slot, deadline).await?, false)
            };
        }
        Err(Error::Unavailable)
    }

    /// Runs a read on a replica of the shard that has its slot, as [`shard::Shard::read_replica`] does, or else on the primary; there,
    /// too, what is missing at the replica: of a slot on the move its primary has not all keys any more, and only that says so.
    pub(super) async fn read<T: FromReply>(
        &self,
        command: Command<Repeatable, T>,
        freshness: &Freshness,
        deadline: Deadline,
    ) -> Result<T, Error> {
        let map = self.map(deadline).await?;
        if let Some(shard) = command.slot().and_then(|slot| map.shard(slot)) {
            match shard.read_replica(&command, freshness, deadline).await {
                Some(Ok(answer)) if !answer.lacks() => return Ok(answer),
                Some(Err(error)) => return Err(error),
                _ => {}
            }
        }
        let (answer, _) = self.run(command, None, false, deadline).await?;
        Ok(answer)
    }

    /// How far the primary of each key is; each primary is asked once.
    pub(super) async fn positions(&self, keys: &[Bytes], deadline: Deadline) -> Vec<Position> {
        let Ok(map) = self.map(deadline).await else {
            return vec![Position::NEVER; keys.len()];
        };
        let places: Vec<Option<usize>> = keys.iter().map(|key| map.place(slot(key))).collect();
        let asked: BTreeSet<usize> = places.iter().flatten().copied().collect();
        let ask = asked.into_iter().map(|place| {
            let link = map.primaries().nth(place);
            async move { Some((place, shard::position_of(link?, deadline).await)) }
        });
        let positions: BTreeMap<usize, Position> = join_all(ask).await.into_iter().flatten().collect();
        let position = |place: Option<usize>| positions.get(&place?).copied();
        places
            .into_iter()
            .map(|place| position(place).unwrap_or(Position::NEVER))
            .collect()
    }

    /// The map, at once where there is one, after a moment at the start.
    async fn map(&self, deadline: Deadline) -> Result<Arc<Map>, Error> {
        let map = self.known.map.load_full();
        if !map.is_empty() {
            return Ok(map);
        }
        let mut state = self.known.state.subscribe();
        let found = state.wait_for(|state| *state != State::Connecting);
        timeout_at(deadline.instant(), found)
            .await
            .map_err(|_| Error::Timeout)?
            .map_err(|_| Error::Unavailable)?;
        let map = self.known.map.load_full();
        if map.is_empty() {
            Err(Error::Unavailable)
        } else {
            Ok(map)
        }
    }

    /// The link to the primary that has a slot, or to any.
    pub(super) async fn primary(&self, slot: Option<u16>, deadline: Deadline) -> Result<Arc<Link>, Error> {
        let map = self.map(deadline).await?;
        let link = match slot {
            Some(slot) => map.shard(slot).map(|shard| &shard.primary),
            None => map
                .primaries()
                .find(|link| link.is_up())
                .or_else(|| map.primaries().next()),
        };
        if link.is_none() {
            self.known.look();
        }
        link.cloned().ok_or(Error::Reply(Reply::NotServing("CLUSTERDOWN")))
    }

    /// The link to where `by` sends a command.
    async fn follow(&self, redirect: &Redirect, by: &Link, deadline: Deadline) -> Result<Arc<Link>, Error> {
        if redirect.ask {
            self.redirects.ask.inc();
        } else {
            self.redirects.moved.inc();
            self.known.look();
        }
        let server = redirect.to.named_by(by.server()).ok_or(Error::Unavailable)?;
        let mut looks = self.known.looks();
        let mut met = false;
        loop {
            if let Some(link) = self.known.map.load().primary(&server) {
                return Ok(link.clone());
            }
            if !std::mem::replace(&mut met, true) {
                self.known.meet(server.clone());
            }
            // The task that looks lives as long as this.
            timeout_at(deadline.instant(), looks.changed())
                .await
                .map_err(|_| Error::Timeout)?
                .map_err(|_| Error::Unavailable)?;
        }
    }
}

/// Runs a command for a slot that is on its way to the server, as [`shard::run`] does. How far the server is does not matter: the
/// slot's primary is another one, until it is this one for good.
async fn ask<R: Repeat, T: FromReply>(
    link: &Link,
    command: Command<R, T>,
    script: Option<&'static str>,
    deadline: Deadline,
) -> Result<(T, Position), Error> {
    if script.is_some() {
        link.metrics().script_runs.inc();
    }
    let answer = match (link.run_asking(command.clone(), deadline).await, script) {
        (Err(Error::Reply(Reply::NoScript)), Some(source)) => {
            link.run(command::script_load(source), deadline).await?;
            link.metrics().script_loads.inc();
            link.run_asking(command, deadline).await
        }
        (answer, _) => answer,
    };
    Ok((answer?, Position::NEVER))
}
