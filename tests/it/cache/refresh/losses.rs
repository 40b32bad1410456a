//! Refreshes whose holders die, whose callers go away, and whose primary does not answer.

use std::time::Duration;

use redis_gateway::proto::{CacheGetOrLeaseRequest, cache_get_or_lease_response::Outcome};
use tokio::{task::JoinSet, time::Instant};

use super::{
    super::{Stand, ask, asking, filled, give_up, lease_in, value_in, waiting},
    early, event, long_to_load, refresh_in, refreshing, standing,
};
use crate::harness::{Cut, MachineLag, Mode, Proxy, RedisServer, at, eventually, heavy, within};

#[tokio::test]
async fn killed_holder_of_a_refresh_costs_its_lease_and_one_more_load() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let mut stand = Stand::new(3).await;
    let lease = Duration::from_secs(1);
    long_to_load(&stand, "key").await;
    stand.server.run::<()>(&["SET", "key", "old", "PX", "400"]).await;
    let mut dying = stand.client(0);
    let began = Instant::now();
    let request = CacheGetOrLeaseRequest {
        lease_ms: 1_000,
        ..early("key")
    };
    refresh_in(ask(&mut dying, request).await.unwrap());
    // The gateway that gave the lease dies with who has it.
    drop(dying);
    stand.clients.remove(0);
    drop(stand.gateways.remove(0));
    eventually("the value ends", async || stand.value("key").await.is_none()).await;

    let mut calls = JoinSet::new();
    for call in 0..200 {
        let mut client = stand.client(call % 2);
        calls.spawn(async move {
            let answer = ask(&mut client, waiting("key", 20_000)).await.unwrap();
            if answer
                .outcome
                .as_ref()
                .is_some_and(|outcome| !matches!(outcome, Outcome::Value(_)))
            {
                let token = lease_in(answer);
                assert!(began.elapsed() >= lease, "nobody loads while the lease lives");
                filled(&mut client, "key", &token, "new").await;
                return true;
            }
            assert_eq!(value_in(answer), b"new");
            false
        });
    }
    let loads = calls.join_all().await.into_iter().filter(|loaded| *loaded).count();
    assert_eq!(loads, 1);
    lag.assert_within("the lease", began.elapsed(), lease + Duration::from_millis(500));
    stand.stop().await;
}

#[tokio::test]
async fn refresh_that_its_caller_does_not_take_is_given_up() {
    let server = RedisServer::new().start().await;
    let slow = Proxy::new(server.addr());
    let slow_at = slow.addr();
    let stand = Stand::with(server, 1, |config| config.endpoints.cache = Some(at(slow_at))).await;
    slow.set(Mode::Delay(Duration::from_millis(5)));
    for round in 0..60 {
        let mut client = stand.client(0);
        let key = format!("key{round}");
        standing(&stand, &key, "old").await;
        // The caller goes away at any moment of a call, which is of two steps of 10 ms.
        let call = tokio::spawn(async move { ask(&mut client, early(&key)).await });
        tokio::time::sleep(Duration::from_micros(500 * round)).await;
        call.abort();
        drop(call.await);
    }
    let leases = async || {
        let own = stand.own_keys().await.into_iter();
        own.filter(|key| key.contains(":lease:")).count() as u64
    };
    // The answers to the last calls may still be on their way.
    eventually("only leases that were given are left", async || {
        leases().await == event(&stand, "refresh_given").await
    })
    .await;
    let unwanted = event(&stand, "unwanted").await;
    println!("{} given, {unwanted} given up", event(&stand, "refresh_given").await);
    assert!(unwanted > 0);
    stand.stop().await;
}

#[tokio::test]
async fn who_has_its_value_does_not_wait_for_a_primary_that_does_not_answer() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let server = RedisServer::new().start().await;
    let replica = RedisServer::new().replica_of(&server).start().await;
    let proxy = Proxy::new(server.addr());
    let stand = Stand::with(server, 1, |config| {
        let mut endpoint = at(proxy.addr());
        endpoint.replicas = vec![at(replica.addr()).server];
        config.endpoints.cache = Some(endpoint);
    })
    .await;
    standing(&stand, "key", "old").await;
    let mut client = stand.client(0);
    eventually("the replica serves", async || {
        let before = replica.calls("get").await;
        ask(&mut client, asking("key")).await.unwrap();
        replica.calls("get").await > before
    })
    .await;
    // Its lease is got from the primary, the value comes from the replica.
    let reads = replica.calls("pttl").await;
    let token = refreshing(&mut client, "key").await;
    assert!(replica.calls("pttl").await > reads);
    assert!(give_up(&mut client, "key", &token).await);
    proxy.set_open(Mode::SwallowReplies);
    let asked = Instant::now();
    let request = within_a_minute("key");
    assert_eq!(
        value_in(client.get_or_lease(request).await.unwrap().into_inner()),
        b"old"
    );
    lag.assert_within("a value", asked.elapsed(), Duration::from_millis(400));
    proxy.cut(Cut::Reset).await;
    eventually("the lease that nobody heard of is given up", async || {
        ask(&mut client, early("key")).await.unwrap().refresh.is_some()
    })
    .await;
    drop(client);
    stand.stop().await;
}

fn within_a_minute(key: &str) -> tonic::Request<CacheGetOrLeaseRequest> {
    within(
        Duration::from_mins(1),
        CacheGetOrLeaseRequest {
            max_staleness_ms: 60_000,
            ..early(key)
        },
    )
}
