//! Many listeners over one subscription connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use redis_gateway::proto::{ListenRequest, ListenResponse, listen_gap::Cause, listen_response::Item};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tonic::Streaming;

use crate::harness::{GatewayProcess, RedisServer, eventually, heavy, patience, soak};

const EVENT: &str = "docker-cli";
/// Streams of one connection of a client.
const STREAMS: usize = 200;

/// What a listener has heard: how late, and whether all of it came in order.
async fn hear(
    mut stream: Streaming<ListenResponse>,
    events: u64,
    began: Instant,
    heard: Arc<AtomicU64>,
) -> Vec<Duration> {
    let mut late = Vec::new();
    for n in 0..events {
        let event = loop {
            match next(&mut stream).await {
                Item::Heartbeat(_) => {}
                Item::Event(event) => break event,
                other => panic!("{other:?} instead of event {n}"),
            }
        };
        let (number, sent): (u64, u64) = serde_json::from_slice(&event.payload).unwrap();
        assert_eq!(number, n);
        late.push(began.elapsed().saturating_sub(Duration::from_nanos(sent)));
        heard.fetch_add(1, Relaxed);
    }
    late
}

async fn next(stream: &mut Streaming<ListenResponse>) -> Item {
    let answer = timeout(patience(), stream.message()).await.expect("an item");
    answer.unwrap().expect("an item, not an end").item.expect("an item")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_listeners_share_one_connection_and_hear_all_in_order() {
    let _one = heavy().await;
    let (users, each, events) = if soak() { (1_000, 10, 20) } else { (100, 10, 10) };
    let server = RedisServer::new().start().await;
    let gateway = GatewayProcess::start(server.addr()).await;
    let before = gateway.memory();
    let listen = |user: usize| ListenRequest {
        username: format!("user-{user}"),
        event_ids: vec![EVENT.into()],
    };

    let opening = Instant::now();
    let mut streams = Vec::new();
    let mut clients = Vec::new();
    for n in 0..users * each {
        if n % STREAMS == 0 {
            clients.push(gateway.user_events());
        }
        let client = clients.last_mut().expect("a client");
        let mut stream = client.listen(listen(n % users)).await.unwrap().into_inner();
        assert!(matches!(next(&mut stream).await, Item::Opened(_)));
        streams.push(stream);
    }
    let opened = opening.elapsed();
    let listeners = streams.len();
    let per_listener = gateway.memory().saturating_sub(before) / listeners as u64;
    // What watches keys of build managers has a connection of its own, with a handful of channels.
    let all = server.connections().await;
    let channels = all
        .iter()
        .filter_map(|line| line.split(' ').find_map(|field| field.strip_prefix("sub=")));
    let many: Vec<usize> = channels
        .map(|count| count.parse().unwrap())
        .filter(|count| *count > 10)
        .collect();
    assert_eq!(many, [users], "one connection has a channel for each user");

    // One who reads nothing, of a user with ten others.
    let mut stopped = clients[0].clone().listen(listen(0)).await.unwrap().into_inner();
    assert!(matches!(next(&mut stopped).await, Item::Opened(_)));

    let began = Instant::now();
    let heard = Arc::new(AtomicU64::new(0));
    let mut hearing = JoinSet::new();
    for stream in streams {
        hearing.spawn(hear(stream, events, began, heard.clone()));
    }
    let mut direct = server.client().await;
    for n in 0..events {
        for user in 0..users {
            let payload = format!("[{n}, {}]", began.elapsed().as_nanos());
            let receivers: i64 = redis::cmd("PUBLISH")
                .arg(format!("user/user-{user}/events/{EVENT}"))
                .arg(payload)
                .query_async(&mut direct)
                .await
                .unwrap();
            assert_eq!(receivers, 1);
        }
        // So that lateness is the way, and not a queue of what was published at once.
        let wanted = (n + 1) * listeners as u64;
        eventually("all have heard it", async || heard.load(Relaxed) == wanted).await;
    }
    let mut late: Vec<Duration> = hearing.join_all().await.into_iter().flatten().collect();
    late.sort_unstable();
    let at = |share: usize| late[(late.len() - 1) * share / 100];
    println!(
        "{listeners} listeners for {users} users, opened in {opened:?}, {per_listener} bytes each; {} events heard in order, late \
         by {:?} (median), {:?} (p99), {:?} (most)",
        late.len(),
        at(50),
        at(99),
        at(100)
    );
    assert_eq!(late.len(), listeners * usize::try_from(events).unwrap());

    // The one that reads nothing gets its gap, and others of its user heard all: they are done. Enough for its sockets to fill.
    let filler = "x".repeat(20_000);
    for n in 0..2_000 {
        let publish = [
            "PUBLISH",
            &format!("user/user-0/events/{EVENT}"),
            &format!("[{n}, \"{filler}\"]"),
        ]
        .map(str::to_owned);
        let _: i64 = redis::cmd(&publish[0])
            .arg(&publish[1..])
            .query_async(&mut direct)
            .await
            .unwrap();
    }
    let dropped = loop {
        match next(&mut stopped).await {
            Item::Gap(gap) => {
                assert_eq!(gap.cause(), Cause::SlowReader);
                break gap.dropped;
            }
            Item::Event(_) | Item::Heartbeat(_) => {}
            other @ Item::Opened(_) => panic!("{other:?}"),
        }
    };
    println!("the stopped reader was told of {dropped} dropped events");
    assert!(dropped > 0);
}
