//! A slot that moves to another server while its keys are in use.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use redis_gateway::{proto::CacheDeleteRequest, redis::slot};
use tokio::{task::JoinSet, time::sleep};

use super::*;
use crate::{
    cache::{ask, asking, filling, lease_in},
    harness::{RedisServer, patience, within},
};

/// Keys of one slot, which is the first primary's at the start.
const KEYS: usize = 40;

impl Fleet {
    fn tag(&self) -> String {
        self.cluster.key_on(0, "tag")
    }

    fn key(&self, n: usize) -> String {
        format!("{{{}}}{n}", self.tag())
    }

    /// Moves the slot from one server to another, as an operator's tool does, keys one by one; `halfway` is awaited when half of them
    /// have moved.
    async fn move_slot(&self, from: &RedisServer, to: &RedisServer, halfway: impl Future<Output = ()>) {
        let slot = slot(self.tag().as_bytes()).to_string();
        let (source, target) = (from.id().await, to.id().await);
        to.run::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]).await;
        from.run::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target])
            .await;
        let port = to.addr().port().to_string();
        let mut halfway = Some(halfway);
        for n in 0.. {
            let keys: Vec<String> = from.run(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]).await;
            let Some(key) = keys.first() else { break };
            from.run::<()>(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]).await;
            sleep(Duration::from_millis(2)).await;
            if n == KEYS / 2
                && let Some(halfway) = halfway.take()
            {
                halfway.await;
            }
        }
        for node in [to, from] {
            node.run::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]).await;
        }
    }
}

/// What workers do until they are told to stop.
struct Work {
    stop: AtomicBool,
    /// How often each has written.
    writes: [AtomicU64; KEYS],
}

impl Work {
    fn writes(&self) -> Vec<u64> {
        self.writes.iter().map(|writes| writes.load(Relaxed)).collect()
    }

    /// Waits until each has written a few times more.
    async fn go_on(&self) {
        let before = self.writes();
        eventually("all go on", async || {
            self.writes()
                .iter()
                .zip(&before)
                .all(|(now, before)| *now >= before + 3)
        })
        .await;
    }
}

/// Writes and reads its own key all the time: none is degraded, each read is of the latest write.
async fn work(mut client: Client, key: String, n: usize, work: Arc<Work>) {
    while !work.stop.load(Relaxed) {
        let n = work.writes[n].fetch_add(1, Relaxed);
        let answer = put(&mut client, &key, &n.to_string()).await;
        assert_eq!(
            (answer.stored, answer.degraded()),
            (true, DegradedReason::Unspecified),
            "{key}"
        );
        let read = CacheGetRequest {
            write_token: answer.write_token,
            ..fresh(&key)
        };
        for fresh in [true, false] {
            let got = get(&mut client, CacheGetRequest { fresh, ..read.clone() }).await;
            assert_eq!(got.degraded(), DegradedReason::Unspecified, "{key}");
            assert_eq!(got.value.as_deref(), Some(n.to_string().as_bytes()), "{key}");
        }
    }
}

#[tokio::test]
async fn slot_moves_while_its_keys_are_in_use() {
    for read_from_replicas in [false, true] {
        let cluster = RedisCluster::with(usize::from(read_from_replicas), Duration::from_secs(30)).await;
        let fleet = Fleet::with(cluster, 2, |endpoint| {
            endpoint.cluster.as_mut().unwrap().read_from_replicas = read_from_replicas;
        })
        .await;
        let shared = Arc::new(Work {
            stop: AtomicBool::new(false),
            writes: [const { AtomicU64::new(0) }; KEYS],
        });
        let mut workers = JoinSet::new();
        for n in 0..KEYS {
            workers.spawn(work(fleet.client(n % 2), fleet.key(n), n, shared.clone()));
        }
        // Their slot goes round. While it stands halfway, who has moved and who has not are both served.
        for round in 0..4 {
            let [from, to] = [round, round + 1].map(|n| &fleet.cluster.nodes[n % 3]);
            let moved = fleet.move_slot(from, to, shared.go_on());
            tokio::select! {
                () = moved => {}
                Some(ended) = workers.join_next() => panic!("{ended:?}"),
            }
        }
        shared.stop.store(true, Relaxed);
        while let Some(worker) = workers.join_next().await {
            worker.unwrap();
        }
        let writes: u64 = shared.writes().iter().sum();
        for gateway in 0..2 {
            let (moved, asked) = (
                fleet.redirects(gateway, "moved").await,
                fleet.redirects(gateway, "ask").await,
            );
            println!("gateway {gateway}: {writes} writes, {moved} MOVED, {asked} ASK");
            assert!(moved > 0 && asked > 0);
        }
        fleet.stop().await;
    }
}

