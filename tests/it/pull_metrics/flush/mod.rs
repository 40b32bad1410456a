//! The flush: who holds which key, and that each pull is counted once.

mod claimers;
mod faults;
mod keyspace;
mod leases;
mod recorded;

use std::collections::BTreeSet;

use redis::aio::MultiplexedConnection;
use redis_gateway::{
    config::{self, Config},
    proto::{
        ClaimPullsRequest, ClaimPullsResponse, CommitClaimRequest, CommitClaimResponse, ExtendClaimRequest,
        ExtendClaimResponse, GiveBackClaimRequest, pull_metrics_client::PullMetricsClient,
    },
};
use tonic::{Status, transport::Channel};

use crate::harness::{Gateway, RedisServer, at, config, eventually};

/// The database of pull metrics.
const DB: i64 = 1;

/// A lease that does not end during a test.
const LONG: i64 = 300;

/// A gateway that flushes.
struct Flusher {
    gateway: Gateway,
    pulls: PullMetricsClient<Channel>,
}

impl Flusher {
    /// On `server`, once it serves.
    async fn on(server: &RedisServer) -> Self {
        Flusher::with(at(server.addr()), |_| {}).await
    }

    /// On `endpoint`, once it serves, with a change to the configuration.
    async fn with(mut endpoint: config::Endpoint, change: impl FnOnce(&mut Config)) -> Self {
        endpoint.db = u8::try_from(DB).unwrap();
        let mut config = config();
        config.endpoints.pull_metrics = Some(endpoint);
        change(&mut config);
        let gateway = Gateway::start(config).await;
        let pulls = gateway.pull_metrics().await;
        let flusher = Flusher { gateway, pulls };
        eventually("claims are taken", async || {
            flusher.extend(&"0".repeat(32), LONG).await.unwrap_err().code() == tonic::Code::NotFound
        })
        .await;
        flusher
    }

    async fn try_claim(&self, max_keys: i32, lease_seconds: i64) -> Result<ClaimPullsResponse, Status> {
        let request = ClaimPullsRequest {
            max_keys,
            lease_seconds,
        };
        Ok(self.pulls.clone().claim_pulls(request).await?.into_inner())
    }

    async fn claim(&self, max_keys: i32, lease_seconds: i64) -> ClaimPullsResponse {
        self.try_claim(max_keys, lease_seconds).await.unwrap()
    }

    /// Claims until something is claimed.
    async fn claim_some(&self) -> ClaimPullsResponse {
        let mut some = None;
        eventually("there is something to claim", async || {
            some = self
                .try_claim(0, LONG)
                .await
                .ok()
                .filter(|claim| !claim.keys.is_empty());
            some.is_some()
        })
        .await;
        some.unwrap()
    }

    async fn commit(&self, claim_id: &str) -> Result<CommitClaimResponse, Status> {
        let claim_id = claim_id.to_owned();
        let answer = self.pulls.clone().commit_claim(CommitClaimRequest { claim_id }).await?;
        Ok(answer.into_inner())
    }

    async fn give_back(&self, claim_id: &str) -> Result<i64, Status> {
        let claim_id = claim_id.to_owned();
        let answer = self
            .pulls
            .clone()
            .give_back_claim(GiveBackClaimRequest { claim_id })
            .await?;
        Ok(answer.into_inner().given_back)
    }

    async fn extend(&self, claim_id: &str, lease_seconds: i64) -> Result<ExtendClaimResponse, Status> {
        let claim_id = claim_id.to_owned();
        let request = ExtendClaimRequest {
            claim_id,
            lease_seconds,
        };
        Ok(self.pulls.clone().extend_claim(request).await?.into_inner())
    }

    /// Ends the gateway and checks that it leaves nothing behind.
    async fn stop(self) {
        drop(self.pulls);
        self.gateway.stop().await;
    }
}

fn digest(n: usize) -> String {
    format!("sha256:{n:064x}")
}

/// The key of a manifest of repository 1.
fn fresh_key(n: usize) -> String {
    format!("pull_events:repo:1:digest:{}", digest(n))
}

/// Leaves the keys of manifests `numbers` as pulls by their digests do, `count` pulls each.
async fn pulled(db: &mut MultiplexedConnection, numbers: impl IntoIterator<Item = usize>, count: u64) {
    let mut pipeline = redis::pipe();
    // A key is there with all of its fields or not at all, as from the scripts.
    pipeline.atomic();
    for n in numbers {
        let key = fresh_key(n);
        pipeline.cmd("HINCRBY").arg(&key).arg("pull_count").arg(count);
        pipeline.cmd("HSET").arg(&key).arg(&[
            ("repository_id", "1"),
            ("tag_name", ""),
            ("manifest_digest", &digest(n)),
            ("last_pull_timestamp", "1700000000"),
            ("pull_method", "digest"),
        ]);
    }
    pipeline.query_async::<()>(db).await.unwrap();
}

/// The names of keys of pulls, claimed or not, that stand in Redis.
async fn standing(server: &RedisServer) -> BTreeSet<String> {
    server.run_on::<BTreeSet<String>>(DB, &["KEYS", "pull_events:*"]).await
}

/// How many leases stand in Redis.
async fn leases(server: &RedisServer) -> usize {
    let names: Vec<String> = server
        .run_on(DB, &["KEYS", "redis-gateway:v1:pull_metrics:lease:*"])
        .await;
    names.len()
}

fn names(claim: &ClaimPullsResponse) -> BTreeSet<String> {
    let names: BTreeSet<String> = claim.keys.iter().map(|key| key.name.clone()).collect();
    assert_eq!(names.len(), claim.keys.len(), "a key is claimed twice");
    names
}

/// The server's clock, milliseconds.
async fn now(server: &RedisServer) -> u64 {
    let (seconds, micros): (u64, u64) = server.run(&["TIME"]).await;
    seconds * 1000 + micros / 1000
}

/// When the lease of a claimed key ends, by the server's clock.
async fn lease_end(server: &RedisServer, name: &str) -> u64 {
    let lease = format!("redis-gateway:v1:pull_metrics:lease:{name}");
    let lease: String = server.run_on(DB, &["GET", &lease]).await;
    lease.split_once(' ').unwrap().0.parse().unwrap()
}

/// Waits until the lease of `claim` has ended.
async fn leases_end(server: &RedisServer, claim: &ClaimPullsResponse) {
    let end = lease_end(server, &claim.keys[0].name).await;
    eventually("the lease ends", async || now(server).await >= end).await;
}

/// A number of the flush in `/metrics`, by the metric's name and labels; 0 if it is not there.
async fn counted(gateway: &Gateway, metric: &str) -> u64 {
    let (_, metrics) = gateway.admin("/metrics").await;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("redis_gateway_pull_metrics_")?.strip_prefix(metric));
    line.map_or(0, |value| value.trim().parse().unwrap())
}
