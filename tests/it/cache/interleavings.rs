//! Any order of calls on three gateways and of direct clients: whatever is read is no older than the last delete through a gateway.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use redis_gateway::proto::{
    CacheBatchDeleteRequest, cache_fill_response::Refusal, cache_get_or_lease_response::Outcome,
};
use tokio::{task::JoinSet, time::sleep};

use super::{Client, Stand, ask, asking, busy_in, delete, fill, fresh, give_up, lease_in, set, value_in, waiting};
use crate::harness::{heavy, seeded, soak};

const GATEWAYS: usize = 3;
const KEYS: [&str; 2] = ["plain", "{braced}"];

/// What stands in Redis for one key, and what is true of it in the database.
#[derive(Default)]
struct Model {
    value: Option<u64>,
    /// The lease, by number: who has it, and who had it at the latest delete.
    lease: Option<(Option<usize>, Option<usize>)>,
    /// The version in the database.
    truth: u64,
    /// The version at the latest delete through a gateway.
    floor: u64,
}

impl Model {
    fn delete(&mut self) {
        self.truth += 1;
        self.floor = self.truth;
        self.value = None;
        if let Some((holder, voided)) = &mut self.lease
            && let Some(had) = holder.take()
        {
            *voided = Some(had);
        }
    }

    fn fill(&mut self, lease: usize, loaded: u64) -> Result<(), Refusal> {
        let (holder, voided) = self.lease.unwrap_or_default();
        if holder != Some(lease) {
            let deleted = voided == Some(lease);
            return Err(if deleted { Refusal::Deleted } else { Refusal::LeaseOver });
        }
        self.lease = None;
        if self.value.is_some() {
            return Err(Refusal::Written);
        }
        self.value = Some(loaded);
        Ok(())
    }
}

/// A lease that somebody has, or had.
struct Held {
    key: usize,
    token: String,
    /// What its holder has loaded.
    loaded: u64,
}

#[tokio::test]
async fn each_step_answers_as_the_model_says() {
    let mut rng = seeded();
    let stand = Stand::new(GATEWAYS).await;
    let mut models: [Model; 2] = Default::default();
    let mut held: Vec<Held> = Vec::new();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for _ in 0..if soak() { 100_000 } else { 3_000 } {
        let mut client = stand.client(rng.random_range(0..GATEWAYS));
        let n = rng.random_range(0..KEYS.len());
        let (key, model) = (KEYS[n], &mut models[n]);
        let step = match rng.random_range(0..100) {
            0..20 => {
                let got = client.get(fresh(key)).await.unwrap().into_inner();
                assert_eq!(got.value.map(|value| version(&value)), model.value, "{key}");
                "get"
            }
            20..50 => {
                let answer = ask(&mut client, asking(key)).await.unwrap();
                match (model.value, &mut model.lease) {
                    (Some(value), _) => assert_eq!(version(&value_in(answer)), value),
                    (None, Some((Some(_), _))) => drop(busy_in(answer)),
                    (None, lease) => {
                        lease.get_or_insert_default().0 = Some(held.len());
                        held.push(Held {
                            key: n,
                            token: lease_in(answer),
                            loaded: model.truth,
                        });
                    }
                }
                "get or lease"
            }
            50..65 if !held.is_empty() => {
                // Mostly of those that were given lately.
                let lease = held.len() - 1 - rng.random_range(0..held.len().min(4));
                let Held { key: n, token, loaded } = &held[lease];
                let expected = models[*n].fill(lease, *loaded);
                let answer = fill(&mut client, KEYS[*n], token, &loaded.to_string()).await;
                let refusal = expected.err().unwrap_or_default();
                assert_eq!((answer.stored, answer.refusal()), (expected.is_ok(), refusal));
                match refusal {
                    Refusal::Unspecified => "filled",
                    Refusal::Written => "written",
                    Refusal::Deleted => "deleted",
                    Refusal::LeaseOver => "over",
                }
            }
            65..68 if !held.is_empty() => {
                let lease = held.len() - 1 - rng.random_range(0..held.len().min(4));
                let Held { key: n, token, .. } = &held[lease];
                let standing = &mut models[*n].lease;
                let own = standing.take_if(|(holder, _)| *holder == Some(lease)).is_some();
                assert_eq!(give_up(&mut client, KEYS[*n], token).await, own);
                "give up"
            }
            68..73 => {
                let overwrite = rng.random();
                let stored = overwrite || model.value.is_none();
                assert_eq!(set(&mut client, key, &model.truth.to_string(), overwrite).await, stored);
                if stored {
                    model.value = Some(model.truth);
                }
                "set"
            }
            73..85 => {
                assert_eq!(delete(&mut client, key).await, model.value.is_some());
                model.delete();
                "delete"
            }
            85..88 => {
                let keys = KEYS.map(Into::into).to_vec();
                let answer = client.batch_delete(CacheBatchDeleteRequest { keys }).await.unwrap();
                let there = models.iter().filter(|model| model.value.is_some()).count();
                assert_eq!(usize::try_from(answer.into_inner().deleted).unwrap(), there);
                models.iter_mut().for_each(Model::delete);
                "batch delete"
            }
            88..93 => {
                let truth = model.truth.to_string();
                stand.server.run::<()>(&["SET", key, &truth, "NX", "EX", "60"]).await;
                model.value.get_or_insert(model.truth);
                "direct set"
            }
            93..98 => {
                // Voids nothing: a load from before it is stored, but none from before a delete through a gateway.
                stand.server.run::<()>(&["DEL", key]).await;
                model.truth += 1;
                model.value = None;
                "direct delete"
            }
            _ => {
                for own in stand.own_keys().await {
                    stand.server.run::<()>(&["DEL", &own]).await;
                }
                models.iter_mut().for_each(|model| model.lease = None);
                "evicted"
            }
        };
        *seen.entry(step).or_default() += 1;
        for model in &models {
            assert!(model.value.is_none_or(|value| value >= model.floor), "the model itself");
        }
    }
    println!("{seen:?}");
    for step in ["filled", "written", "deleted", "over", "give up", "evicted"] {
        assert!(seen.contains_key(step), "no {step} in {seen:?}");
    }
    stand.stop().await;
}

