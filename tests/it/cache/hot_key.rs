//! A key that all read all the time: with early refresh its callers never wait, and its database hardly notices.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use redis_gateway::proto::{CacheFillRequest, CacheGetOrLeaseRequest, cache_get_or_lease_response::Outcome};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{Client, Stand, ask, delete, filling, waiting};
use crate::harness::{MachineLag, eventually, heavy, soak};

const GATEWAYS: usize = 3;
const KEY: &str = "hot";
/// Of the whole run; a short one has both, divided by the same number.
const TTL: Duration = Duration::from_mins(1);
const LOAD: Duration = Duration::from_millis(500);
/// Loads that are counted, after the first one.
const LOADS: usize = 3;

/// What the callers saw.
#[derive(Default)]
struct Seen {
    reads: AtomicUsize,
    /// Who got no value: a lease alone, or none.
    without: AtomicUsize,
    /// Values that were loaded and stored.
    loads: AtomicUsize,
}

/// What became of a run.
struct Run {
    ttl: Duration,
    load: Duration,
    reads: usize,
    /// Who missed, and waited for the value, the lease or in vain.
    waits: u64,
    without: usize,
    loads_per_ttl: f64,
    /// Questions for the lease to refresh that were answered no.
    scripts: u64,
    lag: Duration,
}

impl Run {
    fn kept(&self) -> bool {
        self.waits == 0 && self.without == 0 && self.loads_per_ttl <= 1.2
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "TTL {:?}, load {:?}: {} reads, {} of them waited, {} without a value; {:.2} loads for each TTL, {} scripts \
             (the machine itself was late by {:?})",
            self.ttl, self.load, self.reads, self.waits, self.without, self.loads_per_ttl, self.scripts, self.lag
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hot_key_is_loaded_once_for_each_ttl_and_nobody_waits() {
    let _one = heavy().await;
    let stand = Stand::new(GATEWAYS).await;
    // Where the machine stops for as long as a load takes, nobody can begin one in time: then all is done more slowly.
    for slower in if soak() { vec![1] } else { vec![20, 10, 5, 1] } {
        let run = run(&stand, slower).await;
        println!("{run}");
        if run.kept() {
            return stand.stop().await;
        }
        assert!(slower > 1 && run.lag > run.load / 10, "{run}");
    }
}

/// Reads 1,000 times a second.
async fn run(stand: &Stand, faster: u32) -> Run {
    let (ttl, load) = (TTL / faster, LOAD / faster);
    delete(&mut stand.client(0), KEY).await;
    let seen = Arc::new(Seen::default());
    let mut readers = JoinSet::new();
    for gateway in 0..GATEWAYS {
        readers.spawn(read(stand.client(gateway), ttl, load, seen.clone()));
    }
    let loaded = async |count: usize| {
        while seen.loads.load(Relaxed) < count {
            sleep(load / 10).await;
        }
    };
    // The first load is one that all wait for.
    eventually("the first load", async || seen.loads.load(Relaxed) > 0).await;
    eventually("all have it", async || {
        let before = seen.without.swap(0, Relaxed);
        sleep(load).await;
        before == 0 && seen.without.load(Relaxed) == 0
    })
    .await;
    let lag = MachineLag::watch();
    let (reads, waits, scripts) = (seen.reads.load(Relaxed), waits(stand).await, asked(stand).await);
    loaded(2).await;
    let began = Instant::now();
    loaded(2 + LOADS).await;
    let ttls = began.elapsed().as_secs_f64() / ttl.as_secs_f64();
    let run = Run {
        ttl,
        load,
        reads: seen.reads.load(Relaxed) - reads,
        waits: self::waits(stand).await - waits,
        without: seen.without.load(Relaxed),
        loads_per_ttl: f64::from(u32::try_from(LOADS).unwrap()) / ttls,
        scripts: asked(stand).await - scripts,
        lag: lag.worst(),
    };
    readers.shutdown().await;
    run
}

/// A third of all reads, each whether or not those before are answered.
async fn read(client: Client, ttl: Duration, load: Duration, seen: Arc<Seen>) {
    let mut ticks = interval(Duration::from_millis(3));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut calls = JoinSet::new();
    loop {
        ticks.tick().await;
        calls.spawn(call(client.clone(), ttl, load, seen.clone()));
        while calls.try_join_next().is_some_and(|ended| ended.is_ok()) {}
    }
}

async fn call(mut client: Client, ttl: Duration, load: Duration, seen: Arc<Seen>) {
    let request = CacheGetOrLeaseRequest {
        early_refresh: true,
        // Ample for a load, on a machine that is busy too.
        lease_ms: 20_000,
        ..waiting(KEY, 20_000)
    };
    let answer = ask(&mut client, request).await.unwrap();
    seen.reads.fetch_add(1, Relaxed);
    let lease = match answer.outcome {
        Some(Outcome::Value(_)) => answer.refresh,
        Some(Outcome::Lease(lease)) => {
            seen.without.fetch_add(1, Relaxed);
            Some(lease)
        }
        other => panic!("{other:?}, degraded: {}", answer.degraded),
    };
    if let Some(lease) = lease {
        // The load itself.
        sleep(load).await;
        let request = CacheFillRequest {
            ttl_seconds: i64::try_from(ttl.as_secs()).unwrap(),
            ..filling(KEY, &lease.token, "\"loaded\"")
        };
        let answer = client.fill(request).await.unwrap().into_inner();
        assert!(answer.stored, "{answer:?}");
        seen.loads.fetch_add(1, Relaxed);
    }
}

/// Calls that have waited, over all gateways.
async fn waits(stand: &Stand) -> u64 {
    let mut sum = 0;
    for gateway in 0..GATEWAYS {
        for outcome in ["value", "lease", "busy", "failed"] {
            let name = format!("redis_gateway_cache_waits_total{{outcome=\"{outcome}\"}}");
            sum += stand.metric(gateway, &name).await;
        }
    }
    sum
}

async fn asked(stand: &Stand) -> u64 {
    stand.server.calls("evalsha").await
}
