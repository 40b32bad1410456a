//! Events published as a stream of numbered batches, with a direct subscriber on the other side that hears each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redis::aio::PubSub;
use redis_gateway::proto::{DegradedReason, PublishRequest, StreamPublishRequest, StreamPublishResponse};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;

use super::Stand;
use crate::harness::{Cut, MachineLag, Mode, Proxy, RedisServer, at, eventually, heavy, patience, reason};

/// A stream that is open.
struct Events {
    requests: mpsc::Sender<StreamPublishRequest>,
    answers: Streaming<StreamPublishResponse>,
}

impl Events {
    async fn open(stand: &Stand) -> Self {
        Events::within(stand, None).await
    }

    async fn within(stand: &Stand, limit: Option<Duration>) -> Self {
        let (requests, taken) = mpsc::channel(100);
        let mut request = Request::new(ReceiverStream::new(taken));
        if let Some(limit) = limit {
            request.set_timeout(limit);
        }
        let answers = stand.events.clone().stream_publish(request).await.unwrap().into_inner();
        let mut events = Events { requests, answers };
        let confirmation = events.answer().await.unwrap();
        assert_eq!(confirmation, StreamPublishResponse::default(), "the confirmation");
        events
    }

    async fn send(&self, number: u64, events: Vec<PublishRequest>) {
        let request = StreamPublishRequest { number, events };
        self.requests.send(request).await.unwrap();
    }

    async fn answer(&mut self) -> Result<StreamPublishResponse, Status> {
        let answer = timeout(patience(), self.answers.message()).await.expect("an answer");
        answer.map(|answer| answer.expect("an answer, not an end"))
    }
}

fn event(event_id: &str, payload: &str) -> PublishRequest {
    PublishRequest {
        username: "devtable".into(),
        event_id: event_id.into(),
        payload: payload.to_owned().into(),
    }
}

fn numbered(numbers: impl IntoIterator<Item = u64>) -> Vec<PublishRequest> {
    numbers.into_iter().map(|n| event("test", &n.to_string())).collect()
}

fn reasons(answer: &StreamPublishResponse) -> BTreeMap<i32, DegradedReason> {
    let reason = |failure: &redis_gateway::proto::PublishFailure| (failure.index, failure.reason());
    answer.failures.iter().map(reason).collect()
}

/// All that is published on a server, heard past the gateway.
struct Witness(PubSub);

impl Witness {
    async fn of(server: &RedisServer) -> Self {
        let client = redis::Client::open(format!("unix://{}", server.socket().display())).unwrap();
        let mut heard = client.get_async_pubsub().await.unwrap();
        heard.psubscribe("user/*").await.unwrap();
        Witness(heard)
    }

    /// What was heard so far, by channel and payload.
    async fn heard(&mut self, server: &RedisServer) -> Vec<(String, String)> {
        let _: i64 = server.run(&["PUBLISH", "user/end", "end"]).await;
        let mut heard = Vec::new();
        let mut messages = self.0.on_message();
        loop {
            let message = timeout(patience(), messages.next()).await.expect("a message").unwrap();
            if message.get_channel_name() == "user/end" {
                return heard;
            }
            heard.push((message.get_channel_name().to_owned(), message.get_payload().unwrap()));
        }
    }

    async fn numbers(&mut self, server: &RedisServer) -> Vec<u64> {
        let heard = self.heard(server).await;
        heard.into_iter().map(|(_, payload)| payload.parse().unwrap()).collect()
    }
}

/// A stand that is up.
async fn behind_a_proxy() -> (Stand, Proxy, Witness) {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = at(proxy.addr());
    let stand = Stand::on(server, endpoint, |_| {}).await;
    eventually("the endpoint is up", async || {
        let answer = stand.publish("devtable", "test", "0").await.unwrap();
        answer.degraded() == DegradedReason::Unspecified
    })
    .await;
    let witness = Witness::of(&stand.server).await;
    (stand, proxy, witness)
}

