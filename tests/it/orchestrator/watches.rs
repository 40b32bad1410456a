//! Watches: what is there, what changes, and many of them at once.

use std::collections::BTreeMap;

use redis_gateway::proto::{
    orchestrator_gap::Cause, orchestrator_watch_open::Expiries, orchestrator_watch_response::Event,
};
use tokio::time::{Duration, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::{Stand, Watching, message, pair, pairs, short, text};
use crate::harness::{RedisServer, at, eventually, patience, reason};

#[tokio::test]
async fn a_watch_begins_with_what_is_there_and_goes_on_with_what_changes() {
    let stand = Stand::new().await;
    for (key, expiration) in [("building/1", 100), ("building/2", 0), ("other/1", 0)] {
        stand.create(key, "v", expiration).await;
    }
    stand.server.run::<()>(&["SET", "building/3/expired", "v"]).await;
    let mut watching = stand.watch("building/", true, Expiries::One).await;
    assert_eq!(
        watching.snapshot().await,
        pairs(&[("building/1", "v"), ("building/2", "v")])
    );
    // By this gateway, and by a manager without it.
    assert!(stand.set("building/1", "w", true, 100).await.unwrap());
    assert_eq!(short(&watching.next().await), "set building/1 w");
    stand.direct("building/4", "x", 100).await;
    stand.publish(1, "building/4", "x").await;
    assert_eq!(short(&watching.next().await), "create building/4 x");
    stand.publish(4, "building/4", "not told by anyone").await;
    stand.publish(2, "other/1", "not watched").await;
    assert_eq!(stand.delete("building/2").await.unwrap(), "v");
    assert_eq!(short(&watching.next().await), "delete building/2 v");
    // The same value again is told again.
    assert!(stand.set("building/1", "w", true, 100).await.unwrap());
    assert_eq!(short(&watching.next().await), "set building/1 w");
    drop(watching);
    stand.stop().await;
}

/// What a watcher knows from what it is told.
fn apply(known: &mut BTreeMap<String, String>, event: &Event) {
    match event {
        Event::Entry(entry) | Event::Create(entry) | Event::Set(entry) => {
            let (key, value) = pair(entry);
            known.insert(key, value);
        }
        Event::Delete(deleted) => drop(known.remove(&deleted.key)),
        Event::Synced(_) | Event::Gap(_) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_snapshot_under_load_misses_nothing_and_no_value_goes_back() {
    let stand = Stand::new().await;
    for n in 0..1_000 {
        stand.server.run::<()>(&["SET", &format!("k/{n}"), "0"]).await;
    }
    let changing = async {
        for round in 1..=30_u64 {
            for n in 0..20 {
                assert!(stand.set(&format!("k/{n}"), &round.to_string(), true, 0).await.unwrap());
            }
        }
    };
    let watching = async {
        let mut open = Vec::new();
        for _ in 0..5 {
            open.push(stand.watch("k/", true, Expiries::Unspecified).await);
        }
        for watching in &mut open {
            let mut known = BTreeMap::new();
            let newest = |known: &BTreeMap<String, String>| {
                (0..20).all(|n| known.get(&format!("k/{n}")).is_some_and(|v| v == "30"))
            };
            while !(newest(&known) && known.len() == 1_000) {
                let event = watching.next().await;
                let before = known.clone();
                apply(&mut known, &event);
                for (key, value) in &known {
                    let before = before.get(key).map_or(0, |value| value.parse::<u64>().unwrap());
                    assert!(value.parse::<u64>().unwrap() >= before, "{key} went back");
                }
            }
        }
        open
    };
    let ((), open) = tokio::join!(changing, watching);
    drop(open);
    stand.stop().await;
}

#[tokio::test]
async fn many_watches_share_one_connection() {
    let stand = Stand::new().await;
    stand.ready().await;
    let subscribers = async || {
        let all = stand.server.connections().await;
        all.iter().filter(|line| !line.contains(" sub=0 ")).count()
    };
    assert_eq!(subscribers().await, 1);
    let mut open: Vec<Watching> = Vec::new();
    for n in 0..100 {
        open.push(
            stand
                .watch(&format!("k{}/", n % 10), false, Expiries::Unspecified)
                .await,
        );
    }
    assert_eq!(subscribers().await, 1);
    assert_eq!(stand.metric("watches").await, 100);
    for n in 0..10 {
        stand.create(&format!("k{n}/1"), "v", 0).await;
    }
    for (n, watching) in open.iter_mut().enumerate() {
        assert_eq!(short(&watching.next().await), format!("create k{}/1 v", n % 10));
    }
    drop(open);
    eventually("they are gone", async || stand.metric("watches").await == 0).await;
    stand.stop().await;
}

#[tokio::test]
async fn a_slow_reader_is_told_and_finds_what_it_missed_by_looking() {
    let stand = Stand::new().await;
    let mut slow = stand.watch("k/", false, Expiries::Unspecified).await;
    let mut quick = stand.watch("k/", false, Expiries::Unspecified).await;
    let filler = "x".repeat(50_000);
    let sent = 600;
    let setting = async {
        for n in 0..sent {
            let value = format!("{n} {filler}");
            let key = format!("k/{}", n % 7);
            stand.set(&key, &value, n >= 7, 0).await.unwrap();
        }
        stand.delete("k/3").await.unwrap();
    };
    let reading = async {
        for _ in 0..=sent {
            let event = quick.next().await;
            assert!(!matches!(event, Event::Gap(_)), "the other is not disturbed");
        }
    };
    tokio::join!(setting, reading);
    assert!(stand.metric("gaps_total").await > 0, "it must have been slow");

    let (mut known, mut gaps, mut events) = (BTreeMap::new(), 0, 0);
    let newest = |known: &BTreeMap<String, String>| {
        let last: Vec<u64> = known
            .values()
            .filter_map(|value| value.split(' ').next()?.parse().ok())
            .collect();
        known.len() == 6 && last.iter().all(|n| *n >= sent - 7)
    };
    while !newest(&known) {
        let event = slow.next().await;
        if let Event::Gap(gap) = &event {
            assert_eq!(gap.cause(), Cause::SlowReader);
            gaps += 1;
        }
        events += 1;
        apply(&mut known, &event);
    }
    println!("{events} events of {sent}, {gaps} gaps");
    assert!(gaps >= 1 && !known.contains_key("k/3"));
    stand.create("k/new", "v", 0).await;
    assert_eq!(short(&slow.next().await), "create k/new v", "and goes on as before");
    drop((slow, quick));
    stand.stop().await;
}

#[tokio::test]
async fn silence_is_broken_and_a_drain_says_so() {
    let server = RedisServer::new().start().await;
    let endpoint = at(server.addr());
    let stand = Stand::on(server, endpoint, |config| {
        config.orchestrator.heartbeat = Duration::from_millis(100);
    })
    .await;
    let mut watching = stand.watch("k", false, Expiries::One).await;
    for _ in 0..3 {
        let told = timeout(patience(), watching.stream.message()).await.unwrap().unwrap();
        assert!(matches!(told.unwrap().event, Some(Event::Heartbeat(_))));
    }
    let Stand { server, gateway, keys } = stand;
    drop(keys);
    let ended = tokio::spawn(async move {
        let status = watching.end().await;
        assert_eq!(
            (status.code(), reason(&status).as_deref()),
            (Code::Unavailable, Some("DRAINING"))
        );
    });
    gateway.stop().await;
    ended.await.unwrap();
    drop(server);
}

#[tokio::test]
async fn a_caller_that_closes_its_side_is_told_on() {
    let stand = Stand::new().await;
    let open = redis_gateway::proto::OrchestratorWatchOpen {
        prefix: "k".into(),
        ..Default::default()
    };
    let (requests, taken) = tokio::sync::mpsc::channel(1);
    let open = redis_gateway::proto::orchestrator_watch_request::Message::Open(open);
    requests.send(message(open)).await.unwrap();
    drop(requests);
    let mut stream = stand
        .keys
        .clone()
        .watch(ReceiverStream::new(taken))
        .await
        .unwrap()
        .into_inner();
    for _ in 0..2 {
        stream.message().await.unwrap().unwrap();
    }
    stand.create("k", "v", 0).await;
    let told = timeout(patience(), stream.message()).await.unwrap().unwrap().unwrap();
    let Some(Event::Create(entry)) = told.event else {
        panic!("{told:?}")
    };
    assert_eq!(text(&entry.value), "v");
    drop(stream);
    stand.stop().await;
}
