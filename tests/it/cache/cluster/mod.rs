//! The cache on a Redis Cluster.

mod alike;
mod failover;
mod moves;
mod parts;
mod replicas;

use redis_gateway::proto::{
    CacheBatchDeleteRequest, CacheBatchDeleteResponse, CacheBatchGetRequest, CacheBatchGetResponse,
    CacheBatchSetRequest, CacheGetRequest, CacheGetResponse, CacheSetRequest, CacheSetResponse, DegradedReason,
};

use super::{Client, fresh, metric_of, setting};
use crate::harness::{Gateway, RedisCluster, config, eventually};

/// Gateways on a Cluster of their own.
struct Fleet {
    cluster: RedisCluster,
    gateways: Vec<Gateway>,
    clients: Vec<Client>,
}

impl Fleet {
    async fn new(gateways: usize) -> Self {
        Fleet::with(RedisCluster::new().await, gateways, |_| {}).await
    }

    /// With a change to the configuration of each.
    async fn with(cluster: RedisCluster, count: usize, change: impl Fn(&mut redis_gateway::config::Endpoint)) -> Self {
        let mut fleet = Fleet {
            cluster,
            gateways: Vec::new(),
            clients: Vec::new(),
        };
        for _ in 0..count {
            let mut config = config();
            let mut endpoint = fleet.cluster.endpoint();
            change(&mut endpoint);
            config.endpoints.cache = Some(endpoint);
            let gateway = Gateway::start(config).await;
            let mut client = gateway.cache().await;
            eventually("the gateway is connected to all primaries", async || {
                let keys = (0..RedisCluster::PRIMARIES).map(|n| fleet.cluster.key_on(n, "none"));
                batch_get(&mut client, keys.collect()).await.degraded == 0
            })
            .await;
            fleet.gateways.push(gateway);
            fleet.clients.push(client);
        }
        fleet
    }

    /// A client of a gateway.
    fn client(&self, gateway: usize) -> Client {
        self.clients[gateway].clone()
    }

    /// A metric of a gateway; 0 before it is first counted.
    async fn metric(&self, gateway: usize, name: &str) -> u64 {
        metric_of(&self.gateways[gateway], name).await
    }

    /// Commands that servers have sent elsewhere, or told to try again.
    async fn redirects(&self, gateway: usize, kind: &str) -> u64 {
        let name = format!("redis_gateway_redis_redirects_total{{endpoint=\"cache\",kind=\"{kind}\"}}");
        self.metric(gateway, &name).await
    }

    async fn stop(self) {
        drop(self.clients);
        for gateway in self.gateways {
            gateway.stop().await;
        }
    }
}

async fn get(client: &mut Client, request: CacheGetRequest) -> CacheGetResponse {
    client.get(request).await.unwrap().into_inner()
}

async fn put(client: &mut Client, key: &str, value: &str) -> CacheSetResponse {
    let request = CacheSetRequest {
        want_token: true,
        ..setting(key, value, true)
    };
    client.set(request).await.unwrap().into_inner()
}

async fn batch_get(client: &mut Client, keys: Vec<String>) -> CacheBatchGetResponse {
    let request = CacheBatchGetRequest {
        keys,
        fresh: true,
        ..CacheBatchGetRequest::default()
    };
    client.batch_get(request).await.unwrap().into_inner()
}

async fn batch_set(client: &mut Client, items: Vec<CacheSetRequest>) -> Vec<CacheSetResponse> {
    let answer = client.batch_set(CacheBatchSetRequest { items }).await;
    answer.unwrap().into_inner().results
}

async fn batch_delete(client: &mut Client, keys: Vec<String>) -> CacheBatchDeleteResponse {
    let request = CacheBatchDeleteRequest { keys, want_token: true };
    client.batch_delete(request).await.unwrap().into_inner()
}

/// Values as text, a miss as none.
fn texts(answer: &CacheBatchGetResponse) -> Vec<Option<String>> {
    let text = |value: &bytes::Bytes| String::from_utf8(value.to_vec()).unwrap();
    answer
        .values
        .iter()
        .map(|value| value.value.as_ref().map(text))
        .collect()
}
