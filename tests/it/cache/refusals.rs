//! What is refused, and how callers are told.

use redis_gateway::{
    config::{Config, Password},
    proto::{
        CacheDeleteRequest, CacheFillRequest, CacheGetOrLeaseRequest, CacheGetRequest, CacheGiveUpRequest,
        DegradedReason,
    },
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    Stand, ask, asking, delete, deletion, fill, filled, filling, give_up, lease_in, leased,
    refresh::{refreshing, standing},
    replicas::is_nowhere,
    value_in, waiting,
};
use crate::harness::{Gateway, RedisServer, config, reason};

#[tokio::test]
async fn bad_input_names_the_field() {
    let stand = Stand::new(1).await;
    let mut client = stand.client(0);
    let token = "0".repeat(32);
    let asked = |change: fn(&mut CacheGetOrLeaseRequest)| {
        let mut request = asking("key");
        change(&mut request);
        request
    };
    for (request, field) in [
        (asked(|r| r.key.clear()), "key"),
        (asked(|r| r.key = "a\0b".into()), "key"),
        (asked(|r| r.key = "k".repeat(4_097)), "key"),
        (asked(|r| r.wait_ms = -1), "wait_ms"),
        (asked(|r| r.wait_ms = 600_001), "wait_ms"),
        (asked(|r| r.lease_ms = 0), "lease_ms"),
        (asked(|r| r.lease_ms = -1), "lease_ms"),
        (asked(|r| r.lease_ms = 600_001), "lease_ms"),
        (asked(|r| r.max_staleness_ms = -1), "max_staleness_ms"),
        (asked(|r| r.max_staleness_ms = 86_400_001), "max_staleness_ms"),
        (asked(|r| r.allow_stale_ms = -1), "allow_stale_ms"),
        (asked(|r| r.allow_stale_ms = 86_400_001), "allow_stale_ms"),
        (asked(|r| r.write_token = "0".repeat(40)), "write_token"),
        (
            asked(|r| r.write_token = format!("{}-x", "0".repeat(40))),
            "write_token",
        ),
    ] {
        let get = CacheGetRequest {
            key: request.key.clone(),
            fresh: request.fresh,
            max_staleness_ms: request.max_staleness_ms,
            write_token: request.write_token.clone(),
            allow_stale_ms: request.allow_stale_ms,
        };
        if !matches!(field, "wait_ms" | "lease_ms") {
            names(&client.get(get).await.unwrap_err(), field);
        }
        names(&client.get_or_lease(request).await.unwrap_err(), field);
    }
    let fills = |change: fn(&mut CacheFillRequest)| {
        let mut request = filling("key", &token, "1");
        change(&mut request);
        request
    };
    for (request, field) in [
        (fills(|r| r.key.clear()), "key"),
        (fills(|r| r.token.clear()), "token"),
        (fills(|r| r.token = "X".repeat(32)), "token"),
        (fills(|r| r.ttl_seconds = -1), "ttl_seconds"),
        (fills(|r| r.ttl_seconds = 315_360_001), "ttl_seconds"),
    ] {
        let status = client.fill(request).await.unwrap_err();
        names(&status, field);
    }
    for (key, token, field) in [("", &*token, "key"), ("key", "", "token")] {
        let request = CacheGiveUpRequest {
            key: key.into(),
            token: token.into(),
        };
        names(&client.give_up(request).await.unwrap_err(), field);
    }
    assert!(stand.own_keys().await.is_empty());
    drop(client);
    stand.stop().await;
}

pub(super) fn names(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, field, "{status}");
}

