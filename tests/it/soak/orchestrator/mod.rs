//! Keys that expire, given to those who watch on three gateways and to a build manager in Python: each once, soon after it is due,
//! while Redis restarts, connections are cut and watchers go and come back. And pictures of what is there that end equal to it.

mod histories;
mod watcher;

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use redis_gateway::proto::{OrchestratorSetRequest, orchestrator_client::OrchestratorClient};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tonic::transport::Channel;

use self::watcher::{Delivery, Watcher, Watchers};
use super::measure::{At, Quantiles, duration, nanos, now};
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

/// What the manager without the gateway wrote down.
#[derive(Debug, Default)]
struct ByManager {
    set: Vec<SetKey>,
    taken: Vec<(String, At)>,
    /// Keys that it took from Redis, perhaps without telling anyone: the connection was lost halfway.
    halfway: HashSet<String>,
}

fn by_manager(journal: &Path) -> ByManager {
    let mut found = ByManager::default();
    for line in fs::read_to_string(journal).unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |n: usize| words[n].parse::<At>().unwrap();
        let key = words[1].to_owned();
        match words[0] {
            "set" => found.set.push(SetKey {
                key,
                due: Some(number(3) + number(5) * 1_000_000_000),
            }),
            "taking" => drop(found.halfway.insert(key)),
            "expired" => {
                found.halfway.remove(&key);
                found.taken.push((key, number(3)));
            }
            _ => panic!("an unknown line: {line}"),
        }
    }
    found
}

/// What came of a run.
#[derive(Debug, Default)]
struct Counts {
    keys: usize,
    by_gateways: usize,
    by_manager: usize,
    /// Told again since the client before went away first.
    died: usize,
    /// Told twice since the manager without the gateway read a value before a gateway claimed the key, and deleted it after.
    raced: usize,
    /// Told twice since their value is empty: those stay, and each manager without the gateway takes them.
    empty: usize,
    /// Taken halfway by the manager, and told nobody.
    lost_by_manager: usize,
    /// Taken by the manager although they had lost their expiration, as the reference does.
    quirks: usize,
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

/// Each key once; twice only where that is nobody's fault but of who takes without a claim, or went away. How late they were told.
fn judge(set: &[SetKey], told: &[Delivery], manager: &ByManager, faults: &Faults) -> (Counts, Quantiles) {
    let mut by_key: HashMap<&str, Vec<&Delivery>> = HashMap::new();
    for delivery in told {
        by_key.entry(&delivery.key).or_default().push(delivery);
    }
    let taken: HashMap<&str, At> = manager.taken.iter().map(|(key, at)| (key.as_str(), *at)).collect();
    assert_eq!(taken.len(), manager.taken.len(), "the manager took a key twice");
    let mut counts = Counts {
        keys: set.len(),
        by_gateways: by_key.len(),
        by_manager: taken.len(),
        lost_by_manager: manager
            .halfway
            .iter()
            .filter(|key| !by_key.contains_key(key.as_str()))
            .count(),
        ..Counts::default()
    };
    let mut late = Vec::new();
    // From when on it could be told at `at`, if it was due at `due`.
    let could = |due: At, at: At| {
        faults
            .back
            .iter()
            .copied()
            .filter(|back| *back < at)
            .max()
            .unwrap_or(0)
            .max(due)
    };
    for SetKey { key, due } in set {
        let deliveries = by_key.remove(key.as_str()).unwrap_or_default();
        let by_manager = taken.get(key.as_str()).copied();
        let Some(due) = *due else {
            assert!(
                deliveries.is_empty(),
                "{key} never expires, and was told: {deliveries:?}"
            );
            counts.quirks += usize::from(by_manager.is_some());
            continue;
        };
        let number: usize = key.rsplit('-').next().unwrap().parse().unwrap();
        let value = if number.is_multiple_of(10) {
            String::new()
        } else {
            format!("value {number}")
        };
        let twice = usize::from(by_manager.is_some() && !deliveries.is_empty());
        *(if value.is_empty() {
            &mut counts.empty
        } else {
            &mut counts.raced
        }) += twice;
        for (n, delivery) in deliveries.iter().enumerate() {
            assert_eq!(delivery.value, value, "{key}");
            let last = n + 1 == deliveries.len();
            assert_eq!(delivery.acknowledged, last, "{key}: {deliveries:?}");
            counts.died += usize::from(!last);
            let from = n.checked_sub(1).map_or(due, |before| deliveries[before].at);
            late.push(duration(delivery.at - could(from, delivery.at)));
        }
        late.extend(by_manager.map(|at| duration(at - could(due, at))));
    }
    (counts, Quantiles::of(late))
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
