//! What listeners and publishers are told when Redis, or a reader, fails.

use std::time::Duration;

use redis_gateway::{
    config::{Endpoint, Password},
    proto::{
        DegradedReason, PublishFailure, PublishRequest, StreamPublishRequest, listen_gap::Cause, listen_response::Item,
    },
};
use tokio::time::{Instant, timeout};
use tonic::Code;

use super::{Listening, Stand, event};
use crate::harness::{Cut, MachineLag, Mode, Proxy, RedisServer, at, eventually, heavy, patience, reason};

async fn behind_a_proxy() -> (Stand, Proxy) {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = at(proxy.addr());
    let stand = Stand::on(server, endpoint, |config| {
        config.user_events.heartbeat = Duration::from_millis(200);
    })
    .await;
    (stand, proxy)
}

/// The next item that is no heartbeat.
async fn news(listening: &mut Listening) -> Item {
    loop {
        match listening.next().await.unwrap() {
            Item::Heartbeat(_) => {}
            item => return item,
        }
    }
}

#[tokio::test]
async fn one_gap_is_told_after_reconnect_and_then_every_event() {
    let (mut stand, proxy) = behind_a_proxy().await;
    let mut listeners = Vec::new();
    for n in 0..10 {
        listeners.push(stand.listen(&format!("user-{}", n % 3), &["a", "b"]).await.unwrap());
    }
    for fault in ["reset", "end", "black hole", "restart"] {
        match fault {
            "reset" => drop(proxy.cut(Cut::Reset).await),
            "end" => drop(proxy.cut(Cut::Fin).await),
            // No traffic: only the probe can notice.
            "black hole" => proxy.set_open(Mode::BlackHole),
            _ => {
                stand.server.kill();
                stand.server.restart().await;
            }
        }
        for listening in &mut listeners {
            let Item::Gap(gap) = news(listening).await else {
                panic!("{fault}: no gap")
            };
            assert_eq!((gap.cause(), gap.dropped), (Cause::ConnectionLost, 0), "{fault}");
        }
        for n in 0..3 {
            for id in ["a", "b"] {
                assert_eq!(stand.direct(&format!("user-{n}"), id, "1").await, 1, "{fault}");
            }
        }
        for listening in &mut listeners {
            for id in ["a", "b"] {
                assert_eq!(news(listening).await, Item::Event(event(id, "1")), "{fault}");
            }
        }
    }
    drop(listeners);
    stand.stop().await;
}

#[tokio::test]
async fn heartbeats_say_while_the_connection_is_lost() {
    let (stand, proxy) = behind_a_proxy().await;
    let mut listening = stand.listen("devtable", &["test"]).await.unwrap();
    proxy.refuse(true).await;
    proxy.cut(Cut::Reset).await;
    loop {
        match listening.next().await.unwrap() {
            Item::Heartbeat(beat) if beat.degraded() == DegradedReason::RedisUnavailable => break,
            Item::Heartbeat(_) => {}
            other => panic!("{other:?}"),
        }
    }
    // Who comes now is refused at once.
    let refused = stand.listen("devtable", &["test"]).await.err().expect("a refusal");
    assert_eq!(
        (refused.code(), reason(&refused).as_deref()),
        (Code::Unavailable, Some("REDIS_UNAVAILABLE"))
    );
    proxy.refuse(false).await;
    assert!(matches!(news(&mut listening).await, Item::Gap(_)));
    drop(listening);
    stand.stop().await;
}

#[tokio::test]
async fn listening_fails_at_once_where_it_is_denied_or_redis_is_silent() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let server = RedisServer::new()
        .user("gateway", "on >secret ~* resetchannels &user/known/* +@all")
        .start()
        .await;
    let proxy = Proxy::new(server.addr());
    let endpoint = Endpoint {
        username: Some("gateway".into()),
        password: Some(Password::Inline("secret".into())),
        ..at(proxy.addr())
    };
    let stand = Stand::on(server, endpoint, |_| {}).await;
    let mut known = stand.listen("known", &["a"]).await.unwrap();
    for _ in 0..10 {
        let asked = Instant::now();
        let denied = stand.listen("stranger", &["a"]).await.err().expect("a refusal");
        assert_eq!(
            (denied.code(), reason(&denied).as_deref()),
            (Code::FailedPrecondition, Some("REDIS_DENIED"))
        );
        lag.assert_within("a refusal", asked.elapsed(), Duration::from_millis(150));
    }
    stand.direct("known", "a", "1").await;
    assert_eq!(known.event().await, event("a", "1"), "others are not disturbed");
    drop(known);

    proxy.set(Mode::BlackHole);
    let asked = Instant::now();
    let silent = stand.listen("known", &["b"]).await.err().expect("a refusal");
    assert!(
        matches!(silent.code(), Code::Unavailable | Code::DeadlineExceeded),
        "{silent:?}"
    );
    lag.assert_within("an answer", asked.elapsed(), Duration::from_millis(2_050));
    proxy.set(Mode::Pass);
    proxy.cut(Cut::Reset).await;
    stand.stop().await;
}

