//! Any order of calls on three gateways and of a direct client.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use redis_gateway::proto::{CacheDeleteRequest, CacheGetRequest, cache_get_or_lease_response::Outcome};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::super::{Client, ask, deletion, fill, fresh, waiting};
use super::{answer, get, plain, reads, stand};
use crate::harness::{MachineLag, heavy, seeded, soak};

const GATEWAYS: usize = 3;
const LEASED: &str = "near:leased";
const DIRECT: &str = "near:direct";

/// What is true of the key that gateways alone delete.
#[derive(Default)]
struct Shared {
    truth: AtomicU64,
    /// The version at the latest delete, and its token.
    floor: Mutex<(u64, String)>,
    checked: AtomicUsize,
    filled: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_older_is_read_than_was_deleted() {
    let _one = heavy().await;
    let mut rng = seeded();
    let stand = stand(GATEWAYS).await;
    let rounds = if soak() { 20_000 } else { 400 };
    let shared: Arc<Shared> = Arc::default();
    let mut callers = JoinSet::new();
    for caller in 0..18 {
        let client = stand.client(caller % GATEWAYS);
        let rng = StdRng::from_rng(&mut rng);
        callers.spawn(call(client, shared.clone(), rng, caller / GATEWAYS, rounds));
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let [checked, filled] = [&shared.checked, &shared.filled].map(|count| count.load(SeqCst));
    let mut hits = 0;
    for gateway in 0..GATEWAYS {
        hits += reads(&stand, gateway, "hit").await;
    }
    println!("{checked} values checked, {filled} stored, {hits} reads from memory");
    assert!(
        checked >= rounds && filled >= rounds / 20 && hits > 0,
        "too little to prove anything"
    );
    stand.stop().await;
}

/// One caller: who deletes, who reads what must be new, or one of those who read and load.
async fn call(mut client: Client, shared: Arc<Shared>, mut rng: StdRng, role: usize, rounds: usize) {
    for _ in 0..rounds {
        sleep(Duration::from_micros(rng.random_range(0..4_000))).await;
        let (floor, token) = shared.floor.lock().unwrap().clone();
        match role {
            0 => {
                sleep(Duration::from_micros(rng.random_range(0..12_000))).await;
                let truth = shared.truth.fetch_add(1, SeqCst) + 1;
                let request = CacheDeleteRequest {
                    want_token: true,
                    ..deletion(LEASED)
                };
                let token = client.delete(request).await.unwrap().into_inner().write_token;
                let mut floor = shared.floor.lock().unwrap();
                *floor = (truth, token).max(floor.clone());
            }
            1 | 2 => {
                let request = if role == 1 {
                    fresh(LEASED)
                } else {
                    CacheGetRequest {
                        write_token: token,
                        ..plain(LEASED)
                    }
                };
                if let Some(value) = answer(&mut client, request).await.value {
                    shared.checked.fetch_add(1, SeqCst);
                    assert!(version(&value) >= floor, "older than {floor}");
                }
            }
            3 => _ = get(&mut client, LEASED).await,
            _ => {
                let found = ask(&mut client, waiting(LEASED, rng.random_range(0..20)))
                    .await
                    .unwrap();
                if let Some(Outcome::Lease(lease)) = found.outcome {
                    let loaded = shared.truth.load(SeqCst).to_string();
                    sleep(Duration::from_micros(rng.random_range(0..4_000))).await;
                    let stored = fill(&mut client, LEASED, &lease.token, &loaded).await.stored;
                    shared.filled.fetch_add(stored.into(), SeqCst);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_from_memory_are_50_ms_behind_a_direct_client_at_most() {
    let _one = heavy().await;
    let mut rng = seeded();
    let stand = stand(GATEWAYS).await;
    let changes = if soak() { 10_000 } else { 300 };
    let lag = MachineLag::watch();
    // Since when nothing below that version is right.
    let history: Arc<Mutex<Vec<(Instant, u64)>>> = Arc::default();
    let mut readers = JoinSet::new();
    for caller in 0..9 {
        let (mut client, history) = (stand.client(caller % GATEWAYS), history.clone());
        let mut rng = StdRng::from_rng(&mut rng);
        readers.spawn(async move {
            let mut late = Vec::new();
            loop {
                let asked = Instant::now();
                let value = get(&mut client, DIRECT).await;
                let history = history.lock().unwrap().clone();
                if history.len() == changes {
                    return late;
                }
                if let Some(value) = value {
                    let over = history.iter().find(|(_, version)| *version > value.parse().unwrap());
                    late.push(over.map_or(Duration::ZERO, |(since, _)| asked.saturating_duration_since(*since)));
                }
                sleep(Duration::from_micros(rng.random_range(0..2_000))).await;
            }
        });
    }
    let mut direct = stand.server.client().await;
    for version in 1..=changes as u64 {
        sleep(Duration::from_micros(rng.random_range(0..20_000))).await;
        let change = if rng.random_bool(0.3) {
            redis::cmd("DEL").arg(DIRECT).clone()
        } else {
            redis::cmd("SET").arg(DIRECT).arg(version).clone()
        };
        change.exec_async(&mut direct).await.unwrap();
        history.lock().unwrap().push((Instant::now(), version));
    }
    let mut late = Vec::new();
    while let Some(ended) = readers.join_next().await {
        late.extend(ended.unwrap());
    }
    late.sort();
    let mut hits = 0;
    for gateway in 0..GATEWAYS {
        hits += reads(&stand, gateway, "hit").await;
    }
    let p99 = late[late.len() * 99 / 100];
    println!(
        "{} values read, {hits} from memory: p99 {p99:?} behind, at most {:?}",
        late.len(),
        late.last()
    );
    assert!(hits > 0, "nothing was kept");
    lag.assert_within("99 of 100 reads", p99, Duration::from_millis(50));
    drop(direct);
    stand.stop().await;
}

fn version(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}
