//! All that the pattern keeps going on one endpoint.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prometheus::Registry;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::Instrument as _;

use super::claims::Claims;
use super::hub::{self, Hub};
use super::metrics::Metrics;
use super::store::{Store, is_beside};
use super::watch::{Opening, Watch};
use super::{ClaimId, Key, Prefix, expiry, passes, sweep};
use crate::config;
use crate::deadline::Deadline;
use crate::redis::{Endpoint, Error, Subscriber};

/// Before Redis is asked again for what it could not answer.
pub(super) const RETRY: Duration = Duration::from_millis(500);

/// Keys that wait to be looked at; of more, all keys are looked at.
const MAX_HINTS: usize = 16_384;

/// Keys that are looked at before those that have become due meanwhile.
const AT_ONCE: usize = 1_024;

/// Steps of Redis for one page of a list at most: under a rare prefix most of them find nothing.
const STEPS: usize = 100;

/// Keys, and who watches them.
pub struct Orchestrator {
    core: Arc<Core>,
    _tasks: [AbortOnDropHandle<()>; 4],
}

/// What all parts of the pattern work with.
pub(super) struct Core {
    pub store: Store,
    pub claims: Claims,
    pub hub: Hub,
    pub subscriber: Subscriber,
    pub hints: Hints,
    pub metrics: Metrics,
    /// Whether Redis tells of expirations.
    pub notified: watch::Sender<bool>,
    pub config: config::Orchestrator,
    tasks: TaskTracker,
    /// Work begins in destructors too, wherever they run.
    runtime: Handle,
}

/// What is to be looked at.
#[derive(Default)]
pub(super) struct Hints {
    /// Guards the keys.
    look: Mutex<Look>,
    filled: Notify,
    emptied: Notify,
    pub all: Notify,
    pub owed: Notify,
}

/// Keys to look at.
#[derive(Default)]
pub(super) struct Look {
    /// Their expirations are over, as far as is known.
    pub over: HashSet<Key>,
    /// They may have an expiration that is not known, or that is over.
    pub keys: HashSet<Key>,
}

impl Orchestrator {
    /// Keys on `endpoint`, whose expirations are followed from now on.
    ///
    /// # Panics
    /// If `registry` has the metrics of others, or outside of a runtime.
    pub fn open(endpoint: Arc<Endpoint>, config: &config::Orchestrator, registry: &Registry) -> Arc<Self> {
        let metrics = Metrics::new(registry);
        let store = Store::new(endpoint.clone(), &config.channel_prefix);
        let core = Arc::new(Core {
            subscriber: store.subscriber(),
            store,
            claims: Claims::new(endpoint, config.ack_timeout),
            hub: Hub::new(metrics.clone()),
            hints: Hints::default(),
            metrics,
            notified: watch::channel(false).0,
            config: config.clone(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
        });
        let events = core.subscriber.events();
        let tasks = [
            tokio::spawn(hub::hear(core.clone(), events)),
            tokio::spawn(expiry::follow(core.clone())),
            tokio::spawn(sweep::look(core.clone())),
            tokio::spawn(sweep::owed(core.clone())),
        ];
        Arc::new(Orchestrator {
            core,
            _tasks: tasks.map(AbortOnDropHandle::new),
        })
    }

    /// Whether Redis tells managers of expirations. None: the gateway leaves the server's setting alone.
    pub fn notified(&self) -> Option<watch::Receiver<bool>> {
        (!self.core.config.skip_keyspace_event_setup).then(|| self.core.notified.subscribe())
    }

    /// The limit of one command.
    pub(super) fn timeout(&self) -> Duration {
        self.core.store.timeout()
    }

    /// Sets a key. Whether it is stored.
    pub(super) async fn set(
        &self,
        key: &Key,
        value: &str,
        overwrite: bool,
        expiration: Option<u64>,
        by: Deadline,
    ) -> Result<bool, Error> {
        self.core.store.set(key, value, overwrite, expiration, by).await
    }

    /// Reads a key.
    pub(super) async fn get(&self, key: &Key, by: Deadline) -> Result<Option<Bytes>, Error> {
        self.core.store.get(key, by).await
    }

    /// Deletes a key. The value that it had.
    pub(super) async fn delete(&self, key: &Key, by: Deadline) -> Result<Option<Bytes>, Error> {
        self.core.store.delete(key, by).await
    }

    /// Keys under `prefix` that have no time to live, from `cursor` on, and where to go on; 0 is the beginning and the end.
    pub(super) async fn list(
        &self,
        prefix: &Prefix,
        mut cursor: u64,
        count: u64,
        by: Deadline,
    ) -> Result<(Vec<(Key, Bytes)>, u64), Error> {
        let store = &self.core.store;
        for _ in 0..STEPS {
            let (next, mut keys) = store.scan(prefix, cursor, count, by).await?;
            keys.retain(|key| !is_beside(key));
            let found = store.live(&keys, by).await?;
            cursor = next;
            if !found.is_empty() || cursor == 0 {
                return Ok((found, cursor));
            }
        }
        Ok((Vec::new(), cursor))
    }

    /// Watches the keys under a prefix.
    pub(super) async fn watch(&self, opening: Opening, by: Deadline) -> Result<Watch, Error> {
        Watch::open(self.core.clone(), opening, by).await
    }

    /// Ends claims that are being ended, at most until `by`. For the end of the gateway, when no more come in.
    pub async fn settled(&self, by: Instant) {
        self.core.tasks.close();
        if timeout_at(by, self.core.tasks.wait()).await.is_err() {
            tracing::warn!(
                "expiries were still being given back at the end of the drain: their leases end by themselves"
            );
        }
    }
}

impl Core {
    /// Runs what must come to its end whoever waits for it.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let work = work.instrument(tracing::Span::current());
        self.tasks.spawn_on(work, &self.runtime);
    }

