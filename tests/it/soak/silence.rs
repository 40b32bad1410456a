//! A connection to Redis on which nothing comes back, under steady load.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use redis_gateway::proto::{
    AppendRequest, CacheSetRequest, DegradedReason, build_logs_client::BuildLogsClient, cache_client::CacheClient,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::transport::Channel;

use super::{Stand, numbers};
use crate::harness::{MachineLag, Mode, heavy, reason, soak, within};

/// What each call gets.
const TIMEOUT: Duration = Duration::from_millis(500);
const CALLERS: usize = 32;

#[derive(Debug, PartialEq)]
enum Answer {
    Done,
    /// The gateway said that it failed, by a status of its own or as degraded.
    Failed,
    /// Somebody else said so.
    Foreign(String),
}

struct Call {
    began: Instant,
    took: Duration,
    answer: Answer,
}

/// What callers ask for.
#[derive(Debug, Clone)]
enum Ask {
    Append(BuildLogsClient<Channel>),
    Set(CacheClient<Channel>, Bytes),
}

impl Ask {
    async fn call(&mut self, n: usize) -> Answer {
        let failed = match self {
            Ask::Append(logs) => {
                let request = AppendRequest {
                    build_id: format!("build-{n}"),
                    entries: numbers(0, 1),
                };
                logs.append(within(TIMEOUT, request)).await.map(|_| false)
            }
            Ask::Set(cache, value) => {
                let (key, value) = (format!("key-{n}"), value.clone());
                let request = CacheSetRequest {
                    key,
                    value,
                    ttl_seconds: 60,
                    overwrite: true,
                    ..CacheSetRequest::default()
                };
                let answer = cache.set(within(TIMEOUT, request)).await;
                answer.map(|answer| answer.into_inner().degraded() != DegradedReason::Unspecified)
            }
        };
        match failed {
            Ok(false) => Answer::Done,
            Ok(true) => Answer::Failed,
            Err(status) if reason(&status).is_some() => Answer::Failed,
            Err(status) => Answer::Foreign(status.to_string()),
        }
    }
}

/// Asks until told to stop.
async fn caller(mut ask: Ask, n: usize, stop: Arc<AtomicBool>) -> Vec<Call> {
    let mut calls = Vec::new();
    while !stop.load(Relaxed) {
        let began = Instant::now();
        let answer = ask.call(n).await;
        calls.push(Call {
            began,
            took: began.elapsed(),
            answer,
        });
        sleep(Duration::from_millis(5)).await;
    }
    calls
}

/// Puts `mode` on all connections under load; every call meanwhile must end by its deadline, and service be back in time.
/// Answers how many calls were failing.
async fn silence(stand: &Stand, mode: Mode, value: Option<Bytes>) -> usize {
    let lag = MachineLag::watch();
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for n in 0..CALLERS {
        let ask = match &value {
            None => Ask::Append(stand.gateway.build_logs().await),
            Some(value) => Ask::Set(stand.gateway.cache().await, value.clone()),
        };
        callers.spawn(caller(ask, n, stop.clone()));
    }
    sleep(Duration::from_millis(300)).await;
    let fault = Instant::now();
    stand.proxy.set_open(mode);
    sleep(Duration::from_millis(2_500)).await;
    stop.store(true, Relaxed);
    let calls: Vec<Call> = callers.join_all().await.into_iter().flatten().collect();

    let worst = calls.iter().map(|call| call.took).max().unwrap();
    let failing: Vec<&Call> = calls.iter().filter(|call| call.answer != Answer::Done).collect();
    let last_failed = failing.iter().map(|call| call.began).max().expect("the fault is felt");
    let back = calls
        .iter()
        .filter(|call| call.began > last_failed)
        .map(|call| call.began + call.took - fault)
        .min();
    let back = back.expect("service is back before the load ends");
    println!(
        "{mode:?}: {} calls, {} failed, back after {back:?}, slowest {worst:?}, machine {:?}",
        calls.len(),
        failing.len(),
        lag.worst()
    );
    lag.assert_within("the slowest call", worst, TIMEOUT + Duration::from_millis(50));
    lag.assert_within("back in service", back, Duration::from_millis(1_500));
    let foreign = failing.iter().find(|call| matches!(call.answer, Answer::Foreign(_)));
    // The gateway speaks 20 ms before the caller's own clock does, if the machine lets it.
    assert!(
        foreign.is_none() || lag.worst() > Duration::from_millis(10),
        "{:?}",
        foreign.map(|call| &call.answer)
    );
    let before = calls.iter().filter(|call| call.began < fault).count();
    let after = calls.iter().filter(|call| call.began > last_failed).count();
    assert!(
        failing.len() >= CALLERS && before >= CALLERS && after >= CALLERS * 5,
        "too little traffic"
    );
    failing.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_past_its_deadline_in_a_black_hole() {
    let _one = heavy().await;
    let stand = Stand::new().await;
    for _ in 0..if soak() { 30 } else { 3 } {
        silence(&stand, Mode::BlackHole, None).await;
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_past_its_deadline_with_full_socket_buffers() {
    const SIZE: usize = 256 << 10;
    let _one = heavy().await;
    let stand = Stand::new().await;
    for _ in 0..if soak() { 30 } else { 3 } {
        let failed = silence(&stand, Mode::Stall, Some(Bytes::from(vec![b'x'; SIZE]))).await;
        // More than twice what Linux lets a socket's send buffer grow to.
        assert!(failed * SIZE >= 8 << 20, "the socket's buffers were not full");
    }
    // Whoever reads again sees that the dead connections were closed.
    stand.proxy.set(Mode::Pass);
    stand.stop().await;
}
