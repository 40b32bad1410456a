//! Leases: of all who miss a value one loads it, and what it loaded is stored only if nothing has overtaken it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus::Registry;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Token;
use super::lines::Lines;
use super::metrics::{Event, Metrics, Waited};
use super::near::Near;
use super::refresh;
use super::store::{Filled, Loaded, Store, Terms, Written};
use super::values::{Read, Wish};
use crate::config;
use crate::deadline::{Deadline, jittered};
use crate::redis::{Endpoint, Error};

/// Before a lease is given up once more that could not be.
const AGAIN: Duration = Duration::from_millis(500);

/// The cache on one endpoint, and who waits for what others load.
pub struct Cache {
    core: Arc<Core>,
    lines: Lines,
    /// What is kept in memory, if anything is.
    pub(super) near: Option<Near>,
    draining: CancellationToken,
}

/// What all parts of the pattern work with.
pub(super) struct Core {
    pub(super) store: Store,
    pub(super) metrics: Metrics,
    tasks: TaskTracker,
    /// Work begins in destructors too, wherever they run.
    runtime: Handle,
}

/// What a caller wants, who would load it.
pub(super) struct Question {
    pub(super) key: Bytes,
    /// What value it accepts.
    pub(super) wish: Wish,
    /// How long it waits while another loads.
    pub(super) patience: Duration,
    /// How it would load.
    pub(super) terms: Terms,
}

/// What it gets.
#[derive(Debug)]
pub(super) enum Found {
    /// The value.
    Value(Bytes),
    /// What it was, of a TTL that is over or in a memory that is cut off; why, if Redis could not be asked.
    Stale(Read, Option<Error>),
    /// The lease, for so long.
    Lease(Token, Duration),
    /// The value, and the lease to load it again, for so long.
    Refresh(Bytes, Token, Duration),
    /// Neither: another has the lease, for so long.
    Busy(Duration),
    /// The gateway is about to end.
    Draining,
}

impl Cache {
    /// A cache on `endpoint`. Who waits is sent away once `draining` is cancelled.
    ///
    /// # Panics
    /// If `registry` has the metrics of others, or outside of a runtime.
    pub fn open(
        endpoint: Arc<Endpoint>,
        config: &config::Cache,
        draining: CancellationToken,
        registry: &Registry,
    ) -> Arc<Self> {
        let near = Near::open(&endpoint, config, registry);
        let core = Arc::new(Core {
            store: Store::new(endpoint),
            metrics: Metrics::new(registry),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
        });
        Arc::new(Cache {
            lines: Lines::open(core.clone()),
            core,
            near,
            draining,
        })
    }

    /// The cache in Redis.
    pub(super) fn store(&self) -> &Store {
        &self.core.store
    }

    /// Reads a value; after a miss, waits for it or for the lease to load it. Answered by `by`.
    pub(super) async fn get_or_lease(&self, question: Question, by: Deadline) -> Result<Found, Error> {
        let Question {
            key,
            wish,
            patience,
            terms,
        } = question;
        // A hit costs what it costs without leases, and may come from memory or a replica.
        let (read, times, failed) = if terms.early {
            self.get_timed(key.clone(), wish, by).await
        } else {
            let (read, failed) = self.get(key.clone(), wish, by).await;
            (read, None, failed)
        };
        match (read, failed) {
            (Read { value: Some(value), .. }, None) => {
                return Ok(match times {
                    Some(times) => refresh::draw_for(&self.core, key, value, times, terms.lease, by).await,
                    None => Found::Value(value),
                });
            }
            (read @ Read { value: Some(_), .. }, failed) => return Ok(Found::Stale(read, failed)),
            (_, Some(error)) => return Err(error),
            (_, None) => {}
        }
        let expired = self.expired(&key, &wish);
        let began = Instant::now();
        // Who accepts what it was does not wait for what it will be.
        let until = by
            .capped(if expired.is_some() { Duration::ZERO } else { patience })
            .instant();
        let found = tokio::select! {
            found = self.lines.wait(key, terms, until, by) => found,
            () = self.draining.cancelled() => return Ok(Found::Draining),
        };
        let waited = match &found {
            Ok(Found::Value(_) | Found::Stale(..)) => Waited::Value,
            Ok(Found::Lease(..) | Found::Refresh(..)) => Waited::Lease,
            Ok(Found::Busy(_) | Found::Draining) => Waited::Busy,
            Err(_) => Waited::Failed,
        };
        self.core.metrics.waited(waited, began.elapsed());
        match (found, expired) {
            (Ok(Found::Busy(_)), Some(expired)) => Ok(self.found_expired(expired, None)),
            (Err(error), Some(expired)) => Ok(self.found_expired(expired, Some(error))),
            (found, _) => found,
        }
    }

