//! Values in the gateway's own memory: read from the primary, kept as long as tracking tells of each change, and no longer than
//! their TTL. What is past its end stays for a while, for callers that rather have an old value than none.
//!
//! What is kept was read while nothing told of a change: a fill begins before Redis is asked, and each piece of news, each write
//! through this gateway and the loss of tracking end the fills that they may have overtaken.

mod memory;
mod metrics;
mod trust;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use prometheus::Registry;
use tokio::time::Instant;

pub(super) use self::memory::Load;
use self::memory::{Entry, Memory};
use self::metrics::{Metrics, Outcome};
use self::trust::Trust;
use super::store::Times;
use crate::config;
use crate::redis::{Endpoint, Freshness, Heard, Tracking};

/// What is kept here of keys with some beginnings. Dropped, it tracks no more.
pub(super) struct Near {
    shared: Arc<Shared>,
    prefixes: Vec<Bytes>,
    /// How old reads may be whose callers say nothing.
    max_staleness: Duration,
    _tracking: Tracking,
}

struct Shared {
    memory: Memory,
    max_stale: Duration,
    /// Written under the lock of the fills, read without it.
    trust: ArcSwap<Trust>,
    /// Reads under way, by key: whether something has overtaken them. Held for moments, by who misses and who tells of changes.
    fills: Mutex<HashMap<Bytes, Arc<AtomicBool>>>,
    metrics: Metrics,
}

/// A value past its end, and how long past.
pub(super) struct Stale {
    pub(super) value: Bytes,
    /// At least a millisecond.
    pub(super) age: Duration,
}

impl Near {
    /// None where nothing is to be kept.
    pub(super) fn open(endpoint: &Endpoint, config: &config::Cache, registry: &Registry) -> Option<Self> {
        let prefixes: Vec<Bytes> = config.near_prefixes.iter().cloned().map(Bytes::from).collect();
        if prefixes.is_empty() {
            return None;
        }
        let metrics = Metrics::new(registry);
        let shared = Arc::new(Shared {
            memory: Memory::new(config.near_max_bytes, metrics.evictions.clone()),
            max_stale: config.near_max_stale,
            trust: ArcSwap::default(),
            fills: Mutex::default(),
            metrics,
        });
        let hears = shared.clone();
        Some(Near {
            shared,
            max_staleness: endpoint.max_staleness(),
            _tracking: endpoint.track(prefixes.clone(), move |heard| hears.hear(heard)),
            prefixes,
        })
    }

    /// Whether a read of such freshness may be answered from here; then how old it may be.
    pub(super) fn serves(&self, freshness: &Freshness) -> Option<Duration> {
        match freshness {
            Freshness::Replica { within, after: None } => Some(within.unwrap_or(self.max_staleness)),
            _ => None,
        }
    }

