//! Pulls of one key that meet become one Redis call.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::TaskTracker;

use super::metrics::Metrics;
use super::store::{self, Store};
use super::{Pull, Target, Timestamp};
use crate::deadline::Deadline;
use crate::redis::Error;

/// Shards of the open windows: calls for different keys rarely wait for each other.
const SHARDS: usize = 64;

/// The windows that are open, by key.
pub(super) struct Window {
    store: Arc<Store>,
    length: Duration,
    hasher: RandomState,
    /// Each guards the windows of its keys.
    shards: [Mutex<HashMap<Bytes, Open>>; SHARDS],
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
}

/// Pulls of one key that wait to be written together.
struct Open {
    target: Target,
    count: u64,
    last: Timestamp,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// The key's count before the pulls of a window.
type Outcome = Result<i64, Error>;

impl Window {
    /// `length` is how long the first pull of a key waits for others; zero, and none waits.
    pub(super) fn new(store: Arc<Store>, length: Duration, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Window {
            store,
            length,
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            tasks: TaskTracker::new(),
            metrics,
        })
    }

    /// Counts `times` pulls of a key, `pull` being the last of them, and answers the key's count with them once they stand.
    ///
    /// A caller that gives up takes nothing with it: its pulls are written with the others of their window.
    pub(super) async fn track(self: &Arc<Self>, pull: Pull, times: u64, by: Deadline) -> Result<i64, Error> {
        self.metrics.waited.inc_by(times);
        // What Redis may refuse must not take others with it; and whoever cannot wait for a window does not.
        let hurry = by.instant().saturating_duration_since(Instant::now()) <= 2 * self.length;
        if self.length.is_zero() || hurry || !pull.timestamp.is_whole() {
            self.metrics.writes.inc();
            return self.store.add(&pull.target, times, &pull.timestamp, by).await;
        }
        let (place, mut outcome) = self.join(pull, times);
        let outcome = timeout_at(by.instant(), outcome.wait_for(Option::is_some)).await;
        match outcome {
            Ok(Ok(outcome)) => match &*outcome {
                Some(Ok(before)) => Ok(before + place),
                Some(Err(error)) => Err(error.clone()),
                None => Err(Error::Unknown),
            },
            // Its task is gone, or is still at it.
            Ok(Err(_)) | Err(_) => Err(Error::Unknown),
        }
    }

    /// Takes a place in the key's window, opened now if there is none.
    fn join(self: &Arc<Self>, Pull { target, timestamp }: Pull, times: u64) -> (i64, watch::Receiver<Option<Outcome>>) {
        let key = store::key(&target);
        let mut windows = self.shard(&key).lock().unwrap_or_else(PoisonError::into_inner);
        match windows.entry(key) {
            Entry::Occupied(mut open) => {
                let open = open.get_mut();
                open.count += times;
                open.last = timestamp;
                (open.count.cast_signed(), open.outcome.clone())
            }
            Entry::Vacant(vacant) => {
                let (tell, outcome) = watch::channel(None);
                self.tasks.spawn(self.clone().close(vacant.key().clone(), tell));
                vacant.insert(Open {
                    target,
                    count: times,
                    last: timestamp,
                    outcome: outcome.clone(),
                });
                (times.cast_signed(), outcome)
            }
        }
    }

    /// Waits for the end of a key's window, writes its pulls, and tells their callers.
    async fn close(self: Arc<Self>, key: Bytes, tell: watch::Sender<Option<Outcome>>) {
        sleep(self.length).await;
        let open = self
            .shard(&key)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
        let Some(Open {
            target, count, last, ..
        }) = open
        else {
            return;
        };
        self.metrics.writes.inc();
        // The callers' own deadlines differ, and each keeps to its own.
        let by = Deadline::within(self.store.timeout());
        let added = self.store.add(&target, count, &last, by).await;
        tell.send_replace(Some(added.map(|after| after - count.cast_signed())));
    }

    fn shard(&self, key: &Bytes) -> &Mutex<HashMap<Bytes, Open>> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash will do")]
        let hash = self.hasher.hash_one(key) as usize;
        &self.shards[hash % SHARDS]
    }

    /// Waits until every pull that was taken on has been written or not. For the end of the gateway, when no more come in.
    pub(super) async fn settled(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
