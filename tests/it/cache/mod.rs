//! The cache through its RPCs, on several gateways, with direct clients on the other side.

mod cluster;
mod compression;
mod faults;
mod hot_key;
mod interleavings;
mod leases;
mod limits;
mod near;
mod poisoned;
mod races;
mod refresh;
mod refusals;
mod replicas;
mod stampede;
mod waiting;

use std::time::Duration;

use redis_gateway::{
    config::Config,
    proto::{
        CacheDeleteRequest, CacheFillRequest, CacheFillResponse, CacheGetOrLeaseRequest, CacheGetOrLeaseResponse,
        CacheGetRequest, CacheGiveUpRequest, CacheSetRequest, DegradedReason, cache_client::CacheClient,
        cache_fill_response::Refusal, cache_get_or_lease_response::Outcome,
    },
};
use tonic::{Response, Status, transport::Channel};

use crate::harness::{Gateway, RedisServer, at, config, eventually, patience, within};

type Client = CacheClient<Channel>;

/// Gateways on one Redis of their own.
struct Stand {
    server: RedisServer,
    gateways: Vec<Gateway>,
    clients: Vec<Client>,
}

impl Stand {
    async fn new(gateways: usize) -> Self {
        Stand::with(RedisServer::new().start().await, gateways, |_| {}).await
    }

    /// With a change to the configuration of each.
    async fn with(server: RedisServer, count: usize, change: impl Fn(&mut Config)) -> Self {
        let mut stand = Stand {
            server,
            gateways: Vec::new(),
            clients: Vec::new(),
        };
        for _ in 0..count {
            let mut config = config();
            config.endpoints.cache = Some(at(stand.server.addr()));
            change(&mut config);
            let gateway = Gateway::start(config).await;
            let mut client = gateway.cache().await;
            eventually("the gateway is connected", async || {
                let answer = client.get(fresh("none")).await.unwrap().into_inner();
                answer.degraded() != DegradedReason::RedisUnavailable
            })
            .await;
            stand.gateways.push(gateway);
            stand.clients.push(client);
        }
        stand
    }

    /// A client of a gateway.
    fn client(&self, gateway: usize) -> Client {
        self.clients[gateway].clone()
    }

    /// The value under a key, read without a gateway.
    async fn value(&self, key: &str) -> Option<String> {
        self.server.run(&["GET", key]).await
    }

    /// The keys that are the gateways' own.
    async fn own_keys(&self) -> Vec<String> {
        self.server.run(&["KEYS", "redis-gateway:*"]).await
    }

    /// A metric of a gateway; 0 before it is first counted.
    async fn metric(&self, gateway: usize, name: &str) -> u64 {
        metric_of(&self.gateways[gateway], name).await
    }

    /// Waits until so many calls wait at a gateway.
    async fn waiters(&self, gateway: usize, count: u64) {
        eventually(&format!("{count} wait at gateway {gateway}"), async || {
            self.metric(gateway, "redis_gateway_cache_waiting").await == count
        })
        .await;
    }

    /// Waits until so many gateways hear wake-ups.
    async fn listeners(&self, count: i64) {
        eventually(&format!("{count} gateways listen"), async || {
            let heard: (String, i64) = self.server.run(&["PUBSUB", "NUMSUB", WAKE]).await;
            heard.1 == count
        })
        .await;
    }

    async fn stop(self) {
        drop(self.clients);
        for gateway in self.gateways {
            gateway.stop().await;
        }
        let server = self.server;
        let gateways = |line: &String| !line.contains(" flags=S ");
        eventually("no connection of a gateway is left", async || {
            !server.connections().await.iter().any(gateways)
        })
        .await;
    }
}

