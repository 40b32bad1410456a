//! What each RPC leaves in Redis, to the byte, and what it answers.

use redis_gateway::proto::AcquireRequest;

use super::{Stand, acquire, asking, direct::Direct, get, got, is, release, renew, reset, waiters};
use crate::harness::eventually;

#[tokio::test]
async fn acquire_leaves_what_the_protocol_wants() {
    let mut stand = Stand::new().await;
    let held = got(&mut stand.locks, "a").await;
    assert_eq!(stand.value("a").await.as_deref(), Some(held.holder_id.as_str()));
    assert!(held.holder_id.len() == 24 && (59_000..=60_000).contains(&held.remaining_ms()));
    let ttl: i64 = stand.server.run(&["PTTL", "lock:a"]).await;
    assert!((59_000..=60_000).contains(&ttl), "{ttl}");

    let mut request = asking("b");
    request.ttl_ms = 1;
    request.holder_id = "UJPA666E9eycGM865uiZS6N3".into();
    let held = acquire(&mut stand.locks, request).await.unwrap();
    assert_eq!(held.holder_id, "UJPA666E9eycGM865uiZS6N3");
    assert!((900..=1_000).contains(&stand.server.run::<i64>(&["PTTL", "lock:b"]).await));

    let endless = AcquireRequest {
        ttl_ms: 0,
        ..asking("c")
    };
    let held = acquire(&mut stand.locks, endless).await.unwrap();
    assert_eq!((held.acquired, held.remaining_ms), (true, None));
    assert_eq!(stand.server.run::<i64>(&["TTL", "lock:c"]).await, -1);

    // Ours beside it: as long as the lock, but for the one that keeps the last token.
    for name in ["a", "b", "c"] {
        let record = format!("redis-gateway:v1:locks:holding:{name}");
        let (lock, record): (i64, i64) = (
            stand.server.run(&["EXPIRETIME", &format!("lock:{name}")]).await,
            stand.server.run(&["EXPIRETIME", &record]).await,
        );
        assert_eq!(lock, record, "{name}");
    }
    let mut keys: Vec<String> = stand.server.run(&["KEYS", "*"]).await;
    keys.retain(|key| !key.starts_with("lock:") && !key.contains(":holding:"));
    assert_eq!(keys, ["redis-gateway:v1:locks:token"]);
    assert_eq!(stand.server.run::<i64>(&["GET", &keys[0]]).await, held.fencing_token);
    stand.stop().await;
}

#[tokio::test]
async fn busy_lock_tells_when_it_ends_and_stays_as_it_is() {
    let mut stand = Stand::new().await;
    let mut direct = Direct::new(&stand.server, "a", "someone").await;
    assert!(direct.try_acquire(30).await);
    let answer = acquire(&mut stand.locks, asking("a")).await.unwrap();
    assert!(!answer.acquired && answer.holder_id.is_empty() && answer.fencing_token == 0);
    assert!((29_000..=30_000).contains(&answer.remaining_ms()));
    stand.server.run::<()>(&["PERSIST", "lock:a"]).await;
    assert_eq!(acquire(&mut stand.locks, asking("a")).await.unwrap().remaining_ms, None);
    assert_eq!(stand.value("a").await.as_deref(), Some("someone"));
    assert_eq!(stand.server.run::<usize>(&["DBSIZE"]).await, 1);
    stand.stop().await;
}

#[tokio::test]
async fn holder_that_asks_again_gets_the_same_answer() {
    let mut stand = Stand::new().await;
    let first = got(&mut stand.locks, "a").await;
    let again = AcquireRequest {
        holder_id: first.holder_id.clone(),
        ..asking("a")
    };
    let second = acquire(&mut stand.locks, again.clone()).await.unwrap();
    assert_eq!((second.acquired, second.fencing_token), (true, first.fencing_token));
    // Even while others wait.
    let mut waits = stand.locks.clone();
    let waiter = tokio::spawn(async move {
        acquire(
            &mut waits,
            AcquireRequest {
                wait_ms: 10_000,
                ..asking("a")
            },
        )
        .await
    });
    waiters(&mut stand.locks, "a", 1).await;
    let third = acquire(&mut stand.locks, again).await.unwrap();
    assert_eq!((third.acquired, third.fencing_token), (true, first.fencing_token));
    release(&mut stand.locks, "a", &first.holder_id).await.unwrap();
    let next = waiter.await.unwrap().unwrap();
    assert!(next.acquired && next.fencing_token > first.fencing_token);

    // One that came without a gateway has no token.
    let mut direct = Direct::new(&stand.server, "b", "Ju3AkP96vOnE2uaZzUe0jQ7D").await;
    assert!(direct.try_acquire(30).await);
    let again = AcquireRequest {
        holder_id: "Ju3AkP96vOnE2uaZzUe0jQ7D".into(),
        ..asking("b")
    };
    let answer = acquire(&mut stand.locks, again).await.unwrap();
    assert_eq!((answer.acquired, answer.fencing_token), (true, 0));
    assert!(direct.release().await);
    stand.stop().await;
}