#[tokio::test]
async fn the_documented_rights_are_enough() {
    let rights = "+get +mget +set +del +evalsha +script|load +hmget +hset +hsetnx +hdel +hexists +pttl +pexpire +time +publish \
                  +subscribe +unsubscribe +client|info +info ~key ~redis-gateway:v1:cache:* &redis-gateway:v1:cache:wake";
    let server = RedisServer::new().user("gateway", &format!("on >secret resetchannels +ping {rights}"));
    let stand = Stand::with(server.start().await, 2, as_gateway).await;
    let [mut a, mut b] = [0, 1].map(|n| stand.client(n));
    for end in ["give up", "delete", "fill"] {
        let token = leased(&mut a, "key").await;
        let mut waiter = b.clone();
        let wait = tokio::spawn(async move { ask(&mut waiter, waiting("key", 20_000)).await });
        stand.waiters(1, 1).await;
        stand.listeners(1).await;
        let answer = match end {
            "give up" => {
                assert!(give_up(&mut a, "key", &token).await);
                wait.await
            }
            "delete" => {
                assert!(!delete(&mut a, "key").await);
                wait.await
            }
            _ => {
                filled(&mut a, "key", &token, "1").await;
                assert_eq!(value_in(wait.await.unwrap().unwrap()), b"1");
                break;
            }
        };
        let next = lease_in(answer.unwrap().unwrap());
        assert!(give_up(&mut b, "key", &next).await);
    }
    standing(&stand, "key", "1").await;
    let token = refreshing(&mut a, "key").await;
    filled(&mut a, "key", &token, "2").await;
    let request = CacheDeleteRequest {
        want_token: true,
        ..deletion("key")
    };
    let answer = b.delete(request).await.unwrap().into_inner();
    assert!(answer.deleted);
    assert!(!is_nowhere(&answer.write_token), "{}", answer.write_token);
    // A wake-up that may not be published is no error: the log tells of it.
    let denied: Vec<redis::Value> = stand.server.run(&["ACL", "LOG"]).await;
    let denied = format!("{denied:?}");
    assert!(!denied.contains("\"lua\""), "{denied}");
    drop((a, b));
    stand.stop().await;
}

/// As the user `gateway` of Redis.
fn as_gateway(config: &mut Config) {
    let endpoint = config.endpoints.cache.as_mut().unwrap();
    endpoint.username = Some("gateway".into());
    endpoint.password = Some(Password::Inline("secret".into()));
}

#[tokio::test]
async fn leases_without_an_endpoint_are_told() {
    let gateway = Gateway::start(config()).await;
    let mut client = gateway.cache().await;
    let token = "0".repeat(32);
    let give_up = CacheGiveUpRequest {
        key: "key".into(),
        token: token.clone(),
    };
    for status in [
        client.get_or_lease(asking("key")).await.map(drop).unwrap_err(),
        client.fill(filling("key", &token, "1")).await.map(drop).unwrap_err(),
        client.give_up(give_up).await.map(drop).unwrap_err(),
    ] {
        let told = (status.code(), reason(&status));
        assert_eq!(
            told,
            (Code::FailedPrecondition, Some("NOT_CONFIGURED".into())),
            "{status}"
        );
    }
    drop(client);
    gateway.stop().await;
}

#[tokio::test]
async fn lease_that_cannot_be_had_is_said_to_be_degraded() {
    let server = RedisServer::new()
        .user("gateway", "on >secret ~* &* +@all -evalsha")
        .start()
        .await;
    let stand = Stand::new(1).await;
    let mut client = stand.client(0);
    let reason = async |client: &mut super::Client, key: &str| {
        let answer = ask(client, waiting(key, 20_000)).await.unwrap();
        assert_eq!(answer.outcome, None);
        answer.degraded()
    };
    stand.server.run::<()>(&["RPUSH", "list", "x"]).await;
    assert_eq!(reason(&mut client, "list").await, DegradedReason::WrongType);
    let token = leased(&mut client, "key").await;
    stand.server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(reason(&mut client, "full").await, DegradedReason::RedisOutOfMemory);
    let answer = fill(&mut client, "key", &token, "1").await;
    assert_eq!(
        (answer.stored, answer.degraded(), answer.refusal),
        (false, DegradedReason::RedisOutOfMemory, 0)
    );
    // The lease outlasts it.
    stand.server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert!(fill(&mut client, "key", &token, "1").await.stored);
    assert_eq!(
        stand
            .metric(0, "redis_gateway_cache_waits_total{outcome=\"failed\"}")
            .await,
        1
    );
    drop(client);
    stand.stop().await;

    let stand = Stand::with(server, 1, as_gateway).await;
    let mut client = stand.client(0);
    assert_eq!(reason(&mut client, "key").await, DegradedReason::RedisDenied);
    drop(client);
    stand.stop().await;
}
