//! A primary that dies, and the replica that takes its place.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};

use super::*;
use crate::{
    cache::{after, ask, waiting},
    harness::{MachineLag, heavy, within},
};

/// What a worker has seen.
#[derive(Debug, Default)]
struct Seen {
    done: u64,
    degraded: u64,
    /// The longest that it was not served, and the longest call.
    gap: Duration,
    worst: Duration,
}

/// Writes, reads and asks for leases all the time, each within its deadline; none is an error.
async fn work(mut client: Client, key: String, until: Arc<AtomicBool>) -> Seen {
    let limit = Duration::from_secs(1);
    let mut seen = Seen::default();
    let mut served = Instant::now();
    for n in 0_u64.. {
        let asked = Instant::now();
        let degraded = match n % 3 {
            0 => {
                client
                    .set(within(limit, setting(&key, &n.to_string(), true)))
                    .await
                    .unwrap()
                    .into_inner()
                    .degraded
            }
            1 => {
                client
                    .get(within(limit, fresh(&key)))
                    .await
                    .unwrap()
                    .into_inner()
                    .degraded
            }
            _ => {
                ask(&mut client, waiting(&format!("{{{key}}}lease{n}"), 50))
                    .await
                    .unwrap()
                    .degraded
            }
        };
        seen.worst = seen.worst.max(asked.elapsed());
        if degraded == 0 {
            seen.done += 1;
            seen.gap = seen.gap.max(served.elapsed());
            served = Instant::now();
        } else {
            seen.degraded += 1;
            // Callers of a cache that is away go to their database.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if until.load(Relaxed) && degraded == 0 {
            return seen;
        }
    }
    unreachable!()
}

#[tokio::test]
async fn replica_takes_over_with_misses_meanwhile_and_no_error() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let cluster = RedisCluster::with(1, Duration::from_secs(2)).await;
    let mut fleet = Fleet::with(cluster, 2, |endpoint| {
        endpoint.cluster.as_mut().unwrap().read_from_replicas = true;
    })
    .await;
    let keys: Vec<String> = (0..3).map(|n| fleet.cluster.key_on(n, "key")).collect();
    let old = put(&mut fleet.client(0), &keys[0], "before").await.write_token;
    let until = Arc::new(AtomicBool::new(false));
    let mut workers = JoinSet::new();
    for (n, key) in keys.iter().enumerate() {
        for gateway in 0..2 {
            let task = work(fleet.client(gateway), key.clone(), until.clone());
            workers.spawn(async move { (n, task.await) });
        }
    }
    let killed = Instant::now();
    fleet.cluster.nodes[0].kill();
    let mut client = fleet.client(0);
    eventually("it is noticed", async || {
        get(&mut client, fresh(&keys[0])).await.degraded != 0
    })
    .await;
    eventually("the replica takes over", async || {
        put(&mut client, &keys[0], "after").await.stored
    })
    .await;
    println!(
        "a shard whose primary was killed is served again after {:?} (node timeout 2 s)",
        killed.elapsed()
    );
    until.store(true, Relaxed);
    let mut outages = 0;
    while let Some(worker) = workers.join_next().await {
        let (shard, seen) = worker.unwrap();
        println!("shard {shard}: {seen:?}");
        // A call on the way when the server died waits for its deadline at most.
        lag.assert_within("a call", seen.worst, Duration::from_millis(1_100));
        if shard == 0 {
            outages += 1;
            assert!(seen.degraded > 0);
        } else {
            assert_eq!(seen.degraded, 0, "shard {shard} has lost nothing");
            lag.assert_within("a call of another shard", seen.worst, Duration::from_millis(300));
        }
    }
    assert_eq!(outages, 2);

    // A token from before leads to the new primary, and new ones are served by it alone, until the old one follows it.
    let latest = put(&mut client, &keys[0], "1").await.write_token;
    for token in [&old, &latest] {
        let got = get(&mut client, after(&keys[0], token)).await;
        assert_eq!((got.value.as_deref(), got.degraded), (Some(&b"1"[..]), 0));
    }
    fleet.cluster.nodes[0].restart().await;
    eventually("the old primary is read from as a replica", async || {
        let before = fleet.cluster.nodes[0].calls("get").await;
        let got = get(&mut client, after(&keys[0], &latest)).await;
        assert_eq!(got.value.as_deref(), Some(&b"1"[..]));
        fleet.cluster.nodes[0].calls("get").await > before
    })
    .await;
    drop(client);
    fleet.stop().await;
}

#[tokio::test]
async fn cluster_is_found_by_any_of_its_servers_whenever_it_comes() {
    let mut cluster = RedisCluster::new().await;
    for node in &mut cluster.nodes[..2] {
        node.kill();
    }
    let mut config = config();
    let mut endpoint = cluster.endpoint();
    // One that is there, and tells of all; the others are down.
    endpoint.cluster.as_mut().unwrap().servers.rotate_left(1);
    config.endpoints.cache = Some(endpoint);
    let gateway = Gateway::start(config).await;
    let mut client = gateway.cache().await;
    let key = cluster.key_on(2, "key");
    eventually("the one that is there serves", async || {
        put(&mut client, &key, "1").await.stored
    })
    .await;
    let away = cluster.key_on(0, "key");
    assert_eq!(
        put(&mut client, &away, "1").await.degraded(),
        DegradedReason::RedisUnavailable
    );
    for node in &mut cluster.nodes[..2] {
        node.restart().await;
    }
    eventually("all serve", async || put(&mut client, &away, "1").await.stored).await;
    drop(client);
    gateway.stop().await;
}

/// No server is known then that a metric could name.
#[tokio::test]
async fn a_cluster_that_has_never_been_found_is_told_as_down() {
    let mut cluster = RedisCluster::new().await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    let mut config = config();
    config.endpoints.cache = Some(cluster.endpoint());
    let gateway = Gateway::start(config).await;
    let told = async || {
        let (_, metrics) = gateway.admin("/metrics").await;
        let up = |line: &&str| line.starts_with("redis_gateway_redis_up{");
        metrics.lines().filter(up).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        told().await,
        ["redis_gateway_redis_up{endpoint=\"cache\",server=\"cluster\"} 0"]
    );
    for node in &mut cluster.nodes {
        node.restart().await;
    }
    eventually("its servers are told instead", async || {
        let told = told().await;
        told.len() > 1 && !told.iter().any(|line| line.contains("\"cluster\""))
    })
    .await;
    gateway.stop().await;
}
