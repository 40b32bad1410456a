//! Pulls whose callers do not wait: kept while Redis is away, written when it is back and on drain, refused when there is no
//! room, counted in any case.

use redis_gateway::proto::{BatchTrackPullsRequest, DegradedReason, TrackTagPullRequest};
use tonic::Code;

use super::{Stand, pull, tag_key, tag_pull};
use crate::harness::{Cut, Mode, Proxy, RedisServer, at, eventually, reason};

fn buffered(tag: &str) -> TrackTagPullRequest {
    TrackTagPullRequest {
        buffered: true,
        ..tag_pull(tag, Some("1700000000"))
    }
}

/// A gateway whose Redis is there and can be taken away.
async fn stand(room: usize) -> (Stand, Proxy) {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = at(proxy.addr());
    let stand = Stand::on(server, endpoint, |config| config.pull_metrics.buffer_bytes = room).await;
    (stand, proxy)
}

/// Takes Redis away, until the gateway has noticed.
async fn take_away(stand: &mut Stand, proxy: &Proxy) {
    proxy.refuse(true).await;
    proxy.cut(Cut::Reset).await;
    eventually("the gateway has noticed", async || {
        let refused = stand.pulls.track_tag_pull(tag_pull("probe", None)).await;
        refused.is_err_and(|status| reason(&status).as_deref() == Some("REDIS_UNAVAILABLE"))
    })
    .await;
}

async fn outcome(stand: &Stand, outcome: &str) -> f64 {
    stand
        .metric(&format!(
            "redis_gateway_pull_metrics_buffered_total{{outcome=\"{outcome}\"}}"
        ))
        .await
}

#[tokio::test]
async fn a_buffered_pull_is_answered_at_once_and_written_soon() {
    let (mut stand, _proxy) = stand(1 << 20).await;
    let answer = stand
        .pulls
        .track_tag_pull(buffered("latest"))
        .await
        .unwrap()
        .into_inner();
    assert!(answer.buffered && answer.pull_count == 0);
    eventually("it stands", async || stand.count(&tag_key("latest")).await == 1).await;
    eventually("it is counted", async || outcome(&stand, "written").await > 0.5).await;
    stand.stop().await;
}

#[tokio::test]
async fn what_is_buffered_waits_for_redis_and_is_written_once() {
    let (mut stand, proxy) = stand(1 << 20).await;
    take_away(&mut stand, &proxy).await;
    for n in 0..300 {
        let answer = stand
            .pulls
            .track_tag_pull(buffered(&format!("t{}", n % 3)))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            (answer.buffered, answer.degraded()),
            (true, DegradedReason::RedisUnavailable)
        );
    }
    let pulls = (0..300).map(|n| pull(&format!("t{}", n % 3), "1700000000")).collect();
    let batch = BatchTrackPullsRequest { pulls, buffered: true };
    let answer = stand.pulls.batch_track_pulls(batch).await.unwrap().into_inner();
    assert_eq!(
        (answer.failures.len(), answer.degraded()),
        (0, DegradedReason::RedisUnavailable)
    );
    assert!((stand.metric("redis_gateway_pull_metrics_buffer_pulls").await - 600.0).abs() < 0.5);
    assert!(stand.metric("redis_gateway_pull_metrics_buffer_bytes").await > 0.0);

    proxy.refuse(false).await;
    eventually("all are written", async || outcome(&stand, "written").await > 599.5).await;
    for tag in ["t0", "t1", "t2"] {
        assert_eq!(stand.count(&tag_key(tag)).await, 200);
    }
    for gauge in ["buffer_pulls", "buffer_bytes"] {
        assert!(
            stand.metric(&format!("redis_gateway_pull_metrics_{gauge}")).await.abs() < 0.5,
            "{gauge}"
        );
    }
    stand.stop().await;
}

