//! Logs that are followed while they grow and Redis comes and goes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use redis_gateway::proto::{AppendRequest, TailRequest, build_logs_client::BuildLogsClient, tail_response::Event};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Code, transport::Channel};

use super::{Faults, Stand, numbers, standing};
use crate::harness::{heavy, patience, seeded, within};

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

/// Follows a log until it has as many entries as `wanted` says in the end.
async fn tail(mut logs: BuildLogsClient<Channel>, build_id: String, wanted: Arc<AtomicUsize>) -> (String, Vec<usize>) {
    let request = TailRequest {
        build_id: build_id.clone(),
        start: 0,
        previous_entry: None,
    };
    // Opening fails while Redis is away, as any other read.
    let mut stream = loop {
        match logs.tail(request.clone()).await {
            Ok(stream) => break stream.into_inner(),
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{build_id}: {status}"),
        }
        sleep(Duration::from_millis(3)).await;
    };
    let mut seen = Vec::new();
    let mut opened = false;
    while seen.len() < wanted.load(Relaxed) {
        let Ok(event) = timeout(Duration::from_millis(100), stream.message()).await else {
            continue;
        };
        match event
            .expect("a stream that stands")
            .expect("a stream that goes on")
            .event
            .expect("an event")
        {
            Event::Opened(event) => {
                assert!(!opened && event.start == 0, "{build_id}: {event:?}");
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
    (build_id, seen)
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
            tails.spawn(tail(stand.gateway.build_logs().await, build_id.clone(), wanted.clone()));
        }
        appenders.spawn(append(stand.gateway.build_logs().await, build_id.clone(), stop.clone()));
        lengths.push((build_id, wanted));
    }
    let faults = Faults::wanted(400, 40).cause(&mut stand, &mut random).await;
    stop.store(true, Relaxed);
    appenders.join_all().await;
    let mut entries = 0;
    for (build_id, wanted) in &lengths {
        let length = standing(&stand.server, build_id).await.len();
        entries += length;
        wanted.store(length, Relaxed);
    }
    let tails = timeout(patience(), tails.join_all())
        .await
        .expect("tails that catch up");
    for (build_id, seen) in tails {
        assert_eq!(seen, standing(&stand.server, &build_id).await, "{build_id}");
    }
    println!("{faults}: {entries} entries in {BUILDS} logs, told once and in order to {TAILS} tails each");
    assert!(entries >= 20 * faults.cuts, "too little traffic");
    stand.stop().await;
}
