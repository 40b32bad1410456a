//! What callers are told when Redis is away, and when they or the gateway go away themselves.

use std::time::Duration;

use redis_gateway::{
    config::{self, EndpointName, Password},
    proto::{
        AppendRequest, CacheDeleteRequest, CacheGetRequest, CacheSetRequest, ClaimPullsRequest, DegradedReason,
        GetStatusRequest, IsBlockedRequest, ListEntriesRequest, ListenRequest, LogEntry, log_entry::Kind,
    },
};
use tokio::{task::JoinSet, time::Instant};
use tonic::Code;

use crate::harness::{
    Cut, Gateway, Ledger, MachineLag, Mode, Proxy, RedisServer, at, config, eventually, heavy, reason, told, within,
};

/// A gateway whose build logs and cache are on `endpoint`.
async fn gateway(endpoint: config::Endpoint) -> Gateway {
    let mut config = config();
    config.endpoints.build_logs = Some(endpoint.clone());
    config.endpoints.cache = Some(endpoint);
    Gateway::start(config).await
}

fn get(key: &str) -> CacheGetRequest {
    CacheGetRequest {
        key: key.into(),
        ..CacheGetRequest::default()
    }
}

fn set(key: &str) -> CacheSetRequest {
    CacheSetRequest {
        key: key.into(),
        value: "value".into(),
        ttl_seconds: 60,
        overwrite: true,
        ..CacheSetRequest::default()
    }
}

fn append(build_id: &str, number: usize) -> AppendRequest {
    let entries = vec![LogEntry {
        kind: Some(Kind::Json(number.to_string().into())),
    }];
    AppendRequest {
        build_id: build_id.into(),
        entries,
    }
}

#[tokio::test]
async fn cache_degrades_within_milliseconds_once_the_breaker_is_open() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let gateway = gateway(at(proxy.addr())).await;
    let (mut cache, mut logs) = (gateway.cache().await, gateway.build_logs().await);
    eventually("the cache stores", async || {
        cache.set(set("key")).await.unwrap().into_inner().stored
    })
    .await;

    for mode in [Mode::BlackHole, Mode::Stall] {
        proxy.set(mode);
        let unavailable = DegradedReason::RedisUnavailable;
        eventually("the breaker opens", async || {
            let answer = cache
                .get(within(Duration::from_millis(500), get("key")))
                .await
                .unwrap()
                .into_inner();
            answer.degraded() == unavailable
        })
        .await;
        for _ in 0..200 {
            let asked = Instant::now();
            let answer = cache
                .get(within(Duration::from_secs(1), get("key")))
                .await
                .unwrap()
                .into_inner();
            assert_eq!((answer.value.as_ref(), answer.degraded()), (None, unavailable));
            assert_eq!(
                cache.set(set("key")).await.unwrap().into_inner().degraded(),
                unavailable
            );
            lag.assert_within("two degraded answers", asked.elapsed(), Duration::from_millis(20));
        }
        // What has no fallback is refused, as fast.
        let asked = Instant::now();
        let refused = logs
            .get_status(GetStatusRequest {
                build_id: "build".into(),
            })
            .await
            .unwrap_err();
        assert_eq!(reason(&refused).as_deref(), Some("REDIS_UNAVAILABLE"));
        lag.assert_within("a refusal", asked.elapsed(), Duration::from_millis(20));

        proxy.set(Mode::Pass);
        proxy.cut(Cut::Reset).await;
        eventually("the cache is back", async || {
            cache.get(get("key")).await.unwrap().into_inner().value.is_some()
        })
        .await;
    }
    drop((cache, logs));
    gateway.stop().await;
}