    /// An expiry is taken care of.
    pub(super) fn acknowledge(self: &Arc<Self>, key: Key, id: ClaimId) {
        self.hub.acknowledge(id, key.clone());
        let core = self.clone();
        self.spawn(async move {
            if core.end(&key, id, true).await {
                core.metrics.acknowledged.inc();
            }
            core.hub.ended(id);
        });
    }

    /// Nobody here takes care of an expiry.
    pub(super) fn give_back(self: &Arc<Self>, key: Key, id: ClaimId) {
        let core = self.clone();
        self.spawn(async move {
            core.end(&key, id, false).await;
            core.hints.owed.notify_one();
        });
    }

    /// Ends a claim. It is tried for as long as its lease can last. Whether it was one.
    async fn end(&self, key: &Key, id: ClaimId, acknowledged: bool) -> bool {
        let end = Instant::now() + self.claims.lease;
        loop {
            match self.claims.end(key, id, acknowledged).await {
                Ok(was_one) => return was_one,
                Err(error) if passes(&error) && Instant::now() < end => sleep(RETRY).await,
                Err(error) => {
                    tracing::warn!(%error, acknowledged, "an expiry comes again, since its claim cannot be ended");
                    return false;
                }
            }
        }
    }
}

impl Hints {
    /// A key may have an expiration that is not known, or that is over.
    pub(super) fn look(&self, key: Key) {
        self.add(|look| look.keys.insert(key));
    }

    /// A key's expiration is over.
    pub(super) fn over(&self, key: Key) {
        self.add(|look| look.over.insert(key));
    }

    fn add(&self, add: impl FnOnce(&mut Look) -> bool) {
        let mut look = self.lock();
        if look.keys.len() + look.over.len() < MAX_HINTS {
            add(&mut look);
        } else {
            self.sweep();
        }
        drop(look);
        self.filled.notify_one();
    }

    /// The same as [`Hints::look`] for many, with a wait for room.
    pub(super) async fn look_at(&self, all: Vec<Key>) {
        loop {
            let emptied = self.emptied.notified();
            {
                let mut look = self.lock();
                if look.keys.len() + all.len() <= MAX_HINTS || look.keys.is_empty() {
                    look.keys.extend(all);
                    break;
                }
            }
            emptied.await;
        }
        self.filled.notify_one();
    }

    /// Anything may have been missed.
    pub(super) fn sweep(&self) {
        self.all.notify_one();
    }

    /// Some of the keys to look at, once there are any, and all whose expirations are over.
    pub(super) async fn next(&self) -> Look {
        loop {
            let some = {
                let mut look = self.lock();
                let some: HashSet<Key> = look.keys.iter().take(AT_ONCE).cloned().collect();
                look.keys.retain(|key| !some.contains(key));
                Look {
                    over: std::mem::take(&mut look.over),
                    keys: some,
                }
            };
            if !(some.keys.is_empty() && some.over.is_empty()) {
                self.emptied.notify_one();
                return some;
            }
            self.filled.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Look> {
        // Nothing that is done under it can panic halfway.
        self.look.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
