//! Values in gateways' own memory: never past what tracking has told, whatever becomes of it.

mod changes;
mod faults;
mod histories;
mod memory;
mod reads;
mod stale;

use std::time::Duration;

use redis_gateway::{
    config::Config,
    proto::{CacheGetRequest, CacheGetResponse},
};

use super::{Client, Stand};
use crate::harness::{Proxy, RedisServer, at, eventually};

/// The keys whose values are kept in these tests begin so.
const PREFIX: &str = "near:";

/// Gateways that keep values, on one Redis of their own.
async fn stand(gateways: usize) -> Stand {
    stand_with(RedisServer::new().start().await, gateways, |_| {}).await
}

async fn stand_with(server: RedisServer, gateways: usize, change: impl Fn(&mut Config)) -> Stand {
    let stand = Stand::with(server, gateways, |config| {
        config.cache.near_prefixes = vec![PREFIX.into()];
        change(config);
    })
    .await;
    for gateway in 0..gateways {
        tracks(&stand, gateway).await;
    }
    stand
}

/// One gateway that reaches Redis through a proxy: its first connection is that of commands, the next one tracks.
async fn behind_proxy(change: impl Fn(&mut Config)) -> (Stand, Proxy) {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let stand = stand_with(server, 1, |config| {
        config.endpoints.cache = Some(at(proxy.addr()));
        change(config);
    })
    .await;
    (stand, proxy)
}

/// Waits until Redis tells a gateway of changes.
async fn tracks(stand: &Stand, gateway: usize) {
    eventually("keys are tracked", async || {
        metric(stand, gateway, "tracking_up").await == 1
    })
    .await;
}

/// Waits until it does not.
async fn tracks_no_more(stand: &Stand, gateway: usize) {
    eventually("the loss of tracking is noticed", async || {
        metric(stand, gateway, "tracking_up").await == 0
    })
    .await;
}

async fn metric(stand: &Stand, gateway: usize, name: &str) -> u64 {
    stand.metric(gateway, &format!("redis_gateway_cache_near_{name}")).await
}

/// Reads that ended so.
async fn reads(stand: &Stand, gateway: usize, outcome: &str) -> u64 {
    metric(stand, gateway, &format!("reads_total{{outcome=\"{outcome}\"}}")).await
}

fn plain(key: &str) -> CacheGetRequest {
    CacheGetRequest {
        key: key.into(),
        ..CacheGetRequest::default()
    }
}

/// A read that accepts a value so long past its end.
fn stale(key: &str, allowed: Duration) -> CacheGetRequest {
    CacheGetRequest {
        allow_stale_ms: allowed.as_millis().try_into().unwrap(),
        ..plain(key)
    }
}

async fn answer(client: &mut Client, request: CacheGetRequest) -> CacheGetResponse {
    client.get(request).await.unwrap().into_inner()
}

/// A plain read of a Redis that answers.
async fn get(client: &mut Client, key: &str) -> Option<String> {
    text(answer(client, plain(key)).await)
}

/// What is no older than it has to be.
fn text(answer: CacheGetResponse) -> Option<String> {
    assert_eq!((answer.degraded, answer.stale_age_ms), (0, 0));
    answer.value.map(|value| String::from_utf8(value.into()).unwrap())
}

/// Reads until a gateway answers from memory.
async fn keep(stand: &Stand, gateway: usize, key: &str) {
    let mut client = stand.client(gateway);
    eventually("the value is kept", async || {
        let before = reads(stand, gateway, "hit").await;
        get(&mut client, key).await;
        reads(stand, gateway, "hit").await > before
    })
    .await;
}
