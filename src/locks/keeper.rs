//! Locks that are kept: renewed each third of their time to live, looked at each second, released after their grace.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use super::desk::Core;
use super::store::{Refused, Want};
use super::{Holder, Name, Session, Ttl};
use crate::deadline::Deadline;

/// How soon a stream hears of a lock that was lost behind its back.
const CHECK: Duration = Duration::from_secs(1);

/// Locks that are looked at in one command.
const CHECKED_AT_ONCE: usize = 500;

/// Why a stream lost its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Nobody holds it.
    Gone,
    /// Somebody else holds it.
    Taken,
    /// Redis could not be asked for as long as the lock lives.
    Unknown,
    /// Another session of its holder has taken it up.
    TakenUp,
}

impl From<Refused> for Cause {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Gone => Cause::Gone,
            // Made persistent: by nobody who keeps to the protocol.
            Refused::Taken | Refused::NoTtl => Cause::Taken,
            Refused::TakenUp => Cause::TakenUp,
        }
    }
}

/// What became of a lock so far. A stream that is slow misses renewals, and nothing else.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct News {
    pub renewals: u64,
    pub lost: Option<Cause>,
}

/// A lock that is kept for as long as this lives, and its grace.
pub(super) struct Kept {
    pub news: watch::Receiver<News>,
    _gone: DropGuard,
}

/// All locks that are kept here.
pub(super) struct Keepers {
    shared: Arc<Shared>,
    _check: AbortOnDropHandle<()>,
}

struct Shared {
    core: Arc<Core>,
    /// Never held across an await.
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    entries: HashMap<u64, Entry>,
    next: u64,
}

/// What the check of all has to know of a lock, and whom it tells.
struct Entry {
    held: (Name, Holder, Session),
    lost: oneshot::Sender<Refused>,
}

impl Keepers {
    pub(super) fn open(core: Arc<Core>) -> Arc<Self> {
        let shared = Arc::new(Shared {
            core,
            entries: Mutex::default(),
        });
        let check = tokio::spawn(check(shared.clone()));
        Arc::new(Keepers {
            shared,
            _check: AbortOnDropHandle::new(check),
        })
    }

