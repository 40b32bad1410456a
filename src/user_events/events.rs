//! All that the pattern keeps going on one endpoint.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;

use super::hub::Hub;
use super::metrics::Metrics;
use super::store::Store;
use crate::config;
use crate::redis::Endpoint;

/// Publishing and listening on one endpoint.
pub struct Events {
    pub(super) store: Store,
    pub(super) hub: Arc<Hub>,
    pub(super) heartbeat: Duration,
}

impl Events {
    /// Events on `endpoint`. Connects for subscriptions once somebody listens.
    ///
    /// # Panics
    /// If `registry` has the metrics of others.
    pub fn open(endpoint: Arc<Endpoint>, config: &config::UserEvents, registry: &Registry) -> Arc<Self> {
        let metrics = Metrics::new(registry);
        let store = Store::new(endpoint, metrics.published.clone());
        Arc::new(Events {
            hub: Hub::new(store.subscriber(), metrics),
            store,
            heartbeat: config.heartbeat,
        })
    }
}
