//! Follows a Cluster: asks its servers who has which slots, at the start, when a command was sent elsewhere, when a connection to a
//! primary is lost, and from time to time.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use rand::seq::IndexedRandom as _;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::CLUSTER;
use super::map::{Map, View};
use crate::config::Server;
use crate::deadline::{Deadline, jittered};
use crate::redis::command;
use crate::redis::connection::{Connection, Role};
use crate::redis::shard::Plan;
use crate::redis::state::State;

/// Between two looks while all is well, jitter aside.
const INTERVAL: Duration = Duration::from_secs(10);

/// Between two looks at least, however many commands are sent elsewhere.
const PAUSE: Duration = Duration::from_millis(50);

/// How many servers are asked at once; the first that is part of a serving cluster is believed.
const ASKED: usize = 3;

/// How long callers wait for the first view.
const GRACE: Duration = Duration::from_millis(250);

/// How long a server without slots is kept after it was asked for one.
const STRANGER: Duration = Duration::from_secs(30);

/// Servers without slots that are kept at most; then those asked longest ago go.
const STRANGERS: usize = 16;

/// What is known of a Cluster.
pub(super) struct Known {
    pub(super) plan: Plan,
    pub(super) map: ArcSwap<Map>,
    pub(super) state: watch::Sender<State>,
    /// Counts the looks.
    looks: watch::Sender<u64>,
    wanted: Notify,
    /// Servers that were named by others and are in no view, by when that was. Never held across an await.
    strangers: Mutex<Vec<(Server, Instant)>>,
}

impl Known {
    pub(super) fn new(plan: Plan) -> Self {
        plan.metrics.unknown(plan.name.as_str(), CLUSTER);
        Known {
            plan,
            map: ArcSwap::default(),
            state: watch::channel(State::Connecting).0,
            looks: watch::channel(0).0,
            wanted: Notify::new(),
            strangers: Mutex::default(),
        }
    }

    /// Has the servers asked soon.
    pub(super) fn look(&self) {
        self.wanted.notify_one();
    }

    /// The looks so far, and to come.
    pub(super) fn looks(&self) -> watch::Receiver<u64> {
        self.looks.subscribe()
    }

    /// Makes a link to a server that may be in no view.
    pub(super) fn meet(&self, server: Server) {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        strangers.retain(|(known, _)| *known != server);
        if strangers.len() == STRANGERS {
            strangers.remove(0);
        }
        strangers.push((server, Instant::now()));
        drop(strangers);
        self.look();
    }

    fn strangers(&self) -> Vec<Server> {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        strangers.retain(|(_, since)| since.elapsed() < STRANGER);
        strangers.iter().map(|(server, _)| server.clone()).collect()
    }

    /// What callers may expect: something, while one primary is there.
    fn tell_state(&self, looked: bool) {
        let map = self.map.load();
        let states: Vec<State> = map.primaries().map(|link| *link.state().borrow()).collect();
        let state = if states.contains(&State::Up) {
            State::Up
        } else if states.contains(&State::Connecting) || !looked {
            State::Connecting
        } else {
            State::Down
        };
        self.state
            .send_if_modified(|known| std::mem::replace(known, state) != state);
    }
}

/// Looks for as long as the cluster is wanted.
pub(super) async fn follow(known: Arc<Known>) {
    let mut latest = View::default();
    let mut found = true;
    loop {
        {
            let mut look = pin!(look(&known));
            let view = if let Ok(view) = timeout(GRACE, &mut look).await {
                view
            } else {
                known.tell_state(true);
                look.await
            };
            let had = std::mem::replace(&mut found, view.is_some());
            if let Some(view) = view {
                latest = view;
            } else if had {
                tracing::warn!(endpoint = known.plan.name.as_str(), "no server tells of the cluster");
            }
        }
        let map = known.map.load().next(&latest, &known.strangers(), &known.plan);
        known.map.store(Arc::new(map));
        known.looks.send_modify(|looks| *looks += 1);
        let soon = Instant::now() + PAUSE;
        let due = loop {
            // Listened for before it is looked at, so that no change is missed in between.
            let changed = changed(&known.map.load());
            known.tell_state(true);
            let whole = known.map.load().is_whole();
            let pause = if whole {
                jittered(INTERVAL)
            } else {
                known.plan.config.probe_interval
            };
            let due = Instant::now() + pause;
            tokio::select! {
                () = changed => {}
                () = known.wanted.notified() => break soon,
                () = sleep_until(due) => break due,
            }
        };
        sleep_until(due).await;
    }
}

/// Waits until a primary's link changes its state from what it is now.
fn changed(map: &Map) -> impl Future<Output = ()> + use<> {
    let links = map.primaries().map(|link| {
        let mut state = link.state();
        // A link that ends has changed, too.
        async move { drop(state.changed().await) }.boxed()
    });
    let mut links: FuturesUnordered<BoxFuture<'static, ()>> = links.collect();
    async move {
        if links.next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// What a serving server says that answers first; else what the one with the newest view says.
async fn look(known: &Known) -> Option<View> {
    let config = &known.plan.config;
    let map = known.map.load_full();
    let connections: Vec<_> = map
        .primaries()
        .filter_map(|link| Some((link.server().clone(), link.live()?)))
        .collect();
    let asked = connections.choose_multiple(&mut rand::rng(), ASKED).cloned();
    let mut answers: FuturesUnordered<BoxFuture<'_, Option<View>>> = asked
        .map(|(server, connection)| {
            async move { ask(&connection, &server, Deadline::within(config.probe_timeout)).await }.boxed()
        })
        .collect();
    if answers.is_empty() {
        let seeds = config.cluster.iter().flat_map(|cluster| &cluster.servers);
        answers = seeds.map(|server| ask_anew(known, server).boxed()).collect();
    }
    let mut newest: Option<View> = None;
    while let Some(answer) = answers.next().await {
        match answer {
            Some(view) if view.serving => return Some(view),
            Some(view) if newest.as_ref().is_none_or(|newest| newest.epoch < view.epoch) => newest = Some(view),
            _ => {}
        }
    }
    newest
}

async fn ask_anew(known: &Known, server: &Server) -> Option<View> {
    let config = &known.plan.config;
    match Connection::open(server, config, Role::Commands).await {
        Ok(connection) => ask(&connection, server, Deadline::within(config.probe_timeout)).await,
        Err(error) => {
            tracing::debug!(endpoint = known.plan.name.as_str(), %error, "cannot connect to redis");
            None
        }
    }
}

async fn ask(connection: &Connection, server: &Server, by: Deadline) -> Option<View> {
    let (slots, info) = tokio::join!(
        connection.ask(command::cluster_slots(), by),
        connection.ask(command::cluster_info(), by)
    );
    match (slots, info) {
        (Ok(slots), Ok(info)) => Some(View::read(slots, &info, server)),
        (Err(error), _) | (_, Err(error)) => {
            tracing::debug!(%error, "a server does not tell of its cluster");
            None
        }
    }
}
