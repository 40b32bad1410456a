//! Logs that are followed while they grow and Redis comes and goes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::Rng as _;
use redis_gateway::proto::{
    AppendRequest, TailRequest, TailResponse, build_logs_client::BuildLogsClient, tail_response::Event,
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Code, Status, Streaming, transport::Channel};

use super::{Faults, Stand, numbers, standing};
use crate::harness::{GatewayProcess, RedisServer, heavy, patience, seeded, soak, within};

const BUILDS: usize = 8;
const TAILS: usize = 4;

/// Appends numbers, whatever becomes of them, until told to stop.
async fn append(mut logs: BuildLogsClient<Channel>, build_id: String, stop: Arc<AtomicBool>) {
    let mut next = 0;
    while !stop.load(Relaxed) {
        let request = AppendRequest {
            build_id: build_id.clone(),
            entries: numbers(next, 1),
        };
        next += 1;
        if logs.append(within(Duration::from_secs(2), request)).await.is_err() {
            sleep(Duration::from_millis(3)).await;
        }
    }
}

/// Whether a stream must outlive all faults, or may be opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Streams {
    Stand,
    Break,
}

/// Follows a log until it has as many entries as `wanted` says in the end. Answers them, and how often the stream was opened.
async fn tail(
    mut logs: BuildLogsClient<Channel>,
    build_id: String,
    wanted: Arc<AtomicUsize>,
    streams: Streams,
) -> (String, Vec<usize>, usize) {
    let (mut seen, mut openings) = (Vec::new(), 0);
    while seen.len() < wanted.load(Relaxed) {
        let start = i64::try_from(seen.len()).unwrap();
        let previous_entry = seen.last().map(|last: &usize| last.to_string().into());
        let request = TailRequest {
            build_id: build_id.clone(),
            start,
            previous_entry,
        };
        let ended = match logs.tail(request).await {
            Ok(stream) => {
                openings += 1;
                follow(&build_id, stream.into_inner(), &mut seen, &wanted).await
            }
            // Opening fails while Redis, or the gateway, is away, as any other read.
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{build_id}: {status}");
                sleep(Duration::from_millis(3)).await;
                None
            }
        };
        if let Some(status) = ended {
            assert_eq!(streams, Streams::Break, "{build_id}: {status}");
            sleep(Duration::from_millis(10)).await;
        }
    }
    (build_id, seen, openings)
}

/// Takes what a stream brings until `wanted` are seen, or the stream ends: then why.
async fn follow(
    build_id: &str,
    mut stream: Streaming<TailResponse>,
    seen: &mut Vec<usize>,
    wanted: &AtomicUsize,
) -> Option<Status> {
    let mut opened = false;
    while seen.len() < wanted.load(Relaxed) {
        let Ok(event) = timeout(Duration::from_millis(100), stream.message()).await else {
            continue;
        };
        let event = match event {
            Ok(Some(event)) => event.event.expect("an event"),
            Ok(None) => return Some(Status::ok("ended")),
            Err(status) => return Some(status),
        };
        match event {
            Event::Opened(event) => {
                assert!(!opened, "{build_id}: opened twice");
                assert_eq!(usize::try_from(event.start).unwrap(), seen.len(), "{build_id}");
                opened = true;
            }
            Event::Entries(event) => {
                assert!(opened && !event.entries.is_empty());
                assert_eq!(
                    usize::try_from(event.start).unwrap(),
                    seen.len(),
                    "{build_id}: not the next entry"
                );
                seen.extend(
                    event
                        .entries
                        .iter()
                        .map(|e| std::str::from_utf8(e).unwrap().parse::<usize>().unwrap()),
                );
            }
            Event::Reset(event) => panic!("{build_id}: {event:?} after {} entries", seen.len()),
            Event::Heartbeat(_) => {}
        }
    }
    None
}

/// Holds what all tails have seen against what stands. Answers the number of entries, and of openings.
async fn check(
    server: &RedisServer,
    lengths: &[(String, Arc<AtomicUsize>)],
    tails: JoinSet<(String, Vec<usize>, usize)>,
) -> (usize, usize) {
    let (mut entries, mut openings) = (0, 0);
    for (build_id, wanted) in lengths {
        let length = standing(server, build_id).await.len();
        entries += length;
        wanted.store(length, Relaxed);
    }
    for (build_id, seen, opened) in timeout(patience(), tails.join_all())
        .await
        .expect("tails that catch up")
    {
        assert_eq!(seen, standing(server, &build_id).await, "{build_id}");
        openings += opened;
    }
    (entries, openings)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_tells_every_entry_once_and_in_order() {
    let _one = heavy().await;
    let mut random = seeded();
    let mut stand = Stand::new().await;
    let stop = Arc::new(AtomicBool::new(false));
    let (mut appenders, mut tails, mut lengths) = (JoinSet::new(), JoinSet::new(), Vec::new());
    for n in 0..BUILDS {
        let build_id = format!("build-{n}");
        let wanted = Arc::new(AtomicUsize::new(usize::MAX));
        for _ in 0..TAILS {
            let logs = stand.gateway.build_logs().await;
            tails.spawn(tail(logs, build_id.clone(), wanted.clone(), Streams::Stand));
        }
        appenders.spawn(append(stand.gateway.build_logs().await, build_id.clone(), stop.clone()));
        lengths.push((build_id, wanted));
    }
    let faults = Faults::wanted(400, 40).cause(&mut stand, &mut random).await;
    stop.store(true, Relaxed);
    appenders.join_all().await;
    let (entries, openings) = check(&stand.server, &lengths, tails).await;
    println!("{faults}: {entries} entries in {BUILDS} logs, told once and in order to {TAILS} tails each");
    assert_eq!(openings, BUILDS * TAILS);
    assert!(entries >= 20 * faults.cuts, "too little traffic");
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_is_taken_up_again_where_a_killed_gateway_left_it() {
    let _one = heavy().await;
    let mut random = seeded();
    let server = RedisServer::new().start().await;
    let mut gateway = GatewayProcess::start(server.addr()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (mut appenders, mut tails, mut lengths) = (JoinSet::new(), JoinSet::new(), Vec::new());
    for n in 0..BUILDS {
        let build_id = format!("build-{n}");
        let wanted = Arc::new(AtomicUsize::new(usize::MAX));
        for _ in 0..TAILS {
            tails.spawn(tail(
                gateway.build_logs(),
                build_id.clone(),
                wanted.clone(),
                Streams::Break,
            ));
        }
        appenders.spawn(append(gateway.build_logs(), build_id.clone(), stop.clone()));
        lengths.push((build_id, wanted));
    }
    let ends = if soak() { 100 } else { 10 };
    for n in 0..ends {
        sleep(Duration::from_millis(random.random_range(50..300))).await;
        if n % 2 == 0 {
            gateway.kill();
        } else {
            assert!(gateway.terminate().await.success());
        }
        gateway.restart().await;
    }
    stop.store(true, Relaxed);
    appenders.join_all().await;
    let (entries, openings) = check(&server, &lengths, tails).await;
    println!("{ends} ends of the gateway: {entries} entries told once and in order over {openings} streams");
    assert!(entries >= 100 * ends && openings >= ends * BUILDS, "too little traffic");
}
