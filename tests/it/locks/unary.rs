//! What each RPC leaves in Redis, to the byte, and what it answers.

use redis_gateway::{
    config::Password,
    proto::{AcquireRequest, HoldRequest},
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Held, Stand, acquire, asking, direct::Direct, get, got, holding, release, renew, reset};
use crate::harness::{RedisServer, at, config, reason};

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
    super::waiters(&mut stand.locks, "a", 1).await;
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
    crate::harness::eventually("a direct client waits", async || stand.blocked().await == 1).await;
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

#[tokio::test]
async fn bad_input_is_named() {
    let mut stand = Stand::new().await;
    let names = ["", "a\0b", &"n".repeat(1_025)];
    for name in names {
        field(&acquire(&mut stand.locks, asking(name)).await.unwrap_err(), "name");
        field(&get(&mut stand.locks, name).await.unwrap_err(), "name");
        field(&reset(&mut stand.locks, name).await.unwrap_err(), "name");
        field(&release(&mut stand.locks, name, "x").await.unwrap_err(), "name");
        field(&renew(&mut stand.locks, name, "x", 1).await.unwrap_err(), "name");
        field(
            &Held::open(&mut stand.locks, holding(name)).await.err().unwrap(),
            "name",
        );
    }
    for holder in ["short", "-JPA666E9eycGM865uiZS6N3", "UJPA666E9eycGM865uiZS6N3+"] {
        let request = AcquireRequest {
            holder_id: holder.into(),
            ..asking("a")
        };
        field(&acquire(&mut stand.locks, request).await.unwrap_err(), "holder_id");
    }
    field(&release(&mut stand.locks, "a", "").await.unwrap_err(), "holder_id");
    field(
        &renew(&mut stand.locks, "a", &"x".repeat(256), 1).await.unwrap_err(),
        "holder_id",
    );
    for ttl_ms in [-1, 86_400_001] {
        field(
            &acquire(&mut stand.locks, AcquireRequest { ttl_ms, ..asking("a") })
                .await
                .unwrap_err(),
            "ttl_ms",
        );
        field(&renew(&mut stand.locks, "a", "x", ttl_ms).await.unwrap_err(), "ttl_ms");
    }
    field(&renew(&mut stand.locks, "a", "x", 0).await.unwrap_err(), "ttl_ms");
    for wait_ms in [-1, 3_600_001] {
        let request = AcquireRequest { wait_ms, ..asking("a") };
        field(&stand.locks.acquire(request).await.unwrap_err(), "wait_ms");
    }
    let holds = [
        (
            HoldRequest {
                ttl_ms: 999,
                ..holding("a")
            },
            "ttl_ms",
        ),
        (
            HoldRequest {
                grace_ms: 30_001,
                ..holding("a")
            },
            "grace_ms",
        ),
        (
            HoldRequest {
                wait_ms: -1,
                ..holding("a")
            },
            "wait_ms",
        ),
        (
            HoldRequest {
                fencing_token: 7,
                ..holding("a")
            },
            "fencing_token",
        ),
        (
            HoldRequest {
                holder_id: "x".into(),
                ..holding("a")
            },
            "fencing_token",
        ),
    ];
    for (request, named) in holds {
        field(&Held::open(&mut stand.locks, request).await.err().unwrap(), named);
    }
    assert_eq!(stand.server.run::<usize>(&["DBSIZE"]).await, 0);
    stand.stop().await;
}

#[tokio::test]
async fn key_of_another_type_is_named_and_stays() {
    let mut stand = Stand::new().await;
    stand.server.run::<()>(&["RPUSH", "lock:a", "x"]).await;
    let waits = AcquireRequest {
        wait_ms: 10_000,
        ..asking("a")
    };
    is(&acquire(&mut stand.locks, waits).await.unwrap_err(), "WRONG_TYPE");
    is(&release(&mut stand.locks, "a", "x").await.unwrap_err(), "WRONG_TYPE");
    assert_eq!(stand.server.run::<i64>(&["LLEN", "lock:a"]).await, 1);
    assert_eq!(stand.server.run::<usize>(&["DBSIZE"]).await, 1);
    stand.stop().await;
}

#[tokio::test]
async fn rights_in_the_docs_are_enough_and_no_more_than_that() {
    let rights = "~lock:* ~lock-signal:* ~redis-gateway:v1:locks:* +get +set +del +exists +lpush +pexpire +expire +ttl +pttl \
                  +time +mget +blpop +evalsha +script|load +ping";
    for missing in [None, Some("+blpop "), Some("+evalsha "), Some("~lock-signal:* ")] {
        let rules = missing.map_or_else(|| rights.to_owned(), |missing| rights.replace(missing, ""));
        let server = RedisServer::new()
            .user("locks", &format!("on >secret {rules}"))
            .start()
            .await;
        let mut stand = Stand::with(server, |config| {
            let at = config.endpoints.user_events.as_mut().expect("set before");
            at.username = Some("locks".into());
            at.password = Some(Password::Inline("secret".into()));
        })
        .await;
        match missing {
            None | Some("+blpop ") => {
                let held = got(&mut stand.locks, "a").await;
                let mut other = stand.locks.clone();
                let waiter = tokio::spawn(async move {
                    acquire(
                        &mut other,
                        AcquireRequest {
                            wait_ms: 10_000,
                            ..asking("a")
                        },
                    )
                    .await
                });
                super::waiters(&mut stand.locks, "a", 1).await;
                renew(&mut stand.locks, "a", &held.holder_id, 1_000).await.unwrap();
                release(&mut stand.locks, "a", &held.holder_id).await.unwrap();
                // Without BLPOP by looking.
                assert!(waiter.await.unwrap().unwrap().acquired);
                assert!(reset(&mut stand.locks, "a").await.unwrap());
            }
            Some("+evalsha ") => is(
                &acquire(&mut stand.locks, asking("a")).await.unwrap_err(),
                "REDIS_DENIED",
            ),
            Some(_) => {
                let held = got(&mut stand.locks, "a").await;
                is(
                    &release(&mut stand.locks, "a", &held.holder_id).await.unwrap_err(),
                    "REDIS_DENIED",
                );
                assert_eq!(stand.value("a").await, Some(held.holder_id));
            }
        }
        stand.stop().await;
    }
}

#[tokio::test]
async fn endpoint_of_its_own_goes_before_that_of_user_events() {
    let own = RedisServer::new().start().await;
    let addr = own.addr();
    let mut stand = Stand::with(RedisServer::new().start().await, |config| {
        config.endpoints.locks = Some(at(addr));
    })
    .await;
    got(&mut stand.locks, "a").await;
    assert_eq!(stand.value("a").await, None);
    assert_eq!(own.run::<i64>(&["EXISTS", "lock:a"]).await, 1);
    stand.stop().await;
    let (gateway, mut locks) = super::serving(config()).await;
    let status = acquire(&mut locks, asking("a")).await.unwrap_err();
    is(&status, "NOT_CONFIGURED");
    drop(locks);
    gateway.stop().await;
}

/// The status is a refusal of that reason.
fn is(status: &Status, expected: &str) {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert_eq!(reason(status).as_deref(), Some(expected), "{status}");
}

/// The status names that field.
fn field(status: &Status, named: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, named, "{status}");
}