#[tokio::test]
async fn release_wakes_and_refuses_who_does_not_hold() {
    let mut stand = Stand::new().await;
    let held = got(&mut stand.locks, "a").await;
    let refused = release(&mut stand.locks, "a", "someone else").await.unwrap_err();
    is(&refused, "LOCK_LOST");
    assert_eq!(stand.value("a").await, Some(held.holder_id.clone()));
    assert_eq!(stand.server.run::<i64>(&["EXISTS", "lock-signal:a"]).await, 0);

    stand
        .server
        .run::<()>(&["RPUSH", "lock-signal:a", "left", "over"])
        .await;
    release(&mut stand.locks, "a", &held.holder_id).await.unwrap();
    let mut keys: Vec<String> = stand.server.run(&["KEYS", "*"]).await;
    keys.sort();
    assert_eq!(keys, ["lock-signal:a", "redis-gateway:v1:locks:token"]);
    let signal: Vec<String> = stand.server.run(&["LRANGE", "lock-signal:a", "0", "-1"]).await;
    assert_eq!(signal, ["1"]);
    assert!((1..=1_000).contains(&stand.server.run::<i64>(&["PTTL", "lock-signal:a"]).await));
    is(
        &release(&mut stand.locks, "a", &held.holder_id).await.unwrap_err(),
        "LOCK_LOST",
    );

    // One that came without a gateway is released all the same.
    let mut direct = Direct::new(&stand.server, "b", "direct").await;
    assert!(direct.try_acquire(30).await);
    release(&mut stand.locks, "b", "direct").await.unwrap();
    assert_eq!(stand.value("b").await, None);
    stand.stop().await;
}

#[tokio::test]
async fn renew_gives_the_time_to_live_again() {
    let mut stand = Stand::new().await;
    let held = got(&mut stand.locks, "a").await;
    renew(&mut stand.locks, "a", &held.holder_id, 100_000).await.unwrap();
    for key in ["lock:a", "redis-gateway:v1:locks:holding:a"] {
        let ttl: i64 = stand.server.run(&["TTL", key]).await;
        assert!((99..=100).contains(&ttl), "{key}: {ttl}");
    }
    is(
        &renew(&mut stand.locks, "a", "someone else", 1_000).await.unwrap_err(),
        "LOCK_LOST",
    );
    is(
        &renew(&mut stand.locks, "b", "someone", 1_000).await.unwrap_err(),
        "LOCK_LOST",
    );
    assert!(stand.server.run::<i64>(&["TTL", "lock:a"]).await > 90);
    stand.server.run::<()>(&["PERSIST", "lock:a"]).await;
    is(
        &renew(&mut stand.locks, "a", &held.holder_id, 1_000).await.unwrap_err(),
        "NO_TTL",
    );
    assert_eq!(stand.server.run::<i64>(&["TTL", "lock:a"]).await, -1);
    stand.stop().await;
}

#[tokio::test]
async fn reset_releases_whoever_holds() {
    let mut stand = Stand::new().await;
    let mut direct = Direct::new(&stand.server, "a", "direct").await;
    assert!(direct.try_acquire(30).await);
    let mut waits = Direct::new(&stand.server, "a", "another").await;
    let waiter = tokio::spawn(async move { waits.acquire(30).await });
    eventually("a direct client waits", async || stand.blocked().await == 1).await;
    assert!(reset(&mut stand.locks, "a").await.unwrap());
    waiter.await.unwrap();
    assert!(!direct.release().await);
    let held = got(&mut stand.locks, "b").await;
    assert!(reset(&mut stand.locks, "b").await.unwrap() && !reset(&mut stand.locks, "b").await.unwrap());
    is(
        &release(&mut stand.locks, "b", &held.holder_id).await.unwrap_err(),
        "LOCK_LOST",
    );
    assert_eq!(
        stand
            .server
            .run::<i64>(&["EXISTS", "redis-gateway:v1:locks:holding:b"])
            .await,
        0
    );
    stand.stop().await;
}

#[tokio::test]
async fn get_tells_who_holds_since_when_and_who_waits() {
    let mut stand = Stand::new().await;
    let nobody = get(&mut stand.locks, "a").await.unwrap();
    assert!(!nobody.held && nobody.acquired_at_ms.is_none() && nobody.remaining_ms.is_none());
    let held = got(&mut stand.locks, "a").await;
    let seen = get(&mut stand.locks, "a").await.unwrap();
    assert_eq!(
        (seen.holder_id.as_str(), seen.fencing_token),
        (held.holder_id.as_str(), held.fencing_token)
    );
    assert!(seen.held && (59_000..=60_000).contains(&seen.remaining_ms()));
    let time: Vec<i64> = stand.server.run(&["TIME"]).await;
    let age = time[0] * 1_000 + time[1] / 1_000 - seen.acquired_at_ms();
    assert!((0..20_000).contains(&age), "{age}");

    // A record that is another's does not count: somebody has taken the lock without a gateway.
    stand.server.run::<()>(&["SET", "lock:a", "direct"]).await;
    let seen = get(&mut stand.locks, "a").await.unwrap();
    assert_eq!((seen.holder_id.as_str(), seen.fencing_token), ("direct", 0));
    assert_eq!((seen.acquired_at_ms, seen.remaining_ms), (None, None));
    stand.stop().await;
}
