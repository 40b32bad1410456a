//! All that the pattern keeps going on one endpoint.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;

use super::hub::Hub;
use super::metrics::Metrics;
use super::store::Store;
use crate::config;
use crate::redis::Endpoint;

/// Logs on one endpoint, and who follows them.
pub struct Logs {
    pub(super) store: Arc<Store>,
    pub(super) hub: Arc<Hub>,
    pub(super) heartbeat: Duration,
}

impl Logs {
    /// Logs on `endpoint`.
    ///
    /// # Panics
    /// If `registry` has the metrics of others.
    pub fn open(endpoint: Arc<Endpoint>, config: &config::BuildLogs, registry: &Registry) -> Self {
        let store = Arc::new(Store::new(endpoint, config.ttl_from_first_append));
        Logs {
            hub: Hub::new(store.clone(), config.poll_interval, Metrics::new(registry)),
            store,
            heartbeat: config.heartbeat,
        }
    }
}
