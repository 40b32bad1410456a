//! Reads from replicas, and from the primary where no replica serves.

use std::time::Duration;

use bytes::Bytes;
use redis_gateway::redis::{Endpoint, Freshness, command};
use tokio::time::Instant;

use super::{close, serving, within_ms};
use crate::harness::{MachineLag, Mode, Proxy, RedisServer, at, eventually, heavy};

async fn read(endpoint: &Endpoint) -> Option<Bytes> {
    let freshness = Freshness::Replica {
        within: None,
        after: None,
    };
    let get = command::get(Bytes::from_static(b"key"));
    endpoint.read(get, freshness, within_ms(1_000)).await.unwrap()
}

/// `GET`s that the server has seen.
async fn gets(server: &RedisServer) -> u64 {
    let stats: String = server.run(&["INFO", "commandstats"]).await;
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_get:calls="))
        .unwrap_or("0,");
    line.split(',').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn replica_down_falls_back() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let primary = RedisServer::new().start().await;
    let mut replica = RedisServer::new().replica_of(&primary).start().await;
    let proxy = Proxy::new(replica.addr());
    let mut config = at(primary.addr());
    config.replicas = vec![at(proxy.addr()).server];
    primary.run::<()>(&["SET", "key", "value"]).await;
    eventually("the replica follows", async || {
        replica.run::<Option<String>>(&["GET", "key"]).await.is_some()
    })
    .await;
    let endpoint = serving(&config).await;

    let before = gets(&replica).await;
    eventually("reads go to the replica", async || {
        assert_eq!(read(&endpoint).await.unwrap(), "value");
        gets(&replica).await > before
    })
    .await;
    let (on_primary, on_replica) = (gets(&primary).await, gets(&replica).await);
    for _ in 0..100 {
        read(&endpoint).await.unwrap();
    }
    assert_eq!(gets(&primary).await, on_primary);
    assert_eq!(gets(&replica).await, on_replica + 100);

    // Silent: half of the time, then the primary.
    proxy.set(Mode::BlackHole);
    let asked = Instant::now();
    assert_eq!(read(&endpoint).await.unwrap(), "value");
    lag.assert_within(
        "a read beside a silent replica",
        asked.elapsed(),
        Duration::from_millis(150),
    );
    assert_eq!(gets(&primary).await, on_primary + 1);
    eventually("reads keep away from the silent replica", async || {
        let asked = Instant::now();
        assert_eq!(read(&endpoint).await.unwrap(), "value");
        asked.elapsed() < Duration::from_millis(100)
    })
    .await;

    // Gone, in the middle of reads.
    proxy.set(Mode::Pass);
    eventually("reads go to the replica again", async || {
        let before = gets(&replica).await;
        read(&endpoint).await.unwrap();
        gets(&replica).await > before
    })
    .await;
    let reads = async {
        for _ in 0..500 {
            assert_eq!(read(&endpoint).await.unwrap(), "value");
        }
    };
    tokio::join!(reads, async { replica.kill() });
    for _ in 0..100 {
        assert_eq!(read(&endpoint).await.unwrap(), "value");
    }

    replica.restart().await;
    eventually("reads go to the replica after its restart", async || {
        let before = gets(&replica).await;
        read(&endpoint).await.unwrap();
        gets(&replica).await > before
    })
    .await;
    drop(replica);
    eventually("the primary has lost its replica", async || {
        primary.info("connected_slaves").await == 0
    })
    .await;
    close(endpoint, &primary).await;
}
