//! Who waits for which value here. One task for each key that is waited for asks Redis for all who wait: at once, when a wake-up
//! names the key, when the lease is due to end, and each half second, since who writes without a gateway wakes nobody.
//!
//! Wake-ups are published and not pushed to lists: a value that was stored is news to all who wait, on all gateways, while an
//! element of a list wakes one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::leases::{Core, Found, Grant};
use super::metrics::Event as Lease;
use super::store::{Answer, Terms};
use crate::deadline::{Deadline, jittered};
use crate::redis::{Error, Event, Subscription};

/// Between two looks at a key, jitter aside: never more than half a second.
const LOOK: Duration = Duration::from_millis(415);

/// Redis ends a lease within this after its time.
const EXPIRY: Duration = Duration::from_millis(1);

/// Before Redis is asked again for what it could not answer.
const RETRY: Duration = Duration::from_millis(50);

/// All who wait here. The subscription ends when it is dropped.
pub(super) struct Lines {
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    core: Arc<Core>,
    /// Never held across an await.
    lines: Mutex<ByKey>,
    /// Somebody waits while another loads: from the first one on wake-ups are listened to.
    waited: Notify,
}

#[derive(Default)]
struct ByKey {
    by_key: HashMap<Bytes, Line>,
    /// One more than the latest ticket.
    next: u64,
}

/// Who waits for one key. Its task alone ends it, once nobody is left.
struct Line {
    /// By ticket: who came first is first.
    waiters: BTreeMap<u64, Waiter>,
    wake: Arc<Notify>,
    /// When the lease of another ends, as the latest answer told; or why there was none. None until the first.
    seen: Option<Result<Instant, Error>>,
}

struct Waiter {
    terms: Terms,
    /// Until when it waits while another loads.
    until: Instant,
    /// Whether Redis has answered since it came.
    answered: bool,
    tell: oneshot::Sender<Result<Told, Error>>,
}

enum Told {
    Value(Bytes),
    Lease(Grant),
    Busy(Duration),
}

/// What is asked for those who wait.
struct Question {
    /// Who gets the lease, should it be free.
    first: u64,
    terms: Terms,
    /// Who came later takes no part in the answer: it may be older than they are.
    before: u64,
    wake: Arc<Notify>,
}

