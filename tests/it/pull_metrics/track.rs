//! Pulls one by one and many at once: each counted once, those that meet in one Redis call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use redis_gateway::proto::{
    BatchTrackPullsRequest, DegradedReason, GetManifestPullStatisticsRequest, GetTagPullStatisticsRequest,
    PullStatistics,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{DB, DIGEST, Stand, fields, manifest_key, manifest_pull, pull, tag_key, tag_pull};
use crate::harness::{Cut, Proxy, RedisServer, Told, at, eventually, heavy, told, within};

#[tokio::test]
async fn pulls_leave_what_the_reference_leaves() {
    let mut stand = Stand::new().await;
    for (count, timestamp) in [(1, "1700000000"), (2, "1700000007"), (3, "1699999999")] {
        let tag = stand
            .pulls
            .track_tag_pull(tag_pull("latest", Some(timestamp)))
            .await
            .unwrap();
        assert_eq!(tag.into_inner().pull_count, count);
        let manifest = stand
            .pulls
            .track_manifest_pull(manifest_pull(Some(timestamp)))
            .await
            .unwrap();
        assert_eq!(manifest.into_inner().pull_count, count);
    }
    let tag = [
        ("repository_id", "42"),
        ("tag_name", "latest"),
        ("manifest_digest", DIGEST),
        ("pull_count", "3"),
        ("last_pull_timestamp", "1699999999"),
        ("pull_method", "tag"),
    ];
    assert_eq!(stand.hash(&tag_key("latest")).await, fields(&tag));
    let manifest = [
        ("repository_id", "42"),
        ("manifest_digest", DIGEST),
        ("pull_count", "3"),
        ("last_pull_timestamp", "1699999999"),
        ("pull_method", "digest"),
        ("tag_name", ""),
    ];
    assert_eq!(stand.hash(&manifest_key()).await, fields(&manifest));
    assert_eq!(
        stand.server.run_on::<i64>(DB.into(), &["TTL", &manifest_key()]).await,
        -1
    );

    let request = GetTagPullStatisticsRequest {
        repository_id: 42,
        tag: "latest".into(),
        digest: DIGEST.into(),
    };
    let expected = PullStatistics {
        repository_id: "42".into(),
        tag_name: "latest".into(),
        manifest_digest: DIGEST.into(),
        pull_count: 3,
        last_pull_timestamp: "1699999999".into(),
        pull_method: "tag".into(),
    };
    let statistics = stand
        .pulls
        .get_tag_pull_statistics(request)
        .await
        .unwrap()
        .into_inner()
        .statistics;
    assert_eq!(statistics, Some(expected));
    let request = |digest: &str| GetManifestPullStatisticsRequest {
        repository_id: 42,
        digest: digest.into(),
    };
    let statistics = stand
        .pulls
        .get_manifest_pull_statistics(request(DIGEST))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(statistics.statistics.unwrap().pull_method, "digest");
    let none = stand
        .pulls
        .get_manifest_pull_statistics(request("sha256:00"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(none.statistics, None);
    stand.stop().await;
}

#[tokio::test]
async fn without_a_timestamp_the_gateways_clock_counts() {
    let mut stand = Stand::new().await;
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let before = now();
    stand.pulls.track_tag_pull(tag_pull("latest", None)).await.unwrap();
    let hash = stand.hash(&tag_key("latest")).await;
    let (_, stamp) = hash.iter().find(|(name, _)| name == "last_pull_timestamp").unwrap();
    assert!((before..=now()).contains(&stamp.parse().unwrap()), "{stamp}");
    stand.stop().await;
}

#[tokio::test]
async fn pulls_of_one_key_that_meet_become_one_call() {
    let stand = Stand::with(|config| config.pull_metrics.coalesce_window = Duration::from_millis(500)).await;
    let mut callers = JoinSet::new();
    for n in 0..200 {
        let mut pulls = stand.pulls.clone();
        let tag = if n % 2 == 0 { "even" } else { "odd" };
        callers.spawn(async move {
            pulls
                .track_tag_pull(tag_pull(tag, None))
                .await
                .unwrap()
                .into_inner()
                .pull_count
        });
    }
    let mut counts = callers.join_all().await;
    counts.sort_unstable();
    // Each is told a place of its own.
    let expected: Vec<i64> = (1..=100).flat_map(|n| [n, n]).collect();
    assert_eq!(counts, expected);
    assert_eq!(
        stand.server.calls("evalsha").await - stand.server.calls("script|load").await,
        2
    );
    assert_eq!(
        (stand.count(&tag_key("even")).await, stand.count(&tag_key("odd")).await),
        (100, 100)
    );
    assert!((stand.metric("redis_gateway_pull_metrics_writes_total").await - 2.0).abs() < 0.5);
    stand.stop().await;
}

#[tokio::test]
async fn without_a_window_none_waits() {
    let mut stand = Stand::with(|config| config.pull_metrics.coalesce_window = Duration::ZERO).await;
    for n in 1..=20 {
        let answer = stand.pulls.track_tag_pull(tag_pull("latest", None)).await.unwrap();
        assert_eq!(answer.into_inner().pull_count, n);
    }
    stand.stop().await;
}

#[tokio::test]
async fn a_caller_in_a_hurry_does_not_wait_for_others() {
    let mut stand = Stand::with(|config| config.pull_metrics.coalesce_window = Duration::from_secs(1)).await;
    let began = Instant::now();
    let request = within(Duration::from_millis(900), tag_pull("latest", None));
    assert_eq!(
        stand
            .pulls
            .track_tag_pull(request)
            .await
            .unwrap()
            .into_inner()
            .pull_count,
        1
    );
    assert!(began.elapsed() < Duration::from_millis(900));
    stand.stop().await;
}

#[tokio::test]
async fn a_cancelled_caller_takes_no_pull_with_it() {
    let mut stand = Stand::with(|config| config.pull_metrics.coalesce_window = Duration::from_millis(200)).await;
    let mut gone = stand.pulls.clone();
    let call = tokio::spawn(async move { gone.track_tag_pull(tag_pull("latest", None)).await });
    eventually("the call is taken on", async || {
        stand
            .metric("redis_gateway_pull_metrics_pulls_total{mode=\"waited\"}")
            .await
            > 0.5
    })
    .await;
    call.abort();
    let other = stand
        .pulls
        .track_tag_pull(tag_pull("latest", None))
        .await
        .unwrap()
        .into_inner();
    eventually("both are counted", async || stand.count(&tag_key("latest")).await == 2).await;
    assert!((1..=2).contains(&other.pull_count));
    stand.stop().await;
}

#[tokio::test]
async fn many_pulls_count_each_on_its_own() {
    let mut stand = Stand::new().await;
    stand
        .server
        .run_on::<()>(DB.into(), &["SET", &tag_key("broken"), "no hash"])
        .await;
    let mut pulls: Vec<_> = (0..300).map(|n| pull(&format!("t{}", n % 3), "1700000000")).collect();
    pulls.insert(7, pull("broken", "1700000000"));
    pulls.push(pull("", "1700000001"));
    let request = BatchTrackPullsRequest { pulls, buffered: false };
    let answer = stand.pulls.batch_track_pulls(request).await.unwrap().into_inner();
    let failures: Vec<_> = answer
        .failures
        .iter()
        .map(|failure| (failure.index, failure.reason()))
        .collect();
    assert_eq!(failures, [(7, DegradedReason::WrongType)]);
    for tag in ["t0", "t1", "t2"] {
        assert_eq!(stand.count(&tag_key(tag)).await, 100);
    }
    assert_eq!(stand.count(&manifest_key()).await, 1);
    // One call for each key, as all of them met.
    assert!((stand.metric("redis_gateway_pull_metrics_writes_total").await - 5.0).abs() < 0.5);
    stand.stop().await;
}

#[tokio::test]
async fn bad_input_names_its_field() {
    let mut stand = Stand::new().await;
    let long = "x".repeat(256);
    for (repository_id, tag, digest, timestamp, buffered, field) in [
        (0, "t", DIGEST, "1", false, "repository_id"),
        (-1, "t", DIGEST, "1", false, "repository_id"),
        (1, "", DIGEST, "1", false, "tag"),
        (1, "a\0b", DIGEST, "1", false, "tag"),
        (1, &long, DIGEST, "1", false, "tag"),
        (1, "t", "", "1", false, "digest"),
        (1, "t", "sha256:zz", "1", false, "digest"),
        (1, "t", &long, "1", false, "digest"),
        (1, "processing", "1:deadbeef", "1", false, "tag"),
        (1, "t", DIGEST, "", false, "timestamp"),
        (1, "t", DIGEST, "abc", false, "timestamp"),
        (1, "t", DIGEST, "-5", false, "timestamp"),
        (1, "t", DIGEST, &long, false, "timestamp"),
        (1, "t", DIGEST, "1.5", true, "timestamp"),
    ] {
        let mut request = tag_pull(tag, Some(timestamp));
        (request.repository_id, request.digest, request.buffered) = (repository_id, digest.into(), buffered);
        let status = stand.pulls.track_tag_pull(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(
            status.get_details_bad_request().unwrap().field_violations[0].field,
            field,
            "{status:?}"
        );
    }
    let batch = |pulls| BatchTrackPullsRequest { pulls, buffered: false };
    for (pulls, field) in [
        (Vec::new(), "pulls"),
        (vec![pull("t", "1"); 1_001], "pulls"),
        (vec![pull("t", "1"), pull("t", "1.5")], "pulls[1].timestamp"),
    ] {
        let status = stand.pulls.batch_track_pulls(batch(pulls)).await.unwrap_err();
        assert_eq!(
            status.get_details_bad_request().unwrap().field_violations[0].field,
            field,
            "{status:?}"
        );
    }
    assert_eq!(stand.server.run_on::<i64>(DB.into(), &["DBSIZE"]).await, 0);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_is_not_counted_twice_under_reply_loss() {
    let _one = heavy().await;
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = at(proxy.addr());
    let stand = Stand::on(server, endpoint, |_| {}).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for n in 0..32 {
        let (mut pulls, stop) = (stand.pulls.clone(), stop.clone());
        callers.spawn(async move {
            let (mut acknowledged, mut unknown) = (0, 0);
            while !stop.load(Relaxed) {
                match told(&pulls.track_tag_pull(tag_pull(&format!("t{}", n % 8), None)).await) {
                    Told::Done => acknowledged += 1,
                    Told::Unknown => unknown += 1,
                    Told::NotExecuted => sleep(Duration::from_millis(3)).await,
                }
            }
            (acknowledged, unknown)
        });
    }
    let mut swallowed = 0;
    for _ in 0..20 {
        let before = proxy.replies();
        eventually("replies flow", async || proxy.replies() > before + 500).await;
        swallowed += u64::from(proxy.swallow_and_cut(Duration::from_secs(2), Cut::Reset).await > 0);
    }
    stop.store(true, Relaxed);
    let (mut acknowledged, mut unknown) = (0, 0);
    for (done, doubted) in callers.join_all().await {
        (acknowledged, unknown) = (acknowledged + done, unknown + doubted);
    }
    let mut stands = 0;
    for n in 0..8 {
        stands += stand.count(&tag_key(&format!("t{n}"))).await;
    }
    println!("{swallowed} times replies lost: {acknowledged} acknowledged, {unknown} unknown, {stands} stand");
    assert!(unknown >= swallowed && swallowed >= 15, "too few replies were lost");
    assert!((acknowledged..=acknowledged + unknown).contains(&stands));
    stand.stop().await;
}
