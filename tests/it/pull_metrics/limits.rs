//! Rights, and batches beside each other.

use std::time::Duration;

use redis_gateway::{
    config::{Endpoint, Password},
    proto::{BatchTrackPullsRequest, ClaimPullsRequest, GetTagPullStatisticsRequest, TrackTagPullRequest},
};
use tokio::{task::JoinSet, time::Instant};

use super::{DB, DIGEST, Stand, pull, tag_key, tag_pull};
use crate::harness::{Mode, Proxy, RedisServer, at, eventually, reason, within};

/// What docs/pull-metrics.md says that counting needs.
const RIGHTS: [&str; 6] = ["evalsha", "script|load", "exists", "hset", "hincrby", "hgetall"];

/// A gateway whose Redis user may count, but for `missing`.
async fn without(missing: &str) -> Stand {
    let rights: Vec<String> = RIGHTS
        .iter()
        .filter(|right| **right != missing)
        .map(|right| format!("+{right}"))
        .collect();
    let rules = format!(
        "on >secret ~pull_events:* +ping +hello +auth +select {}",
        rights.join(" ")
    );
    let server = RedisServer::new().user("gateway", &rules).start().await;
    let endpoint = Endpoint {
        username: Some("gateway".into()),
        password: Some(Password::Inline("secret".into())),
        ..at(server.addr())
    };
    Stand::on(server, endpoint, |_| {}).await
}

async fn denied(stand: &Stand) -> f64 {
    stand
        .metric(
            "redis_gateway_redis_commands_total{endpoint=\"pull_metrics\",outcome=\"error_reply\",server=\"primary\"}",
        )
        .await
}

#[tokio::test]
async fn counting_needs_no_more_rights_than_the_docs_name() {
    let mut stand = without("nothing").await;
    for n in 1..=2 {
        let answer = stand.pulls.track_tag_pull(tag_pull("latest", None)).await.unwrap();
        assert_eq!(answer.into_inner().pull_count, n);
    }
    let pulls = vec![pull("latest", "1700000000"); 5];
    let batch = BatchTrackPullsRequest { pulls, buffered: false };
    assert!(
        stand
            .pulls
            .batch_track_pulls(batch)
            .await
            .unwrap()
            .into_inner()
            .failures
            .is_empty()
    );
    let request = GetTagPullStatisticsRequest {
        repository_id: 42,
        tag: "latest".into(),
        digest: DIGEST.into(),
    };
    let statistics = stand
        .pulls
        .get_tag_pull_statistics(request)
        .await
        .unwrap()
        .into_inner()
        .statistics;
    assert_eq!(statistics.unwrap().pull_count, 7);
    stand.stop().await;
}

#[tokio::test]
async fn a_pull_that_is_denied_halfway_is_not_counted_however_often_it_is_tried() {
    for missing in ["exists", "hset", "hincrby"] {
        let mut stand = without(missing).await;
        let known = tag_key("latest");
        stand
            .server
            .run_on::<()>(DB.into(), &["HSET", &known, "pull_count", "7"])
            .await;
        let refused = stand.pulls.track_tag_pull(tag_pull("latest", None)).await.unwrap_err();
        assert_eq!(reason(&refused).as_deref(), Some("REDIS_DENIED"), "without {missing}");
        let buffered = TrackTagPullRequest {
            buffered: true,
            ..tag_pull("latest", Some("1700000000"))
        };
        stand.pulls.track_tag_pull(buffered).await.unwrap();
        let before = denied(&stand).await;
        eventually("it is tried again", async || denied(&stand).await > before + 1.5).await;
        assert_eq!(stand.count(&known).await, 7, "without {missing}");
        // So that the drain has nothing to wait for.
        let rules = "on >secret ~* +@all";
        let mut words = vec!["ACL", "SETUSER", "gateway"];
        words.extend(rules.split(' '));
        stand.server.run::<()>(&words).await;
        eventually("it is written once", async || stand.count(&known).await == 8).await;
        stand.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_batches_crowd_out_nobody() {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = Endpoint {
        max_in_flight: 1_000,
        ..at(proxy.addr())
    };
    let mut stand = Stand::on(server, endpoint, |_| {}).await;
    stand.pulls.track_tag_pull(tag_pull("one", None)).await.unwrap();
    // What is in flight stays there for a while.
    proxy.set(Mode::Delay(Duration::from_millis(20)));
    let mut batches = JoinSet::new();
    for b in 0..6 {
        let mut client = stand.pulls.clone();
        batches.spawn(async move {
            let pulls = (0..1_000).map(|n| pull(&format!("b{b}-{n}"), "1700000000")).collect();
            let batch = BatchTrackPullsRequest { pulls, buffered: false };
            client
                .batch_track_pulls(batch)
                .await
                .unwrap()
                .into_inner()
                .failures
                .len()
        });
    }
    let mut singles = 0;
    while !batches.is_empty() {
        stand.pulls.track_tag_pull(tag_pull("one", None)).await.unwrap();
        singles += 1;
        while let Some(failures) = batches.try_join_next() {
            assert_eq!(failures.unwrap(), 0);
        }
    }
    assert!(singles >= 3, "{singles} calls beside the batches");
    stand.stop().await;
}

#[tokio::test]
async fn a_batch_is_one_call_for_each_key_also_without_a_window() {
    let mut stand = Stand::with(|config| config.pull_metrics.coalesce_window = Duration::ZERO).await;
    let pulls = vec![pull("latest", "1700000000"); 1_000];
    let batch = BatchTrackPullsRequest { pulls, buffered: false };
    stand.pulls.batch_track_pulls(batch).await.unwrap();
    assert_eq!(stand.count(&tag_key("latest")).await, 1_000);
    assert!((stand.metric("redis_gateway_pull_metrics_writes_total").await - 1.0).abs() < 0.5);
    stand.stop().await;
}

#[tokio::test]
async fn a_cancelled_claim_ends_its_search() {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = at(proxy.addr());
    let mut words = vec!["MSET".to_owned()];
    words.extend((0..60_000).flat_map(|n| [format!("other:{n}"), n.to_string()]));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    server.run_on::<()>(DB.into(), &words).await;
    let mut stand = Stand::on(server, endpoint, |_| {}).await;
    for n in 0..100 {
        stand
            .pulls
            .track_tag_pull(tag_pull(&format!("t{n}"), None))
            .await
            .unwrap();
    }
    // 120 steps, each of 60 ms and more.
    proxy.set(Mode::Delay(Duration::from_millis(30)));
    let mut pulls = stand.pulls.clone();
    let request = within(Duration::from_mins(1), ClaimPullsRequest::default());
    let call = tokio::spawn(async move { pulls.claim_pulls(request).await });
    eventually("a step is done", async || stand.server.calls("scan").await > 3).await;
    call.abort();
    let began = Instant::now();
    let scans = stand.server.calls("scan").await;
    eventually("nothing of it is left", async || {
        let leases: Vec<String> = stand
            .server
            .run_on(DB.into(), &["KEYS", "redis-gateway:*:lease:*"])
            .await;
        let mut held = 0;
        for lease in &leases {
            held += usize::from(stand.server.run_on::<String>(DB.into(), &["GET", lease]).await != "0");
        }
        held == 0 && began.elapsed() > Duration::from_millis(500)
    })
    .await;
    assert!(stand.server.calls("scan").await < scans + 5, "it went on searching");
    proxy.set(Mode::Pass);
    stand.stop().await;
}
