//! All that the pattern keeps going on one endpoint.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use prometheus::Registry;
use tokio::time::{Instant, timeout_at};

use super::Pull;
use super::buffer::{Buffer, Full};
use super::claims::Claims;
use super::metrics::Metrics;
use super::store::{self, Store};
use super::window::Window;
use crate::config;
use crate::deadline::Deadline;
use crate::redis::{Endpoint, Error};

/// Keys of one batch that are counted at once: batches must not crowd out each other, nor who counts a single pull.
const AT_ONCE: usize = 128;

/// What the buffer has to be written at least, at the end of the gateway.
const LAST: Duration = Duration::from_secs(1);

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
    /// It stands in Redis; the key's count with it, and with those of its batch.
    Stands(i64),
    /// It waits in memory; with the reason if Redis takes none now.
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
        if buffered {
            self.buffer(pull)
        } else {
            self.window.track(pull, 1, by).await.map(Tracked::Stands)
        }
    }

    /// Counts pulls, each on its own; those of one key as one. What each came to, in their order.
    pub(super) async fn track_all(
        &self,
        pulls: Vec<Pull>,
        buffered: bool,
        by: Deadline,
    ) -> Vec<Result<Tracked, Error>> {
        if buffered {
            return pulls.into_iter().map(|pull| self.buffer(pull)).collect();
        }
        let mut results = vec![Err(Error::Unknown); pulls.len()];
        let mut keys: HashMap<_, (Pull, Vec<usize>)> = HashMap::new();
        for (place, pull) in pulls.into_iter().enumerate() {
            match keys.entry(store::key(&pull.target)) {
                Entry::Vacant(vacant) => drop(vacant.insert((pull, vec![place]))),
                Entry::Occupied(mut known) => {
                    known.get_mut().0.timestamp = pull.timestamp;
                    known.get_mut().1.push(place);
                }
            }
        }
        let tracked = stream::iter(keys.into_values()).map(async |(pull, places)| {
            let result = self.window.track(pull, places.len() as u64, by).await;
            (places, result.map(Tracked::Stands))
        });
        let mut tracked = std::pin::pin!(tracked.buffer_unordered(AT_ONCE));
        while let Some((places, result)) = tracked.next().await {
            for place in places {
                results[place].clone_from(&result);
            }
        }
        results
    }

    fn buffer(&self, pull: Pull) -> Result<Tracked, Error> {
        match self.buffer.take(pull) {
            Ok(trouble) => Ok(Tracked::Buffered(trouble)),
            Err(Full) => Err(Error::Overloaded),
        }
    }

    /// Writes what waits, at most until `by`. For the end of the gateway, when no more comes in.
    pub async fn settled(&self, by: Instant) {
        if timeout_at(by, self.window.settled()).await.is_err() {
            tracing::warn!("pulls were still being counted at the end of the drain");
        }
        if timeout_at(by, self.claims.settled()).await.is_err() {
            tracing::warn!("a claim was still being made at the end of the drain: it comes up again");
        }
        // Calls that took all of the drain must not leave nothing for those that were answered long ago.
        self.buffer.drain(by.max(Instant::now() + LAST)).await;
    }
}
