//! Pulls that are counted, claimed and written to a database, while claimers die and Redis restarts: each once.

mod beside;

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

/// Pulls that gateways took on, what became of claims, and keys that somebody else took from them, among the metrics.
const TAKEN: &str = "redis_gateway_pull_metrics_pulls_total{mode=\"waited\"}";
const CLAIMED: &str = "redis_gateway_pull_metrics_claims_total{event=\"claimed\"}";
const COMMITTED: &str = "redis_gateway_pull_metrics_claims_total{event=\"committed\"}";
const GIVEN_BACK: &str = "redis_gateway_pull_metrics_claims_total{event=\"given_back\"}";
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
    let (claimed, committed, given_back) = (
        stand.counter(CLAIMED).await,
        stand.counter(COMMITTED).await,
        stand.counter(GIVEN_BACK).await,
    );
    println!("{claimed} claims, {committed} committed, {given_back} given back");
    assert!(given_back > 0, "no database failed");
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
