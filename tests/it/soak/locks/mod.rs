//! Holders of all kinds on the same locks: by two gateways, by python-redis-lock, by Go on the same protocol; killed at random,
//! while Redis pauses. Never two at once, nobody asleep beside a free lock, nobody worse off for the gateway.

mod holders;
mod journal;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use redis::AsyncConnectionConfig;
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use self::{
    holders::{Done, Holder},
    journal::{Journal, Spans, Tries},
};
use super::measure::{At, Quantiles, now};
use crate::harness::{GatewayProcess, MachineLag, Peer, RedisServer, heavy, seeded, soak};

const LOCKS: usize = 10;
/// What all locks live for.
const TTL: Duration = Duration::from_secs(2);
/// What most holders keep a lock for, at most.
const HOLD: Duration = Duration::from_millis(40);
/// The share of locks that are left to their end.
const ABANDONED: f64 = 0.005;
/// The share of those who can renew that hold their lock for long.
const RENEWED: f64 = 0.002;
/// Holders of one process without the gateway.
const HOLDERS: usize = 4;

/// Redis, who holds locks on it, and what they write down.
struct Stand {
    server: RedisServer,
    gateways: Vec<GatewayProcess>,
    peers: Vec<(&'static str, Peer)>,
    started: usize,
    _folder: TempDir,
    journal: Journal,
    free: Arc<Mutex<HashMap<String, Spans>>>,
    paused: Spans,
    random: StdRng,
    _watching: AbortOnDropHandle<()>,
}

/// What was done to them.
#[derive(Debug, Default)]
struct Faults {
    peers_killed: usize,
    gateways_killed: usize,
    pauses: usize,
}

impl Stand {
    async fn new(gateways: usize, peers: &[&'static str], random: StdRng) -> Self {
        let server = RedisServer::new().setting("notify-keyspace-events K$gx").start().await;
        let folder = tempfile::tempdir().unwrap();
        let free = Arc::default();
        let mut stand = Stand {
            journal: Journal::new(folder.path().join("journal")),
            gateways: Vec::new(),
            peers: Vec::new(),
            started: 0,
            _folder: folder,
            _watching: watch(&server, Arc::clone(&free)).await,
            free,
            paused: Spans::default(),
            random,
            server,
        };
        for _ in 0..gateways {
            stand.gateways.push(GatewayProcess::start(stand.server.addr()).await);
        }
        for kind in peers {
            stand.start(kind).await;
        }
        stand
    }

    async fn start(&mut self, kind: &'static str) {
        self.started += 1;
        let mut args = vec![
            format!("--redis=redis://{}", self.server.addr()),
            format!("--journal={}", self.journal.path().display()),
            format!("--holders={HOLDERS}"),
            format!("--locks={LOCKS}"),
            format!("--ttl={}", TTL.as_secs()),
            format!("--hold={}", HOLD.as_secs_f64()),
            format!("--abandon={ABANDONED}"),
            format!("--seed={}", self.started),
        ];
        let peer = match kind {
            "python" => {
                args.push(format!("--renew={RENEWED}"));
                Peer::start("lock_holders.py", None, &args).await
            }
            _ => Peer::start_go(&args).await,
        };
        self.peers.push((kind, peer));
    }

    async fn holders(&mut self, count: usize, stop: &Arc<AtomicBool>) -> JoinSet<Done> {
        let mut holders = JoinSet::new();
        for number in 0..count {
            let client = redis::Client::open(format!("redis://{}", self.server.addr())).unwrap();
            let patient = AsyncConnectionConfig::new().set_response_timeout(None);
            let holder = Holder {
                locks: self.gateways[number % 2].locks(),
                direct: client
                    .get_multiplexed_async_connection_with_config(&patient)
                    .await
                    .unwrap(),
                number,
                journal: self.journal.clone(),
                random: StdRng::from_rng(&mut self.random),
                stop: stop.clone(),
                tried: 0,
                done: Done::default(),
            };
            if number % 4 < 2 {
                holders.spawn(holder.acquire_and_release());
            } else {
                holders.spawn(holder.hold_by_streams());
            }
        }
        holders
    }

    /// Kills and pauses at random, until then.
    async fn cause_faults(&mut self, until: Instant) -> Faults {
        let mut faults = Faults::default();
        loop {
            sleep(
                self.random
                    .random_range(Duration::from_millis(500)..Duration::from_secs(2)),
            )
            .await;
            if Instant::now() > until {
                return faults;
            }
            if self.random.random_bool(0.5) {
                let from = now();
                self.server.pause();
                sleep(
                    self.random
                        .random_range(Duration::from_millis(50)..Duration::from_secs(1)),
                )
                .await;
                self.server.resume();
                self.paused.0.push((from, now()));
                faults.pauses += 1;
                continue;
            }
            let victim = self.random.random_range(0..self.peers.len() + self.gateways.len());
            if let Some(gateway) = victim.checked_sub(self.peers.len()) {
                self.gateways[gateway].kill();
                self.gateways[gateway].restart().await;
                faults.gateways_killed += 1;
            } else {
                let (kind, peer) = self.peers.swap_remove(victim);
                drop(peer);
                self.start(kind).await;
                faults.peers_killed += 1;
            }
        }
    }
}

/// Writes down when locks are free, as Redis tells it.
async fn watch(server: &RedisServer, free: Arc<Mutex<HashMap<String, Spans>>>) -> AbortOnDropHandle<()> {
    let client = redis::Client::open(format!("redis://{}", server.addr())).unwrap();
    let mut events = client.get_async_pubsub().await.unwrap();
    events.psubscribe("__keyspace@0__:lock:*").await.unwrap();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut events = events.into_on_message();
        while let Some(event) = events.next().await {
            let at = now();
            let lock = event.get_channel_name().rsplit(':').next().unwrap().to_owned();
            let what: String = event.get_payload().unwrap();
            let mut free = free.lock().unwrap();
            let Spans(spans) = free.entry(lock).or_insert_with(|| Spans(vec![(0, At::MAX)]));
            let last = spans.last_mut().unwrap();
            match (what.as_str(), last.1) {
                ("set", At::MAX) => last.1 = at,
                ("del" | "expired", end) if end != At::MAX => spans.push((at, At::MAX)),
                _ => {}
            }
        }
    }))
}