    /// Stores what was loaded, or says why not.
    pub(super) async fn fill(&self, loaded: Loaded, by: Deadline) -> Result<Written<Filled>, Error> {
        let key = self.kept_key(&loaded.key);
        let filled = self.core.store.fill(loaded, by).await;
        self.forget(&key);
        let (filled, at) = filled?;
        self.core.metrics.lease(match filled.stored {
            Ok(()) if filled.refresh => Event::Refreshed,
            Ok(()) => Event::Filled,
            Err(_) if filled.refresh => Event::RefreshRefused,
            Err(refusal) => Event::Refused(refusal),
        });
        Ok((filled, at))
    }

    /// Ends a lease. Whether it was the token's.
    pub(super) async fn give_up(&self, key: &Bytes, token: Token, by: Deadline) -> Result<bool, Error> {
        let given_up = self.core.store.give_up(key, token, by).await?;
        if given_up {
            self.core.metrics.lease(Event::GivenUp);
        }
        Ok(given_up)
    }

    /// Gives up what nobody wants, at most until `by`. For the end of the gateway, when no more calls come in.
    pub async fn settled(&self, by: Instant) {
        self.core.tasks.close();
        if timeout_at(by, self.core.tasks.wait()).await.is_err() {
            tracing::warn!("leases were still being given up at the end of the drain: they end by their time");
        }
    }
}

impl Core {
    /// Runs what must come to its end whoever waits for it.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(work, &self.runtime);
    }

    /// Gives up a lease that nobody wants, or that may have come to be without anybody hearing of it, for as long as it may last: it is
    /// the token's or nobody's, however often it is given up.
    fn unwanted(self: &Arc<Self>, key: Bytes, token: Token, ends: Instant) {
        self.metrics.lease(Event::Unwanted);
        let core = self.clone();
        self.spawn(async move {
            while let Err(error) = core.store.give_up(&key, token, core.store.soon()).await {
                if !error.is_transient() || Instant::now() + AGAIN >= ends {
                    tracing::debug!(%error, "a lease that nobody wants stays until its time ends");
                    return;
                }
                sleep(jittered(AGAIN)).await;
            }
        });
    }
}

/// A lease that is asked for, or was got. Given up when it is dropped, unless it is settled who has it.
pub(super) struct Grant {
    core: Arc<Core>,
    key: Bytes,
    pub(super) token: Token,
    /// When it ends, at the earliest.
    ends: Instant,
    /// Whether its caller took it, or it was not given.
    pub(super) settled: bool,
}

impl Grant {
    /// One that is to be asked for now. Its token is a new one: a question that is carried out late can then bring back no lease that
    /// was voided since.
    pub(super) fn new(core: &Arc<Core>, key: &Bytes, lease: Duration) -> Self {
        Grant {
            core: core.clone(),
            key: key.clone(),
            token: Token::random(),
            ends: Instant::now() + lease,
            settled: false,
        }
    }

    /// Its caller takes it: the token, and how long it lives.
    pub(super) fn take(mut self, event: Event) -> (Token, Duration) {
        self.settled = true;
        self.core.metrics.lease(event);
        (self.token, self.ends.saturating_duration_since(Instant::now()))
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if !self.settled {
            self.core.unwanted(self.key.clone(), self.token, self.ends);
        }
    }
}