#[tokio::test]
async fn each_batch_is_published_in_order_and_answered() {
    let stand = Stand::new().await;
    let mut witness = Witness::of(&stand.server).await;
    let listening = stand.listen("devtable", &["b"]).await.unwrap();
    let mut events = Events::open(&stand).await;
    // Not from 1 on, with holes, and without waiting for answers; in the form of Python whatever form was sent.
    for number in [5, 6, 9] {
        events
            .send(
                number,
                vec![
                    event("a", "[1,2]"),
                    event("b", &number.to_string()),
                    event("a", "\"é\""),
                ],
            )
            .await;
    }
    for number in [5, 6, 9] {
        let answer = events.answer().await.unwrap();
        assert_eq!((answer.number, answer.receivers), (number, vec![1, 2, 1]));
        assert!(answer.failures.is_empty());
    }
    // Several pipelines of one batch.
    events.send(10, numbered(0..1_000)).await;
    assert_eq!(events.answer().await.unwrap().receivers, vec![1; 1_000]);

    let expected = [5, 6, 9].into_iter().flat_map(|number| {
        let number = number.to_string();
        [
            ("a", "[1, 2]".to_owned()),
            ("b", number),
            ("a", "\"\\u00e9\"".to_owned()),
        ]
    });
    let expected = expected.chain((0..1_000).map(|n| ("test", n.to_string())));
    let expected: Vec<_> = expected
        .map(|(id, payload)| (format!("user/devtable/events/{id}"), payload))
        .collect();
    assert_eq!(witness.heard(&stand.server).await, expected);

    drop(events.requests);
    let end = timeout(patience(), events.answers.message()).await.unwrap().unwrap();
    assert!(end.is_none(), "the end");
    drop((witness, listening));
    stand.stop().await;
}

#[tokio::test]
async fn a_batch_that_breaks_a_rule_ends_the_stream_and_nothing_of_it_is_published() {
    let stand = Stand::new().await;
    let mut witness = Witness::of(&stand.server).await;
    let long = "x".repeat(256);
    for (number, batch, field) in [
        (1, numbered([7]), "number"),
        (2, Vec::new(), "events"),
        (2, numbered(0..1_001), "events"),
        (2, vec![event("a", "7"), event("a\0", "7")], "events[1].event_id"),
        (2, vec![event("a", "7"), event(&long, "7")], "events[1].event_id"),
        (2, vec![event("a", "7"), event("a", "{")], "events[1].payload"),
        (2, vec![PublishRequest::default()], "events[0].username"),
    ] {
        let mut events = Events::open(&stand).await;
        events.send(1, numbered([1])).await;
        assert_eq!(events.answer().await.unwrap().number, 1);
        events.send(number, batch).await;
        let status = events.answer().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, field);
    }
    assert_eq!(witness.numbers(&stand.server).await, [1; 7]);
    drop(witness);
    stand.stop().await;
}

#[tokio::test]
async fn a_batch_that_is_too_large_is_refused_by_its_reason() {
    let server = RedisServer::new().start().await;
    let endpoint = at(server.addr());
    let stand = Stand::on(server, endpoint, |config| config.limits.max_request_bytes = 1 << 10).await;
    let mut events = Events::open(&stand).await;
    events.send(1, numbered(0..100)).await;
    let status = events.answer().await.unwrap_err();
    let told = (status.code(), reason(&status));
    let expected = (Code::InvalidArgument, Some("REQUEST_TOO_LARGE".into()));
    assert_eq!(told, expected, "{status}");
    drop(events);
    stand.stop().await;
}

#[tokio::test]
async fn a_stream_outlives_redis_and_says_what_was_not_published() {
    let (stand, proxy, mut witness) = behind_a_proxy().await;
    let mut events = Events::open(&stand).await;
    events.send(1, numbered([1])).await;
    assert!(events.answer().await.unwrap().failures.is_empty());

    // Carried out, and not answered.
    proxy.set(Mode::SwallowReplies);
    events.send(2, numbered([2, 3])).await;
    let answer = events.answer().await.unwrap();
    assert_eq!((answer.number, &answer.receivers[..]), (2, &[0, 0][..]));
    let unknown = DegradedReason::OutcomeUnknown;
    assert_eq!(reasons(&answer), [(0, unknown), (1, unknown)].into());

    proxy.refuse(true).await;
    proxy.cut(Cut::Reset).await;
    let mut number = 3;
    let away = DegradedReason::RedisUnavailable;
    eventually("redis is said to be away", async || {
        events.send(number, numbered([7, 8])).await;
        number += 1;
        reasons(&events.answer().await.unwrap()) == [(0, away), (1, away)].into()
    })
    .await;
    proxy.set(Mode::Pass);
    proxy.refuse(false).await;
    eventually("events are published again", async || {
        events.send(number, numbered([9])).await;
        number += 1;
        events.answer().await.unwrap().failures.is_empty()
    })
    .await;
    assert_eq!(witness.numbers(&stand.server).await, [1, 2, 3, 9], "each once");
    drop((events, witness));
    stand.stop().await;
}

/// What was said of events that are numbers.
#[derive(Default)]
struct Said {
    batches: u64,
    sent: u64,
    published: BTreeSet<u64>,
    unknown: BTreeSet<u64>,
}

