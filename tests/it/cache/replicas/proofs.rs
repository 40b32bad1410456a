//! What all callers get while a replica is stopped, cut off, or seconds behind: reads, reads of own writes, and calls of the
//! primary.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use redis_gateway::proto::IsBlockedRequest;
use tokio::task::JoinSet;

use super::*;
use crate::harness::{Cut, MachineLag, Mode, heavy, soak};

/// What was measured since it was last taken.
#[derive(Default)]
struct Seen {
    reads: Mutex<Vec<Duration>>,
    /// Calls of patterns that know the primary alone.
    primary: Mutex<Vec<Duration>>,
    /// Reads with a token, each of which saw its write.
    own: AtomicU64,
}

impl Seen {
    fn is_enough(&self, count: usize) -> bool {
        let len = |times: &Mutex<Vec<Duration>>| times.lock().unwrap().len();
        len(&self.reads) >= count && len(&self.primary) >= count && self.own.load(Relaxed) >= count as u64
    }

    /// The 99th of 100 and the worst: of reads, and of calls of the primary.
    fn take(&self) -> [(usize, Duration, Duration); 2] {
        [&self.reads, &self.primary].map(|times| {
            let mut times = std::mem::take(&mut *times.lock().unwrap());
            times.sort();
            let at = |n: usize| times.get(n).copied().unwrap_or_default();
            (
                times.len(),
                at(times.len() * 99 / 100),
                at(times.len().saturating_sub(1)),
            )
        })
    }
}

/// Calls all the time, until dropped.
async fn callers(fleet: &Fleet, seen: &Arc<Seen>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for n in 0..4 {
        let (mut client, seen) = (fleet.stand.client(n % 2), seen.clone());
        tasks.spawn(async move {
            loop {
                let asked = Instant::now();
                assert_eq!(get(&mut client, plain("key")).await, Some(1));
                seen.reads.lock().unwrap().push(asked.elapsed());
            }
        });
    }
    for n in 0..2 {
        let (mut writer, mut reader) = (fleet.stand.client(n), fleet.stand.client(1 - n));
        let (key, seen) = (format!("own{n}"), seen.clone());
        tasks.spawn(async move {
            for number in 1.. {
                let token = put(&mut writer, &key, number).await;
                for _ in 0..4 {
                    assert_eq!(get(&mut reader, after(&key, &token)).await, Some(number));
                    seen.own.fetch_add(1, Relaxed);
                }
            }
        });
    }
    let (mut tracker, seen) = (fleet.stand.gateways[0].content_tracker().await, seen.clone());
    tasks.spawn(async move {
        loop {
            let asked = Instant::now();
            let request = IsBlockedRequest {
                user_id: 1,
                namespace: "namespace".into(),
                repository: "repository".into(),
            };
            tracker.is_blocked(request).await.unwrap();
            seen.primary.lock().unwrap().push(asked.elapsed());
        }
    });
    tasks
}

#[tokio::test]
async fn replica_in_trouble_fails_no_read_hides_no_own_write_and_disturbs_no_primary() {
    let count = if soak() { 5_000 } else { 200 };
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let fleet = Fleet::with(2, 1, |endpoint| endpoint.max_staleness = Duration::from_secs(1)).await;
    put(&mut fleet.stand.client(0), "key", 1).await;
    for gateway in 0..2 {
        eventually("the replica has it", async || {
            fleet.replicas[0].server.run::<Option<u64>>(&["GET", "key"]).await == Some(1)
        })
        .await;
        fleet.reads_from(gateway, 0).await;
    }
    let seen = Arc::new(Seen::default());
    let mut tasks = callers(&fleet, &seen).await;
    let mut own = 0;
    for (trouble, noticed) in [("stopped", "down"), ("cut off", "unlinked"), ("5 s behind", "stale")] {
        let mut quiet = Duration::ZERO;
        let Replica { server, link, .. } = &fleet.replicas[0];
        for in_trouble in [false, true] {
            own += seen.own.swap(0, Relaxed);
            seen.take();
            if in_trouble {
                match trouble {
                    "stopped" => server.pause(),
                    "cut off" => {
                        link.refuse(true).await;
                        link.cut(Cut::Reset).await;
                    }
                    _ => link.set(Mode::Delay(Duration::from_secs(5))),
                }
                for gateway in 0..2 {
                    fleet.reads_go(gateway, "primary", noticed).await;
                }
            }
            eventually("calls go on", async || {
                assert!(tasks.try_join_next().is_none(), "{trouble}: a caller that ended");
                seen.is_enough(count)
            })
            .await;
            let [reads, primary] = seen.take();
            let when = if in_trouble { trouble } else { "quiet" };
            println!(
                "{when}: {} reads, p99 {:?}, worst {:?}; {} calls of the primary, p99 {:?}, worst {:?}",
                reads.0, reads.1, reads.2, primary.0, primary.1, primary.2
            );
            if in_trouble {
                // The wait for a replica that says nothing, and what the primary takes.
                lag.assert_within("99 of 100 reads", reads.1, Duration::from_millis(130));
                lag.assert_within(
                    "99 of 100 calls of the primary",
                    primary.1,
                    quiet + Duration::from_millis(20),
                );
            }
            quiet = primary.1;
        }
        match trouble {
            "stopped" => server.resume(),
            "cut off" => link.refuse(false).await,
            _ => {
                link.set(Mode::Pass);
                // What is still on its way is given up.
                link.cut(Cut::Reset).await;
            }
        }
        fleet.reads_from(0, 0).await;
        fleet.reads_from(1, 0).await;
    }
    own += seen.own.load(Relaxed);
    tasks.shutdown().await;
    println!("{own} reads with a token, none of which missed its write");
    fleet.stop().await;
}
