//! Who waits for which lock here, and the one connection that listens to the signals of all these locks.
//!
//! Of those who wait for a lock only the first one asks for it: when it becomes the first, when a signal wakes it, when the lock is
//! due to end, and each second, since a `DEL` wakes nobody. The others wait in memory, without a task of their own.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Registry};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::Name;
use super::desk::{Core, RETRY};
use super::store::{Heard, Store};
use crate::deadline::jittered;
use crate::redis::Error;

/// Signals that are listened to at once, others each time. The first who waits for one that is not hears of a free lock by
/// looking: a `BLPOP` of more keys would cost Redis a millisecond for each wake-up.
const MAX_SIGNALS: usize = 1_024;

/// Between two looks at a lock, jitter aside: never more than a second.
const LOOK: Duration = Duration::from_millis(830);

/// Redis ends a lock within this after its time to live.
const EXPIRY: Duration = Duration::from_millis(1);

/// Before signals are listened to anew for names that came: those of a burst cost one `BLPOP`. A signal waits for a second.
const GATHER: Duration = Duration::from_millis(2);

/// All who wait here. The connection ends when it is dropped.
pub(super) struct Waiters {
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    core: Arc<Core>,
    /// What this gateway's own list is called by.
    listener: u64,
    /// Never held across an await.
    queues: Mutex<Queues>,
    /// There is a signal to listen to, where there was none.
    came: Notify,
}

#[derive(Default)]
struct Queues {
    by_name: HashMap<Name, Queue>,
    /// One more than the latest ticket.
    next: u64,
    /// Whether signals are being listened to, without those of names that came since.
    listening: bool,
    /// Whether the listener has been told of names that came.
    stirred: bool,
}

/// Who waits for one lock.
struct Queue {
    signal: Bytes,
    /// By ticket, and since when: who came first is first.
    places: BTreeMap<u64, (Instant, Arc<Notify>)>,
    /// Whether its signal is listened to: from the first one on who has asked in vain.
    listened: bool,
    /// When the latest wake-up came in that no look has followed.
    woken: Option<Instant>,
    /// When the lock ends, if it does, as far as the latest look knows; or why it could not be looked at.
    seen: Result<Option<Instant>, Error>,
    /// When it was looked at last.
    looked: Instant,
}