#[tokio::test]
async fn a_full_buffer_refuses_new_keys_alone() {
    let (mut stand, proxy) = stand(2_000).await;
    take_away(&mut stand, &proxy).await;
    let mut taken = 0;
    let status = loop {
        match stand.pulls.track_tag_pull(buffered(&format!("t{taken}"))).await {
            Ok(_) => taken += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(
        (status.code(), reason(&status).as_deref()),
        (Code::ResourceExhausted, Some("OVERLOADED"))
    );
    assert!((2..10).contains(&taken), "{taken}");
    // One that waits already takes no room.
    stand.pulls.track_tag_pull(buffered("t0")).await.unwrap();
    let pulls = vec![pull("t0", "1700000000"), pull("new", "1700000000")];
    let batch = BatchTrackPullsRequest { pulls, buffered: true };
    let answer = stand.pulls.batch_track_pulls(batch).await.unwrap().into_inner();
    let failures: Vec<_> = answer
        .failures
        .iter()
        .map(|failure| (failure.index, failure.reason()))
        .collect();
    assert_eq!(failures, [(1, DegradedReason::Overloaded)]);
    assert!((outcome(&stand, "full").await - 2.0).abs() < 0.5);

    proxy.refuse(false).await;
    eventually("there is room again", async || {
        stand.pulls.track_tag_pull(buffered("new")).await.is_ok()
    })
    .await;
    eventually("all are written", async || stand.count(&tag_key("new")).await == 1).await;
    assert_eq!(
        (stand.count(&tag_key("t0")).await, stand.count(&tag_key("t1")).await),
        (3, 1)
    );
    stand.stop().await;
}

#[tokio::test]
async fn what_redis_will_never_take_is_counted_as_refused() {
    let (mut stand, _proxy) = stand(1 << 20).await;
    stand
        .server
        .run_on::<()>(1, &["SET", &tag_key("broken"), "no hash"])
        .await;
    stand.pulls.track_tag_pull(buffered("broken")).await.unwrap();
    stand.pulls.track_tag_pull(buffered("latest")).await.unwrap();
    eventually("both have ended", async || {
        outcome(&stand, "refused").await > 0.5 && outcome(&stand, "written").await > 0.5
    })
    .await;
    assert!(stand.metric("redis_gateway_pull_metrics_buffer_pulls").await.abs() < 0.5);
    stand.stop().await;
}

#[tokio::test]
async fn a_lost_reply_makes_buffered_pulls_unknown_never_double() {
    let (mut stand, proxy) = stand(1 << 20).await;
    let several = |count| {
        // All at once, so that they become one write.
        let pulls = vec![pull("latest", "1700000000"); count];
        BatchTrackPullsRequest { pulls, buffered: true }
    };
    stand.pulls.batch_track_pulls(several(2)).await.unwrap();
    // Redis knows the script, and the gateway has heard: this reply is not to be lost.
    eventually("they are written", async || outcome(&stand, "written").await > 1.5).await;
    proxy.set(Mode::SwallowReplies);
    stand.pulls.batch_track_pulls(several(5)).await.unwrap();
    eventually("they stand", async || stand.count(&tag_key("latest")).await == 7).await;
    proxy.set_open(Mode::SwallowReplies);
    proxy.cut(Cut::Reset).await;
    eventually("they are counted as unknown", async || {
        outcome(&stand, "unknown").await > 4.5
    })
    .await;
    stand.pulls.track_tag_pull(buffered("latest")).await.unwrap();
    eventually("the next is written", async || outcome(&stand, "written").await > 2.5).await;
    assert_eq!(stand.count(&tag_key("latest")).await, 8);
    stand.stop().await;
}

#[tokio::test]
async fn a_drain_writes_what_is_buffered() {
    let (mut stand, proxy) = stand(1 << 20).await;
    take_away(&mut stand, &proxy).await;
    for n in 0..1_000 {
        stand.pulls.track_tag_pull(buffered(&format!("t{n}"))).await.unwrap();
    }
    let Stand { server, gateway, pulls } = stand;
    drop(pulls);
    tokio::join!(gateway.stop(), proxy.refuse(false));
    assert_eq!(server.run_on::<i64>(1, &["DBSIZE"]).await, 1_000);
}

#[tokio::test]
async fn out_of_memory_is_named_and_what_is_buffered_waits_for_room() {
    let (mut stand, _proxy) = stand(1 << 20).await;
    stand.server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = stand.pulls.track_tag_pull(tag_pull("latest", None)).await.unwrap_err();
    assert_eq!(reason(&refused).as_deref(), Some("REDIS_OUT_OF_MEMORY"));
    for _ in 0..2 {
        stand.pulls.track_tag_pull(buffered("latest")).await.unwrap();
    }
    let mut answered = 2;
    eventually("answers say why it waits", async || {
        answered += 1;
        let answer = stand
            .pulls
            .track_tag_pull(buffered("latest"))
            .await
            .unwrap()
            .into_inner();
        answer.degraded() == DegradedReason::RedisOutOfMemory
    })
    .await;
    assert_eq!(stand.count(&tag_key("latest")).await, 0);
    stand.server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    eventually("they are written", async || {
        stand.count(&tag_key("latest")).await == answered
    })
    .await;
    // Redis has them before the gateway hears of it.
    eventually("answers have no reason any more", async || {
        let answer = stand.pulls.track_tag_pull(buffered("latest")).await.unwrap();
        answer.into_inner().degraded() == DegradedReason::Unspecified
    })
    .await;
    assert!(outcome(&stand, "refused").await.abs() < 0.5);
    stand.stop().await;
}