/// What came of a run: the tries for each lock, and when it was free.
struct Outcome {
    locks: Vec<(Tries, Spans)>,
    paused: Spans,
}

/// Has holders contend for as long as that: four by each gateway, and those of so many processes without.
async fn contend(length: Duration, gateways: usize, peers: &[&'static str], random: StdRng) -> Outcome {
    let mut stand = Stand::new(gateways, peers, random).await;
    let stop = Arc::new(AtomicBool::new(false));
    let holders = stand.holders(4 * gateways, &stop).await;
    let faults = stand.cause_faults(Instant::now() + length).await;
    stop.store(true, Relaxed);
    let mut done = Done::default();
    for one in holders.join_all().await {
        done += one;
    }
    println!("{gateways} gateways: {faults:?}; {done:?}");
    for (kind, peer) in std::mem::take(&mut stand.peers) {
        println!("a process of {kind} at its end: {}", peer.terminate().await);
    }
    let mut free = std::mem::take(&mut *stand.free.lock().unwrap());
    Outcome {
        locks: journal::read(stand.journal.path())
            .into_iter()
            .map(|(lock, tries)| (tries, free.remove(&lock).unwrap()))
            .collect(),
        paused: stand.paused,
    }
}

impl Outcome {
    /// Checks what holds whoever contends; how often each kind had a lock.
    fn check(&self) -> BTreeMap<&str, usize> {
        let mut entries = BTreeMap::new();
        assert_eq!(self.locks.len(), LOCKS);
        for (tries, _) in &self.locks {
            let violations = journal::violations(tries);
            assert!(violations.is_empty(), "two at once: {violations:#?}");
            assert_eq!(journal::tokens_that_do_not_grow(tries), 0);
            for tried in tries.iter().filter(|tried| tried.entered.is_some()) {
                *entries.entry(tried.kind.as_str()).or_default() += 1;
            }
        }
        entries
    }

    /// The longest that a waiter of the gateways slept beside a free lock.
    fn slept(&self) -> Duration {
        let by_gateway = |kind: &str| kind == "acquire" || kind == "hold";
        let slept = |(tries, free): &(Tries, Spans)| journal::slept(tries, free, &self.paused, by_gateway);
        self.locks.iter().map(slept).max().unwrap()
    }

    fn waits(&self, kind: &str) -> Quantiles {
        let waits = |(tries, _): &(Tries, Spans)| journal::waits(tries, &self.paused, kind);
        Quantiles::of(self.locks.iter().flat_map(waits).collect())
    }

    fn hand_overs(&self) -> BTreeMap<(String, String), Quantiles> {
        let mut all: BTreeMap<_, Vec<Duration>> = BTreeMap::new();
        for (tries, _) in &self.locks {
            for (pair, took) in journal::hand_overs(tries, &self.paused) {
                all.entry(pair).or_default().push(took);
            }
        }
        all.into_iter()
            .map(|(pair, took)| (pair, Quantiles::of(took)))
            .collect()
    }

    fn print(&self, what: &str, kinds: &[&str]) {
        for kind in kinds {
            println!("{what}: {kind} waited {}", self.waits(kind));
        }
        for ((one, next), took) in self.hand_overs() {
            println!("{what}: {one} to {next} {took}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_have_one_holder_whoever_contends() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let (length, floor) = if soak() { (120, 500) } else { (8, 20) };
    let length = Duration::from_secs(length);
    let kinds = if Peer::has_go() {
        vec!["go", "python"]
    } else {
        vec!["python"]
    };
    let processes = |each: usize| kinds.repeat(each * 2 / kinds.len());

    let random = seeded();
    let direct = contend(length, 0, &processes(3), random.clone()).await;
    println!("without gateways: {:?}", direct.check());
    direct.print("without gateways", &kinds);
    let mixed = contend(length, 2, &processes(2), random).await;
    let entries = mixed.check();
    println!("with gateways: {entries:?}");
    let all = [&["acquire", "hold"][..], &kinds].concat();
    mixed.print("with gateways", &all);

    for kind in &all {
        assert!(entries[kind] > floor, "{kind} had too few locks: {entries:?}");
    }
    for kind in &kinds {
        let [alone, beside] = [&direct, &mixed].map(|run| run.waits(kind));
        let what = format!("the median wait of {kind}");
        let limit = 2 * alone.percent(50) + Duration::from_millis(20);
        lag.assert_within(&what, beside.percent(50), limit);
        // A short run has too few of the locks that are left to their end, which these are.
        if soak() {
            lag.assert_within(
                &what.replace("median", "p99"),
                beside.percent(99),
                alone.percent(99) + TTL,
            );
        }
    }
    let slept = mixed.slept();
    println!(
        "a waiter by a gateway slept {slept:?} at most beside a free lock; the machine was late by {:?}",
        lag.worst()
    );
    lag.assert_within("a wake-up", slept, Duration::from_secs(1));
}
