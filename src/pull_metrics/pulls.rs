//! All that the pattern keeps going on one endpoint.

use std::sync::Arc;

use futures_util::future::join_all;
use prometheus::Registry;
use tokio::time::{Instant, timeout_at};

use super::Pull;
use super::buffer::{Buffer, Full};
use super::claims::Claims;
use super::metrics::Metrics;
use super::store::Store;
use super::window::Window;
use crate::config;
use crate::deadline::Deadline;
use crate::redis::{Endpoint, Error, State};

/// Pulls on their way to Redis, and from there to a database.
pub struct Pulls {
    pub(super) store: Arc<Store>,
    pub(super) claims: Arc<Claims>,
    window: Arc<Window>,
    buffer: Buffer,
}

/// What became of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tracked {
    /// It stands in Redis; the key's count with it.
    Stands(i64),
    /// It waits in memory; with the reason if Redis does not serve now.
    Buffered(Option<Error>),
}

impl Pulls {
    /// Pulls on `endpoint`.
    ///
    /// # Panics
    /// If `registry` has the metrics of others.
    pub fn open(endpoint: Arc<Endpoint>, config: &config::PullMetrics, registry: &Registry) -> Arc<Self> {
        let metrics = Arc::new(Metrics::new(registry));
        let store = Arc::new(Store::new(endpoint.clone()));
        let window = config.coalesce_window;
        Arc::new(Pulls {
            claims: Claims::new(endpoint, config.orphan_age, metrics.clone()),
            window: Window::new(store.clone(), window, metrics.clone()),
            buffer: Buffer::new(store.clone(), config.buffer_bytes, window, metrics),
            store,
        })
    }

    /// Counts a pull: by `by`, or, if `buffered`, some time.
    pub(super) async fn track(&self, pull: Pull, buffered: bool, by: Deadline) -> Result<Tracked, Error> {
        if !buffered {
            return self.window.track(pull, by).await.map(Tracked::Stands);
        }
        match self.buffer.take(pull) {
            Ok(State::Up) => Ok(Tracked::Buffered(None)),
            Ok(_) => Ok(Tracked::Buffered(Some(Error::Unavailable))),
            Err(Full) => Err(Error::Overloaded),
        }
    }

    /// Counts pulls, each on its own, all at once.
    pub(super) async fn track_all(
        &self,
        pulls: Vec<Pull>,
        buffered: bool,
        by: Deadline,
    ) -> Vec<Result<Tracked, Error>> {
        join_all(pulls.into_iter().map(|pull| self.track(pull, buffered, by))).await
    }

    /// Writes what waits, at most until `by`. For the end of the gateway, when no more comes in.
    pub async fn settled(&self, by: Instant) {
        if timeout_at(by, self.window.settled()).await.is_err() {
            tracing::warn!("pulls were still being counted at the end of the drain");
        }
        if timeout_at(by, self.claims.settled()).await.is_err() {
            tracing::warn!("a claim was still being made at the end of the drain: it comes up again");
        }
        self.buffer.drain(by).await;
    }
}
