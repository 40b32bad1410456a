//! A build's log, followed for all of its tails at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::BuildId;
use super::known::{Answer, Ask, Known, Progress};
use super::metrics::Metrics;
use super::store::Store;
use crate::deadline::Deadline;
use crate::redis::Error;

/// Between two looks at least: a writer that appends line by line costs Redis no more looks than this allows.
const MIN_PAUSE: Duration = Duration::from_millis(5);

/// Entries are at hand for this long at least, twice as long at most; a tail that takes longer reads them from Redis.
const LINGER: Duration = Duration::from_secs(1);

/// What tails see of a log.
#[derive(Debug)]
pub(super) struct View {
    /// The log, as far as it was followed.
    pub known: Known,
    /// Why the latest look failed, if it did.
    pub trouble: Option<Error>,
}

/// Looks at a log, each interval and when woken, until it is dropped.
pub(super) struct Feed {
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    view: watch::Sender<View>,
    wake: Notify,
    /// Counts those who wait for a look that begins after they asked.
    asked: AtomicU64,
    /// Of those, how many have their look; and how the latest one went.
    answered: watch::Sender<(u64, Result<(), Error>)>,
    /// One more than the latest revision of the list that a tail found to be another one.
    doubted: AtomicU64,
}

impl Feed {
    /// Begins to look.
    pub(super) fn open(store: Arc<Store>, build: BuildId, interval: Duration, metrics: Arc<Metrics>) -> Self {
        let view = View {
            known: Known::new(),
            trouble: None,
        };
        let shared = Arc::new(Shared {
            view: watch::channel(view).0,
            wake: Notify::new(),
            asked: AtomicU64::new(0),
            answered: watch::channel((0, Ok(()))).0,
            doubted: AtomicU64::new(0),
        });
        let task = tokio::spawn(follow(shared.clone(), store, build, interval, metrics));
        Feed {
            shared,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// What is seen, and its changes.
    pub(super) fn view(&self) -> watch::Receiver<View> {
        self.shared.view.subscribe()
    }

    /// Looks now rather than later.
    pub(super) fn wake(&self) {
        self.shared.wake.notify_one();
    }

    /// Makes sure that the list is still the one of this revision, which a tail has reason to doubt.
    pub(super) fn doubt(&self, revision: u64) {
        self.shared.doubted.fetch_max(revision + 1, Ordering::AcqRel);
        self.wake();
    }

    /// Waits for a look that begins after this call, and for what became of it.
    pub(super) async fn fresh(&self, by: Deadline) -> Result<(), Error> {
        let ticket = self.shared.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut answered = self.shared.answered.subscribe();
        self.wake();
        let look = answered.wait_for(|(served, _)| *served >= ticket);
        match timeout_at(by.instant(), look).await {
            Ok(Ok(answered)) => answered.1.clone(),
            // The sender lives in `self.shared`: it was the time that ran out.
            _ => Err(Error::Timeout),
        }
    }
}

/// Looks, for as long as the feed lives.
async fn follow(shared: Arc<Shared>, store: Arc<Store>, build: BuildId, interval: Duration, metrics: Arc<Metrics>) {
    let mut aged = Instant::now();
    loop {
        let begun = Instant::now();
        let ticket = shared.asked.load(Ordering::Acquire);
        let look = shared.look(&store, &build).await;
        metrics.looked(begun.elapsed());
        shared.publish(&look, ticket);
        if aged.elapsed() >= LINGER {
            aged = Instant::now();
            shared.view.send_if_modified(|view| {
                view.known.age();
                false
            });
        }
        sleep_until(begun + MIN_PAUSE).await;
        if look != Ok(Looked::Behind) {
            // Time is as good a reason to look as a wake-up.
            let _ = timeout(interval, shared.wake.notified()).await;
        }
    }
}

/// How far a look came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// To the end of the list.
    All,
    /// Not to its end: more is there than one look takes.
    Behind,
}

impl Shared {
    async fn look(&self, store: &Store, build: &BuildId) -> Result<Looked, Error> {
        let doubted = self.doubted.load(Ordering::Acquire);
        self.view.send_if_modified(|view| {
            let known = &mut view.known;
            known.begin(doubted == known.revision() + 1);
            false
        });
        loop {
            let ask = self.view.borrow().known.ask();
            let by = Deadline::within(store.timeout());
            let answer = match ask {
                Ask::Page { start, most } => Answer::Page(store.page(build, start, most, by).await?),
                Ask::Archived => Answer::Archived(store.is_archived(build, by).await?),
            };
            let mut progress = Progress::Asking;
            self.view.send_if_modified(|view| {
                progress = view.known.answer(answer);
                matches!(progress, Progress::Done { changed: true, .. })
            });
            match progress {
                Progress::Asking => {}
                Progress::Done { behind: true, .. } => return Ok(Looked::Behind),
                Progress::Done { behind: false, .. } => return Ok(Looked::All),
            }
        }
    }

    /// Tells how a look went that began when `ticket` had been asked for.
    fn publish(&self, look: &Result<Looked, Error>, ticket: u64) {
        let trouble = look.as_ref().err();
        self.view.send_if_modified(|view| {
            if view.trouble.as_ref() == trouble {
                return false;
            }
            if let Some(error) = trouble {
                tracing::debug!(%error, "cannot look at a log that is followed");
            }
            view.trouble = trouble.cloned();
            // Only a way out of trouble is something to do.
            trouble.is_none()
        });
        if *look == Ok(Looked::Behind) {
            return;
        }
        self.answered.send_if_modified(|(served, outcome)| {
            let awaited = *served < ticket;
            if awaited {
                (*served, *outcome) = (ticket, look.clone().map(drop));
            }
            awaited
        });
    }
}
