//! What a pull comes to when Redis is silent or does not take writes.

use std::time::Duration;

use redis_gateway::proto::{BatchTrackPullsRequest, DegradedReason, TrackTagPullRequest};
use tonic::Code;

use super::{DB, Stand, pull, tag_key, tag_pull};
use crate::harness::{Cut, Mode, Proxy, RedisServer, at, eventually, reason, within};

const SOON: Duration = Duration::from_millis(400);

#[tokio::test]
async fn silence_makes_a_pull_unknown_by_its_deadline_and_counts_it_once_at_most() {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = at(proxy.addr());
    let mut stand = Stand::on(server, endpoint, |_| {}).await;
    stand.pulls.track_tag_pull(tag_pull("latest", None)).await.unwrap();
    for fault in ["stop", "black hole"] {
        let before = stand.count(&tag_key("latest")).await;
        if fault == "stop" {
            stand.server.pause();
        } else {
            proxy.set(Mode::BlackHole);
        }
        let unknown = stand
            .pulls
            .track_tag_pull(within(SOON, tag_pull("latest", None)))
            .await
            .unwrap_err();
        assert_eq!(
            (unknown.code(), reason(&unknown).as_deref()),
            (Code::Unknown, Some("OUTCOME_UNKNOWN")),
            "{fault}"
        );
        stand.server.resume();
        proxy.set(Mode::Pass);
        if fault == "black hole" {
            proxy.cut(Cut::Reset).await;
        }
        let mut answered = 0;
        eventually("pulls are counted again", async || {
            answered = u64::from(stand.pulls.track_tag_pull(tag_pull("latest", None)).await.is_ok());
            answered == 1
        })
        .await;
        let counted = stand.count(&tag_key("latest")).await - before - answered;
        assert!(counted <= 1, "{fault}: {counted} for one pull");
        // What Redis slept over it did in the end.
        assert!(fault != "stop" || counted == 1, "{counted}");
    }
    stand.stop().await;
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_is_named_and_what_is_buffered_waits_for_it() {
    let primary = RedisServer::new().start().await;
    let mut stand = Stand::new().await;
    stand.pulls.track_tag_pull(tag_pull("latest", None)).await.unwrap();
    let port = primary.addr().port().to_string();
    stand.server.run::<()>(&["REPLICAOF", "127.0.0.1", &port]).await;
    eventually("it is a replica", async || {
        stand
            .server
            .run::<String>(&["INFO", "replication"])
            .await
            .contains("master_link_status:up")
    })
    .await;
    eventually("a pull is refused", async || {
        let refused = stand.pulls.track_tag_pull(tag_pull("latest", None)).await.unwrap_err();
        assert_eq!(reason(&refused).as_deref(), Some("REDIS_UNAVAILABLE"));
        true
    })
    .await;
    let buffered = TrackTagPullRequest {
        buffered: true,
        ..tag_pull("latest", Some("1700000000"))
    };
    eventually("answers say so", async || {
        let answer = stand.pulls.track_tag_pull(buffered.clone()).await.unwrap().into_inner();
        answer.degraded() == DegradedReason::RedisUnavailable
    })
    .await;
    stand.server.run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    eventually("what waited is written", async || {
        let waits = stand.metric("redis_gateway_pull_metrics_buffer_pulls").await;
        waits.abs() < 0.5 && stand.count(&tag_key("latest")).await > 0
    })
    .await;
    stand.stop().await;
}

#[tokio::test]
async fn a_hash_that_no_pull_left_is_told_as_refused_for_good() {
    let mut stand = Stand::new().await;
    let key = tag_key("latest");
    stand
        .server
        .run_on::<()>(DB.into(), &["HSET", &key, "pull_count", "abc"])
        .await;
    let refused = stand.pulls.track_tag_pull(tag_pull("latest", None)).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_deref()),
        (Code::Internal, Some("REDIS_ERROR"))
    );
    let pulls = vec![pull("latest", "1700000000"), pull("other", "1700000000")];
    let batch = BatchTrackPullsRequest { pulls, buffered: false };
    let answer = stand.pulls.batch_track_pulls(batch).await.unwrap().into_inner();
    let failures: Vec<_> = answer
        .failures
        .iter()
        .map(|failure| (failure.index, failure.reason()))
        .collect();
    assert_eq!(failures, [(0, DegradedReason::RedisError)]);
    stand.stop().await;
}