#[tokio::test]
async fn cache_names_why_it_is_degraded() {
    let server = RedisServer::new()
        .user("gateway", "on >secret ~* &* +@all -del")
        .start()
        .await;
    let mut endpoint = at(server.addr());
    endpoint.username = Some("gateway".into());
    endpoint.password = Some(Password::Inline("secret".into()));
    let gateway = gateway(endpoint).await;
    let mut cache = gateway.cache().await;
    eventually("the cache stores", async || {
        cache.set(set("key")).await.unwrap().into_inner().stored
    })
    .await;

    let deleted = cache
        .delete(CacheDeleteRequest {
            key: "key".into(),
            ..CacheDeleteRequest::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (deleted.deleted, deleted.degraded()),
        (false, DegradedReason::RedisDenied)
    );

    server.run::<()>(&["RPUSH", "list", "x"]).await;
    let got = cache.get(get("list")).await.unwrap().into_inner();
    assert_eq!((got.value.as_ref(), got.degraded()), (None, DegradedReason::WrongType));

    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let stored = cache.set(set("key")).await.unwrap().into_inner();
    assert_eq!(
        (stored.stored, stored.degraded()),
        (false, DegradedReason::RedisOutOfMemory)
    );
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;

    server.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let stored = cache.set(set("key")).await.unwrap().into_inner();
    assert_eq!(
        (stored.stored, stored.degraded()),
        (false, DegradedReason::RedisUnavailable)
    );
    server.run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    assert!(cache.set(set("key")).await.unwrap().into_inner().stored);

    server.pause();
    let got = cache
        .get(within(Duration::from_millis(200), get("key")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (got.value.as_ref(), got.degraded()),
        (None, DegradedReason::RedisTimeout)
    );
    server.resume();
    drop(cache);
    gateway.stop().await;
}

#[tokio::test]
async fn unanswered_append_is_said_to_be_unknown() {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let gateway = gateway(at(proxy.addr())).await;
    let mut logs = gateway.build_logs().await;
    eventually("appends are taken", async || {
        logs.append(append("build", 0)).await.is_ok()
    })
    .await;

    proxy.set_open(Mode::SwallowReplies);
    let unknown = logs
        .append(within(Duration::from_millis(300), append("build", 1)))
        .await
        .unwrap_err();
    assert_eq!(
        (unknown.code(), reason(&unknown).as_deref()),
        (Code::Unknown, Some("OUTCOME_UNKNOWN"))
    );
    assert_eq!(
        server
            .run::<Vec<String>>(&["LRANGE", "builds/build/logs", "0", "-1"])
            .await,
        ["0", "1"]
    );

    // Whoever only reads may ask again: nothing to be in doubt of.
    let list = ListEntriesRequest {
        build_id: "build".into(),
        start: 0,
        page_size: 0,
    };
    let late = logs.list_entries(within(Duration::from_millis(200), list)).await;
    if let Err(late) = late {
        assert!(
            matches!(reason(&late).as_deref(), Some("REDIS_TIMEOUT" | "REDIS_UNAVAILABLE")),
            "{late}"
        );
    }
    proxy.cut(Cut::Fin).await;
    eventually("appends are taken again", async || {
        logs.append(append("build", 2)).await.is_ok()
    })
    .await;
    drop(logs);
    gateway.stop().await;
}

#[tokio::test]
async fn cancelled_append_runs_to_its_end() {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let gateway = gateway(at(proxy.addr())).await;
    let mut logs = gateway.build_logs().await;
    eventually("appends are taken", async || {
        logs.append(append("build", 0)).await.is_ok()
    })
    .await;
    proxy.set(Mode::Delay(Duration::from_millis(100)));
    let passed = proxy.requests();
    let sent = eventually("the append is on its way", async || proxy.requests() > passed + 20);
    tokio::select! {
        answer = logs.append(append("build", 1)) => panic!("{answer:?} faster than the proxy"),
        () = sent => {}
    }
    eventually("the append stands", async || {
        server.run::<i64>(&["LLEN", "builds/build/logs"]).await == 2
    })
    .await;
    drop(logs);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_loses_no_acknowledged_append() {
    let _one = heavy().await;
    let server = RedisServer::new().start().await;
    let gateway = gateway(at(server.addr())).await;
    let mut appenders = JoinSet::new();
    for n in 0..16 {
        let mut logs = gateway.build_logs().await;
        appenders.spawn(async move {
            let (build_id, mut ledger) = (format!("build-{n}"), Ledger::default());
            // Until the gateway is gone; the last call has no answer, or a refusal.
            loop {
                let result = logs
                    .append(within(Duration::from_secs(2), append(&build_id, ledger.next())))
                    .await;
                ledger.note(told(&result));
                if let Err(status) = result {
                    return (build_id, ledger, status);
                }
            }
        });
    }
    eventually("appends flow", async || {
        server.info("total_commands_processed").await > 2_000
    })
    .await;
    gateway.stop().await;
    let mut appended = 0;
    for (build_id, ledger, last) in appenders.join_all().await {
        let numbers: Vec<usize> = server
            .run(&["LRANGE", &format!("builds/{build_id}/logs"), "0", "-1"])
            .await;
        let counts = ledger.check(&build_id, &numbers);
        assert!(counts.unknown <= 1, "{counts:?}, {last}");
        appended += counts.done;
    }
    assert!(appended >= 500, "only {appended} appends");
}

#[tokio::test]
async fn starts_and_stays_up_without_redis() {
    let mut server = RedisServer::new();
    let gateway = gateway(at(server.addr())).await;
    let (mut cache, mut logs) = (gateway.cache().await, gateway.build_logs().await);
    assert_eq!(
        cache.get(get("key")).await.unwrap().into_inner().degraded(),
        DegradedReason::RedisUnavailable
    );
    let refused = logs.append(append("build", 0)).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_deref()),
        (Code::Unavailable, Some("REDIS_UNAVAILABLE"))
    );
    server = server.start().await;
    eventually("appends are taken", async || {
        logs.append(append("build", 0)).await.is_ok()
    })
    .await;
    eventually("the cache stores", async || {
        cache.set(set("key")).await.unwrap().into_inner().stored
    })
    .await;
    drop((cache, logs));
    gateway.stop().await;
    eventually("no connection is left", async || server.connections().await.is_empty()).await;
}

#[tokio::test]
async fn operators_see_an_endpoint_go_and_come_back() {
    let mut server = RedisServer::new().start().await;
    let mut config = config();
    config.endpoints.build_logs = Some(at(server.addr()));
    config.readiness = vec![EndpointName::BuildLogs];
    let gateway = Gateway::start(config).await;
    for _ in 0..2 {
        eventually("the gateway is ready", async || gateway.admin("/readyz").await.0 == 200).await;
        server.kill();
        eventually("the gateway is not ready", async || {
            gateway.admin("/readyz").await.0 == 503
        })
        .await;
        assert_eq!(
            gateway.admin("/livez").await.0,
            200,
            "liveness does not depend on redis"
        );
        server.restart().await;
    }
    let (code, metrics) = gateway.admin("/metrics").await;
    let lost = r#"connections_replaced_total{cause="lost",endpoint="build_logs",server="primary"} 2"#;
    assert!(code == 200 && metrics.contains(lost), "{metrics}");
    gateway.stop().await;
}

#[tokio::test]
async fn pattern_without_an_endpoint_is_told() {
    let gateway = Gateway::start(config()).await;
    let (mut cache, mut logs) = (gateway.cache().await, gateway.build_logs().await);
    let mut tracker = gateway.content_tracker().await;
    let (mut pulls, mut events) = (gateway.pull_metrics().await, gateway.user_events().await);
    let question = IsBlockedRequest {
        user_id: 1,
        namespace: "namespace".into(),
        repository: "repository".into(),
    };
    let listen = ListenRequest {
        username: "user".into(),
        event_ids: vec!["event".into()],
    };
    let refused = [
        cache.get(get("key")).await.map(drop).unwrap_err(),
        logs.append(append("build", 0)).await.map(drop).unwrap_err(),
        tracker.is_blocked(question).await.map(drop).unwrap_err(),
        pulls
            .claim_pulls(ClaimPullsRequest::default())
            .await
            .map(drop)
            .unwrap_err(),
        events.listen(listen).await.map(drop).unwrap_err(),
    ];
    for status in refused {
        assert_eq!(
            (status.code(), reason(&status).as_deref()),
            (Code::FailedPrecondition, Some("NOT_CONFIGURED"))
        );
    }
    drop((cache, logs, tracker, pulls, events));
    gateway.stop().await;
}
