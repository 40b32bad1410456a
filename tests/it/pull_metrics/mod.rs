//! Pull metrics through their RPCs, with a direct client on the other side.

mod buffered;
mod faults;
mod flush;
mod limits;
mod popular;
mod scripts;
mod stream;
mod track;

use std::collections::BTreeMap;

use redis_gateway::{
    config::{Config, Endpoint},
    proto::{Pull, TrackManifestPullRequest, TrackTagPullRequest, pull_metrics_client::PullMetricsClient},
};
use tonic::transport::Channel;

use crate::harness::{Gateway, RedisServer, at, config};

/// Where pulls are counted.
const DB: u8 = 1;

const DIGEST: &str = "sha256:a1a1";

/// A gateway on a Redis of its own.
struct Stand {
    server: RedisServer,
    gateway: Gateway,
    pulls: PullMetricsClient<Channel>,
}

impl Stand {
    async fn new() -> Self {
        Stand::with(|_| {}).await
    }

    /// With a change to the configuration.
    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let server = RedisServer::new().start().await;
        let endpoint = at(server.addr());
        Stand::on(server, endpoint, change).await
    }

    /// On an endpoint that leads to `server`.
    async fn on(server: RedisServer, endpoint: Endpoint, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        config.endpoints.pull_metrics = Some(Endpoint { db: DB, ..endpoint });
        change(&mut config);
        let gateway = Gateway::start(config).await;
        Stand {
            pulls: gateway.pull_metrics().await,
            server,
            gateway,
        }
    }

    /// The fields of a key, in the order in which they stand.
    async fn hash(&self, key: &str) -> Vec<(String, String)> {
        self.server.run_on(DB.into(), &["HGETALL", key]).await
    }

    /// The count of a key; 0 without one.
    async fn count(&self, key: &str) -> u64 {
        let count: Option<u64> = self.server.run_on(DB.into(), &["HGET", key, "pull_count"]).await;
        count.unwrap_or(0)
    }

    /// A number among the gateway's metrics; 0 without one.
    async fn metric(&self, sample: &str) -> f64 {
        let (_, text) = self.gateway.admin("/metrics").await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Ends the gateway and checks that it leaves nothing behind.
    async fn stop(self) {
        drop(self.pulls);
        self.gateway.stop().await;
    }
}

fn tag_key(tag: &str) -> String {
    format!("pull_events:repo:42:tag:{tag}:{DIGEST}")
}

fn manifest_key() -> String {
    format!("pull_events:repo:42:digest:{DIGEST}")
}

fn tag_pull(tag: &str, timestamp: Option<&str>) -> TrackTagPullRequest {
    TrackTagPullRequest {
        repository_id: 42,
        tag: tag.into(),
        digest: DIGEST.into(),
        timestamp: timestamp.map(Into::into),
        buffered: false,
    }
}

fn manifest_pull(timestamp: Option<&str>) -> TrackManifestPullRequest {
    TrackManifestPullRequest {
        repository_id: 42,
        digest: DIGEST.into(),
        timestamp: timestamp.map(Into::into),
        buffered: false,
    }
}

/// A pull of a batch; of the manifest if `tag` is empty.
fn pull(tag: &str, timestamp: &str) -> Pull {
    Pull {
        repository_id: 42,
        tag: tag.into(),
        digest: DIGEST.into(),
        timestamp: Some(timestamp.into()),
    }
}

fn fields(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}

fn sorted(hash: Vec<(String, String)>) -> BTreeMap<String, String> {
    hash.into_iter().collect()
}