/// A metric of a gateway; 0 before it is first counted.
async fn metric_of(gateway: &Gateway, name: &str) -> u64 {
    let (_, text) = gateway.admin("/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

const WAKE: &str = "redis-gateway:v1:cache:wake";

fn fresh(key: &str) -> CacheGetRequest {
    CacheGetRequest {
        key: key.into(),
        fresh: true,
        ..CacheGetRequest::default()
    }
}

/// Asks for what a write has left, or for what is newer.
fn after(key: &str, write_token: &str) -> CacheGetRequest {
    CacheGetRequest {
        key: key.into(),
        write_token: write_token.into(),
        ..CacheGetRequest::default()
    }
}

/// Asks for a key: a lease of a minute, without a wait.
fn asking(key: &str) -> CacheGetOrLeaseRequest {
    CacheGetOrLeaseRequest {
        key: key.into(),
        lease_ms: 60_000,
        ..CacheGetOrLeaseRequest::default()
    }
}

/// The same, with a wait.
fn waiting(key: &str, wait_ms: i64) -> CacheGetOrLeaseRequest {
    CacheGetOrLeaseRequest { wait_ms, ..asking(key) }
}

async fn ask(client: &mut Client, request: CacheGetOrLeaseRequest) -> Result<CacheGetOrLeaseResponse, Status> {
    let wait = Duration::from_millis(request.wait_ms.unsigned_abs());
    let answer = client.get_or_lease(within(wait + patience(), request)).await;
    answer.map(Response::into_inner)
}

/// The lease of a key that nobody loads, for a minute.
async fn leased(client: &mut Client, key: &str) -> String {
    lease_in(ask(client, asking(key)).await.unwrap())
}

/// The token of the lease in an answer.
fn lease_in(answer: CacheGetOrLeaseResponse) -> String {
    match answer.outcome {
        Some(Outcome::Lease(lease)) => lease.token,
        other => panic!("{other:?} instead of a lease, degraded: {}", answer.degraded),
    }
}

/// The value in an answer.
fn value_in(answer: CacheGetOrLeaseResponse) -> Vec<u8> {
    match answer.outcome {
        Some(Outcome::Value(value)) => value.into(),
        other => panic!("{other:?} instead of a value, degraded: {}", answer.degraded),
    }
}

/// How long another loads yet, by an answer.
fn busy_in(answer: CacheGetOrLeaseResponse) -> i64 {
    match answer.outcome {
        Some(Outcome::Busy(busy)) => busy.remaining_ms,
        other => panic!("{other:?} instead of busy, degraded: {}", answer.degraded),
    }
}

fn filling(key: &str, token: &str, value: &str) -> CacheFillRequest {
    CacheFillRequest {
        key: key.into(),
        token: token.into(),
        value: value.to_owned().into(),
        ttl_seconds: 60,
        ..CacheFillRequest::default()
    }
}

async fn fill(client: &mut Client, key: &str, token: &str, value: &str) -> CacheFillResponse {
    client.fill(filling(key, token, value)).await.unwrap().into_inner()
}

/// Fills, and is not refused.
async fn filled(client: &mut Client, key: &str, token: &str, value: &str) {
    let answer = fill(client, key, token, value).await;
    assert!(answer.stored, "{answer:?}");
}

/// Fills, and is refused for that.
async fn refused(client: &mut Client, key: &str, token: &str, refusal: Refusal) {
    let answer = fill(client, key, token, "\"refused\"").await;
    assert_eq!((answer.stored, answer.refusal(), answer.degraded), (false, refusal, 0));
}

async fn give_up(client: &mut Client, key: &str, token: &str) -> bool {
    let request = CacheGiveUpRequest {
        key: key.into(),
        token: token.into(),
    };
    client.give_up(request).await.unwrap().into_inner().given_up
}

fn deletion(key: &str) -> CacheDeleteRequest {
    CacheDeleteRequest {
        key: key.into(),
        ..CacheDeleteRequest::default()
    }
}

async fn delete(client: &mut Client, key: &str) -> bool {
    let answer = client.delete(deletion(key)).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.degraded, 0);
    answer.deleted
}

fn setting(key: &str, value: &str, overwrite: bool) -> CacheSetRequest {
    CacheSetRequest {
        key: key.into(),
        value: value.to_owned().into(),
        ttl_seconds: 60,
        overwrite,
        ..CacheSetRequest::default()
    }
}

async fn set(client: &mut Client, key: &str, value: &str, overwrite: bool) -> bool {
    client
        .set(setting(key, value, overwrite))
        .await
        .unwrap()
        .into_inner()
        .stored
}
