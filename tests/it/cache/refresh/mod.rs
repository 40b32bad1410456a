//! Early refresh: who gets the lease to load a value again, what its Fill replaces, and what takes it away.

mod losses;

use std::time::Duration;

use redis_gateway::proto::{
    CacheFillRequest, CacheGetOrLeaseRequest, CacheGetOrLeaseResponse, cache_fill_response::Refusal,
};
use tokio::{task::JoinSet, time::Instant};

use super::{
    Client, Stand, ask, asking, busy_in, delete, filled, filling, give_up, lease_in, refused, set, value_in, waiting,
};
use crate::harness::{MachineLag, eventually, heavy};

/// Asks for a value that may be loaded again early.
pub(super) fn early(key: &str) -> CacheGetOrLeaseRequest {
    CacheGetOrLeaseRequest {
        early_refresh: true,
        ..asking(key)
    }
}

/// A load, in milliseconds, beside which nothing is left of any value.
pub(super) const LONG: &str = "18446744073709551615";

/// Where it stands how long a value takes to load.
pub(super) fn load_key(key: &str) -> String {
    if key.contains('{') {
        format!("redis-gateway:v1:cache:load_ms-value-with-braces-tags:{key}")
    } else {
        format!("redis-gateway:v1:cache:load_ms:{{{key}}}")
    }
}

/// Says in Redis that a value takes so long to load that each hit draws the lease to refresh it.
async fn long_to_load(stand: &Stand, key: &str) {
    stand.server.run::<()>(&["SET", &load_key(key), LONG]).await;
}

/// Sets a value of 60 s, which takes long to load.
pub(super) async fn standing(stand: &Stand, key: &str, value: &str) {
    long_to_load(stand, key).await;
    stand.server.run::<()>(&["SET", key, value, "EX", "60"]).await;
}

/// The value and the token of the lease to load it again.
fn refresh_in(answer: CacheGetOrLeaseResponse) -> (Vec<u8>, String) {
    let lease = answer.refresh.clone().expect("a lease to refresh");
    assert!(lease.remaining_ms > 0, "{lease:?}");
    (value_in(answer), lease.token)
}

/// The lease to load the value again, got at that gateway.
pub(super) async fn refreshing(client: &mut Client, key: &str) -> String {
    refresh_in(ask(client, early(key)).await.unwrap()).1
}

/// The value, and no lease.
async fn only_read(client: &mut Client, key: &str) -> Vec<u8> {
    let answer = ask(client, early(key)).await.unwrap();
    assert_eq!(answer.refresh, None);
    value_in(answer)
}

async fn event(stand: &Stand, event: &str) -> u64 {
    let name = format!("redis_gateway_cache_leases_total{{event=\"{event}\"}}");
    let mut sum = 0;
    for gateway in 0..stand.gateways.len() {
        sum += stand.metric(gateway, &name).await;
    }
    sum
}