/// One key as all callers see it at once.
#[derive(Default)]
struct Shared {
    truth: AtomicU64,
    floor: AtomicU64,
    reads: AtomicUsize,
    loads: AtomicUsize,
    filled: AtomicUsize,
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
        let n = caller % 2;
        let rng = StdRng::from_rng(&mut rng);
        callers.spawn(call(client, KEYS[n], shared[n].clone(), rng, caller % 8 / 2, rounds));
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    for (key, shared) in KEYS.iter().zip(&shared) {
        let [reads, loads, filled, voided] =
            [&shared.reads, &shared.loads, &shared.filled, &shared.voided].map(|count| count.load(SeqCst));
        println!("{key}: {reads} reads, {loads} loads, {filled} stored, {voided} refused as voided");
        assert!(
            filled >= rounds / 20 && voided >= rounds / 20,
            "too little to prove anything"
        );
    }
    stand.stop().await;
}

/// One caller: who deletes what it has changed, who reads, or one of those who load.
async fn call(mut client: Client, key: &'static str, shared: Arc<Shared>, mut rng: StdRng, role: usize, rounds: usize) {
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
                let answer = ask(&mut client, waiting(key, rng.random_range(0..20))).await.unwrap();
                match answer.outcome {
                    Some(Outcome::Value(value)) => assert!(version(&value) >= floor, "older than {floor}"),
                    Some(Outcome::Lease(lease)) => {
                        shared.loads.fetch_add(1, SeqCst);
                        let loaded = shared.truth.load(SeqCst).to_string();
                        sleep(Duration::from_micros(rng.random_range(0..4_000))).await;
                        let answer = fill(&mut client, key, &lease.token, &loaded).await;
                        shared.filled.fetch_add(answer.stored.into(), SeqCst);
                        shared
                            .voided
                            .fetch_add((answer.refusal() == Refusal::Deleted).into(), SeqCst);
                    }
                    Some(Outcome::Busy(_)) => {}
                    None => panic!("degraded: {}", answer.degraded),
                }
            }
        }
    }
}

fn version(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}
