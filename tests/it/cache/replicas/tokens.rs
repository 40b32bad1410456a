//! Reads of one's own writes, with the token that a write answers.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use redis_gateway::proto::{
    CacheBatchDeleteRequest, CacheBatchGetRequest, CacheBatchSetRequest, CacheDeleteRequest, CacheGetOrLeaseRequest,
    cache_get_or_lease_response::Outcome,
};
use tokio::{task::JoinSet, time::sleep};

use super::*;
use crate::{
    cache::{ask, asking, deletion, filling, lease_in, value_in},
    harness::{Mode, heavy, seeded, soak, within},
};

/// What a worker has seen.
#[derive(Default)]
struct Seen {
    reads: u64,
    /// Reads without a token that missed the write.
    stale: u64,
}

#[tokio::test]
async fn no_read_with_a_token_misses_the_write() {
    const WORKERS: u64 = 8;
    let _one = heavy().await;
    let mut rng = seeded();
    let fleet = Fleet::new(2, 2).await;
    let rounds = if soak() { 2_000 } else { 25 };
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let clients = [fleet.stand.client(0), fleet.stand.client(1)];
        workers.spawn(work(worker, rounds, clients, StdRng::seed_from_u64(rng.random())));
    }
    let mut seen = Seen::default();
    let mut links = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            worker = workers.join_next() => match worker {
                Some(worker) => {
                    let worker = worker.unwrap();
                    seen.reads += worker.reads;
                    seen.stale += worker.stale;
                }
                None => break,
            },
            _ = links.tick() => {
                let link = &fleet.replicas[rng.random_range(0..2)].link;
                let delay = Duration::from_millis(rng.random_range(1..150));
                link.set(if rng.random_bool(0.5) { Mode::Delay(delay) } else { Mode::Pass });
            }
        }
    }
    let (mut replicas, mut primary) = (0, 0);
    for gateway in 0..2 {
        replicas += fleet.reads(gateway, "replica-0", "fresh_enough").await;
        replicas += fleet.reads(gateway, "replica-1", "fresh_enough").await;
        primary += fleet.reads(gateway, "primary", "behind").await;
    }
    println!(
        "{} reads with a token, none stale; {} stale without; {replicas} by replicas, {primary} by the primary",
        seen.reads, seen.stale
    );
    // Without a token writes were missed, and with one replicas were read from too.
    assert!(seen.stale > 0 && primary > 0);
    assert!(replicas > seen.reads / 20);
    fleet.stop().await;
}

/// Writes, and reads what was written, each on any gateway.
async fn work(worker: u64, rounds: u64, mut clients: [Client; 2], mut rng: StdRng) -> Seen {
    let mut seen = Seen::default();
    let key = format!("key{worker}");
    for round in 1..=rounds {
        let (on, other) = (rng.random_range(0..2), rng.random_range(0..2));
        let (token, left) = match rng.random_range(0..4) {
            0 => (remove(&mut clients[on], &key, rng.random()).await, None),
            1 => {
                remove(&mut clients[on], &key, false).await;
                (load(&mut clients[on], &key, round).await, Some(round))
            }
            2 => (put_in_a_batch(&mut clients[on], &key, round).await, Some(round)),
            _ => (put(&mut clients[on], &key, round).await, Some(round)),
        };
        for _ in 0..6 {
            let without = get(&mut clients[other], plain(&key)).await;
            seen.stale += u64::from(without != left);
            let value = if rng.random_bool(0.3) {
                let request = CacheBatchGetRequest {
                    keys: vec!["none".into(), key.clone()],
                    write_token: token.clone(),
                    ..CacheBatchGetRequest::default()
                };
                let answer = clients[other].batch_get(request).await.unwrap().into_inner();
                answer.values[1]
                    .value
                    .as_deref()
                    .map(|value| std::str::from_utf8(value).unwrap().parse().unwrap())
            } else {
                get(&mut clients[other], after(&key, &token)).await
            };
            assert_eq!(value, left, "{key}, round {round}, token {token}");
            seen.reads += 1;
            sleep(Duration::from_millis(rng.random_range(0..120))).await;
        }
    }
    seen
}

