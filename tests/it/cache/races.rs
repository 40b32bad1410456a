//! All calls on three gateways at once: whatever is read is no older than the last delete through a gateway before it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use redis::aio::MultiplexedConnection;
use redis_gateway::proto::{cache_fill_response::Refusal, cache_get_or_lease_response::Outcome};
use tokio::{task::JoinSet, time::sleep};

use super::{
    Client, Stand, ask, delete, fill, fresh,
    interleavings::version,
    refresh::{LONG, load_key},
    waiting,
};
use crate::harness::{heavy, seeded, soak};

const GATEWAYS: usize = 3;
const KEYS: [&str; 2] = ["plain", "{braced}"];

/// One key as all callers see it at once.
#[derive(Default)]
struct Shared {
    truth: AtomicU64,
    floor: AtomicU64,
    reads: AtomicUsize,
    loads: AtomicUsize,
    filled: AtomicUsize,
    refreshed: AtomicUsize,
    voided: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_older_than_the_last_delete_is_read_while_all_happens_at_once() {
    let _one = heavy().await;
    let mut rng = seeded();
    let stand = Stand::new(GATEWAYS).await;
    let rounds = if soak() { 20_000 } else { 400 };
    let shared: [Arc<Shared>; 2] = Default::default();
    let mut callers = JoinSet::new();
    for caller in 0..24 {
        let client = stand.client(caller % GATEWAYS);
        let (n, role) = (caller % 2, caller % 8 / 2);
        let rng = StdRng::from_rng(&mut rng);
        let direct = stand.server.client().await;
        callers.spawn(call(client, direct, KEYS[n], shared[n].clone(), rng, role, rounds));
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    for (key, shared) in KEYS.iter().zip(&shared) {
        let [reads, loads, filled, refreshed, voided] = [
            &shared.reads,
            &shared.loads,
            &shared.filled,
            &shared.refreshed,
            &shared.voided,
        ]
        .map(|count| count.load(SeqCst));
        println!(
            "{key}: {reads} reads, {loads} loads, {filled} stored, {refreshed} of them early, {voided} refused as voided"
        );
        assert!(
            filled >= rounds / 20 && refreshed >= rounds / 100 && voided >= rounds / 20,
            "too little to prove anything"
        );
    }
    stand.stop().await;
}

/// One caller: who deletes what it has changed, who reads, or one of those who load.
async fn call(
    mut client: Client,
    mut direct: MultiplexedConnection,
    key: &'static str,
    shared: Arc<Shared>,
    mut rng: StdRng,
    role: usize,
    rounds: usize,
) {
    for _ in 0..rounds {
        sleep(Duration::from_micros(rng.random_range(0..4_000))).await;
        match role {
            0 => {
                // Rare enough for values to be read in between.
                sleep(Duration::from_micros(rng.random_range(0..12_000))).await;
                let truth = shared.truth.fetch_add(1, SeqCst) + 1;
                delete(&mut client, key).await;
                shared.floor.fetch_max(truth, SeqCst);
            }
            1 => {
                let floor = shared.floor.load(SeqCst);
                let got = client.get(fresh(key)).await.unwrap().into_inner();
                shared.reads.fetch_add(got.value.is_some().into(), SeqCst);
                let old = got.value.map(|value| version(&value)).filter(|value| *value < floor);
                assert_eq!(old, None, "older than {floor}");
            }
            _ => {
                let floor = shared.floor.load(SeqCst);
                let mut request = waiting(key, rng.random_range(0..20));
                request.early_refresh = role == 3;
                if request.early_refresh {
                    let set = redis::Cmd::set(load_key(key), LONG);
                    set.exec_async(&mut direct).await.unwrap();
                }
                let answer = ask(&mut client, request).await.unwrap();
                let early = answer.refresh.is_some();
                let lease = match answer.outcome {
                    Some(Outcome::Value(value)) => {
                        assert!(version(&value) >= floor, "older than {floor}");
                        answer.refresh
                    }
                    Some(Outcome::Lease(lease)) => Some(lease),
                    Some(Outcome::Busy(_)) => None,
                    None => panic!("degraded: {}", answer.degraded),
                };
                if let Some(lease) = lease {
                    shared.loads.fetch_add(1, SeqCst);
                    let loaded = shared.truth.load(SeqCst).to_string();
                    sleep(Duration::from_micros(rng.random_range(0..4_000))).await;
                    let answer = fill(&mut client, key, &lease.token, &loaded).await;
                    shared.filled.fetch_add(answer.stored.into(), SeqCst);
                    shared.refreshed.fetch_add((answer.stored && early).into(), SeqCst);
                    let voided = answer.refusal() == Refusal::Deleted;
                    shared.voided.fetch_add(voided.into(), SeqCst);
                }
            }
        }
    }
}
