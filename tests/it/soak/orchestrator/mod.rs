//! Keys that expire, given to those who watch on three gateways and to a build manager in Python: each once, soon after it is due,
//! while Redis restarts, connections are cut and watchers go and come back. And pictures of what is there that end equal to it.

mod histories;
mod judge;
mod watcher;

use std::{collections::HashSet, path::PathBuf, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use redis_gateway::proto::{OrchestratorSetRequest, orchestrator_client::OrchestratorClient};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tonic::transport::Channel;

use self::{
    judge::{Counts, by_manager, judge},
    watcher::{Watcher, Watchers},
};
use super::measure::{At, Quantiles, nanos, now};
use crate::harness::{
    Cut, GatewayProcess, MachineLag, Peer, Proxy, RedisServer, Told, eventually, heavy, patience, seeded, soak, told,
    within,
};

const PREFIX: &str = "building/";
const GATEWAYS: usize = 3;
/// Keys beside those that are watched.
const OTHERS: usize = 100_000;
/// What keys live for at most, in seconds.
const EXPIRATION: u64 = 8;

/// Redis with a lot of other keys, three gateways, each behind a proxy, and a build manager without one.
struct Stand {
    server: RedisServer,
    proxies: Vec<Proxy>,
    gateways: Vec<GatewayProcess>,
    folder: TempDir,
    random: StdRng,
}

/// A key that stands for sure.
#[derive(Debug, Clone)]
struct SetKey {
    key: String,
    /// When it is due, at the earliest. None: never.
    due: Option<At>,
}

impl Stand {
    async fn new() -> Self {
        let server = RedisServer::new().append_only().start().await;
        others(&server).await;
        let mut proxies = Vec::new();
        let mut gateways = Vec::new();
        for _ in 0..GATEWAYS {
            let proxy = Proxy::new(server.addr());
            gateways.push(GatewayProcess::start(proxy.addr()).await);
            proxies.push(proxy);
        }
        Stand {
            server,
            proxies,
            gateways,
            folder: tempfile::tempdir().unwrap(),
            random: seeded(),
        }
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    async fn manager(&self, keys: usize, over: Duration) -> Peer {
        let args = [
            format!("--redis=redis://{}", self.server.addr()),
            format!("--journal={}", self.journal().display()),
            format!("--prefix={PREFIX}"),
            format!("--keys={keys}"),
            format!("--over={}", over.as_secs_f64()),
            format!("--expiration={EXPIRATION}"),
        ];
        Peer::start("build_manager.py", None, &args).await
    }

    fn watchers(&mut self, unruly: bool) -> Watchers {
        let mut watchers = Watchers::default();
        for (n, gateway) in self.gateways.iter().enumerate() {
            watchers.start(Watcher {
                client: gateway.orchestrator(),
                name: format!("watcher-{n}"),
                unruly,
                random: StdRng::from_rng(&mut self.random),
            });
        }
        watchers
    }

    /// Sets keys through the gateways, each at its time; those of whose being there the caller is sure.
    fn setters(&mut self, keys: usize, over: Duration) -> JoinSet<Vec<SetKey>> {
        let mut setters = JoinSet::new();
        for (n, gateway) in self.gateways.iter().enumerate() {
            let numbers = (n..keys).step_by(GATEWAYS).collect();
            setters.spawn(set_keys(
                gateway.orchestrator(),
                numbers,
                over,
                StdRng::from_rng(&mut self.random),
            ));
        }
        setters
    }
}

/// Fills Redis with keys that have a time to live and that nobody watches.
async fn others(server: &RedisServer) {
    let mut client = server.client().await;
    for first in (0..OTHERS).step_by(10_000) {
        let mut pipe = redis::pipe();
        for n in first..first + 10_000 {
            pipe.cmd("SET")
                .arg(format!("other/{n}"))
                .arg("v")
                .arg("EX")
                .arg(3_600 + n)
                .ignore();
        }
        pipe.query_async::<()>(&mut client).await.unwrap();
    }
}

async fn set_keys(
    mut client: OrchestratorClient<Channel>,
    numbers: Vec<usize>,
    over: Duration,
    mut random: StdRng,
) -> Vec<SetKey> {
    let began = Instant::now();
    let mut times: Vec<Duration> = numbers.iter().map(|_| over.mul_f64(random.random())).collect();
    times.sort();
    let mut set = Vec::new();
    for (n, at) in numbers.into_iter().zip(times) {
        sleep_until(began + at).await;
        let key = format!("{PREFIX}gateway-{n}");
        let seconds = random.random_range(1..=EXPIRATION);
        let request = |overwrite: bool, expiration: u64| OrchestratorSetRequest {
            key: key.clone(),
            value: if n % 10 == 0 {
                Vec::new().into()
            } else {
                format!("value {n}").into_bytes().into()
            },
            overwrite,
            expiration_seconds: expiration.try_into().unwrap(),
        };
        // Every twentieth never expires, and as many lose their expiration before it is over.
        let (expires, loses) = (n % 20 != 7, n % 20 == 13);
        let asked = now();
        let first = if expires { seconds + u64::from(loses) } else { 0 };
        if !sets(&mut client, request(false, first)).await {
            continue;
        }
        if loses && !sets(&mut client, request(true, 0)).await {
            continue;
        }
        let due = (expires && !loses).then(|| asked + nanos(Duration::from_secs(seconds)));
        set.push(SetKey { key, due });
    }
    set
}

/// Whether it is sure that the key is set.
async fn sets(client: &mut OrchestratorClient<Channel>, request: OrchestratorSetRequest) -> bool {
    let answer = client.set(within(patience(), request)).await;
    told(&answer) == Told::Done && answer.unwrap().into_inner().stored
}

/// What was done to the connections and to Redis.
#[derive(Debug, Default)]
struct Faults {
    cuts: usize,
    restarts: usize,
    /// Since when Redis served again each time.
    back: Vec<At>,
}

impl Stand {
    async fn cause_faults(&mut self, until: Instant) -> Faults {
        let mut faults = Faults::default();
        loop {
            sleep(self.random.random_range(Duration::from_secs(1)..Duration::from_secs(4))).await;
            if Instant::now() > until {
                return faults;
            }
            if self.random.random_bool(0.3) {
                self.server.kill();
                self.server.restart().await;
                faults.back.push(now());
                faults.restarts += 1;
            } else {
                let victim = self.random.random_range(0..GATEWAYS);
                self.proxies[victim].cut(Cut::Reset).await;
                faults.cuts += 1;
            }
        }
    }
}

/// Sets so many keys over that time, and holds each against what was told of it.
async fn run(keys: usize, over: Duration, faults: bool) -> (Counts, Quantiles) {
    let mut stand = Stand::new().await;
    let watchers = stand.watchers(faults);
    eventually("all watch", async || watchers.opened() >= GATEWAYS).await;
    let manager = stand.manager(keys / 2, over).await;
    let setters = stand.setters(keys / 2, over);
    let length = over + Duration::from_secs(EXPIRATION);
    let caused = if faults {
        stand.cause_faults(Instant::now() + length).await
    } else {
        sleep(length).await;
        Faults::default()
    };
    let mut set: Vec<SetKey> = setters.join_all().await.concat();
    // All that will be told was told: nothing but what never expires is left.
    let mut missing = HashSet::new();
    let found = async |missing: &mut HashSet<String>| {
        let manager = by_manager(&stand.journal());
        let told: HashSet<String> = watchers
            .told()
            .into_iter()
            .map(|told| told.key)
            .chain(manager.taken.into_iter().map(|(key, _)| key))
            .collect();
        let due = set.iter().chain(&manager.set).filter(|set| set.due.is_some());
        let lost = due
            .map(|set| &set.key)
            .filter(|key| !told.contains(*key) && !manager.halfway.contains(*key));
        *missing = lost.cloned().collect();
        missing.is_empty()
    };
    let end = Instant::now() + patience();
    while !found(&mut missing).await {
        assert!(
            Instant::now() < end,
            "{} expiries were lost: {missing:?}",
            missing.len()
        );
        sleep(Duration::from_millis(50)).await;
    }
    // What is told twice is told within the time for which a look, and an acknowledgement, are waited for.
    sleep(SETTLE).await;
    println!("{:?}; the manager: {}", caused, manager.terminate().await);
    let manager = by_manager(&stand.journal());
    set.extend(manager.set.iter().cloned());
    judge(&set, &watchers.told(), &manager, &caused)
}

/// Told to be over before the end of a run.
const SETTLE: Duration = Duration::from_secs(8);

fn size() -> (usize, Duration) {
    if soak() {
        (1_000, Duration::from_mins(1))
    } else {
        (200, Duration::from_secs(6))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expiries_come_once_and_on_time() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let (keys, over) = size();
    let (counts, late) = run(keys, over, false).await;
    println!("{counts:?}; late by {late}");
    assert!(
        counts.keys >= keys * 9 / 10 && counts.by_gateways > keys / 10,
        "too little was told: {counts:?}"
    );
    assert_eq!((counts.died, counts.lost_by_manager), (0, 0));
    assert!(
        counts.by_manager <= counts.empty + counts.quirks + counts.keys / 10,
        "the manager took too many: {counts:?}"
    );
    lag.assert_within("p99 of expiries", late.percent(99), Duration::from_millis(250));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expiries_come_once_whatever_fails() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let (keys, over) = size();
    let (counts, late) = run(keys, over, true).await;
    println!("{counts:?}; late by {late}");
    assert!(
        counts.keys >= keys / 2 && counts.by_gateways > keys / 10,
        "too little was told: {counts:?}"
    );
    lag.assert_within("p99 of expiries", late.percent(99), Duration::from_millis(1_750));
}
