//! Many claimers at once: no key in two hands, and each pull counted once, also under faults.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use redis_gateway::proto::{
    BatchTrackPullsRequest, ClaimPullsRequest, CommitClaimRequest, Pull, pull_metrics_client::PullMetricsClient,
};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{DB, Flusher, LONG, digest, pulled, standing};
use crate::harness::{Cut, Proxy, RedisServer, at, eventually, heavy, seeded, within};

/// What claimers hold and have written, told by digest.
#[derive(Default)]
struct Books {
    held: BTreeSet<String>,
    committed: BTreeSet<String>,
    written: BTreeMap<String, i64>,
}

/// Claims until the pulls have ended and nothing is left, and gives back now and then.
async fn claim_all(
    mut pulls: PullMetricsClient<Channel>,
    books: Arc<Mutex<Books>>,
    ended: Arc<AtomicBool>,
    mut rng: StdRng,
) {
    loop {
        let last = ended.load(Relaxed);
        let request = ClaimPullsRequest {
            max_keys: rng.random_range(50..400),
            lease_seconds: LONG,
        };
        let claim = pulls.claim_pulls(request).await.unwrap().into_inner();
        if claim.claim_id.is_empty() {
            if last && !claim.more && books.lock().unwrap().held.is_empty() {
                return;
            }
            tokio::task::yield_now().await;
            continue;
        }
        let give_back = rng.random_bool(0.3);
        {
            let mut books = books.lock().unwrap();
            for key in &claim.keys {
                assert!(books.held.insert(key.name.clone()), "{} is in two hands", key.name);
                assert!(
                    !books.committed.contains(&key.name),
                    "{} comes up after its commit",
                    key.name
                );
                if !give_back {
                    *books.written.entry(key.digest.clone()).or_default() += key.pull_count;
                }
            }
        }
        tokio::task::yield_now().await;
        // Before the call: afterwards another may hold them.
        let release = |committed: bool| {
            let mut books = books.lock().unwrap();
            for key in &claim.keys {
                books.held.remove(&key.name);
                if committed {
                    books.committed.insert(key.name.clone());
                }
            }
        };
        let claim_id = claim.claim_id.clone();
        let count = i64::try_from(claim.keys.len()).unwrap();
        if give_back {
            release(false);
            let request = redis_gateway::proto::GiveBackClaimRequest { claim_id };
            assert_eq!(
                pulls.give_back_claim(request).await.unwrap().into_inner().given_back,
                count
            );
        } else {
            let committed = pulls
                .commit_claim(CommitClaimRequest { claim_id })
                .await
                .unwrap()
                .into_inner();
            assert_eq!((committed.deleted, committed.lost.len()), (count, 0));
            release(true);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_in_two_hands_and_each_pull_is_counted_once() {
    const DIGESTS: usize = 3_000;
    const PULLS: usize = 12_000;
    let _one = heavy().await;
    let mut rng = seeded();
    let server = RedisServer::new().start().await;
    let flushers = [Flusher::on(&server).await, Flusher::on(&server).await];
    // What stood there before, and pulls through both gateways meanwhile.
    pulled(&mut server.client_of(DB).await, 0..DIGESTS, 2).await;
    let mut expected: BTreeMap<String, i64> = (0..DIGESTS).map(|n| (digest(n), 2)).collect();
    let (books, ended) = (Arc::<Mutex<Books>>::default(), Arc::<AtomicBool>::default());
    let mut claimers = JoinSet::new();
    for flusher in flushers.iter().cycle().take(6) {
        let pulls = flusher.pulls.clone();
        let rng = StdRng::seed_from_u64(rng.random());
        claimers.spawn(claim_all(pulls, books.clone(), ended.clone(), rng));
    }
    for batch in 0..PULLS / 300 {
        let numbers: Vec<usize> = (0..300).map(|_| rng.random_range(0..DIGESTS)).collect();
        let pulls = numbers.iter().map(|n| Pull {
            repository_id: 1,
            tag: String::new(),
            digest: digest(*n),
            timestamp: Some("1700000000".to_owned()),
        });
        let request = BatchTrackPullsRequest {
            pulls: pulls.collect(),
            buffered: false,
        };
        let answer = flushers[batch % 2]
            .pulls
            .clone()
            .batch_track_pulls(request)
            .await
            .unwrap();
        assert!(answer.into_inner().failures.is_empty());
        for n in numbers {
            *expected.get_mut(&digest(n)).unwrap() += 1;
        }
    }
    ended.store(true, Relaxed);
    while let Some(claimer) = claimers.join_next().await {
        claimer.unwrap();
    }
    assert!(standing(&server).await.is_empty());
    assert_eq!(books.lock().unwrap().written, expected);
    for flusher in flushers {
        flusher.stop().await;
    }
}

/// A database as the protocol asks for: counts, and the names of the keys that were counted, in one transaction.
#[derive(Default)]
struct Database {
    counts: BTreeMap<String, i64>,
    names: BTreeSet<String>,
    known_names: usize,
}

/// Claims and writes for as long as there may be something, dies between any two steps, and tries a commit again.
async fn write_all(
    mut pulls: PullMetricsClient<Channel>,
    database: Arc<Mutex<Database>>,
    ended: Arc<AtomicBool>,
    mut rng: StdRng,
) {
    while !ended.load(Relaxed) {
        let request = ClaimPullsRequest {
            max_keys: rng.random_range(20..200),
            lease_seconds: 1,
        };
        let Ok(claim) = pulls.claim_pulls(within(Duration::from_millis(500), request)).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let claim = claim.into_inner();
        assert!(claim.dropped.is_empty());
        if claim.claim_id.is_empty() || rng.random_bool(0.1) {
            tokio::task::yield_now().await;
            continue;
        }
        {
            let mut database = database.lock().unwrap();
            for key in claim.keys {
                if database.names.insert(key.name) {
                    *database.counts.entry(key.digest).or_default() += key.pull_count;
                } else {
                    database.known_names += 1;
                }
            }
        }
        if rng.random_bool(0.1) {
            continue;
        }
        for _ in 0..3 {
            let claim_id = claim.claim_id.clone();
            let request = within(Duration::from_millis(500), CommitClaimRequest { claim_id });
            if pulls.commit_claim(request).await.is_ok() {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flush_counts_once_with_kills_at_each_step() {
    const DIGESTS: usize = 1_000;
    let _one = heavy().await;
    let mut rng = seeded();
    let mut server = RedisServer::new().append_only().start().await;
    let proxies = [Proxy::new(server.addr()), Proxy::new(server.addr())];
    let mut flushers = Vec::new();
    for proxy in &proxies {
        flushers.push(Flusher::with(at(proxy.addr()), |_| {}).await);
    }
    let (database, ended) = (Arc::<Mutex<Database>>::default(), Arc::<AtomicBool>::default());
    let mut writers = JoinSet::new();
    for flusher in flushers.iter().cycle().take(4) {
        let rng = StdRng::seed_from_u64(rng.random());
        writers.spawn(write_all(flusher.pulls.clone(), database.clone(), ended.clone(), rng));
    }
    let mut expected = BTreeMap::new();
    for round in 0..30 {
        // Past the gateways, so that it is known what was pulled.
        let numbers: BTreeSet<usize> = (0..400).map(|_| rng.random_range(0..DIGESTS)).collect();
        pulled(&mut server.client_of(DB).await, numbers.iter().copied(), 1).await;
        for n in numbers {
            *expected.entry(digest(n)).or_default() += 1;
        }
        if round % 10 == 9 {
            server.kill();
            server.restart().await;
        } else {
            let proxy = &proxies[rng.random_range(0..2)];
            let how = if rng.random_bool(0.5) { Cut::Reset } else { Cut::Fin };
            proxy
                .swallow_and_cut(Duration::from_millis(rng.random_range(1..100)), how)
                .await;
        }
    }
    eventually("all is flushed", async || standing(&server).await.is_empty()).await;
    ended.store(true, Relaxed);
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    let database = database.lock().unwrap();
    println!(
        "{} keys written, {} left out",
        database.names.len(),
        database.known_names
    );
    assert_eq!(database.counts, expected);
    assert!(database.known_names > 0, "no key came up again: nothing was proven");
    drop(flushers);
}
