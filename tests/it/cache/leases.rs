//! What a lease is worth: who gets it, what it stores, what takes it away.

use redis_gateway::proto::{CacheBatchDeleteRequest, CacheFillRequest, cache_fill_response::Refusal};

use super::{
    Stand, WAKE, ask, asking, busy_in, delete, filled, filling, fresh, give_up, lease_in, leased,
    refresh::{refreshing, standing},
    refused, set, value_in,
};
use crate::harness::{RedisServer, eventually, soak};

#[tokio::test]
async fn one_of_all_gateways_gets_the_lease_and_fills_on_any() {
    let stand = Stand::new(3).await;
    let [mut a, mut b, mut c] = [0, 1, 2].map(|n| stand.client(n));
    let token = leased(&mut a, "key").await;
    let left = busy_in(ask(&mut b, asking("key")).await.unwrap());
    assert!((50_000..=60_000).contains(&left), "{left}");
    busy_in(ask(&mut a, asking("key")).await.unwrap());
    let other = leased(&mut b, "other").await;
    assert_ne!(token, other);

    filled(&mut c, "key", &token, "[1]").await;
    for client in [&mut a, &mut b, &mut c] {
        assert_eq!(value_in(ask(client, asking("key")).await.unwrap()), b"[1]");
    }
    assert!(give_up(&mut a, "other", &other).await);
    assert!(!give_up(&mut a, "other", &other).await);
    leased(&mut c, "other").await;
    drop((a, b, c));
    stand.stop().await;
}