async fn remove(client: &mut Client, key: &str, batch: bool) -> String {
    let (degraded, token) = if batch {
        let request = CacheBatchDeleteRequest {
            keys: vec![key.into(), "none".into()],
            want_token: true,
        };
        let answer = client.batch_delete(request).await.unwrap().into_inner();
        (answer.degraded, answer.write_token)
    } else {
        let request = CacheDeleteRequest {
            want_token: true,
            ..deletion(key)
        };
        let answer = client.delete(request).await.unwrap().into_inner();
        (answer.degraded, answer.write_token)
    };
    assert_eq!(degraded, 0);
    token
}

/// Loads a number under a lease.
async fn load(client: &mut Client, key: &str, number: u64) -> String {
    // On the primary: a replica may still have what was removed.
    let request = CacheGetOrLeaseRequest {
        fresh: true,
        ..asking(key)
    };
    let lease = lease_in(ask(client, request).await.unwrap());
    let mut request = filling(key, &lease, &number.to_string());
    request.want_token = true;
    let answer = client.fill(request).await.unwrap().into_inner();
    assert!(answer.stored, "{answer:?}");
    answer.write_token
}

async fn put_in_a_batch(client: &mut Client, key: &str, number: u64) -> String {
    let mut item = setting(key, &number.to_string(), true);
    let other = setting("other", "1", true);
    item.want_token = true;
    let request = CacheBatchSetRequest {
        items: vec![item, other],
    };
    let results = client.batch_set(request).await.unwrap().into_inner().results;
    assert!(results.iter().all(|result| result.stored));
    assert_eq!(results[1].write_token, "");
    results[0].write_token.clone()
}

#[tokio::test]
async fn token_of_a_delete_keeps_a_lagging_replica_from_answering_a_question_for_a_lease() {
    let fleet = Fleet::new(1, 1).await;
    let mut client = fleet.stand.client(0);
    let token = put(&mut client, "key", 1).await;
    eventually("the replica is known to have it", async || {
        let before = fleet.reads(0, "replica-0", "fresh_enough").await;
        assert_eq!(get(&mut fleet.stand.client(0), after("key", &token)).await, Some(1));
        fleet.reads(0, "replica-0", "fresh_enough").await > before
    })
    .await;
    fleet.replicas[0].link.set(Mode::Stall);
    let token = remove(&mut client, "key", false).await;
    // Without the token the replica answers with what was deleted.
    assert_eq!(value_in(ask(&mut client, asking("key")).await.unwrap()), b"1");
    let request = CacheGetOrLeaseRequest {
        write_token: token,
        ..asking("key")
    };
    let answer = ask(&mut client, request).await.unwrap();
    assert!(matches!(answer.outcome, Some(Outcome::Lease(_))), "{answer:?}");
    fleet.replicas[0].link.set(Mode::Pass);
    drop(client);
    fleet.stop().await;
}

#[tokio::test]
async fn token_is_there_only_where_it_is_wanted_and_leads_to_the_primary_where_nobody_knows() {
    // Nobody may ask how far the servers are.
    let denied = |server: RedisServer| server.user("gateway", "on nopass ~* &* +@all -info");
    let server = denied(RedisServer::new()).start().await;
    let replica = denied(RedisServer::new().replica_of(&server)).start().await;
    let stand = Stand::with(server, 1, |config| {
        let endpoint = config.endpoints.cache.as_mut().expect("a cache");
        endpoint.username = Some("gateway".into());
        endpoint.password = Some(redis_gateway::config::Password::Inline("any".into()));
        endpoint.replicas = vec![at(replica.addr()).server];
    })
    .await;
    let fleet = Fleet {
        stand,
        replicas: Vec::new(),
    };
    let mut client = fleet.stand.client(0);
    let answer = client.set(setting("key", "1", true)).await.unwrap().into_inner();
    assert_eq!((answer.stored, answer.write_token.as_str()), (true, ""));
    let token = put(&mut client, "key", 2).await;
    assert!(is_nowhere(&token), "{token}");
    assert_eq!(get(&mut client, after("key", &token)).await, Some(2));
    // The replica is connected, and left alone.
    fleet.reads_go(0, "primary", "unknown").await;
    assert_eq!(replica.calls("get").await, 0);
    // Nothing was executed, or nobody knows: the next read should not be older.
    fleet.stand.server.pause();
    let mut request = setting("key", "3", true);
    request.want_token = true;
    let request = within(Duration::from_millis(100), request);
    let answer = client.set(request).await.unwrap().into_inner();
    assert_ne!(answer.degraded, 0);
    assert!(is_nowhere(&answer.write_token), "{answer:?}");
    fleet.stand.server.resume();
    drop(client);
    fleet.stop().await;
}