    /// Whether values of this key are kept.
    pub(super) fn keeps(&self, key: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    /// The value, if it stood in Redis no longer ago than `within`.
    pub(super) fn get(&self, key: &Bytes, within: Duration) -> Option<Bytes> {
        let found = self.shared.entry(key, within);
        self.shared.metrics.looked(found.is_some());
        found.map(|entry| entry.value)
    }

    /// The same with the times that tell when to load it again, if they were asked for when it was read.
    pub(super) fn get_timed(&self, key: &Bytes, within: Duration) -> Option<(Bytes, Option<Times>)> {
        let found = self.shared.entry(key, within).and_then(|entry| {
            let Load::Asked(load) = entry.load else { return None };
            let times = entry.ends.zip(load).map(|(ends, load)| Times {
                left: ends.saturating_duration_since(Instant::now()),
                load,
            });
            Some((entry.value, times))
        });
        self.shared.metrics.looked(found.is_some());
        found
    }

    /// A value that is at most so long past its end, to be answered.
    pub(super) fn stale(&self, key: &Bytes, allowed: Duration) -> Option<Stale> {
        self.shared
            .stale(key, allowed, |_| true)
            .inspect(|_| self.answers_stale())
    }

    /// Counts a value past its end that is answered.
    pub(super) fn answers_stale(&self) {
        self.shared.metrics.read(Outcome::Stale);
    }

    /// One whose TTL is over, which may be answered: that nothing stands in Redis now makes it no older.
    pub(super) fn expired(&self, key: &Bytes, allowed: Duration) -> Option<Stale> {
        self.shared.stale(key, allowed, |entry| entry.is_over(Instant::now()))
    }

    /// To be called before Redis is asked for the value that is to be kept. None while nothing tells of changes.
    pub(super) fn fill(&self, key: Bytes) -> Option<Fill> {
        let asked = Instant::now();
        let mut fills = self.shared.lock();
        let epoch = self.shared.trust.load().standing()?;
        let overtaken = fills.entry(key.clone()).or_default().clone();
        drop(fills);
        Some(Fill {
            shared: self.shared.clone(),
            key,
            overtaken,
            asked,
            epoch,
        })
    }

    /// Drops what is kept of a key that was written, or may have been.
    pub(super) fn forget(&self, key: &Bytes) {
        if self.keeps(key) {
            let mut fills = self.shared.lock();
            overtake(&mut fills, key);
            self.shared.memory.remove(key);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<Bytes, Arc<AtomicBool>>> {
        // Nothing that is done under it can panic halfway.
        self.fills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, key: &Bytes, within: Duration) -> Option<Entry> {
        let entry = self.memory.get(key)?;
        // Loaded after the entry was: what was lost in between is not trusted.
        let known = self.trust.load().as_of(entry.epoch)?.max(entry.asked);
        let now = Instant::now();
        let good = now.saturating_duration_since(known) <= within && !entry.is_over(now);
        good.then_some(entry)
    }

    fn stale(&self, key: &Bytes, allowed: Duration, wanted: impl Fn(&Entry) -> bool) -> Option<Stale> {
        if allowed.is_zero() {
            return None;
        }
        let entry = self.memory.get(key).filter(wanted)?;
        let known = self.trust.load().known_until(entry.epoch).max(Some(entry.asked))?;
        let end = entry.ends.map_or(known, |ends| ends.min(known));
        let age = end.elapsed().max(Duration::from_millis(1));
        if age > self.max_stale {
            self.memory.remove(key);
            return None;
        }
        (age <= allowed).then_some(Stale {
            value: entry.value,
            age,
        })
    }

    /// Takes note of what tracking tells.
    fn hear(&self, heard: Heard) {
        let mut fills = self.lock();
        match heard {
            Heard::Changed(key) => {
                self.metrics.invalidations.inc();
                overtake(&mut fills, &key);
                self.memory.changed(&key);
                return;
            }
            Heard::AllChanged => {
                self.metrics.invalidations.inc();
                overtake_all(&mut fills);
                self.memory.clear();
            }
            Heard::Began(at) => self.trust.store(Arc::new(self.trust.load().begun(at))),
            Heard::AsOf(at) => self.trust.store(Arc::new(self.trust.load().known(at))),
            Heard::Lost => {
                overtake_all(&mut fills);
                self.trust.store(Arc::new(self.trust.load().lost(self.max_stale)));
            }
        }
        let standing = self.trust.load().standing().is_some();
        self.metrics.observe(standing, self.memory.len(), self.memory.bytes());
    }
}

/// A read under way whose answer is to be kept.
pub(super) struct Fill {
    shared: Arc<Shared>,
    key: Bytes,
    overtaken: Arc<AtomicBool>,
    asked: Instant,
    epoch: u64,
}

impl Fill {
    /// Keeps what the primary has answered, unless something has overtaken it. `pttl` as Redis tells it; `load` as it is kept.
    pub(super) fn end(self, value: Option<&Bytes>, pttl: i64, load: Load) {
        // Before the lock, which all who miss or tell of changes take.
        let copied = value
            .filter(|_| pttl != GONE && !self.overtaken.load(Ordering::Relaxed))
            .map(|value| memory::copy(&self.key, value));
        let _fills = self.shared.lock();
        if self.overtaken.load(Ordering::Relaxed) {
            return;
        }
        let memory = &self.shared.memory;
        let ends = u64::try_from(pttl)
            .ok()
            .map(|left| self.asked + Duration::from_millis(left));
        match copied {
            Some((key, value)) => memory.insert(
                key,
                Entry {
                    value,
                    asked: self.asked,
                    ends,
                    load,
                    epoch: self.epoch,
                    end_told: false,
                },
            ),
            // What is kept and not over was deleted when nobody told.
            None => {
                if memory
                    .peek(&self.key)
                    .is_some_and(|entry| !entry.is_over(Instant::now()))
                {
                    memory.remove(&self.key);
                }
            }
        }
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        let mut fills = self.shared.lock();
        // The last of those who share it, but for the map.
        let last = |there: &Arc<AtomicBool>| Arc::ptr_eq(there, &self.overtaken) && Arc::strong_count(there) == 2;
        if fills.get(&self.key).is_some_and(last) {
            fills.remove(&self.key);
        }
    }
}

/// `PTTL` of a key that is not there.
const GONE: i64 = -2;

fn overtake(fills: &mut HashMap<Bytes, Arc<AtomicBool>>, key: &Bytes) {
    if let Some(overtaken) = fills.remove(key) {
        overtaken.store(true, Ordering::Relaxed);
    }
}

fn overtake_all(fills: &mut HashMap<Bytes, Arc<AtomicBool>>) {
    for (_, overtaken) in fills.drain() {
        overtaken.store(true, Ordering::Relaxed);
    }
}