impl Lines {
    pub(super) fn open(core: Arc<Core>) -> Self {
        let shared = Arc::new(Shared {
            core,
            lines: Mutex::default(),
            waited: Notify::new(),
        });
        let task = tokio::spawn(listen(shared.clone()));
        Lines {
            shared,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Waits until `until` for a value, or for the lease to load it; Redis is asked once in any case. While Redis is away it waits
    /// on; at the end it says so. Answered by `by`.
    pub(super) async fn wait(&self, key: Bytes, terms: Terms, until: Instant, by: Deadline) -> Result<Found, Error> {
        let (place, mut told) = self.join(key, terms, until);
        let told = match timeout_at(until, &mut told).await {
            Ok(told) => told,
            Err(_) => match place.seen() {
                Some(seen) => return seen.map(|ends| Found::Busy(left(ends))),
                // The first answer is on its way, and is told to all whose time is over.
                None => timeout_at(by.instant(), told).await.map_err(|_| Error::Timeout)?,
            },
        };
        // The task tells all before it ends; should it have panicked, nobody knows what it did before.
        match told.unwrap_or(Err(Error::Unknown))? {
            Told::Value(value) => Ok(Found::Value(value)),
            Told::Lease(grant) => {
                let (token, left) = grant.take(Lease::Given);
                Ok(Found::Lease(token, left))
            }
            Told::Busy(left) => Ok(Found::Busy(left)),
        }
    }

    fn join(&self, key: Bytes, terms: Terms, until: Instant) -> (Place, oneshot::Receiver<Result<Told, Error>>) {
        let (tell, told) = oneshot::channel();
        let waiter = Waiter {
            terms,
            until,
            answered: false,
            tell,
        };
        let shared = self.shared.clone();
        let mut lines = shared.lock();
        let ticket = lines.next;
        lines.next += 1;
        if let Some(line) = lines.by_key.get_mut(&key) {
            if line.waiters.is_empty() {
                // About to end: what was seen for others may be long ago.
                line.seen = None;
                line.wake.notify_one();
            }
            line.waiters.insert(ticket, waiter);
        } else {
            let line = Line {
                waiters: BTreeMap::from([(ticket, waiter)]),
                wake: Arc::default(),
                seen: None,
            };
            lines.by_key.insert(key.clone(), line);
            shared.core.spawn(serve(shared.clone(), key.clone()));
        }
        shared.core.metrics.waiting.inc();
        drop(lines);
        (Place { key, ticket, shared }, told)
    }
}

/// A place in a line. Who drops it waits no more.
struct Place {
    key: Bytes,
    ticket: u64,
    shared: Arc<Shared>,
}

impl Place {
    fn seen(&self) -> Option<Result<Instant, Error>> {
        self.shared.lock().by_key.get(&self.key)?.seen.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.core.metrics.waiting.dec();
        let mut lines = self.shared.lock();
        let Some(line) = lines.by_key.get_mut(&self.key) else {
            return;
        };
        // What it was told and did not hear, such as a lease, is given up with the channel.
        if line.waiters.remove(&self.ticket).is_some() && line.waiters.is_empty() {
            line.wake.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, ByKey> {
        // Nothing that is done under it can panic halfway.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be asked. None: nobody waits any more, and the line is gone.
    fn question(&self, key: &Bytes) -> Option<Question> {
        let mut lines = self.lock();
        let before = lines.next;
        let line = lines.by_key.get(key)?;
        if let Some((first, waiter)) = line.waiters.first_key_value() {
            return Some(Question {
                first: *first,
                terms: waiter.terms,
                before,
                wake: line.wake.clone(),
            });
        }
        lines.by_key.remove(key);
        None
    }

    /// Tells those who waited when Redis was asked. When it is to be asked again.
    fn answer(&self, key: &Bytes, question: &Question, answer: Result<Told, Error>) -> Instant {
        let now = Instant::now();
        let mut lines = self.lock();
        let Some(line) = lines.by_key.get_mut(key) else {
            return now;
        };
        match answer {
            Ok(Told::Value(value)) => {
                line.tell(question, |_| Some(Ok(Told::Value(value.clone()))));
                now
            }
            Ok(Told::Lease(grant)) => {
                // If it is gone, or goes now, the lease is given up.
                if let Some(first) = line.waiters.remove(&question.first) {
                    drop(first.tell.send(Ok(Told::Lease(grant))));
                }
                // Redis has to know of the others that they wait.
                now
            }
            Ok(Told::Busy(left)) => {
                line.seen = Some(Ok(now + left));
                line.tell(question, |waiter| (waiter.until <= now).then_some(Ok(Told::Busy(left))));
                self.waited.notify_one();
                line.due(jittered(LOOK).min(left + EXPIRY))
            }
            Err(error) => {
                line.seen = Some(Err(error.clone()));
                line.tell(question, |waiter| {
                    (!waiter.answered || !error.is_transient()).then_some(Err(error.clone()))
                });
                line.due(RETRY)
            }
        }
    }

    fn wake(&self, key: &Bytes) {
        if let Some(line) = self.lock().by_key.get(key) {
            line.wake.notify_one();
        }
    }

    fn wake_all(&self) {
        for line in self.lock().by_key.values() {
            line.wake.notify_one();
        }
    }
}

impl Line {
    /// Ends the wait of those who waited when Redis was asked, and for whom `end` says how; the others wait on.
    fn tell(&mut self, question: &Question, end: impl Fn(&Waiter) -> Option<Result<Told, Error>>) {
        let later = self.waiters.split_off(&question.before);
        for (ticket, mut waiter) in std::mem::replace(&mut self.waiters, later) {
            if let Some(ended) = end(&waiter) {
                // Who is gone needs no answer.
                drop(waiter.tell.send(ended));
            } else {
                waiter.answered = true;
                self.waiters.insert(ticket, waiter);
            }
        }
    }

    /// When its task is to go on: at once if nobody is left, or if one does not wait who came while Redis was asked.
    fn due(&self, after: Duration) -> Instant {
        let now = Instant::now();
        let hurries = |waiter: &Waiter| !waiter.answered && waiter.until <= now;
        if self.waiters.is_empty() || self.waiters.values().any(hurries) {
            now
        } else {
            now + after
        }
    }
}

/// Asks for all who wait for a key, until nobody does.
async fn serve(shared: Arc<Shared>, key: Bytes) {
    while let Some(question) = shared.question(&key) {
        let answer = ask(&shared.core, &key, question.terms).await;
        let due = shared.answer(&key, &question, answer);
        // Time is as good a reason to ask as a wake-up.
        let _ = timeout_at(due, question.wake.notified()).await;
    }
}

async fn ask(core: &Arc<Core>, key: &Bytes, terms: Terms) -> Result<Told, Error> {
    let mut grant = Grant::new(core, key, terms.lease);
    let answer = core
        .store
        .get_or_lease(key, grant.token, terms, core.store.soon())
        .await;
    grant.settled = !matches!(answer, Ok(Answer::Leased) | Err(Error::Unknown));
    Ok(match answer? {
        Answer::Value(value) => Told::Value(value),
        Answer::Busy(left) => Told::Busy(left),
        Answer::Leased => Told::Lease(grant),
    })
}

/// Listens, from the first who waits on.
async fn listen(shared: Arc<Shared>) {
    shared.waited.notified().await;
    let subscriber = shared.core.store.subscriber();
    let mut events = subscriber.events();
    let _subscription: Subscription = loop {
        match shared.core.store.listen(&subscriber).await {
            Ok(subscription) => break subscription,
            Err(error) => {
                tracing::debug!(%error, "cannot listen for leases that end: who waits has to look for itself");
                sleep(LOOK).await;
            }
        }
    };
    // What was published before was for nobody.
    shared.wake_all();
    loop {
        match events.recv().await {
            Ok(Event::Message { payload, .. }) => shared.wake(&payload),
            Ok(Event::Reconnected | Event::Dropped(_)) | Err(RecvError::Lagged(_)) => shared.wake_all(),
            Ok(Event::Lost | Event::Mark(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

fn left(ends: Instant) -> Duration {
    ends.saturating_duration_since(Instant::now())
}
