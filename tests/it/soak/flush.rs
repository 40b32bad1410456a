//! Pulls that are counted, claimed and written to a database, while claimers die and Redis restarts: each once.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::{SeedableRng as _, rngs::StdRng};
use redis_gateway::config::Endpoint;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::pulls::{Keys, Tally, count};
use crate::harness::{Gateway, Peer, RedisServer, at, config, eventually, heavy, patience, python_says, seeded, soak};

const CALLERS: usize = 16;
const CLAIMERS: usize = 3;
/// Where a claimer dies, in turn.
const STEPS: [&str; 4] = ["claimed", "in-transaction", "written", "committed"];

/// A lease, or an age, that ends within a test; and one that does not.
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_mins(10);

/// 5,000 keys; and fewer than a worker without the gateway takes at once, so that it comes to those that are claimed.
const MANY: Keys = Keys {
    repositories: 50,
    tags: 50,
};
const FEW: Keys = Keys {
    repositories: 20,
    tags: 10,
};

/// Pulls that gateways took on, and keys that somebody else took from claims, among their metrics.
const TAKEN: &str = "redis_gateway_pull_metrics_pulls_total{mode=\"waited\"}";
const LOST: &str = "redis_gateway_pull_metrics_lost_keys_total";

/// Redis, two gateways and a database.
struct Stand {
    server: RedisServer,
    gateways: [Gateway; 2],
    folder: TempDir,
    keys: Keys,
}

impl Stand {
    async fn new(keys: Keys, orphan_age: Duration) -> Self {
        let server = RedisServer::new().append_only().start().await;
        let mut config = config();
        config.endpoints.pull_metrics = Some(Endpoint {
            db: 1,
            ..at(server.addr())
        });
        config.pull_metrics.orphan_age = orphan_age;
        Stand {
            gateways: [Gateway::start(config.clone()).await, Gateway::start(config).await],
            server,
            folder: tempfile::tempdir().unwrap(),
            keys,
        }
    }

    fn database(&self) -> String {
        self.folder.path().join("pulls.sqlite").to_str().unwrap().to_owned()
    }

    fn redis(&self) -> String {
        format!("redis://{}/1", self.server.addr())
    }

    fn gateway(&self, n: usize) -> String {
        self.gateways[n % 2].grpc().to_string()
    }

    async fn producer(&self, seed: usize) -> Peer {
        let args = ["--redis", &self.redis(), "--seed", &seed.to_string()].map(Into::into);
        let keys = [
            format!("--repositories={}", self.keys.repositories),
            format!("--tags={}", self.keys.tags),
        ];
        Peer::start("produce_pulls.py", None, &[&args[..], &keys].concat()).await
    }

    /// Counts pulls through both gateways, a share by each caller.
    async fn callers(&self, pulls: u64, random: &mut StdRng) -> JoinSet<Tally> {
        let mut callers = JoinSet::new();
        for n in 0..CALLERS {
            let client = self.gateways[n % 2].pull_metrics().await;
            callers.spawn(count(
                client,
                n,
                self.keys,
                pulls / CALLERS as u64,
                StdRng::from_rng(random),
            ));
        }
        callers
    }

    /// Flushes until no pull is left in Redis.
    async fn flush_all(&self) {
        let end = Instant::now() + patience();
        loop {
            let left: Vec<String> = self.server.run_on(1, &["KEYS", "pull_events:*"]).await;
            if left.is_empty() {
                return;
            }
            assert!(
                Instant::now() < end,
                "{} keys are left, such as {}",
                left.len(),
                left[0]
            );
            let claimer = claimer(&self.database(), self.gateway(0), SHORT, &[]).await;
            sleep(Duration::from_millis(500)).await;
            claimer.terminate().await;
        }
    }

    /// A counter of both gateways.
    async fn counter(&self, sample: &str) -> u64 {
        let mut sum = 0;
        for gateway in &self.gateways {
            let (_, text) = gateway.admin("/metrics").await;
            let value = text
                .lines()
                .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
            sum += value.map_or(0, |value| value.parse::<u64>().unwrap());
        }
        sum
    }

    /// The pulls in the database, by its manifests.
    async fn in_database(&self) -> u64 {
        sql(
            Path::new(&self.database()),
            "SELECT ifnull(sum(pull_count), 0) FROM manifest_pulls",
        )
        .await
    }

    async fn stop(self) {
        for gateway in self.gateways {
            gateway.stop().await;
        }
    }
}

