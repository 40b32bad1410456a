//! What callers accept, and get.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use rand::Rng as _;
use tokio::time::sleep;

use redis_gateway::proto::CacheGetOrLeaseRequest;

use super::{
    super::{
        ask,
        refresh::{early, load_key},
        value_in,
    },
    *,
};
use crate::harness::{Cut, Mode, heavy, seeded, soak};

/// When which number stood in the primary for sure.
#[derive(Default)]
struct Written(Mutex<Vec<(Instant, u64)>>);

impl Written {
    /// The latest number that stood at `at`.
    fn at(&self, at: Instant) -> u64 {
        let written = self.0.lock().unwrap();
        let known = written.partition_point(|(when, _)| *when <= at);
        known.checked_sub(1).map_or(0, |n| written[n].1)
    }
}

#[tokio::test]
async fn no_read_is_older_than_its_caller_accepts() {
    const BOUNDS: [u64; 3] = [600, 1_000, 2_000];
    let _one = heavy().await;
    let mut rng = seeded();
    let fleet = Fleet::new(2, 2).await;
    let written = Arc::new(Written::default());
    let over = Arc::new(AtomicBool::new(false));
    let (reads, behind) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    {
        let (mut client, written, over) = (fleet.stand.client(0), written.clone(), over.clone());
        tasks.spawn(async move {
            for number in 1.. {
                assert!(set(&mut client, "key", &number.to_string(), true).await);
                written.0.lock().unwrap().push((Instant::now(), number));
                if over.load(Relaxed) {
                    return;
                }
                sleep(Duration::from_millis(2)).await;
            }
        });
    }
    for reader in 0..6 {
        let bound = Duration::from_millis(BOUNDS[reader % BOUNDS.len()]);
        let (mut client, written, over) = (fleet.stand.client(reader % 2), written.clone(), over.clone());
        let (reads, behind) = (reads.clone(), behind.clone());
        tasks.spawn(async move {
            while !over.load(Relaxed) {
                let asked = Instant::now();
                let (least, latest) = (written.at(asked - bound), written.at(asked));
                let value = get(&mut client, no_older("key", bound)).await.unwrap_or(0);
                assert!(
                    value >= least,
                    "{value} is older than {bound:?}: {least} stood there by then"
                );
                reads.fetch_add(1, Relaxed);
                behind.fetch_add(u64::from(value < latest), Relaxed);
                sleep(Duration::from_millis(1)).await;
            }
        });
    }
    for _ in 0..if soak() { 300 } else { 8 } {
        let Replica { server, link, front } = &fleet.replicas[rng.random_range(0..2)];
        let stopped = rng.random_bool(0.15);
        match rng.random_range(0..5) {
            _ if stopped => server.pause(),
            0 => link.set(Mode::Delay(Duration::from_millis(rng.random_range(1..200)))),
            1 => link.set(Mode::Stall),
            2 => drop(link.cut(Cut::Reset).await),
            3 => drop(front.cut(Cut::Reset).await),
            _ => link.set(Mode::Pass),
        }
        sleep(Duration::from_millis(rng.random_range(50..1_200))).await;
        if stopped {
            server.resume();
        }
        assert!(tasks.try_join_next().is_none(), "a task that ended");
    }
    over.store(true, Relaxed);
    for replica in &fleet.replicas {
        replica.link.set(Mode::Pass);
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    let mut from = [0; 3];
    for gateway in 0..2 {
        from[0] += fleet.reads(gateway, "replica-0", "fresh_enough").await;
        from[1] += fleet.reads(gateway, "replica-1", "fresh_enough").await;
        from[2] += fleet.reads(gateway, "primary", "stale").await;
    }
    let (reads, behind) = (reads.load(Relaxed), behind.load(Relaxed));
    println!("{reads} reads, {behind} of them behind the primary; by replicas and primary: {from:?}");
    // The replicas were asked, and did lag.
    assert!(from[0] + from[1] > 100 && behind > 100);
    fleet.stop().await;
}

#[tokio::test]
async fn replica_that_lags_is_left_until_it_has_caught_up() {
    let fleet = Fleet::with(1, 1, |endpoint| endpoint.max_staleness = Duration::from_millis(700)).await;
    let mut client = fleet.stand.client(0);
    fleet.replicas[0].link.set(Mode::Stall);
    set(&mut client, "key", "1", true).await;
    fleet.reads_go(0, "primary", "stale").await;
    assert_eq!(get(&mut client, plain("key")).await, Some(1));
    assert_eq!(
        fleet.replicas[0].server.run::<Option<String>>(&["GET", "key"]).await,
        None
    );
    // Who accepts more still reads from it, and is told how far behind it is.
    let hour = Duration::from_hours(1);
    assert_eq!(get(&mut client, no_older("key", hour)).await, None);
    let lag = "redis_gateway_redis_replica_lag_bytes{endpoint=\"cache\",server=\"replica-0\"}";
    assert!(fleet.stand.metric(0, lag).await > 0);
    // Who accepts less than can be known reads from the primary.
    let latest = fleet.reads(0, "primary", "stale").await;
    assert_eq!(
        get(&mut client, no_older("key", Duration::from_millis(1))).await,
        Some(1)
    );
    assert_eq!(fleet.reads(0, "primary", "stale").await, latest + 1);

    fleet.replicas[0].link.set(Mode::Pass);
    fleet.reads_from(0, 0).await;
    assert_eq!(get(&mut client, plain("key")).await, Some(1));
    assert_eq!(fleet.stand.metric(0, lag).await, 0);
    drop(client);
    fleet.stop().await;
}

#[tokio::test]
async fn reads_go_in_turn_to_the_replicas_that_are_fresh_enough() {
    let fleet = Fleet::with(1, 3, |endpoint| endpoint.max_staleness = Duration::from_millis(700)).await;
    let mut client = fleet.stand.client(0);
    fleet.replicas[1].link.set(Mode::Stall);
    set(&mut client, "key", "1", true).await;
    let count = async |n: usize| fleet.reads(0, &format!("replica-{n}"), "fresh_enough").await;
    eventually("nothing is read from the one that lags", async || {
        let before = count(1).await;
        for _ in 0..6 {
            get(&mut fleet.stand.client(0), plain("key")).await;
        }
        count(1).await == before
    })
    .await;
    eventually("the others have the value", async || {
        let before = [count(0).await, count(2).await];
        for _ in 0..30 {
            assert_eq!(get(&mut fleet.stand.client(0), plain("key")).await, Some(1));
        }
        let shares = [count(0).await - before[0], count(2).await - before[1]];
        // The one after the one that lags gets its turns too.
        shares.iter().all(|share| *share >= 10)
    })
    .await;
    drop(client);
    fleet.stop().await;
}

#[tokio::test]
async fn value_that_was_renewed_meanwhile_is_not_refreshed_again() {
    let fleet = Fleet::new(1, 1).await;
    let (primary, replica) = (&fleet.stand.server, &fleet.replicas[0]);
    // Four months: long beside the minute that the replica knows of, short beside the ten years that are left on the primary.
    primary.run::<()>(&["SET", &load_key("key"), "10000000000"]).await;
    primary.run::<()>(&["SET", "key", "1", "EX", "60"]).await;
    eventually("the replica has it", async || {
        replica.server.run::<Option<u64>>(&["GET", "key"]).await == Some(1)
    })
    .await;
    replica.link.set(Mode::Stall);
    primary.run::<()>(&["SET", "key", "2", "EX", "315360000"]).await;
    let scripts = primary.calls("evalsha").await;
    let request = CacheGetOrLeaseRequest {
        max_staleness_ms: 60_000,
        ..early("key")
    };
    let answer = ask(&mut fleet.stand.client(0), request).await.unwrap();
    assert!(primary.calls("evalsha").await > scripts, "the primary was asked");
    assert_eq!(answer.refresh, None);
    assert_eq!(value_in(answer), b"1");
    fleet.stop().await;
}
