//! What callers are told when the primary is away: never that a read is not blocked.

use std::time::Duration;

use redis_gateway::proto::CacheGetRequest;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::{MODIFIED, Stand, modification, question, revocation, revoked};
use crate::harness::{Cut, Mode, Proxy, RedisServer, at, eventually, reason};

/// A stand whose Redis is behind a proxy. Its calls bring no deadline: the endpoint's timeout is theirs, and no clock of the
/// client's speaks first.
async fn behind_a_proxy(server: RedisServer) -> (Stand, Proxy) {
    let proxy = Proxy::new(server.addr());
    let mut endpoint = at(proxy.addr());
    endpoint.command_timeout = Duration::from_millis(500);
    let stand = Stand::with(server, |config| config.endpoints.cache = Some(endpoint)).await;
    (stand, proxy)
}

#[tokio::test]
async fn replica_is_never_asked() {
    let primary = RedisServer::new().start().await;
    let link = Proxy::new(primary.addr());
    let follows = format!("replicaof 127.0.0.1 {}", link.addr().port());
    let replica = RedisServer::new().setting(follows).start().await;
    let addr = replica.addr();
    primary.run::<()>(&["SET", "key", "value"]).await;
    let mut stand = Stand::with(primary, |config| {
        let cache = config.endpoints.cache.as_mut().expect("set before");
        cache.replicas = vec![at(addr).server];
    })
    .await;
    let mut cache = stand.gateway.cache().await;
    eventually("the cache is read from the replica", async || {
        let get = CacheGetRequest {
            key: "key".into(),
            ..CacheGetRequest::default()
        };
        cache.get(get).await.unwrap().into_inner().value.is_some() && replica.calls("get").await > 0
    })
    .await;
    // It lags from now on: it hears of no mark.
    link.set(Mode::Stall);

    for silent in [false, true] {
        stand.revoke([1]).await.unwrap();
        stand.modify().await;
        if silent {
            replica.pause();
        }
        for _ in 0..50 {
            assert!(stand.blocked(1).await.unwrap());
        }
    }
    replica.resume();
    assert_eq!(replica.run::<usize>(&["DBSIZE"]).await, 1);
    let seen: String = replica.run(&["INFO", "commandstats"]).await;
    assert!(seen.contains("cmdstat_get:") && !seen.contains("evalsha"), "{seen}");
    drop(cache);
    stand.stop().await;
}

#[tokio::test]
async fn failing_primary_is_never_answered_with_not_blocked() {
    let (mut stand, proxy) = behind_a_proxy(RedisServer::new().append_only().start().await).await;
    stand.revoke([1]).await.unwrap();
    stand.modify().await;

    for fault in ["black hole", "stall", "stop", "refuse", "kill"] {
        match fault {
            "black hole" => proxy.set(Mode::BlackHole),
            "stall" => proxy.set(Mode::Stall),
            "stop" => stand.server.pause(),
            "refuse" => {
                proxy.refuse(true).await;
                proxy.cut(Cut::Reset).await;
            }
            _ => stand.server.kill(),
        }
        let mut errors = 0;
        eventually(&format!("{fault}: calls are refused at once"), async || {
            let answer = stand.tracker.is_blocked(question(1)).await;
            let status = match answer {
                Ok(answer) => {
                    // It was on its way.
                    assert!(answer.into_inner().blocked, "{fault}");
                    return false;
                }
                Err(status) => status,
            };
            errors += 1;
            match (status.code(), reason(&status).as_deref()) {
                (Code::Unavailable, Some("REDIS_UNAVAILABLE")) => true,
                (Code::DeadlineExceeded, Some("REDIS_TIMEOUT")) => false,
                _ => panic!("{fault}: {status}"),
            }
        })
        .await;
        if matches!(fault, "black hole" | "stall" | "stop") {
            assert!(errors > 1, "{fault}: no call waited for its answer");
        }
        serves(&stand, ServingStatus::NotServing).await;
        let modified = stand.tracker.mark_modified(modification()).await;
        let revoked_too = stand.tracker.mark_revoked(revocation([2])).await;
        for status in [modified.unwrap_err(), revoked_too.unwrap_err()] {
            assert_eq!(reason(&status).as_deref(), Some("REDIS_UNAVAILABLE"), "{fault}");
        }

        match fault {
            "stop" => stand.server.resume(),
            "kill" => stand.server.restart().await,
            _ => {
                proxy.refuse(false).await;
                proxy.set(Mode::Pass);
                proxy.cut(Cut::Reset).await;
            }
        }
        serves(&stand, ServingStatus::Serving).await;
        // The cut may have met a connection that was already made again.
        eventually(&format!("{fault}: calls are answered again"), async || {
            let blocked = stand.blocked(1).await;
            assert!(!matches!(blocked, Ok(false)), "{fault}");
            blocked.is_ok()
        })
        .await;
        assert_eq!(stand.server.run::<i64>(&["EXISTS", &revoked(2)]).await, 0, "{fault}");
    }
    stand.stop().await;
}

/// Awaits what `grpc.health.v1` says of both services on the endpoint.
async fn serves(stand: &Stand, expected: ServingStatus) {
    let mut health = stand.gateway.health().await;
    for name in ["Cache", "ContentTracker"] {
        eventually(&format!("{name} is {expected:?}"), async || {
            let service = format!("redisgateway.v1.{name}");
            let answer = health.check(HealthCheckRequest { service }).await;
            answer.unwrap().into_inner().status() == expected
        })
        .await;
    }
}

#[tokio::test]
async fn unanswered_revocation_is_said_to_be_unknown() {
    let (mut stand, proxy) = behind_a_proxy(RedisServer::new().start().await).await;
    stand.revoke([1]).await.unwrap();
    stand.server.run::<()>(&["FLUSHDB"]).await;

    proxy.set_open(Mode::SwallowReplies);
    let status = stand.tracker.mark_revoked(revocation([1, 2])).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_deref()),
        (Code::Unknown, Some("OUTCOME_UNKNOWN"))
    );
    eventually("both marks stand", async || {
        stand.server.run::<i64>(&["EXISTS", &revoked(1), &revoked(2)]).await == 2
    })
    .await;
    proxy.cut(Cut::Reset).await;

    // Safe to repeat, so nothing to be in doubt of.
    eventually("modifications are marked again", async || {
        stand.tracker.mark_modified(modification()).await.is_ok()
    })
    .await;
    stand.server.run::<()>(&["DEL", MODIFIED]).await;
    proxy.set_open(Mode::SwallowReplies);
    let status = stand.tracker.mark_modified(modification()).await.unwrap_err();
    assert!(
        matches!(reason(&status).as_deref(), Some("REDIS_UNAVAILABLE" | "REDIS_TIMEOUT")),
        "{status}"
    );
    eventually("the mark stands", async || {
        stand.server.run::<i64>(&["EXISTS", MODIFIED]).await == 1
    })
    .await;
    proxy.cut(Cut::Reset).await;
    eventually("modifications are marked again", async || {
        stand.tracker.mark_modified(modification()).await.is_ok()
    })
    .await;
    assert!(stand.blocked(1).await.unwrap());
    stand.stop().await;
}

#[tokio::test]
async fn scripts_are_loaded_again_where_redis_lost_them() {
    let mut stand = Stand::new().await;
    for _ in 0..3 {
        stand.server.run::<()>(&["SCRIPT", "FLUSH"]).await;
        stand.revoke([1]).await.unwrap();
        stand.modify().await;
        stand.server.run::<()>(&["SCRIPT", "FLUSH"]).await;
        assert!(stand.blocked(1).await.unwrap());
    }
    stand.stop().await;
}
