//! Appends: none twice, none lost, none doubted in silence.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use redis_gateway::proto::{AppendRequest, CompareAndAppendRequest, build_logs_client::BuildLogsClient};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::transport::Channel;

use super::{Faults, Stand, numbers, standing};
use crate::harness::{Counts, Ledger, heavy, patience, seeded, soak, told, within};

const APPENDERS: usize = 32;
/// As long as the endpoint's own command timeout.
const TIMEOUT: Duration = Duration::from_secs(2);
/// What a caller waits before it asks again after a failure.
const PAUSE: Duration = Duration::from_millis(3);

pub(super) type Client = BuildLogsClient<Channel>;

/// Appends until told to stop, by plain appends of one to three entries.
pub(super) async fn append(
    mut logs: Client,
    build_id: String,
    stop: Arc<AtomicBool>,
    mut random: StdRng,
) -> (String, Ledger) {
    let mut ledger = Ledger::default();
    while !stop.load(Relaxed) {
        let count = random.random_range(1..=3);
        let entries = numbers(ledger.next(), count);
        let result = logs
            .append(within(
                TIMEOUT,
                AppendRequest {
                    build_id: build_id.clone(),
                    entries,
                },
            ))
            .await;
        (0..count).for_each(|_| ledger.note(told(&result)));
        if result.is_err() {
            sleep(PAUSE).await;
        }
    }
    (build_id, ledger)
}

/// The same by compare-and-append, each asked again until it is acknowledged. Answers the log's length and how often it was
/// asked again.
pub(super) async fn compare_and_append(
    mut logs: Client,
    build_id: String,
    stop: Arc<AtomicBool>,
    mut random: StdRng,
) -> (String, usize, usize) {
    let (mut length, mut again) = (0, 0);
    while !stop.load(Relaxed) {
        let entries = numbers(length, random.random_range(1..=3));
        length += entries.len();
        let expected_length = i64::try_from(length - entries.len()).unwrap();
        let request = CompareAndAppendRequest {
            build_id: build_id.clone(),
            entries,
            expected_length,
        };
        let acknowledged = async {
            loop {
                match logs.compare_and_append(within(TIMEOUT, request.clone())).await {
                    Ok(answer) => return answer.into_inner(),
                    Err(_) => again += 1,
                }
                sleep(PAUSE).await;
            }
        };
        let answer = timeout(patience(), acknowledged)
            .await
            .expect("an acknowledgement in the end");
        assert!(
            answer.appended,
            "{build_id}: refused at {expected_length}, the length is {}",
            answer.length
        );
        assert_eq!(usize::try_from(answer.length).unwrap(), length, "{build_id}");
    }
    (build_id, length, again)
}

/// Starts the appenders, each on a build of its own.
async fn start<F: Future<Output: Send> + Send + 'static>(
    stand: &Stand,
    stop: &Arc<AtomicBool>,
    random: &mut StdRng,
    appender: impl Fn(Client, String, Arc<AtomicBool>, StdRng) -> F,
) -> JoinSet<F::Output>
where
    F::Output: 'static,
{
    let mut appenders = JoinSet::new();
    for n in 0..APPENDERS {
        let logs = stand.gateway.build_logs().await;
        let random = StdRng::from_rng(random);
        appenders.spawn(appender(logs, format!("build-{n}"), stop.clone(), random));
    }
    appenders
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compare_and_append_stands_once_and_in_order() {
    let _one = heavy().await;
    let mut random = seeded();
    let mut stand = Stand::new().await;
    let stop = Arc::new(AtomicBool::new(false));
    let appenders = start(&stand, &stop, &mut random, compare_and_append).await;
    let faults = Faults::wanted(1_000, 50).cause(&mut stand, &mut random).await;
    stop.store(true, Relaxed);

    let (mut entries, mut again) = (0, 0);
    for (build_id, length, repeated) in appenders.join_all().await {
        assert_eq!(
            standing(&stand.server, &build_id).await,
            (0..length).collect::<Vec<_>>(),
            "{build_id}"
        );
        entries += length;
        again += repeated;
    }
    println!("{faults}: {entries} entries by {APPENDERS} appenders, each once and in order; asked again {again} times");
    assert!(
        entries >= 50 * faults.cuts && again >= faults.cuts,
        "too little traffic"
    );
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn append_is_acknowledged_refused_or_said_to_be_unknown() {
    let _one = heavy().await;
    let mut random = seeded();
    let mut stand = Stand::new().await;
    let stop = Arc::new(AtomicBool::new(false));
    let appenders = start(&stand, &stop, &mut random, append).await;
    let faults = Faults::wanted(1_000, 50).cause(&mut stand, &mut random).await;
    stop.store(true, Relaxed);

    let mut counts = Counts::default();
    for (build_id, ledger) in appenders.join_all().await {
        counts += ledger.check(&build_id, &standing(&stand.server, &build_id).await);
    }
    println!("{faults}: entries by {APPENDERS} appenders: {counts:?}");
    assert!(
        counts.unknown_standing >= faults.swallowed,
        "commands ran without an answer: {counts:?}"
    );
    assert!(counts.done >= 50 * faults.cuts, "too little traffic: {counts:?}");
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_for_a_second_no_append_is_unknown() {
    let _one = heavy().await;
    let mut random = seeded();
    let stand = Stand::new().await;
    let stop = Arc::new(AtomicBool::new(false));
    let appenders = start(&stand, &stop, &mut random, append).await;
    let rounds = if soak() { 20 } else { 3 };
    for _ in 0..rounds {
        sleep(Duration::from_millis(random.random_range(200..400))).await;
        stand.server.pause();
        sleep(Duration::from_secs(1)).await;
        stand.server.resume();
    }
    sleep(Duration::from_millis(300)).await;
    stop.store(true, Relaxed);

    let mut counts = Counts::default();
    for (build_id, ledger) in appenders.join_all().await {
        counts += ledger.check(&build_id, &standing(&stand.server, &build_id).await);
    }
    println!("{rounds} stops of 1 s: entries by {APPENDERS} appenders: {counts:?}");
    assert_eq!(counts.unknown, 0, "each had {TIMEOUT:?}");
    assert!(counts.done >= 200 * rounds, "too little traffic: {counts:?}");
    stand.stop().await;
}