impl Said {
    /// Publishes a batch of the next numbers; how many were published, and of how many it is not known.
    async fn batch(&mut self, events: &mut Events, count: u64) -> (usize, usize) {
        let before = (self.published.len(), self.unknown.len());
        let numbers = self.sent..self.sent + count;
        self.batches += 1;
        events.send(self.batches, numbered(numbers.clone())).await;
        let reasons = reasons(&events.answer().await.unwrap());
        for (index, n) in (0..).zip(numbers) {
            match reasons.get(&index) {
                None => self.published.insert(n),
                Some(DegradedReason::OutcomeUnknown) => self.unknown.insert(n),
                Some(_) => false,
            };
        }
        self.sent += count;
        (self.published.len() - before.0, self.unknown.len() - before.1)
    }
}

#[tokio::test]
async fn what_is_cut_within_a_batch_is_heard_once_at_most_and_in_order() {
    let (stand, proxy, mut witness) = behind_a_proxy().await;
    let mut events = Events::open(&stand).await;
    let mut said = Said::default();
    for how in [Cut::Reset, Cut::Fin, Cut::Reset, Cut::Fin] {
        // Until some of one batch was published, and of some it is not known.
        eventually("a cut within a batch", async || {
            proxy.set(Mode::Delay(Duration::from_millis(20)));
            eventually("redis is there", async || said.batch(&mut events, 1).await.0 == 1).await;
            let before = proxy.replies();
            let cut = async {
                eventually("replies to two pipelines", async || proxy.replies() > before + 1_000).await;
                proxy.swallow_and_cut(patience(), how).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                (published, unknown) = said.batch(&mut events, 1_000) => published > 0 && unknown > 0,
                () = cut => false,
            }
        })
        .await;
    }
    let heard = witness.numbers(&stand.server).await;
    assert!(heard.is_sorted_by(|a, b| a < b), "in order, and none twice");
    let heard = BTreeSet::from_iter(heard);
    println!(
        "{} sent, {} heard: {} published, {} unknown, of these {} heard",
        said.sent,
        heard.len(),
        said.published.len(),
        said.unknown.len(),
        said.unknown.intersection(&heard).count()
    );
    assert!(said.published.is_subset(&heard), "what was published is heard");
    assert!(
        heard.is_subset(&(&said.published | &said.unknown)),
        "what was not is not"
    );
    drop((events, witness));
    stand.stop().await;
}

#[tokio::test]
async fn a_batch_is_answered_by_its_deadline() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let (stand, proxy, witness) = behind_a_proxy().await;
    let limit = Duration::from_secs(1);
    let began = Instant::now();
    let mut events = Events::within(&stand, Some(limit)).await;
    proxy.set(Mode::BlackHole);
    events.send(1, numbered([1, 2])).await;
    let unknown = DegradedReason::OutcomeUnknown;
    // The batch is answered, and the stream ends right after it, or instead where the machine is late.
    let status = match events.answer().await {
        Ok(answer) => {
            assert_eq!(reasons(&answer), [(0, unknown), (1, unknown)].into());
            events.answer().await.unwrap_err()
        }
        Err(status) => status,
    };
    // Well before Redis' own limit of 2 s.
    lag.assert_within("the end", began.elapsed(), limit + limit / 2);
    assert_eq!(reason(&status).as_deref(), Some("OUTCOME_UNKNOWN"), "{status}");
    proxy.set(Mode::Pass);
    proxy.cut(Cut::Reset).await;
    drop((events, witness));
    stand.stop().await;
}

#[tokio::test]
async fn a_drain_answers_the_batch_at_work_and_publishes_none_after_it() {
    let (stand, proxy, mut witness) = behind_a_proxy().await;
    let mut events = Events::open(&stand).await;
    events.send(1, numbered([1])).await;
    assert_eq!(events.answer().await.unwrap().number, 1);
    proxy.set(Mode::Delay(Duration::from_millis(200)));
    let before = proxy.requests();
    for number in 2..=5 {
        events.send(number, numbered([number; 100])).await;
    }
    // More than a probe takes.
    eventually("a batch is at work", async || proxy.requests() > before + 1_000).await;
    let Stand {
        server,
        gateway,
        events: client,
    } = stand;
    drop(client);
    let answers = async {
        let mut last = 1;
        loop {
            match events.answer().await {
                Ok(answer) => last = answer.number,
                Err(status) => return (last, status),
            }
        }
    };
    let (stopped, (last, status)) = tokio::join!(timeout(patience(), gateway.stop()), answers);
    stopped.unwrap();
    let told = (status.code(), reason(&status));
    assert_eq!(told, (Code::Unavailable, Some("DRAINING".into())));
    assert!(
        (2..=3).contains(&last),
        "the drain came at once, not {last} batches later"
    );
    let heard = witness.numbers(&server).await;
    let expected = [1].into_iter().chain((2..=last).flat_map(|number| [number; 100]));
    assert_eq!(
        heard,
        expected.collect::<Vec<_>>(),
        "what was answered, and nothing else"
    );
}
