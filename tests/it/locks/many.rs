//! Thousands who wait: two connections at most, each served once, and handed over soon.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use redis_gateway::proto::{AcquireRequest, locks_client::LocksClient};
use tokio::{task::JoinSet, time::Instant};
use tonic::transport::Channel;

use super::{Stand, acquire, asking, get, got, release};
use crate::harness::{MachineLag, RedisServer, eventually, heavy, soak};

/// Calls on one connection.
const CALLS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_wait_on_one_connection_and_are_handed_over_soon() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let (waiting, locks) = if soak() { (10_000, 100) } else { (1_000, 10) };
    let server = RedisServer::new().start().await;
    let mut stand = Stand::with(server, |config| config.limits.max_calls = 2 * waiting).await;
    let mut holders = Vec::new();
    for lock in 0..locks {
        holders.push(got(&mut stand.locks, &format!("a{lock}")).await.holder_id);
    }
    let released = Arc::new(Mutex::new(vec![Instant::now(); locks]));
    let took = Arc::new(Mutex::new(Vec::new()));
    let mut calls = JoinSet::new();
    for first in (0..waiting).step_by(CALLS) {
        let client = LocksClient::new(stand.gateway.channel().await);
        for number in first..first + CALLS {
            calls.spawn(hand_over(
                client.clone(),
                number % locks,
                released.clone(),
                took.clone(),
            ));
        }
    }
    eventually("all wait", async || {
        let mut all = 0;
        for lock in 0..locks {
            all += get(&mut stand.locks, &format!("a{lock}")).await.unwrap().waiters;
        }
        usize::try_from(all).unwrap() == waiting
    })
    .await;
    eventually("the gateway listens", async || stand.blocked().await == 1).await;

    let began = Instant::now();
    for (lock, holder) in holders.iter().enumerate() {
        released.lock().unwrap()[lock] = Instant::now();
        release(&mut stand.locks, &format!("a{lock}"), holder).await.unwrap();
    }
    while let Some(ended) = tokio::time::timeout(Duration::from_mins(1), calls.join_next())
        .await
        .unwrap()
    {
        ended.unwrap();
    }
    let all = began.elapsed();
    let mut took = std::mem::take(&mut *took.lock().unwrap());
    took.sort();
    assert_eq!(took.len(), waiting);
    let at = |percent: usize| took[(waiting - 1) * percent / 100];
    println!(
        "{waiting} waited on {locks} locks, served in {all:?}: from release to acquired p50 {:?}, p99 {:?}, at most {:?}",
        at(50),
        at(99),
        at(100)
    );
    lag.assert_within("a hand-over", at(99), Duration::from_millis(250));
    stand.stop().await;
}

/// Waits for a lock, notes how long ago it was released, and releases it.
async fn hand_over(
    mut client: LocksClient<Channel>,
    lock: usize,
    released: Arc<Mutex<Vec<Instant>>>,
    took: Arc<Mutex<Vec<Duration>>>,
) {
    let name = format!("a{lock}");
    let request = AcquireRequest {
        wait_ms: 300_000,
        ..asking(&name)
    };
    let held = acquire(&mut client, request).await.unwrap();
    assert!(held.acquired);
    let now = Instant::now();
    let before = std::mem::replace(&mut released.lock().unwrap()[lock], now);
    took.lock().unwrap().push(now - before);
    release(&mut client, &name, &held.holder_id).await.unwrap();
}