    /// Keeps a lock that is held until `lives_until` for sure.
    pub(super) fn keep(&self, want: Want, grace: Duration, lives_until: Instant) -> Kept {
        let (tell, news) = watch::channel(News::default());
        let gone = CancellationToken::new();
        let (lost, refused) = oneshot::channel();
        let place = self.shared.enter(&want, lost);
        let keeper = Keeper {
            place,
            grace,
            lives_until,
            // At once if it was got long ago, by a question whose answer did not come.
            renew_at: lives_until
                .checked_sub(want.ttl.length() * 2 / 3)
                .unwrap_or_else(Instant::now),
            release_at: None,
            want,
            tell,
        };
        self.shared.core.spawn(keeper.run(refused, gone.clone()));
        Kept {
            news,
            _gone: gone.drop_guard(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Nothing that is done under it can panic halfway.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, want: &Want, lost: oneshot::Sender<Refused>) -> Place {
        let mut entries = self.lock();
        let id = entries.next;
        entries.next += 1;
        let held = (want.name.clone(), want.holder.clone(), want.session);
        entries.entries.insert(id, Entry { held, lost });
        self.core.metrics.held.inc();
        Place {
            id,
            shared: self.clone(),
        }
    }
}

/// A lock's place among those that are looked at.
struct Place {
    id: u64,
    shared: Arc<Shared>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.core.metrics.held.dec();
        self.shared.lock().entries.remove(&self.id);
    }
}

/// Looks at all locks each second.
async fn check(shared: Arc<Shared>) {
    let mut ticks = interval(CHECK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A look that gets no answer, since its connection is dead, does not keep the next ones waiting. It ends by itself.
    let mut looks = JoinSet::new();
    loop {
        ticks.tick().await;
        while looks.try_join_next().is_some() {}
        looks.spawn(look(shared.clone()));
    }
}

/// Looks at all locks, many in one command.
async fn look(shared: Arc<Shared>) {
    let all: Vec<_> = {
        let entries = shared.lock();
        entries
            .entries
            .iter()
            .map(|(id, entry)| (*id, entry.held.clone()))
            .collect()
    };
    for some in all.chunks(CHECKED_AT_ONCE) {
        let (ids, held): (Vec<u64>, Vec<_>) = some.iter().cloned().unzip();
        let Ok(standing) = shared.core.store.check(&held, shared.core.store.soon()).await else {
            // Renewals fail too, and tell.
            break;
        };
        let mut entries = shared.lock();
        for (id, standing) in ids.iter().zip(standing) {
            // One that was released meanwhile is not there any more.
            if let Err(refused) = standing
                && let Some(entry) = entries.entries.remove(id)
            {
                let _ = entry.lost.send(refused);
            }
        }
    }
}

/// Who keeps one lock.
struct Keeper {
    place: Place,
    want: Want,
    grace: Duration,
    /// Until then it is the holder's for sure, unless somebody takes it by force.
    lives_until: Instant,
    renew_at: Instant,
    /// When its grace ends. None: its stream lives.
    release_at: Option<Instant>,
    tell: watch::Sender<News>,
}

impl Keeper {
    async fn run(mut self, mut refused: oneshot::Receiver<Refused>, gone: CancellationToken) {
        let core = self.place.shared.core.clone();
        let mut end = core.end.subscribe();
        loop {
            let next = self.release_at.map_or(self.renew_at, |at| at.min(self.renew_at));
            tokio::select! {
                biased;
                // Who drops the other end without a word has dropped `self.place`.
                Ok(refused) = &mut refused => return self.lose(refused.into()),
                () = gone.cancelled(), if self.release_at.is_none() => {
                    self.release_at = Some(Instant::now() + self.grace);
                }
                Ok(()) = end.changed() => {}
                () = sleep_until(next) => {}
            }
            let now = Instant::now();
            if let Some(at) = self.release_at {
                let end = *end.borrow_and_update();
                if at <= now {
                    return core.let_go(self.want).await;
                }
                if end.is_some_and(|end| end <= at) {
                    return self.leave(&core, at - now).await;
                }
            }
            if self.renew_at <= now {
                let renewed = tokio::select! {
                    biased;
                    // As above: what is known of it meanwhile does not wait for an answer.
                    Ok(refused) = &mut refused => Err(refused.into()),
                    renewed = self.renew(&core) => renewed,
                };
                if let Err(cause) = renewed {
                    return self.lose(cause);
                }
            }
        }
    }

    async fn renew(&mut self, core: &Core) -> Result<(), Cause> {
        let Want { name, holder, ttl, .. } = &self.want;
        let began = Instant::now();
        // More than one try fits in: a connection that is dead is replaced meanwhile.
        let by = Deadline::at(self.lives_until).capped(ttl.length() / 4);
        match core.store.renew(name, holder, *ttl, Some(self.want.session), by).await {
            Ok(renewed) => {
                renewed?;
                self.lives_until = began + ttl.length();
                self.renew_at = began + ttl.length() / 3;
                self.tell.send_modify(|news| news.renewals += 1);
            }
            Err(_) if Instant::now() >= self.lives_until => return Err(Cause::Unknown),
            // A refusal of Redis itself, such as for a user without rights, is as good as none.
            Err(_) => {
                let again = Instant::now() + ttl.length() / 12;
                self.renew_at = again.min(self.lives_until);
            }
        }
        Ok(())
    }

    /// Leaves a lock to its time to live, which is what its grace has left: the gateway ends before it.
    async fn leave(self, core: &Core, left: Duration) {
        let ttl = Ttl::of_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let Want {
            name, holder, session, ..
        } = &self.want;
        let left = core
            .store
            .renew(name, holder, ttl, Some(*session), core.store.soon())
            .await;
        if let Err(error) = left {
            tracing::debug!(%error, "a lock is left with more time to live than its grace");
        }
    }

    fn lose(self, cause: Cause) {
        if self.release_at.is_some() {
            return;
        }
        self.place.shared.core.metrics.lost(cause);
        self.tell.send_modify(|news| news.lost = Some(cause));
    }
}
