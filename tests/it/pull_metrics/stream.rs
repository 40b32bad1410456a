//! Pulls as a stream of numbered batches: each answer names the last number that stands.

use std::time::Duration;

use redis_gateway::proto::{DegradedReason, StreamPullsRequest, StreamPullsResponse};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::{Stand, pull, tag_key};
use crate::harness::{Cut, Mode, Proxy, RedisServer, at, eventually, patience, reason};

/// A stream that is open.
struct Pulls {
    requests: mpsc::Sender<StreamPullsRequest>,
    answers: Streaming<StreamPullsResponse>,
}

impl Pulls {
    async fn open(stand: &Stand) -> Self {
        let (requests, taken) = mpsc::channel(100);
        let answers = stand
            .pulls
            .clone()
            .stream_pulls(ReceiverStream::new(taken))
            .await
            .unwrap()
            .into_inner();
        let mut pulls = Pulls { requests, answers };
        assert_eq!(
            pulls.answer().await.unwrap(),
            StreamPullsResponse::default(),
            "the confirmation"
        );
        pulls
    }

    async fn send(&self, number: u64, tags: &[&str]) {
        let pulls = tags.iter().map(|tag| pull(tag, "1700000000")).collect();
        let request = StreamPullsRequest {
            number,
            pulls,
            buffered: false,
        };
        self.requests.send(request).await.unwrap();
    }

    async fn answer(&mut self) -> Result<StreamPullsResponse, Status> {
        let answer = timeout(patience(), self.answers.message()).await.expect("an answer");
        answer.map(|answer| answer.expect("an answer, not an end"))
    }
}

#[tokio::test]
async fn each_batch_is_answered_when_it_stands() {
    let stand = Stand::new().await;
    let mut pulls = Pulls::open(&stand).await;
    // Not from 1 on, with holes, and without waiting for answers.
    for number in [5, 6, 9] {
        pulls.send(number, &["a", "b", "a"]).await;
    }
    for (number, count) in [(5, 2), (6, 4), (9, 6)] {
        let answer = pulls.answer().await.unwrap();
        assert_eq!(
            (answer.number, answer.failures.len(), answer.buffered),
            (number, 0, false)
        );
        assert!(stand.count(&tag_key("a")).await >= count);
    }
    assert_eq!(
        (stand.count(&tag_key("a")).await, stand.count(&tag_key("b")).await),
        (6, 3)
    );
    drop(pulls.requests);
    assert!(
        timeout(patience(), pulls.answers.message())
            .await
            .unwrap()
            .unwrap()
            .is_none(),
        "the end"
    );
    stand.stop().await;
}

#[tokio::test]
async fn a_batch_that_breaks_a_rule_ends_the_stream_and_nothing_of_it_is_counted() {
    let stand = Stand::new().await;
    for (number, tags, field) in [
        (1, &["a"][..], "number"),
        (2, &[], "pulls"),
        (2, &["a", "b\0"], "pulls[1].tag"),
    ] {
        let mut pulls = Pulls::open(&stand).await;
        pulls.send(1, &["first"]).await;
        assert_eq!(pulls.answer().await.unwrap().number, 1);
        pulls.send(number, tags).await;
        let status = pulls.answer().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.get_details_bad_request().unwrap().field_violations[0].field,
            field
        );
    }
    assert_eq!(
        (stand.count(&tag_key("first")).await, stand.count(&tag_key("a")).await),
        (3, 0)
    );
    stand.stop().await;
}

