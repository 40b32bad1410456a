//! What is refused: bad input, keys of another type, missing rights, no endpoint.

use redis_gateway::{
    config::Password,
    proto::{AcquireRequest, HoldRequest},
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Held, Stand, acquire, asking, get, got, holding, is, release, renew, reset};
use crate::harness::{RedisServer, at, config};

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

/// The status names that field.
fn field(status: &Status, named: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, named, "{status}");
}