#[tokio::test]
async fn one_of_all_who_hit_loads_again_and_replaces_the_value() {
    let stand = Stand::new(3).await;
    for key in ["key", "other"] {
        standing(&stand, key, "old").await;
    }
    let mut calls = JoinSet::new();
    for call in 0..60 {
        let mut client = stand.client(call % 3);
        calls.spawn(async move { ask(&mut client, early("key")).await.unwrap() });
    }
    let mut leases = Vec::new();
    for answer in calls.join_all().await {
        leases.extend(answer.refresh.clone());
        assert_eq!(value_in(answer), b"old");
    }
    assert_eq!(leases.len(), 1, "{leases:?}");
    let mut client = stand.client(1);
    filled(&mut client, "key", &leases[0].token, "new").await;
    assert_eq!(stand.value("key").await.as_deref(), Some("new"));
    let lives: i64 = stand.server.run(&["TTL", "key"]).await;
    assert!((50..=60).contains(&lives), "{lives}");
    // It fills once, and what it took is known by now.
    refused(&mut client, "key", &leases[0].token, Refusal::LeaseOver).await;
    assert_eq!(only_read(&mut client, "key").await, b"new");
    let token = refreshing(&mut client, "other").await;
    assert_eq!(only_read(&mut stand.client(2), "other").await, b"old");
    assert!(give_up(&mut client, "other", &token).await);
    refreshing(&mut client, "other").await;
    let events = [
        event(&stand, "refresh_given").await,
        event(&stand, "refresh_filled").await,
    ];
    assert_eq!(events, [3, 1]);
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn refresh_replaces_only_the_value_that_it_saw() {
    let stand = Stand::new(2).await;
    let [mut a, mut b] = [0, 1].map(|n| stand.client(n));
    let (written, deleted) = (Refusal::Written, Refusal::Deleted);
    let direct = async |words: &[&str]| stand.server.run::<redis::Value>(words).await;
    for (key, refusal) in [
        ("set by a gateway", written),
        ("set by a direct client", written),
        ("deleted, and set to the same", written),
        ("of another type", written),
        ("deleted by a direct client", deleted),
        ("deleted by a gateway", deleted),
        ("deleted by a gateway, and set to the same", deleted),
    ] {
        standing(&stand, key, "old").await;
        let token = refreshing(&mut a, key).await;
        match key {
            "set by a gateway" => assert!(set(&mut b, key, "theirs", true).await),
            "set by a direct client" => _ = direct(&["SET", key, "theirs", "EX", "60"]).await,
            "deleted, and set to the same" => {
                direct(&["DEL", key]).await;
                direct(&["SET", key, "old", "NX", "EX", "61"]).await;
            }
            "of another type" => {
                direct(&["DEL", key]).await;
                direct(&["RPUSH", key, "x"]).await;
            }
            "deleted by a direct client" => _ = direct(&["DEL", key]).await,
            _ => {
                assert!(delete(&mut b, key).await);
                if key.ends_with("same") {
                    assert!(set(&mut b, key, "old", false).await);
                }
            }
        }
        let before: Vec<u8> = stand.server.run(&["DUMP", key]).await;
        refused(&mut b, key, &token, refusal).await;
        assert_eq!(stand.server.run::<Vec<u8>>(&["DUMP", key]).await, before, "{key}");
    }
    // A voided one is counted with the others.
    assert_eq!(event(&stand, "refresh_refused").await, 5);
    assert_eq!(event(&stand, "refused_deleted").await, 2);
    drop((a, b));
    stand.stop().await;
}

#[tokio::test]
async fn value_that_ran_out_meanwhile_is_stored_by_the_refresh_for_those_who_wait() {
    let stand = Stand::new(2).await;
    let mut client = stand.client(0);
    for end in ["fill", "give up", "delete"] {
        long_to_load(&stand, end).await;
        stand.server.run::<()>(&["SET", end, "old", "PX", "300"]).await;
        let token = refreshing(&mut client, end).await;
        eventually("the value ends", async || stand.value(end).await.is_none()).await;
        // Who misses it now waits for the one who loads it already.
        busy_in(ask(&mut stand.client(1), early(end)).await.unwrap());
        let mut waiter = stand.client(1);
        let wait = tokio::spawn(async move { ask(&mut waiter, waiting(end, 60_000)).await.unwrap() });
        stand.waiters(1, 1).await;
        match end {
            "fill" => {
                filled(&mut client, end, &token, "new").await;
                assert_eq!(value_in(wait.await.unwrap()), b"new");
            }
            "give up" => {
                assert!(give_up(&mut client, end, &token).await);
                lease_in(wait.await.unwrap());
            }
            _ => {
                assert!(!delete(&mut client, end).await);
                lease_in(wait.await.unwrap());
                refused(&mut client, end, &token, Refusal::Deleted).await;
            }
        }
    }
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn lease_after_one_that_was_voided_is_for_a_value_that_is_absent() {
    let stand = Stand::new(1).await;
    let mut client = stand.client(0);
    standing(&stand, "key", "old").await;
    let old = refreshing(&mut client, "key").await;
    assert!(delete(&mut client, "key").await);
    let new = lease_in(ask(&mut client, asking("key")).await.unwrap());
    refused(&mut client, "key", &old, Refusal::Deleted).await;
    filled(&mut client, "key", &new, "new").await;

    // Nor does one that was voided stand in the way of a refresh.
    let old = refreshing(&mut client, "key").await;
    assert!(delete(&mut client, "key").await);
    assert!(set(&mut client, "key", "theirs", false).await);
    let new = refreshing(&mut client, "key").await;
    refused(&mut client, "key", &old, Refusal::Deleted).await;
    filled(&mut client, "key", &new, "new").await;

    // As a release leaves it that knows of no refresh, and as it ends one.
    let token = "0".repeat(32);
    let lease = "redis-gateway:v1:cache:lease:{theirs}";
    stand.server.run::<()>(&["HSET", lease, "token", &token]).await;
    stand.server.run::<()>(&["EXPIRE", lease, "60"]).await;
    busy_in(ask(&mut client, early("theirs")).await.unwrap());
    filled(&mut client, "theirs", &token, "new").await;
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn load_is_timed_for_who_asks_for_it_and_no_value_is_refreshed_without() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let stand = Stand::new(2).await;
    let [mut a, mut b] = [0, 1].map(|n| stand.client(n));
    let load_ms = async |key: &str| -> Option<u64> { stand.server.run(&["GET", &load_key(key)]).await };
    let load = Duration::from_millis(120);
    let began = Instant::now();
    let token = lease_in(ask(&mut a, early("key")).await.unwrap());
    tokio::time::sleep(load).await;
    filled(&mut b, "key", &token, "1").await;
    let took = Duration::from_millis(load_ms("key").await.unwrap());
    // Redis counts in whole milliseconds, and each end of it may be rounded.
    let rounded = Duration::from_millis(2);
    assert!(took + rounded >= load && took <= began.elapsed() + rounded, "{took:?}");
    lag.assert_within("a load", took, load + Duration::from_millis(50));
    let own = &load_key("key");
    assert_eq!(stand.own_keys().await, [own.as_str()]);
    let lives: [i64; 2] = [
        stand.server.run(&["TTL", own]).await,
        stand.server.run(&["TTL", "key"]).await,
    ];
    assert!(lives[0] > 50 && lives[0] <= lives[1], "{lives:?}");

    // A load of 0.12 s beside a minute that is left: exp(-500) of all hits.
    assert_eq!(only_read(&mut b, "key").await, b"1");
    let scripts = stand.server.calls("evalsha").await;
    long_to_load(&stand, "key").await;
    assert_eq!(value_in(ask(&mut a, asking("key")).await.unwrap()), b"1");
    assert_eq!(stand.server.calls("evalsha").await, scripts, "not asked for");

    // Of what stays there is nothing to refresh, nor is a time kept.
    stand.server.run::<()>(&["PERSIST", "key"]).await;
    assert_eq!(only_read(&mut a, "key").await, b"1");
    let token = lease_in(ask(&mut a, early("stays")).await.unwrap());
    let request = CacheFillRequest {
        ttl_seconds: 0,
        ..filling("stays", &token, "1")
    };
    assert!(a.fill(request).await.unwrap().into_inner().stored);
    assert_eq!(load_ms("stays").await, None);
    // What is no time counts for none.
    stand.server.run::<()>(&["EXPIRE", "key", "60"]).await;
    for text in ["", "-1", "1.5", "x", "99999999999999999999"] {
        stand.server.run::<()>(&["SET", own, text]).await;
        assert_eq!(only_read(&mut a, "key").await, b"1");
    }
    long_to_load(&stand, "key").await;
    refreshing(&mut a, "key").await;
    drop((a, b));
    stand.stop().await;
}