#[tokio::test]
async fn a_stream_outlives_redis_and_says_what_was_not_counted() {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = at(proxy.addr());
    let stand = Stand::on(server, endpoint, |_| {}).await;
    let mut pulls = Pulls::open(&stand).await;
    pulls.send(1, &["a"]).await;
    assert!(pulls.answer().await.unwrap().failures.is_empty());

    // Carried out, and not answered.
    proxy.set(Mode::SwallowReplies);
    pulls.send(2, &["a"]).await;
    let answer = pulls.answer().await.unwrap();
    assert_eq!(answer.number, 2);
    assert_eq!(answer.failures[0].reason(), DegradedReason::OutcomeUnknown);
    assert_eq!(stand.count(&tag_key("a")).await, 2);

    proxy.refuse(true).await;
    proxy.cut(Cut::Reset).await;
    let mut number = 3;
    loop {
        pulls.send(number, &["b", "c"]).await;
        let answer = pulls.answer().await.unwrap();
        assert_eq!(answer.number, number);
        let failures: Vec<_> = answer
            .failures
            .iter()
            .map(|failure| (failure.index, failure.reason()))
            .collect();
        number += 1;
        if failures
            == [
                (0, DegradedReason::RedisUnavailable),
                (1, DegradedReason::RedisUnavailable),
            ]
        {
            break;
        }
    }
    // The stream stays open: its batches are counted all the same.
    let labels = "method=\"StreamPulls\",reason=\"REDIS_UNAVAILABLE\",service=\"PullMetrics\"";
    let degraded = format!("redis_gateway_rpc_degraded_total{{{labels}}}");
    assert!(stand.metric(&degraded).await > 0.5);
    let labels = "code=\"OK\",method=\"StreamPulls\",service=\"PullMetrics\"";
    let answered = stand
        .metric(&format!("redis_gateway_rpc_requests_total{{{labels}}}"))
        .await;
    assert!(
        (answered + 1.0 - f64::from(u32::try_from(number).unwrap())).abs() < 0.5,
        "{answered} of {number}"
    );
    proxy.set(Mode::Pass);
    proxy.refuse(false).await;
    let standing = stand.count(&tag_key("b")).await;
    let mut counted = 0;
    eventually("pulls stand again", async || {
        pulls.send(number, &["b"]).await;
        let answer = pulls.answer().await.unwrap();
        number += 1;
        counted += u64::from(answer.failures.is_empty());
        counted > 0
    })
    .await;
    assert_eq!(stand.count(&tag_key("b")).await, standing + 1);
    drop(pulls);
    stand.stop().await;
}

#[tokio::test]
async fn a_drain_answers_the_batch_at_work_and_counts_none_after_it() {
    let window = Duration::from_millis(500);
    let Stand { server, gateway, pulls } = Stand::with(|config| config.pull_metrics.coalesce_window = window).await;
    let stand = Stand { server, gateway, pulls };
    let mut pulls = Pulls::open(&stand).await;
    for number in 1..=3 {
        pulls.send(number, &["a"]).await;
    }
    eventually("the first batch is at work", async || {
        stand
            .metric("redis_gateway_pull_metrics_pulls_total{mode=\"waited\"}")
            .await
            > 0.5
    })
    .await;
    let Stand {
        server,
        gateway,
        pulls: client,
    } = stand;
    drop(client);
    let answers = async {
        let mut last = 0;
        loop {
            match pulls.answer().await {
                Ok(answer) => last = answer.number,
                Err(status) => return (last, status),
            }
        }
    };
    let (stopped, (last, status)) = tokio::join!(timeout(patience(), gateway.stop()), answers);
    stopped.unwrap();
    assert_eq!(
        (status.code(), reason(&status).as_deref()),
        (Code::Unavailable, Some("DRAINING"))
    );
    let count: u64 = server.run_on(1, &["HGET", &tag_key("a"), "pull_count"]).await;
    assert!(
        (1..=2).contains(&last),
        "the drain came at once, not {last} batches later"
    );
    assert_eq!(count, last, "what was answered, and nothing else");
}

#[tokio::test]
async fn batch_that_is_too_large_is_refused_by_its_reason() {
    let stand = Stand::with(|config| config.limits.max_request_bytes = 1 << 10).await;
    let mut pulls = Pulls::open(&stand).await;
    pulls.send(1, &["a"]).await;
    assert_eq!(pulls.answer().await.unwrap().number, 1);
    pulls.send(2, &["b"; 100]).await;
    let status = pulls.answer().await.unwrap_err();
    let told = (status.code(), reason(&status));
    assert_eq!(
        told,
        (Code::InvalidArgument, Some("REQUEST_TOO_LARGE".into())),
        "{status}"
    );
    assert!(stand.hash(&tag_key("b")).await.is_empty());
    drop(pulls);
    stand.stop().await;
}