impl Waiters {
    /// Nobody yet.
    ///
    /// # Panics
    /// If `registry` has the metrics of others.
    pub(super) fn open(core: Arc<Core>, registry: &Registry) -> Self {
        let shared = Arc::new(Shared {
            core,
            listener: rand::random(),
            queues: Mutex::default(),
            came: Notify::new(),
        });
        let longest = LongestWait {
            // Name and help are constants: they are valid.
            gauge: Gauge::new(
                "redis_gateway_locks_longest_wait_seconds",
                "For how long the one who has waited longest for a lock has done so; 0: nobody waits.",
            )
            .expect("valid"),
            shared: Arc::downgrade(&shared),
        };
        // The documented panic: one gateway has one registry and makes this once.
        registry.register(Box::new(longest)).expect("registered once");
        let task = tokio::spawn(listen(shared.clone()));
        Waiters {
            shared,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Takes a place behind all who wait for that lock.
    pub(super) fn join(&self, name: &Name) -> Place {
        let wake = Arc::new(Notify::new());
        let mut queues = self.shared.lock();
        let ticket = queues.next;
        queues.next += 1;
        let queue = queues.by_name.entry(name.clone()).or_insert_with(|| Queue {
            signal: Store::signal(name),
            places: BTreeMap::new(),
            listened: false,
            woken: None,
            seen: Ok(None),
            looked: Instant::now(),
        });
        queue.places.insert(ticket, (Instant::now(), wake.clone()));
        self.shared.core.metrics.waiting.inc();
        Place {
            name: name.clone(),
            ticket,
            wake,
            shared: self.shared.clone(),
        }
    }

    /// How many wait for a lock.
    pub(super) fn count(&self, name: &Name) -> usize {
        self.shared
            .lock()
            .by_name
            .get(name)
            .map_or(0, |queue| queue.places.len())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Nothing that is done under it can panic halfway.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that the signal of a name that came is listened to.
    fn came(self: &Arc<Self>, queues: &mut Queues) {
        if !queues.listening {
            self.came.notify_one();
        } else if !std::mem::replace(&mut queues.stirred, true) {
            let shared = self.clone();
            self.core.spawn(async move {
                // Without it, the name is listened to within a second.
                if let Err(error) = shared.core.store.stir(shared.listener).await {
                    tracing::debug!(%error, "cannot tell the listener of another lock");
                }
            });
        }
    }

    /// The signals of the locks that are waited for.
    fn signals(&self) -> Vec<Bytes> {
        let mut queues = self.lock();
        let wanted = queues.by_name.values().filter(|queue| queue.listened);
        let mut signals: Vec<Bytes> = wanted.map(|queue| queue.signal.clone()).collect();
        if !signals.is_empty() {
            // Redis takes the first that has an element: each is to come first as often as any other.
            let first = rand::random_range(0..signals.len());
            signals.rotate_left(first);
            signals.truncate(MAX_SIGNALS);
        }
        queues.listening = !signals.is_empty();
        queues.stirred = false;
        signals
    }

    /// Wakes who is first to wait for a lock; if nobody waits for it any more, somebody elsewhere.
    fn wake(self: &Arc<Self>, name: &str) {
        let mut queues = self.lock();
        if let Some(queue) = queues.by_name.get_mut(name) {
            queue.woken = Some(Instant::now());
            queue.wake_first();
        } else {
            self.hand_on(Name(name.into()));
        }
    }

    fn hand_on(self: &Arc<Self>, name: Name) {
        self.core.metrics.handed_on.inc();
        let core = self.core.clone();
        self.core.spawn(async move {
            if let Err(error) = core.store.hand_on(&name).await {
                tracing::debug!(%error, "a wake-up is lost: who waits for the lock elsewhere has to look for itself");
            }
        });
    }
}

/// How long somebody waits, looked up when it is asked for: no wait pays for it.
struct LongestWait {
    gauge: Gauge,
    shared: Weak<Shared>,
}

impl Collector for LongestWait {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let since = self.shared.upgrade().and_then(|shared| {
            let queues = shared.lock();
            let firsts = queues.by_name.values().filter_map(|queue| queue.places.values().next());
            firsts.map(|(since, _)| *since).min()
        });
        self.gauge.set(since.map_or(0.0, |since| since.elapsed().as_secs_f64()));
        self.gauge.collect()
    }
}

impl Queue {
    fn wake_first(&self) {
        if let Some((_, (_, first))) = self.places.first_key_value() {
            first.notify_one();
        }
    }
}

/// Listens, for as long as the waiters live.
async fn listen(shared: Arc<Shared>) {
    let mut blocking = shared.core.store.blocking();
    loop {
        let signals = shared.signals();
        if signals.is_empty() {
            shared.came.notified().await;
            continue;
        }
        match shared.core.store.listen(&mut blocking, signals, shared.listener).await {
            Ok(Heard::Signal(name)) => shared.wake(&name),
            Ok(Heard::Stirred) => sleep(GATHER).await,
            Ok(Heard::Silence) => {}
            Err(error) => {
                tracing::debug!(%error, "cannot listen for locks that are released");
                // A server that does not serve any more may be another one for a new connection.
                blocking = shared.core.store.blocking();
                sleep(if error.is_transient() { RETRY } else { LOOK }).await;
            }
        }
    }
}

/// A place among those who wait for a lock. Who drops it waits no more.
pub(super) struct Place {
    name: Name,
    ticket: u64,
    wake: Arc<Notify>,
    shared: Arc<Shared>,
}

impl Place {
    /// Whether nobody came before.
    pub(super) fn is_first(&self) -> bool {
        let queues = self.shared.lock();
        let first = queues
            .by_name
            .get(&self.name)
            .and_then(|queue| queue.places.first_key_value());
        first.is_some_and(|(ticket, _)| *ticket == self.ticket)
    }

    /// Sees to it that the lock's signal is listened to.
    pub(super) fn listen(&self) {
        let mut queues = self.shared.lock();
        let queue = queues.by_name.get_mut(&self.name);
        if queue.is_some_and(|queue| !std::mem::replace(&mut queue.listened, true)) {
            self.shared.came(&mut queues);
        }
    }

    /// Waits until there is reason to ask for the lock, at most until `until`.
    pub(super) async fn turn(&self, until: Instant) {
        let due = if self.is_first() { self.due() } else { until };
        // Time is as good a reason to ask as a wake-up.
        let _ = timeout_at(due.min(until), self.wake.notified()).await;
    }

    /// Notes what a look that began at `began` saw. When the wake-up came in that it followed, if it followed one.
    pub(super) fn saw(&self, began: Instant, left: Result<Option<Duration>, Error>) -> Option<Instant> {
        let mut queues = self.shared.lock();
        let queue = queues.by_name.get_mut(&self.name)?;
        let answered = left.is_ok();
        queue.seen = left.map(|left| left.map(|left| Instant::now() + left));
        queue.looked = began;
        queue.woken.take_if(|woken| answered && *woken <= began)
    }

    /// How long until the lock ends, if it does; or why it could not be looked at.
    pub(super) fn seen(&self) -> Result<Option<Duration>, Error> {
        let queues = self.shared.lock();
        let Some(queue) = queues.by_name.get(&self.name) else {
            return Ok(None);
        };
        let ends = queue.seen.clone()?;
        Ok(ends.map(|at| at.saturating_duration_since(Instant::now())))
    }

    /// When the lock is to be looked at next.
    fn due(&self) -> Instant {
        let queues = self.shared.lock();
        let Some(queue) = queues.by_name.get(&self.name) else {
            return Instant::now();
        };
        let look = queue.looked + jittered(LOOK);
        match queue.seen {
            Ok(Some(ends)) => look.min(ends + EXPIRY),
            _ => look,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.core.metrics.waiting.dec();
        let mut queues = self.shared.lock();
        let Some(queue) = queues.by_name.get_mut(&self.name) else {
            return;
        };
        let was_first = queue
            .places
            .first_key_value()
            .is_some_and(|(ticket, _)| *ticket == self.ticket);
        queue.places.remove(&self.ticket);
        if queue.places.is_empty() {
            // A wake-up that it has not followed belongs to somebody else.
            let woken = queue.woken.is_some();
            queues.by_name.remove(&self.name);
            if woken {
                self.shared.hand_on(self.name.clone());
            }
        } else if was_first {
            queue.wake_first();
        }
    }
}