#[tokio::test]
async fn what_stands_in_redis_is_what_a_set_would_leave() {
    let stand = Stand::new(1).await;
    let mut client = stand.client(0);
    let token = leased(&mut client, "key").await;
    // The lease lies beside the value, and ends by itself.
    assert_eq!(stand.value("key").await, None);
    assert_eq!(stand.own_keys().await, ["redis-gateway:v1:cache:lease:{key}"]);
    let lives: i64 = stand.server.run(&["PTTL", "redis-gateway:v1:cache:lease:{key}"]).await;
    assert!((50_000..=60_000).contains(&lives), "{lives}");

    filled(&mut client, "key", &token, "not json \u{1f980}").await;
    assert_eq!(stand.value("key").await.as_deref(), Some("not json \u{1f980}"));
    let lives: i64 = stand.server.run(&["TTL", "key"]).await;
    assert!((50..=60).contains(&lives), "{lives}");
    assert!(stand.own_keys().await.is_empty(), "a lease that is used is gone");

    // Bytes that are no text, without an end.
    let bytes: Vec<u8> = (0..=255).collect();
    let token = leased(&mut client, "{bytes}").await;
    let request = CacheFillRequest {
        value: bytes.clone().into(),
        ttl_seconds: 0,
        ..filling("{bytes}", &token, "")
    };
    assert!(client.fill(request).await.unwrap().into_inner().stored);
    assert_eq!(stand.server.run::<Vec<u8>>(&["GET", "{bytes}"]).await, bytes);
    assert_eq!(stand.server.run::<i64>(&["TTL", "{bytes}"]).await, -1);
    assert_eq!(value_in(ask(&mut client, asking("{bytes}")).await.unwrap()), bytes);
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn stale_load_is_refused_after_a_delete_on_another_gateway() {
    let stand = Stand::new(2).await;
    let [mut a, mut b] = [0, 1].map(|n| stand.client(n));
    let rounds = if soak() { 20_000 } else { 400 };
    for round in 0..rounds {
        let key = format!("key{round}");
        // A load of what is absent, and one of what stands.
        let refresh = round % 4 > 1;
        let token = if refresh {
            standing(&stand, &key, "\"old\"").await;
            refreshing(&mut a, &key).await
        } else {
            leased(&mut a, &key).await
        };
        if round % 2 == 0 {
            assert_eq!(delete(&mut b, &key).await, refresh);
        } else {
            let keys = vec!["absent".into(), key.clone(), "absent".into()];
            let answer = b
                .batch_delete(CacheBatchDeleteRequest {
                    keys,
                    want_token: false,
                })
                .await
                .unwrap();
            assert_eq!(answer.into_inner().deleted, i64::from(refresh));
        }
        if round % 3 == 0 {
            // The next one loads what is true now, whatever the first one does.
            let next = leased(&mut b, &key).await;
            refused(&mut a, &key, &token, Refusal::Deleted).await;
            filled(&mut b, &key, &next, "\"new\"").await;
            assert_eq!(stand.value(&key).await.as_deref(), Some("\"new\""));
        } else {
            refused(&mut a, &key, &token, Refusal::Deleted).await;
            assert_eq!(stand.value(&key).await, None);
        }
    }
    println!("{rounds} loads, every second one a refresh, each refused after a delete on another gateway");
    drop((a, b));
    stand.stop().await;
}

#[tokio::test]
async fn load_that_was_overtaken_by_a_write_is_refused() {
    let stand = Stand::new(2).await;
    let [mut a, mut b] = [0, 1].map(|n| stand.client(n));
    let token = leased(&mut a, "direct").await;
    stand
        .server
        .run::<()>(&["SET", "direct", "theirs", "NX", "EX", "60"])
        .await;
    refused(&mut a, "direct", &token, Refusal::Written).await;
    assert_eq!(stand.value("direct").await.as_deref(), Some("theirs"));

    let token = leased(&mut a, "set").await;
    assert!(set(&mut b, "set", "theirs", false).await);
    refused(&mut a, "set", &token, Refusal::Written).await;

    let token = leased(&mut a, "list").await;
    stand.server.run::<()>(&["RPUSH", "list", "x"]).await;
    refused(&mut a, "list", &token, Refusal::Written).await;
    assert!(stand.own_keys().await.is_empty(), "a refusal for good ends the lease");
    // It fills once.
    refused(&mut a, "set", &token, Refusal::LeaseOver).await;
    drop((a, b));
    stand.stop().await;
}

#[tokio::test]
async fn lease_that_is_over_stores_nothing() {
    let stand = Stand::new(2).await;
    let [mut a, mut b] = [0, 1].map(|n| stand.client(n));
    let mut short = asking("key");
    short.lease_ms = 20;
    let token = lease_in(ask(&mut a, short).await.unwrap());
    eventually("the lease ends", async || stand.own_keys().await.is_empty()).await;
    refused(&mut a, "key", &token, Refusal::LeaseOver).await;
    let next = leased(&mut b, "key").await;
    refused(&mut a, "key", &token, Refusal::LeaseOver).await;
    assert!(!give_up(&mut a, "key", &token).await, "the lease of another stays");
    filled(&mut b, "key", &next, "1").await;
    refused(&mut b, "key", &next, Refusal::LeaseOver).await;
    assert_eq!(stand.value("key").await.as_deref(), Some("1"));

    // Evicted, or lost with a server: nothing is stored that somebody may have overtaken.
    let token = leased(&mut a, "evicted").await;
    stand
        .server
        .run::<()>(&["DEL", "redis-gateway:v1:cache:lease:{evicted}"])
        .await;
    refused(&mut a, "evicted", &token, Refusal::LeaseOver).await;
    drop((a, b));
    stand.stop().await;
}

#[tokio::test]
async fn poisoned_value_is_replaced_by_a_set_or_a_delete() {
    let stand = Stand::new(2).await;
    let [mut a, mut b] = [0, 1].map(|n| stand.client(n));
    stand.server.run::<()>(&["SET", "key", "no json"]).await;
    // A value to the gateway, whatever its readers make of it.
    assert_eq!(value_in(ask(&mut a, asking("key")).await.unwrap()), b"no json");
    assert!(!set(&mut a, "key", "{}", false).await, "the first writer wins");
    assert!(set(&mut a, "key", "{}", true).await);
    assert_eq!(value_in(ask(&mut b, asking("key")).await.unwrap()), b"{}");

    assert!(delete(&mut b, "key").await);
    let token = leased(&mut a, "key").await;
    filled(&mut a, "key", &token, "[]").await;
    let got = b.get(fresh("key")).await.unwrap().into_inner();
    assert_eq!(got.value.as_deref(), Some(&b"[]"[..]));
    drop((a, b));
    stand.stop().await;
}

#[tokio::test]
async fn delete_works_without_memory_and_without_the_right_to_publish() {
    let server = RedisServer::new().user("default", &format!("on nopass ~* resetchannels &not-{WAKE} +@all"));
    let stand = Stand::with(server.start().await, 2, |_| {}).await;
    let [mut a, mut b] = [0, 1].map(|n| stand.client(n));
    let token = leased(&mut a, "key").await;
    busy_in(ask(&mut b, asking("key")).await.unwrap());
    assert!(set(&mut b, "full", "x", false).await);
    stand.server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let keys = vec!["key".into(), "full".into()];
    let answer = b
        .batch_delete(CacheBatchDeleteRequest {
            keys,
            want_token: false,
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((answer.deleted, answer.degraded), (1, 0));
    stand.server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    refused(&mut a, "key", &token, Refusal::Deleted).await;

    // Nor does a fill, or its end, need it.
    let token = leased(&mut a, "key").await;
    busy_in(ask(&mut b, asking("key")).await.unwrap());
    filled(&mut a, "key", &token, "1").await;
    let token = leased(&mut a, "given up").await;
    busy_in(ask(&mut b, asking("given up")).await.unwrap());
    assert!(give_up(&mut a, "given up", &token).await);
    drop((a, b));
    stand.stop().await;
}
