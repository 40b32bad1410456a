//! A real Redis Cluster of a test's own.

use std::time::Duration;

use redis_gateway::{
    config::{Cluster, Endpoint},
    redis::slot,
};

use super::{RedisServer, at, eventually, unused_port};

/// Three primaries, each with a third of the slots, and if wanted a replica of each. Killed and gone when dropped.
pub(crate) struct RedisCluster {
    /// The primaries come first, then their replicas in the same order.
    pub(crate) nodes: Vec<RedisServer>,
    /// How many slots each primary has, but for the last one.
    share: usize,
}

impl RedisCluster {
    /// How many primaries there are at the start.
    pub(crate) const PRIMARIES: usize = 3;

    /// Without replicas.
    pub(crate) async fn new() -> Self {
        RedisCluster::with(0, Duration::from_secs(30)).await
    }

    /// With so many replicas of each primary; a node that is silent for longer than `node_timeout` is taken for failed by the others.
    pub(crate) async fn with(replicas: usize, node_timeout: Duration) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..Self::PRIMARIES * (1 + replicas) {
            nodes.push(RedisCluster::node(node_timeout).await);
        }
        let share = 16_384_usize.div_ceil(Self::PRIMARIES);
        let cluster = RedisCluster { nodes, share };
        for (n, node) in cluster.nodes.iter().enumerate() {
            node.run::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()])
                .await;
            if n < Self::PRIMARIES {
                let (first, last) = (n * share, ((n + 1) * share).min(16_384) - 1);
                node.run::<()>(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()])
                    .await;
            }
        }
        for node in &cluster.nodes[1..] {
            cluster.meet(node).await;
        }
        cluster.agree(|nodes| nodes == cluster.nodes.len()).await;
        for (n, replica) in cluster.nodes.iter().enumerate().skip(Self::PRIMARIES) {
            let primary = cluster.nodes[n % Self::PRIMARIES].id().await;
            replica.run::<()>(&["CLUSTER", "REPLICATE", &primary]).await;
        }
        cluster.serves().await;
        for replica in &cluster.nodes[Self::PRIMARIES..] {
            eventually("the replica follows", async || {
                replica
                    .run::<String>(&["INFO", "replication"])
                    .await
                    .contains("master_link_status:up")
            })
            .await;
        }
        cluster
    }

    /// A server that is not yet part of a cluster.
    pub(crate) async fn node(node_timeout: Duration) -> RedisServer {
        RedisServer::new()
            .setting("cluster-enabled yes")
            .setting(format!("cluster-port {}", unused_port()))
            .setting(format!("cluster-node-timeout {}", node_timeout.as_millis()))
            // Misses of the slots of one that is down are no reason to fail all.
            .setting("cluster-require-full-coverage no")
            .setting("cluster-replica-validity-factor 0")
            .start()
            .await
    }

    /// Makes another server part of it, without slots.
    pub(crate) async fn join(&mut self, node: RedisServer) {
        self.meet(&node).await;
        self.nodes.push(node);
        let len = self.nodes.len();
        self.agree(|nodes| nodes == len).await;
        self.serves().await;
    }

    async fn meet(&self, node: &RedisServer) {
        let own: String = node.run(&["CLUSTER", "MYID"]).await;
        let nodes: String = node.run(&["CLUSTER", "NODES"]).await;
        let bus = nodes
            .lines()
            .find(|line| line.starts_with(&own))
            .and_then(|line| line.split_once('@')?.1.split([' ', ',']).next())
            .expect("a port of the bus");
        let port = node.addr().port().to_string();
        self.nodes[0]
            .run::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, bus])
            .await;
    }

    /// Waits until each node knows so many, and how to reach them.
    async fn agree(&self, enough: impl Fn(usize) -> bool) {
        eventually("the nodes know each other", async || {
            for node in &self.nodes {
                let nodes: String = node.run(&["CLUSTER", "NODES"]).await;
                if !enough(nodes.lines().count()) || nodes.contains("handshake") || nodes.contains("noaddr") {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Waits until all nodes say that the cluster serves, all its slots.
    pub(crate) async fn serves(&self) {
        eventually("the cluster serves", async || {
            for node in &self.nodes {
                let info: String = node.run(&["CLUSTER", "INFO"]).await;
                if !info.contains("cluster_state:ok") || !info.contains("cluster_slots_ok:16384") {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Its endpoint, with the default limits, found by any of its primaries.
    pub(crate) fn endpoint(&self) -> Endpoint {
        let servers = self.nodes[..Self::PRIMARIES].iter().map(|node| at(node.addr()).server);
        Endpoint {
            cluster: Some(Cluster {
                servers: servers.collect(),
                read_from_replicas: false,
            }),
            ..at(self.nodes[0].addr())
        }
    }

    /// The primary that has the slot of a key, as it was at the start.
    pub(crate) fn primary_of(&self, key: &str) -> usize {
        usize::from(slot(key.as_bytes())) / self.share
    }

    /// A key of that primary's, as it was at the start; the same for the same `name`.
    pub(crate) fn key_on(&self, primary: usize, name: &str) -> String {
        let mut keys = (0..1_000).map(|n| format!("{name}-{n}"));
        // A third of all keys are there.
        keys.find(|key| self.primary_of(key) == primary).expect("one of many")
    }

    /// The value of a key, read without a gateway, wherever it is.
    pub(crate) async fn value(&self, key: &str) -> Option<Vec<u8>> {
        for node in &self.nodes {
            let mut client = node.client().await;
            let found: redis::RedisResult<Option<Vec<u8>>> = redis::cmd("GET").arg(key).query_async(&mut client).await;
            if let Ok(value) = found {
                return value;
            }
        }
        panic!("no node has the slot of {key}");
    }
}

impl RedisServer {
    /// Its id in its cluster.
    pub(crate) async fn id(&self) -> String {
        self.run(&["CLUSTER", "MYID"]).await
    }
}

mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cluster_serves_with_replicas() {
        let cluster = RedisCluster::with(1, Duration::from_secs(30)).await;
        for primary in 0..RedisCluster::PRIMARIES {
            let key = cluster.key_on(primary, "key");
            cluster.nodes[primary].run::<()>(&["SET", &key, "value"]).await;
            assert_eq!(cluster.value(&key).await.unwrap(), b"value");
            assert_eq!(cluster.nodes[primary].info("connected_slaves").await, 1);
        }
    }
}