#[tokio::test]
async fn leases_and_deletes_outlast_the_move_of_their_slot() {
    let mut fleet = Fleet::new(1).await;
    // To a server that nobody knows yet, and that has no slot so far.
    let node = RedisCluster::node(Duration::from_secs(30)).await;
    fleet.cluster.join(node).await;
    let mut client = fleet.client(0);
    for n in 0..KEYS {
        assert!(put(&mut client, &fleet.key(n), "1").await.stored);
    }
    let lost = fleet.key(KEYS);
    let (held, deleted, batch) = (fleet.key(KEYS + 1), fleet.key(0), fleet.key(1));
    let token = lease_in(ask(&mut client, asking(&held)).await.unwrap());
    let others: Vec<String> = (1..3).map(|n| fleet.cluster.key_on(n, "other")).collect();
    for other in &others {
        assert!(put(&mut client, other, "1").await.stored);
    }
    let mut tasks = JoinSet::new();
    let halfway = async {
        let tried = fleet.redirects(0, "try_again").await;
        let mut asker = fleet.client(0);
        tasks.spawn(async move {
            lease_in(ask(&mut asker, asking(&lost)).await.unwrap());
        });
        let mut filler = fleet.client(0);
        tasks.spawn(async move {
            let answer = filler
                .fill(within(patience(), filling(&held, &token, "1")))
                .await
                .unwrap();
            assert!(answer.into_inner().stored);
        });
        let mut remover = fleet.client(0);
        tasks.spawn(async move {
            let request = CacheDeleteRequest {
                key: deleted,
                want_token: false,
            };
            let answer = remover.delete(within(patience(), request)).await.unwrap().into_inner();
            assert_eq!((answer.deleted, answer.degraded), (true, 0));
        });
        let mut batch_remover = fleet.client(0);
        let keys: Vec<String> = others.iter().cloned().chain([batch]).collect();
        tasks.spawn(async move {
            let answer = batch_delete(&mut batch_remover, keys).await;
            assert_eq!((answer.deleted, answer.degraded), (3, 0));
        });
        eventually("they wait for the end of the move", async || {
            fleet.redirects(0, "try_again").await >= tried + 8
        })
        .await;
    };
    let (from, to) = (&fleet.cluster.nodes[0], &fleet.cluster.nodes[3]);
    fleet.move_slot(from, to, halfway).await;
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    println!(
        "{} times told to try again, {} MOVED, {} ASK",
        fleet.redirects(0, "try_again").await,
        fleet.redirects(0, "moved").await,
        fleet.redirects(0, "ask").await
    );
    assert!(fleet.redirects(0, "ask").await > 0);
    let there: Option<String> = to.run(&["GET", &fleet.key(KEYS + 1)]).await;
    assert_eq!(there.as_deref(), Some("1"), "what was loaded is where the slot is now");
    for n in 2..KEYS {
        let got = get(&mut client, fresh(&fleet.key(n))).await;
        assert_eq!((got.value.as_deref(), got.degraded), (Some(&b"1"[..]), 0));
    }
    drop(client);
    fleet.stop().await;
}
