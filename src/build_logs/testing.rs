//! What the tests of this pattern share.

use std::time::Duration;

use crate::config::{Endpoint as Config, EndpointName, Server};
use crate::redis::{Endpoint, Metrics};

use super::store::Store;

/// A store whose Redis is not there.
pub(super) fn unreachable() -> Store {
    let config = Config {
        cluster: None,
        server: Server::Unix("/nowhere/redis.sock".into()),
        replicas: Vec::new(),
        max_staleness: Duration::from_secs(5),
        db: 0,
        username: None,
        password: None,
        tls: None,
        connect_timeout: Duration::from_secs(1),
        command_timeout: Duration::from_secs(2),
        max_in_flight: 10_000,
        probe_interval: Duration::from_millis(250),
        probe_timeout: Duration::from_millis(300),
        reconnect_max_delay: Duration::from_millis(500),
    };
    let metrics = Metrics::new(&prometheus::Registry::new());
    Store::new(Endpoint::open(EndpointName::BuildLogs, &config, &metrics), false)
}
