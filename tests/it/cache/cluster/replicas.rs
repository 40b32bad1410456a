//! Reads from the replicas of a Cluster: by choice, by what is known of their lag, and by the tokens of writes.

use std::time::Duration;

use super::*;
use crate::{
    cache::{after, fresh},
    harness::{MachineLag, heavy},
};

impl Fleet {
    /// Reads of the first gateway so far, by who answered and why it was asked.
    async fn reads(&self, server: &str, reason: &str) -> u64 {
        let name =
            format!("redis_gateway_redis_reads_total{{endpoint=\"cache\",reason=\"{reason}\",server=\"{server}\"}}");
        self.metric(0, &name).await
    }

    /// How many `GET`s each of the replicas has seen.
    async fn gets(&self) -> Vec<u64> {
        let mut gets = Vec::new();
        for node in &self.cluster.nodes[RedisCluster::PRIMARIES..] {
            gets.push(node.calls("get").await);
        }
        gets
    }
}

fn plain(key: &str) -> CacheGetRequest {
    CacheGetRequest {
        fresh: false,
        ..fresh(key)
    }
}

#[tokio::test]
async fn replicas_are_read_from_by_choice_and_miss_no_write_whose_token_is_brought() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let mut cluster = RedisCluster::with(1, Duration::from_secs(30)).await;
    for choice in [false, true] {
        let fleet = Fleet::with(cluster, 1, |endpoint| {
            endpoint.cluster.as_mut().unwrap().read_from_replicas = choice;
        })
        .await;
        let mut client = fleet.client(0);
        let keys: Vec<String> = (0..3).map(|n| fleet.cluster.key_on(n, "key")).collect();
        for key in &keys {
            assert!(put(&mut client, key, "0").await.stored);
        }
        if !choice {
            for key in &keys {
                for _ in 0..50 {
                    get(&mut client, plain(key)).await;
                }
            }
            assert_eq!(fleet.gets().await, [0, 0, 0]);
            drop(client);
            cluster = stopped(fleet).await;
            continue;
        }
        for (n, key) in keys.iter().enumerate() {
            eventually("the replica is read from", async || {
                let before = fleet.gets().await[n];
                assert_eq!(get(&mut client, plain(key)).await.value.as_deref(), Some(&b"0"[..]));
                fleet.gets().await[n] > before
            })
            .await;
        }
        let before = fleet.gets().await;
        let fresh_reads = fleet.reads("shard-0-replica-0", "fresh_enough").await
            + fleet.reads("shard-1-replica-0", "fresh_enough").await
            + fleet.reads("shard-2-replica-0", "fresh_enough").await;
        assert!(fresh_reads >= 3, "{fresh_reads}");
        for key in &keys {
            get(&mut client, fresh(key)).await;
        }
        assert_eq!(fleet.gets().await, before, "a fresh read is the primary's");

        let mut of_replicas = 0;
        for n in 1..300 {
            let (key, other) = (&keys[n % 3], &keys[(n + 1) % 3]);
            let token = put(&mut client, key, &n.to_string()).await.write_token;
            let got = get(&mut client, after(key, &token)).await;
            assert_eq!(got.value.as_deref(), Some(n.to_string().as_bytes()), "{key}");
            // Of another shard's write nothing is known here.
            if n % 50 == 0 {
                let name = format!("shard-{}-primary", fleet.cluster.primary_of(other));
                let short = fleet.reads(&name, "behind").await;
                get(&mut client, after(other, &token)).await;
                assert_eq!(fleet.reads(&name, "behind").await, short + 1);
                let before = fleet.gets().await;
                eventually("a probe later a replica answers", async || {
                    let got = get(&mut client, after(key, &token)).await;
                    assert_eq!(got.value.as_deref(), Some(n.to_string().as_bytes()), "{key}");
                    fleet.gets().await != before
                })
                .await;
                of_replicas += 1;
            }
        }
        assert!(of_replicas > 0);

        // A miss is the primary's to tell: of a slot on the move it has not all keys any more, and a replica does not know.
        let missing = fleet.cluster.key_on(0, "missing");
        let asked = fleet.cluster.nodes[0].calls("get").await;
        assert_eq!(get(&mut client, plain(&missing)).await.value, None);
        assert!(fleet.cluster.nodes[0].calls("get").await > asked);

        // One that is silent costs a read a short wait.
        let replica = &fleet.cluster.nodes[RedisCluster::PRIMARIES];
        replica.pause();
        let mut worst = Duration::ZERO;
        for _ in 0..200 {
            let asked = tokio::time::Instant::now();
            assert_eq!(get(&mut client, plain(&keys[0])).await.degraded, 0);
            worst = worst.max(asked.elapsed());
        }
        println!("worst read beside a silent replica: {worst:?}");
        lag.assert_within("a read beside a silent replica", worst, Duration::from_millis(150));
        replica.resume();
        drop(client);
        cluster = stopped(fleet).await;
    }
}

/// The Cluster of gateways that have stopped.
async fn stopped(fleet: Fleet) -> RedisCluster {
    drop(fleet.clients);
    for gateway in fleet.gateways {
        gateway.stop().await;
    }
    fleet.cluster
}
