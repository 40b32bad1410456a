//! All that the pattern keeps going on one endpoint.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::acquiring::{Acquiring, Waited};
use super::hold::{Holding, Opening};
use super::keeper::Keepers;
use super::metrics::{Metrics, Outcome};
use super::store::{Held, Refused, Store, Want};
use super::waiters::Waiters;
use super::{Holder, Name, Token, Ttl};
use crate::config::EndpointName;
use crate::deadline::Deadline;
use crate::redis::{Endpoint, Error};

/// Before Redis is asked again for what it could not answer.
pub(super) const RETRY: Duration = Duration::from_millis(50);

/// How long it is tried to release what nobody wants; a lock's own end comes to help.
const LETTING_GO: Duration = Duration::from_mins(1);

/// Locks, who holds them here, and who waits.
pub struct Locks {
    core: Arc<Core>,
    waiters: Waiters,
    keepers: Arc<Keepers>,
    draining: CancellationToken,
}

/// What all parts of the pattern work with.
pub(super) struct Core {
    pub store: Store,
    pub metrics: Metrics,
    /// The latest time at which locks in their grace are released. None until the gateway drains.
    pub end: watch::Sender<Option<Instant>>,
    tasks: TaskTracker,
    /// Work begins in destructors too, wherever they run.
    runtime: Handle,
}

/// What became of a call for a lock.
#[derive(Debug)]
pub(super) enum Acquired {
    /// It is held.
    Held {
        holder: Holder,
        token: Token,
        left: Option<Duration>,
    },
    /// It was busy to the end; when it is free, if that is known.
    Busy(Option<Duration>),
    /// The gateway is about to end.
    Draining,
}

impl Locks {
    /// Locks on `endpoint`. Who waits for one is sent away once `draining` is cancelled.
    ///
    /// # Panics
    /// If `registry` has the metrics of others, or outside of a runtime.
    pub fn open(endpoint: Arc<Endpoint>, draining: CancellationToken, registry: &Registry) -> Arc<Self> {
        let core = Arc::new(Core {
            store: Store::new(endpoint),
            metrics: Metrics::new(registry),
            end: watch::channel(None).0,
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
        });
        Arc::new(Locks {
            waiters: Waiters::open(core.clone(), registry),
            keepers: Keepers::open(core.clone()),
            draining,
            core,
        })
    }

    /// The endpoint's name.
    pub(super) fn endpoint(&self) -> EndpointName {
        self.core.store.endpoint()
    }

    /// Acquires a lock, waiting until `until` at most while it is busy.
    pub(super) async fn acquire(&self, want: Want, until: Instant, by: Deadline) -> Result<Acquired, Error> {
        let mut acquiring = Acquiring::new(self.core.clone(), &self.waiters, want, Some(by));
        let granted = match acquiring.ask().await {
            Ok(Waited::Busy(_)) if Instant::now() < until => tokio::select! {
                waited = acquiring.wait(until) => waited,
                () = self.draining.cancelled() => return Ok(Acquired::Draining),
            },
            asked => asked,
        };
        match granted {
            Ok(Waited::Granted(grant)) => {
                let (token, left) = (grant.token, grant.left);
                let holder = grant.keep().holder;
                Ok(Acquired::Held { holder, token, left })
            }
            Ok(Waited::Busy(left)) => {
                self.core.metrics.asked(Outcome::Busy);
                Ok(Acquired::Busy(left))
            }
            Err(error) => {
                self.core.metrics.asked(Outcome::Failed);
                Err(error)
            }
        }
    }

    /// Acquires a lock, or takes it up again, to be held for as long as the answer lives, and a grace.
    pub(super) async fn hold(&self, opening: Opening) -> Result<Holding, Error> {
        Holding::open(self.core.clone(), &self.waiters, self.keepers.clone(), opening).await
    }

    /// Releases a lock. False: it is not the holder's.
    pub(super) async fn release(&self, name: &Name, holder: &Holder, by: Deadline) -> Result<bool, Error> {
        self.core.store.release(name, holder, None, by).await
    }

    /// Gives a lock its time to live again.
    pub(super) async fn renew(
        &self,
        name: &Name,
        holder: &Holder,
        ttl: Ttl,
        by: Deadline,
    ) -> Result<Result<(), Refused>, Error> {
        self.core.store.renew(name, holder, ttl, None, by).await
    }

    /// Releases a lock whoever holds it. Whether somebody did.
    pub(super) async fn reset(&self, name: &Name, by: Deadline) -> Result<bool, Error> {
        self.core.store.reset(name, by).await
    }

    /// Who holds a lock, and how many wait for it here.
    pub(super) async fn get(&self, name: &Name, by: Deadline) -> Result<(Option<Held>, usize), Error> {
        let held = self.core.store.get(name, by).await?;
        Ok((held, self.waiters.count(name)))
    }

    /// Releases what is in its grace, at most until `by`, and leaves the rest to its time to live. For the end of the gateway,
    /// when no more come in.
    pub async fn settled(&self, by: Instant) {
        self.core.end.send_replace(Some(by));
        self.core.tasks.close();
        if timeout_at(by, self.core.tasks.wait()).await.is_err() {
            tracing::warn!("locks were still being given up at the end of the drain: they end by their time to live");
        }
    }
}

impl Core {
    /// Runs what must come to its end whoever waits for it.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let work = work.instrument(tracing::Span::current());
        self.tasks.spawn_on(work, &self.runtime);
    }

    /// Releases what nobody wants.
    pub(super) fn give_up(self: &Arc<Self>, want: Want) {
        self.metrics.asked(Outcome::GivenUp);
        let core = self.clone();
        self.spawn(async move { core.let_go(want).await });
    }

    /// Releases a lock, unless another session of its holder has got it.
    pub(super) async fn let_go(&self, want: Want) {
        let end = Instant::now() + LETTING_GO;
        let Want {
            name, holder, session, ..
        } = want;
        while let Err(error) = self
            .store
            .release(&name, &holder, Some(session), self.store.soon())
            .await
        {
            if Instant::now() >= end || !error.is_transient() {
                tracing::warn!(%error, "a lock that nobody wants stays until its time to live ends");
                break;
            }
            sleep(RETRY).await;
        }
    }
}
