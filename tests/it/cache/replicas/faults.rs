//! Replicas that hang, are cut off or are gone, and a failover: no read fails while one server can answer it.

use std::sync::{Arc, Mutex};

use redis_gateway::proto::{DegradedReason, IsBlockedRequest};
use tokio::{task::JoinSet, time::timeout};

use super::*;
use crate::harness::{Cut, MachineLag, heavy, patience};

/// Reads all the time, and how long each took.
struct Readers {
    tasks: JoinSet<()>,
    took: Arc<Mutex<Vec<Duration>>>,
}

impl Readers {
    fn start(client: &Client, count: usize, request: &CacheGetRequest) -> Self {
        let took = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let (mut client, request, took) = (client.clone(), request.clone(), took.clone());
            tasks.spawn(async move {
                loop {
                    let asked = Instant::now();
                    assert_eq!(get(&mut client, request.clone()).await, Some(1));
                    took.lock().unwrap().push(asked.elapsed());
                }
            });
        }
        Readers { tasks, took }
    }

    /// Waits for so many more reads.
    async fn go_on(&mut self, count: usize) {
        let goal = self.took.lock().unwrap().len() + count;
        let reads = eventually("reads go on", async || self.took.lock().unwrap().len() >= goal);
        tokio::select! {
            () = reads => {}
            Some(ended) = self.tasks.join_next() => ended.unwrap(),
        }
    }

    /// How long reads took, the longest last.
    async fn stop(mut self) -> Vec<Duration> {
        if let Some(ended) = self.tasks.try_join_next() {
            ended.unwrap();
        }
        self.tasks.shutdown().await;
        let mut took = std::mem::take(&mut *self.took.lock().unwrap());
        took.sort();
        took
    }
}

#[tokio::test]
async fn stopped_replica_fails_no_read_and_costs_each_caller_one_short_wait() {
    const READERS: usize = 8;
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let fleet = Fleet::new(1, 1).await;
    let client = fleet.stand.client(0);
    let token = put(&mut fleet.stand.client(0), "key", 1).await;
    for round in 0..3 {
        let mut plainly = Readers::start(&client, READERS, &after("key", &token));
        let mut freshly = Readers::start(&client, 1, &fresh("key"));
        let before = fleet.reads(0, "replica-0", "fresh_enough").await;
        eventually("the replica is read from", async || {
            fleet.reads(0, "replica-0", "fresh_enough").await > before
        })
        .await;
        fleet.replicas[0].server.pause();
        // The connection is noticed to be dead meanwhile.
        fleet.reads_go(0, "primary", "down").await;
        plainly.go_on(2_000).await;
        fleet.replicas[0].server.resume();
        fleet.reads_from(0, 0).await;
        freshly.go_on(1).await;
        let (plain, fresh) = (plainly.stop().await, freshly.stop().await);
        let p99 = plain[plain.len() * 99 / 100];
        let worst = *plain.last().unwrap();
        println!(
            "round {round}: {} reads, p99 {p99:?}, worst {worst:?}; fresh: worst {:?}",
            plain.len(),
            fresh.last()
        );
        lag.assert_within("a read", worst, Duration::from_millis(130));
        lag.assert_within("99 of 100 reads", p99, Duration::from_millis(20));
        lag.assert_within("a fresh read", *fresh.last().unwrap(), Duration::from_millis(50));
        let slow = plain.iter().filter(|took| **took >= Duration::from_millis(90)).count();
        assert!(slow >= 1, "the replica was not in use");
        // Nobody waits for it twice, but for a machine that is slow itself.
        assert!(slow <= 2 * READERS, "{slow} slow reads");
    }
    drop(client);
    fleet.stop().await;
}

#[tokio::test]
async fn patterns_of_the_primary_alone_are_undisturbed_by_a_stopped_replica() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let fleet = Fleet::new(1, 1).await;
    let mut tracker = fleet.stand.gateways[0].content_tracker().await;
    let mut client = fleet.stand.client(0);
    fleet.replicas[0].server.pause();
    let mut worst = Duration::ZERO;
    for number in 0..300 {
        let asked = Instant::now();
        let request = IsBlockedRequest {
            user_id: 1,
            namespace: "namespace".into(),
            repository: "repository".into(),
        };
        tracker.is_blocked(request).await.unwrap();
        put(&mut client, "key", number).await;
        assert_eq!(get(&mut client, fresh("key")).await, Some(number));
        worst = worst.max(asked.elapsed());
    }
    lag.assert_within("three calls of the primary", worst, Duration::from_millis(60));
    fleet.replicas[0].server.resume();
    drop((client, tracker));
    fleet.stop().await;
}