async fn claimer(database: &str, gateway: String, lease: Duration, more: &[String]) -> Peer {
    let lease = lease.as_secs().to_string();
    let args = ["--database", database, "--lease", &lease, "--interval", "0.05"].map(Into::into);
    Peer::start("claimer.py", Some(gateway), &[&args, more].concat()).await
}

async fn sql(database: &Path, query: &str) -> u64 {
    let lines =
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1], timeout=30).execute(sys.argv[2]).fetchone()[0])";
    python_says(lines, &[database.to_str().unwrap(), query])
        .await
        .parse()
        .unwrap()
}

/// How many claimers died at each of [`STEPS`].
type Deaths = Arc<[AtomicU64; 4]>;

/// What claimers did that did not die.
#[derive(Debug, Default)]
struct Done {
    failures: u64,
    left_out: u64,
    given_back: u64,
    lost: u64,
}

impl Done {
    fn note(&mut self, report: &Value) {
        let number = |name: &str| report[name].as_u64().unwrap();
        self.failures += number("failures");
        self.left_out += number("left_out");
        self.given_back += number("given_back");
        self.lost += number("lost");
    }
}

/// One claimer after the other, each to die at the next step after a few claims and to fail its database now and then, until told
/// to stop.
async fn dying_claimers(
    database: String,
    gateway: String,
    stop: Arc<AtomicBool>,
    deaths: Deaths,
    first: usize,
) -> Done {
    let mut done = Done::default();
    for step in first.. {
        let faults = [
            format!("--die-at={}", STEPS[step % 4]),
            format!("--die-after={}", 1 + step % 3),
            "--fail-database=0.1".into(),
            format!("--seed={step}"),
            "--max-keys=700".into(),
        ];
        let mut claimer = claimer(&database, gateway.clone(), SHORT, &faults).await;
        let stopped = async {
            while !stop.load(Relaxed) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let report = tokio::select! {
            report = claimer.ended() => report,
            () = stopped => {
                claimer.tell_to_end();
                claimer.ended().await
            }
        };
        match report {
            Some(report) => done.note(&report),
            None => {
                deaths[step % 4].fetch_add(1, Relaxed);
            }
        }
        if stop.load(Relaxed) {
            break;
        }
    }
    done
}

/// Counts pulls in all ways, and directly, while claimers die, until all is in the database. `restarts` of Redis on the way.
async fn run(pulls: u64, restarts: usize) -> (Tally, u64) {
    let mut random = seeded();
    let mut stand = Stand::new(MANY, SHORT).await;
    let stop = Arc::new(AtomicBool::new(false));
    let deaths = Deaths::default();
    let mut claimers = JoinSet::new();
    for n in 0..CLAIMERS {
        claimers.spawn(dying_claimers(
            stand.database(),
            stand.gateway(n),
            stop.clone(),
            deaths.clone(),
            n,
        ));
    }
    let producer = stand.producer(7).await;
    let began = Instant::now();
    let mut callers = stand.callers(pulls, &mut random).await;
    for n in 0..restarts {
        // After a share of the pulls each time.
        let share = pulls * (n as u64 + 1) / (restarts as u64 + 1);
        let end = Instant::now() + 20 * patience();
        while stand.counter(TAKEN).await < share {
            assert!(Instant::now() < end, "{share} pulls were not taken on");
            sleep(Duration::from_millis(20)).await;
        }
        stand.server.kill();
        stand.server.restart().await;
    }
    let mut tally = Tally::default();
    while let Some(told) = callers.join_next().await {
        tally += told.unwrap();
    }
    let elapsed = began.elapsed();
    // However short the run.
    eventually("a claimer has died at each step", async || {
        deaths.iter().all(|deaths| deaths.load(Relaxed) > 0)
    })
    .await;
    let direct = producer.terminate().await;
    let number = |name: &str| direct[name].as_u64().unwrap();
    let direct = Tally {
        acknowledged: number("acknowledged"),
        unknown: number("unknown"),
        not_executed: number("not_executed"),
    };
    stop.store(true, Relaxed);
    let done = claimers.join_all().await;
    stand.flush_all().await;
    let sum = stand.in_database().await;
    println!(
        "{CALLERS} callers in {elapsed:?}: {tally:?}; directly: {direct:?}; {restarts} restarts; claimers died {deaths:?} times at \
         {STEPS:?}, the others: {done:?}; in the database: {sum}"
    );
    assert!(direct.acknowledged > 100, "too little direct traffic");
    stand.stop().await;
    tally += direct;
    (tally, sum)
}

fn pulls() -> u64 {
    if soak() { 1_000_000 } else { 100_000 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flush_counts_once_with_kills_at_each_step() {
    let _one = heavy().await;
    let (tally, sum) = run(pulls(), 0).await;
    assert_eq!((tally.unknown, tally.not_executed), (0, 0));
    assert_eq!(sum, tally.acknowledged, "in the database, and acknowledged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flush_counts_once_with_kills_at_each_step_and_restarts_of_redis() {
    let _one = heavy().await;
    let (tally, sum) = run(pulls(), 2).await;
    println!(
        "acknowledged {} <= in the database {sum} <= and unknown {}",
        tally.acknowledged,
        tally.sent()
    );
    assert!((tally.acknowledged..=tally.sent()).contains(&sum));
}

/// Counts pulls while two claimers on two gateways, and a worker without the gateway, flush them side by side. Answers the pulls
/// acknowledged, those in the database, what the claimers did, and what the worker did.
async fn side_by_side(leave_out_known: bool) -> (u64, u64, Value, Value) {
    let mut random = seeded();
    let stand = Stand::new(FEW, LONG).await;
    let mut claimers = Vec::new();
    for n in 0..2 {
        // Slow enough for the worker to come upon their keys.
        let more = ["--max-keys=300", "--slow-database=0.5"].map(Into::into);
        claimers.push(claimer(&stand.database(), stand.gateway(n), LONG, &more).await);
    }
    let mut args: Vec<String> = ["--redis", &stand.redis(), "--database", &stand.database()]
        .map(Into::into)
        .into();
    args.extend(leave_out_known.then(|| "--leave-out-known".into()));
    let worker = Peer::start("reference_flush.py", None, &args).await;
    let producer = stand.producer(11).await;

    let mut tally = Tally::default();
    let mut callers = stand.callers(pulls(), &mut random).await;
    while let Some(told) = callers.join_next().await {
        tally += told.unwrap();
    }
    // Its runs are slow beside so many pulls.
    eventually("the worker has come upon claims", async || {
        stand.counter(LOST).await >= 50
    })
    .await;
    let direct = producer.terminate().await;
    let tracked = tally.acknowledged + direct["acknowledged"].as_u64().unwrap();
    assert_eq!((tally.unknown, &direct["unknown"]), (0, &0.into()));
    let worker = worker.terminate().await;
    // The worker is gone, and leaves nothing that only age would free.
    stand.flush_all().await;
    let mut done = serde_json::Map::new();
    for claimer in claimers {
        for (name, n) in claimer.terminate().await.as_object().unwrap() {
            let sum = done.get(name).and_then(Value::as_u64).unwrap_or(0) + n.as_u64().unwrap();
            done.insert(name.clone(), sum.into());
        }
    }
    let sum = stand.in_database().await;
    stand.stop().await;
    (tracked, sum, done.into(), worker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_worker_that_leaves_out_known_names_each_pull_counts_once() {
    let _one = heavy().await;
    let (tracked, sum, claimers, worker) = side_by_side(true).await;
    println!(
        "{tracked} pulls, {sum} in the database; claimers: {claimers}; worker: {} fresh keys, {} orphans",
        worker["fresh"], worker["orphans"]
    );
    assert_eq!(sum, tracked);
    // No key in two hands, but for those that the worker takes at any age.
    assert_eq!(claimers["orphans"], 0, "a key that somebody was at");
    assert!(
        claimers["lost"].as_u64() > Some(10) && worker["fresh"].as_u64() > Some(100),
        "the worker had too little work, or came upon no claim"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_the_references_own_writer_what_it_takes_from_claims_counts_twice() {
    let _one = heavy().await;
    let (tracked, sum, claimers, worker) = side_by_side(false).await;
    let twice = sum.checked_sub(tracked).expect("no pull is lost");
    println!(
        "{tracked} pulls, {sum} in the database, {twice} of them twice; claimers: {claimers}; worker: {} fresh keys, {} orphans",
        worker["fresh"], worker["orphans"]
    );
    assert_eq!(claimers["orphans"], 0, "a key that somebody was at");
    // Only what it took while a claimer was at it.
    let lost = claimers["lost"].as_u64().unwrap();
    assert!(
        twice > 0 && lost > 0,
        "{twice} counted twice, {lost} keys taken from claims"
    );
}