#[tokio::test]
async fn a_failing_redis_degrades_a_publish_and_never_fails_it() {
    let (stand, proxy) = behind_a_proxy().await;
    eventually("the endpoint is up", async || {
        stand.publish("devtable", "test", "1").await.unwrap().degraded() == DegradedReason::Unspecified
    })
    .await;
    proxy.set(Mode::SwallowReplies);
    let answer = stand.publish("devtable", "test", "1").await.unwrap();
    assert_eq!(
        (answer.receivers, answer.degraded()),
        (0, DegradedReason::OutcomeUnknown)
    );
    proxy.refuse(true).await;
    proxy.cut(Cut::Reset).await;
    eventually("it is said to be away", async || {
        stand.publish("devtable", "test", "1").await.unwrap().degraded() == DegradedReason::RedisUnavailable
    })
    .await;
    let (_, text) = stand.gateway.admin("/metrics").await;
    let counted = text
        .lines()
        .any(|line| line.starts_with("redis_gateway_rpc_degraded_total") && line.contains("Publish"));
    assert!(counted, "degraded answers are counted");
    stand.stop().await;
}

#[tokio::test]
async fn batches_that_redis_denies_are_counted_as_calls() {
    let server = RedisServer::new()
        .user("gateway", "on >secret ~* resetchannels +@all")
        .start()
        .await;
    let endpoint = Endpoint {
        username: Some("gateway".into()),
        password: Some(Password::Inline("secret".into())),
        ..at(server.addr())
    };
    let stand = Stand::on(server, endpoint, |_| {}).await;
    let mut before = 0;
    eventually("redis denies it", async || {
        before += 1;
        stand.publish("devtable", "test", "1").await.unwrap().degraded() == DegradedReason::RedisDenied
    })
    .await;
    let event = PublishRequest {
        username: "devtable".into(),
        event_id: "test".into(),
        payload: "1".into(),
    };
    let batch = |number| StreamPublishRequest {
        number,
        events: vec![event.clone(); 2],
    };
    let batches = tokio_stream::iter([batch(1), batch(2)]);
    let mut answers = stand.events.clone().stream_publish(batches).await.unwrap().into_inner();
    while let Some(answer) = timeout(patience(), answers.message()).await.unwrap().unwrap() {
        let denied = answer.failures.iter();
        assert!(
            denied
                .map(PublishFailure::reason)
                .all(|reason| reason == DegradedReason::RedisDenied)
        );
    }

    let (_, metrics) = stand.gateway.admin("/metrics").await;
    let failed = before + 4;
    for line in [
        // The stream's own end is the third.
        r#"rpc_requests_total{code="OK",method="StreamPublish",service="UserEvents"} 3"#,
        r#"rpc_degraded_total{method="StreamPublish",reason="REDIS_DENIED",service="UserEvents"} 2"#,
        r#"rpc_duration_seconds_count{method="StreamPublish",service="UserEvents"} 2"#,
        r#"user_events_published_total{outcome="published"} 0"#,
        &format!(r#"user_events_published_total{{outcome="failed"}} {failed}"#),
    ] {
        assert!(
            metrics.contains(&format!("redis_gateway_{line}\n")),
            "{line}: {metrics}"
        );
    }
    stand.stop().await;
}

#[tokio::test]
async fn a_slow_reader_is_told_and_costs_the_others_nothing() {
    let stand = Stand::new().await;
    let mut slow = stand.listen("devtable", &["test"]).await.unwrap();
    let mut quick = stand.listen("devtable", &["test"]).await.unwrap();
    // More than the sockets between take.
    let filler = "x".repeat(20_000);
    let sent = 2_000;
    let number = |payload: &[u8]| {
        let text = std::str::from_utf8(payload).unwrap();
        text[1..].split(',').next().unwrap().parse::<u64>().unwrap()
    };
    // One at a time: a machine that is late makes no slow reader of the other one.
    for n in 0..sent {
        stand.direct("devtable", "test", &format!("[{n}, \"{filler}\"]")).await;
        assert_eq!(number(&quick.event().await.payload), n);
    }

    let (mut heard, mut dropped, mut next) = (0, 0, 0);
    while next < sent {
        match news(&mut slow).await {
            Item::Event(event) => {
                assert_eq!(number(&event.payload), next, "in order, and the gap tells how many");
                (heard, next) = (heard + 1, next + 1);
            }
            Item::Gap(gap) => {
                assert_eq!(gap.cause(), Cause::SlowReader);
                (dropped, next) = (dropped + gap.dropped, next + gap.dropped);
            }
            other => panic!("{other:?}"),
        }
    }
    println!("{heard} heard, {dropped} dropped of {sent}");
    assert!(dropped > 0 && heard + dropped == sent);
    drop((slow, quick));
    stand.stop().await;
}
