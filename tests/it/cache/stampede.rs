//! Many who miss a value at once: one loads it, and the others cost next to nothing.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    sync::{Arc, Mutex},
    time::Duration,
};

use redis_gateway::proto::cache_get_or_lease_response::Outcome;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{Client, Stand, ask, filled, leased, value_in, waiting};
use crate::harness::{MachineLag, heavy, patience};

const CALLS: usize = 1_000;
const GATEWAYS: usize = 3;

/// What all callers saw together.
#[derive(Default)]
struct Seen {
    loads: AtomicUsize,
    took: Mutex<Vec<Duration>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_misses_on_three_gateways_are_one_load() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let stand = Stand::new(GATEWAYS).await;
    let load = Duration::from_millis(500);
    // As in a service that runs: who waits is listened to already.
    warm(&stand).await;
    for round in 0..3 {
        let key = format!("key{round}");
        let seen = Arc::new(Seen::default());
        let scripts = stand.server.calls("evalsha").await;
        let mut calls = JoinSet::new();
        for call in 0..CALLS {
            let client = stand.client(call % GATEWAYS);
            calls.spawn(get_or_load(client, key.clone(), load, seen.clone()));
        }
        all(&mut calls).await;
        let scripts = stand.server.calls("evalsha").await - scripts;
        let worst = *seen.took.lock().unwrap().iter().max().unwrap();
        println!(
            "{CALLS} calls, {} loads, {scripts} scripts, the longest wait {worst:?}",
            seen.loads.load(Relaxed)
        );
        assert_eq!(seen.loads.load(Relaxed), 1);
        assert_eq!(seen.took.lock().unwrap().len(), CALLS);
        // A question and a lease, looks each half second, and the fill; not one for each who waits.
        assert!(scripts <= 30, "{scripts} scripts");
        lag.assert_within("a wait for one load", worst, load + Duration::from_millis(500));
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_loader_costs_its_lease_and_one_more_load() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let mut stand = Stand::new(GATEWAYS).await;
    warm(&stand).await;
    let lease = Duration::from_secs(1);
    let mut request = waiting("key", 0);
    request.lease_ms = 1_000;
    let mut dying = stand.client(0);
    let began = Instant::now();
    super::lease_in(ask(&mut dying, request).await.unwrap());
    drop(dying);
    // The gateway that gave the lease dies with the loader.
    stand.clients.remove(0);
    drop(stand.gateways.remove(0));

    let seen = Arc::new(Seen::default());
    let mut calls = JoinSet::new();
    for call in 0..200 {
        let client = stand.client(call % 2);
        calls.spawn(get_or_load(
            client,
            "key".into(),
            Duration::from_millis(200),
            seen.clone(),
        ));
    }
    all(&mut calls).await;
    assert_eq!(seen.loads.load(Relaxed), 1);
    let took = began.elapsed();
    assert!(took >= lease, "nobody loads while the lease lives: {took:?}");
    lag.assert_within("the lease and a load", took, lease + Duration::from_millis(200 + 500));
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_longer_than_its_bound() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let stand = Stand::new(GATEWAYS).await;
    leased(&mut stand.client(0), "key").await;
    let mut calls = JoinSet::new();
    for call in 0..300 {
        let mut client = stand.client(call % GATEWAYS);
        let bound = 10 * i64::try_from(call).unwrap() % 700;
        calls.spawn(async move {
            let asked = Instant::now();
            let answer = ask(&mut client, waiting("key", bound)).await.unwrap();
            (answer, asked.elapsed(), bound)
        });
    }
    while let Some(ended) = timeout(patience(), calls.join_next()).await.unwrap() {
        let (answer, took, bound) = ended.unwrap();
        super::busy_in(answer);
        let bound = Duration::from_millis(bound.unsigned_abs());
        assert!(took >= bound, "{took:?} of {bound:?}");
        lag.assert_within("a wait", took, bound + Duration::from_millis(150));
    }
    stand.stop().await;
}

/// Has somebody wait at each gateway, so that all listen.
async fn warm(stand: &Stand) {
    let token = leased(&mut stand.client(0), "warm").await;
    let mut calls = JoinSet::new();
    for gateway in 0..GATEWAYS {
        let mut client = stand.client(gateway);
        calls.spawn(async move { value_in(ask(&mut client, waiting("warm", 20_000)).await.unwrap()) });
    }
    stand.listeners(3).await;
    filled(&mut stand.client(0), "warm", &token, "1").await;
    all(&mut calls).await;
}

async fn all<T: 'static>(calls: &mut JoinSet<T>) {
    while let Some(ended) = timeout(2 * patience(), calls.join_next()).await.unwrap() {
        ended.unwrap();
    }
}

/// What a caller does: takes the value, or loads it.
async fn get_or_load(mut client: Client, key: String, load: Duration, seen: Arc<Seen>) {
    let asked = Instant::now();
    let answer = ask(&mut client, waiting(&key, 20_000)).await.unwrap();
    if let Some(Outcome::Lease(lease)) = answer.outcome {
        seen.loads.fetch_add(1, Relaxed);
        // The load itself.
        sleep(load).await;
        filled(&mut client, &key, &lease.token, "\"loaded\"").await;
    } else {
        assert_eq!(value_in(answer), b"\"loaded\"");
    }
    seen.took.lock().unwrap().push(asked.elapsed());
}
