//! Memory is bounded, by what the process takes.

use redis_gateway::proto::CacheBatchGetRequest;

use super::plain;
use crate::harness::{GatewayProcess, RedisServer, eventually, heavy, soak};

/// `cache.near.max_bytes` by default.
const BOUND: u64 = 64 << 20;
const BATCH: usize = 250;

#[tokio::test]
async fn many_distinct_keys_take_no_more_memory_than_is_allowed() {
    let _one = heavy().await;
    // Three times the bound, or many small ones.
    let (keys, length) = if soak() { (1_000_000, 100) } else { (20_000, 8 << 10) };
    let server = RedisServer::new().start().await;
    let mut direct = server.client().await;
    let value = "v".repeat(length);
    let names = |from: usize| (from..from + BATCH).map(|n| format!("near:{n:07}"));
    for from in (0..keys).step_by(BATCH) {
        let mut all = redis::cmd("MSET");
        for name in names(from) {
            all.arg(name).arg(&value);
        }
        all.exec_async(&mut direct).await.unwrap();
    }
    let gateway = GatewayProcess::start(server.addr()).await;
    let mut client = gateway.cache();
    eventually("values are kept", async || {
        let before = server.calls("get").await;
        let read = client.get(plain("near:0000000")).await.unwrap().into_inner();
        read.value.is_some() && server.calls("get").await == before
    })
    .await;
    let mut most = Vec::new();
    // What answers under way take is the same without memory.
    for fresh in [true, false] {
        let mut highest = 0;
        for from in (0..keys).step_by(BATCH) {
            let request = CacheBatchGetRequest {
                keys: names(from).collect(),
                fresh,
                ..CacheBatchGetRequest::default()
            };
            let answer = client.batch_get(request).await.unwrap().into_inner();
            assert!(answer.values.iter().all(|read| read.value.is_some()));
            highest = highest.max(gateway.memory());
        }
        most.push(highest);
    }
    let more = most[1].saturating_sub(most[0]);
    println!(
        "{keys} values of {length} bytes, {} MiB allowed: {} MiB, {} without them",
        BOUND >> 20,
        most[1] >> 20,
        most[0] >> 20
    );
    assert!(more > BOUND / 2, "little was kept: {} MiB", more >> 20);
    // Allocators keep some of what was freed.
    assert!(more < BOUND + BOUND / 2, "{} MiB more", more >> 20);
}