#[tokio::test]
async fn replica_that_is_cut_off_is_left_and_serves_within_the_bound_once_the_primary_is_gone() {
    let bound = Duration::from_secs(3);
    let mut fleet = Fleet::with(1, 1, |endpoint| endpoint.max_staleness = bound).await;
    let mut client = fleet.stand.client(0);
    put(&mut client, "key", 1).await;
    eventually("the replica has it", async || {
        fleet.replicas[0].server.run::<Option<u64>>(&["GET", "key"]).await == Some(1)
    })
    .await;
    let link = &fleet.replicas[0].link;
    let mut readers = Readers::start(&client, 4, &plain("key"));
    link.refuse(true).await;
    link.cut(Cut::Reset).await;
    fleet.reads_go(0, "primary", "unlinked").await;
    readers.go_on(100).await;
    readers.stop().await;
    // It comes back, and is cut off with the primary's end.
    fleet.replicas[0].link.refuse(false).await;
    fleet.reads_from(0, 0).await;
    let gone = Instant::now();
    fleet.stand.server.kill();
    let before = fleet.reads(0, "replica-0", "primary_down").await;
    let mut served = 0;
    let degraded = timeout(patience(), async {
        loop {
            let answer = client.get(plain("key")).await.unwrap().into_inner();
            if answer.degraded != 0 && fleet.reads(0, "replica-0", "primary_down").await > before {
                return answer;
            }
            // The moment until both breaks are noticed aside, it is a hit.
            served += u64::from(answer.value.as_deref() == Some(b"1"));
        }
    })
    .await
    .expect("reads end that are too old");
    assert_eq!(degraded.degraded(), DegradedReason::RedisUnavailable);
    assert!(served > 100, "{served}");
    let since = gone.elapsed();
    assert!(since <= bound + Duration::from_millis(500), "{since:?}");
    // Who accepts more is still served.
    assert_eq!(
        get(&mut client, no_older("key", Duration::from_hours(1))).await,
        Some(1)
    );
    drop(client);
    fleet.stand.server.restart().await;
    fleet.stop().await;
}

#[tokio::test]
async fn replica_that_came_back_empty_is_not_believed() {
    let mut fleet = Fleet::new(1, 1).await;
    let mut client = fleet.stand.client(0);
    put(&mut client, "key", 1).await;
    eventually("the replica has it", async || {
        fleet.replicas[0].server.run::<Option<u64>>(&["GET", "key"]).await == Some(1)
    })
    .await;
    // It serves again at once, and has nothing.
    fleet.replicas[0].link.refuse(true).await;
    let readers = Readers::start(&client, 4, &plain("key"));
    fleet.replicas[0].server.kill();
    fleet.replicas[0].server.restart().await;
    assert_eq!(fleet.replicas[0].server.run::<Option<u64>>(&["GET", "key"]).await, None);
    fleet.reads_go(0, "primary", "unknown").await;
    fleet.replicas[0].link.refuse(false).await;
    fleet.reads_from(0, 0).await;
    assert!(!readers.stop().await.is_empty());
    drop(client);
    fleet.stop().await;
}

#[tokio::test]
async fn failover_leads_old_tokens_to_the_new_primary() {
    // The gateway finds its primary behind a name, as behind a proxy; two replicas follow it, one is read from.
    let name = Mutex::new(None);
    let mut fleet = Fleet::with(1, 2, |endpoint| {
        let redis_gateway::config::Server::Tcp { port, .. } = &endpoint.server else {
            panic!("a port");
        };
        let proxy = Proxy::new(([127, 0, 0, 1], *port).into());
        endpoint.server = at(proxy.addr()).server;
        *name.lock().unwrap() = Some(proxy);
    })
    .await;
    let name = name.lock().unwrap().take().expect("a proxy");
    let mut client = fleet.stand.client(0);
    let old = put(&mut client, "key", 1).await;
    eventually("both replicas have it", async || {
        let mut all = true;
        for replica in &fleet.replicas {
            all &= replica.server.run::<Option<u64>>(&["GET", "key"]).await == Some(1);
        }
        all
    })
    .await;

    fleet.stand.server.kill();
    let [next, follower] = &fleet.replicas[..] else {
        panic!("two replicas")
    };
    next.server.run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    follower.link.lead_to(next.server.addr());
    follower.link.cut(Cut::Reset).await;
    name.lead_to(next.server.addr());
    name.cut(Cut::Reset).await;
    eventually("the new primary takes writes", async || {
        let answer = client.set(setting("key", "2", true)).await.unwrap().into_inner();
        answer.stored
    })
    .await;
    for number in 3..200 {
        let token = put(&mut client, "key", number).await;
        assert_eq!(get(&mut client, after("key", &token)).await, Some(number));
    }
    let token = put(&mut client, "key", 200).await;
    for replica in ["replica-0", "replica-1"] {
        eventually(&format!("{replica} answers for the new primary's tokens"), async || {
            let before = fleet.reads(0, replica, "fresh_enough").await;
            assert_eq!(get(&mut fleet.stand.client(0), after("key", &token)).await, Some(200));
            fleet.reads(0, replica, "fresh_enough").await > before
        })
        .await;
    }
    // What the old primary had come to is known of nobody.
    let before = fleet.reads(0, "primary", "behind").await;
    assert_eq!(get(&mut client, after("key", &old)).await, Some(200));
    assert_eq!(fleet.reads(0, "primary", "behind").await, before + 1);
    drop(client);
    fleet.stand.server.restart().await;
    fleet.stop().await;
}
