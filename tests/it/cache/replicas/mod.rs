//! Reads from replicas: no older than their callers accept, whatever becomes of the replicas.

mod faults;
mod proofs;
mod staleness;
mod tokens;

use std::time::Duration;

use redis_gateway::proto::{CacheGetRequest, CacheGetResponse};
use tokio::time::Instant;

use super::{Client, Stand, after, fresh, set, setting};
use crate::harness::{Proxy, RedisServer, at, eventually};

/// A replica, the way on which it hears of writes, and the way on which gateways ask it.
struct Replica {
    server: RedisServer,
    link: Proxy,
    front: Proxy,
}

impl Replica {
    async fn of(primary: &RedisServer) -> Self {
        let link = Proxy::new(primary.addr());
        let follows = format!("replicaof 127.0.0.1 {}", link.addr().port());
        let server = RedisServer::new().setting(follows).start().await;
        let front = Proxy::new(server.addr());
        eventually("the replica follows", async || {
            server
                .run::<String>(&["INFO", "replication"])
                .await
                .contains("master_link_status:up")
        })
        .await;
        Replica { server, link, front }
    }
}

/// Gateways on a primary with replicas, which are read from.
struct Fleet {
    stand: Stand,
    replicas: Vec<Replica>,
}

impl Fleet {
    async fn new(gateways: usize, replicas: usize) -> Self {
        Fleet::with(gateways, replicas, |_| {}).await
    }

    async fn with(gateways: usize, count: usize, change: impl Fn(&mut redis_gateway::config::Endpoint)) -> Self {
        let primary = RedisServer::new().start().await;
        let mut replicas = Vec::new();
        for _ in 0..count {
            replicas.push(Replica::of(&primary).await);
        }
        let stand = Stand::with(primary, gateways, |config| {
            let mut endpoint = config.endpoints.cache.take().expect("a cache");
            endpoint.replicas = replicas.iter().map(|replica| at(replica.front.addr()).server).collect();
            change(&mut endpoint);
            config.endpoints.cache = Some(endpoint);
        })
        .await;
        let fleet = Fleet { stand, replicas };
        for gateway in 0..gateways {
            for n in 0..count {
                fleet.reads_from(gateway, n).await;
            }
        }
        fleet
    }

    /// Reads of a gateway so far, by who answered and why it was asked.
    async fn reads(&self, gateway: usize, server: &str, reason: &str) -> u64 {
        let name =
            format!("redis_gateway_redis_reads_total{{endpoint=\"cache\",reason=\"{reason}\",server=\"{server}\"}}");
        self.stand.metric(gateway, &name).await
    }

    /// Waits until reads go to that replica.
    async fn reads_from(&self, gateway: usize, replica: usize) {
        self.reads_go(gateway, &format!("replica-{replica}"), "fresh_enough")
            .await;
    }

    /// Waits until reads without a wish go there for that reason.
    async fn reads_go(&self, gateway: usize, server: &str, reason: &str) {
        let before = self.reads(gateway, server, reason).await;
        eventually(&format!("reads go to {server}: {reason}"), async || {
            get(&mut self.stand.client(gateway), plain("none")).await;
            self.reads(gateway, server, reason).await > before
        })
        .await;
    }

    async fn stop(self) {
        self.stand.stop().await;
    }
}

fn plain(key: &str) -> CacheGetRequest {
    CacheGetRequest {
        key: key.into(),
        ..CacheGetRequest::default()
    }
}

/// Asks for a value no older than that.
fn no_older(key: &str, than: Duration) -> CacheGetRequest {
    CacheGetRequest {
        max_staleness_ms: i64::try_from(than.as_millis()).unwrap(),
        ..plain(key)
    }
}

/// Reads, and is not told of any failure.
async fn get(client: &mut Client, request: CacheGetRequest) -> Option<u64> {
    let answer: CacheGetResponse = client.get(request).await.unwrap().into_inner();
    assert_eq!(answer.degraded, 0, "a read that failed");
    answer
        .value
        .map(|value| std::str::from_utf8(&value).unwrap().parse().unwrap())
}

/// Whether a token is that of a write of which nobody knows where the primary was.
pub(super) fn is_nowhere(token: &str) -> bool {
    token.starts_with(&"0".repeat(40))
}

/// Writes a number, and answers the token of that.
async fn put(client: &mut Client, key: &str, number: u64) -> String {
    let mut request = setting(key, &number.to_string(), true);
    request.want_token = true;
    let answer = client.set(request).await.unwrap().into_inner();
    assert_eq!((answer.stored, answer.degraded), (true, 0));
    assert!(!answer.write_token.is_empty());
    answer.write_token
}
