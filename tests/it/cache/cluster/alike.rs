//! A Cluster and a single server: the same calls, the same answers, the same values in Redis.

use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use redis_gateway::proto::{CacheSetRequest, cache_get_or_lease_response::Outcome};

use super::*;
use crate::{
    cache::{Stand, ask, asking, deletion, filling, give_up, waiting},
    harness::{seeded, soak},
};

/// Keys of all forms that braces can have, each in a slot of its own, and many beside them.
fn keys() -> Vec<String> {
    let odd = [
        "{a}b",
        "{}",
        "{}a",
        "a}",
        "{a",
        "a{}{b}",
        "a}b{c",
        "}{",
        "{{a}}",
        "{a}b}",
        "repo_blob__n_r_sha256:ab_1",
    ];
    let plain = (0..30).map(|n| format!("security_report__{n}"));
    odd.map(Into::into).into_iter().chain(plain).collect()
}

/// One gateway on a single server, one on a Cluster, and the leases that both have given.
struct Pair {
    single: Client,
    cluster: Client,
    held: Vec<(String, String, String)>,
}

impl Pair {
    async fn step(&mut self, rng: &mut StdRng, keys: &[String]) -> &'static str {
        let key = keys.choose(rng).unwrap().clone();
        let some = || keys.choose_multiple(&mut rand::rng(), 12).cloned().collect::<Vec<_>>();
        let value = rng.random::<u16>().to_string();
        match rng.random_range(0..9) {
            0 => {
                let request = setting(&key, &value, rng.random());
                let one = self.single.set(request.clone()).await.unwrap().into_inner();
                assert_eq!(self.cluster.set(request).await.unwrap().into_inner(), one, "{key}");
                "set"
            }
            1 => {
                let items: Vec<CacheSetRequest> = some().iter().map(|key| setting(key, &value, false)).collect();
                let one = batch_set(&mut self.single, items.clone()).await;
                assert_eq!(batch_set(&mut self.cluster, items).await, one);
                "batch set"
            }
            2 => {
                let one = get(&mut self.single, fresh(&key)).await;
                assert_eq!(get(&mut self.cluster, fresh(&key)).await, one, "{key}");
                "get"
            }
            3 => {
                let keys = some();
                let one = batch_get(&mut self.single, keys.clone()).await;
                assert_eq!(batch_get(&mut self.cluster, keys).await, one);
                "batch get"
            }
            4 => {
                let one = self.single.delete(deletion(&key)).await.unwrap().into_inner();
                assert_eq!(
                    self.cluster.delete(deletion(&key)).await.unwrap().into_inner(),
                    one,
                    "{key}"
                );
                "delete"
            }
            5 => {
                let keys = some();
                let one = batch_delete(&mut self.single, keys.clone()).await;
                let other = batch_delete(&mut self.cluster, keys).await;
                assert_eq!((other.deleted, other.degraded), (one.deleted, 0));
                "batch delete"
            }
            6 => {
                let one = ask(&mut self.single, asking(&key)).await.unwrap();
                let other = ask(&mut self.cluster, asking(&key)).await.unwrap();
                match (one.outcome, other.outcome) {
                    (Some(Outcome::Value(one)), Some(Outcome::Value(other))) => assert_eq!(other, one, "{key}"),
                    (Some(Outcome::Lease(one)), Some(Outcome::Lease(other))) => {
                        self.held.push((key, one.token, other.token));
                    }
                    (Some(Outcome::Busy(_)), Some(Outcome::Busy(_))) => {}
                    (one, other) => panic!("{key}: {one:?} and {other:?}"),
                }
                "get or lease"
            }
            what => {
                // One that was given lately, whether or not it is over.
                let lately = &self.held[self.held.len().saturating_sub(4)..];
                let Some((key, one, other)) = lately.choose(rng).cloned() else {
                    return "nothing held";
                };
                if what == 7 {
                    let one = self
                        .single
                        .fill(filling(&key, &one, &value))
                        .await
                        .unwrap()
                        .into_inner();
                    let other = self
                        .cluster
                        .fill(filling(&key, &other, &value))
                        .await
                        .unwrap()
                        .into_inner();
                    assert_eq!(other, one, "{key}");
                    return if one.stored { "filled" } else { "refused" };
                }
                let one = give_up(&mut self.single, &key, &one).await;
                assert_eq!(give_up(&mut self.cluster, &key, &other).await, one, "{key}");
                if one { "given up" } else { "not given up" }
            }
        }
    }
}

#[tokio::test]
async fn all_calls_answer_and_store_as_on_a_single_server() {
    let mut rng = seeded();
    let (stand, fleet) = (Stand::new(1).await, Fleet::new(1).await);
    let keys = keys();
    let mut pair = Pair {
        single: stand.client(0),
        cluster: fleet.client(0),
        held: Vec::new(),
    };
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..if soak() { 30_000 } else { 2_000 } {
        *seen.entry(pair.step(&mut rng, &keys).await).or_insert(0) += 1;
    }
    println!("{seen:?}");
    for step in ["batch delete", "filled", "refused", "given up", "not given up"] {
        assert!(seen.contains_key(step), "no {step}");
    }
    for key in &keys {
        let one: Option<Vec<u8>> = stand.server.run(&["GET", key]).await;
        assert_eq!(fleet.cluster.value(key).await, one, "{key}");
    }
    let mut used = 0;
    for node in &fleet.cluster.nodes {
        used += u64::from(node.calls("evalsha").await > 100);
    }
    assert_eq!(used, 3, "all primaries are asked");
    // Redis was never asked for what another server has.
    for kind in ["moved", "ask", "try_again"] {
        assert_eq!(fleet.redirects(0, kind).await, 0, "{kind}");
    }
    drop(pair);
    stand.stop().await;
    fleet.stop().await;
}

#[tokio::test]
async fn one_of_two_gateways_gets_each_lease_and_wakes_who_waits_at_the_other() {
    const ROUNDS: usize = 60;
    let fleet = Fleet::new(2).await;
    let mut woken = Vec::new();
    for round in 0..ROUNDS {
        let key = format!("key{round}");
        let [mut a, mut b] = [0, 1].map(|n| fleet.client(n));
        let (one, other) = tokio::join!(ask(&mut a, asking(&key)), ask(&mut b, asking(&key)));
        let leases = [&one, &other].map(|answer| match &answer.as_ref().unwrap().outcome {
            Some(Outcome::Lease(lease)) => Some(lease.token.clone()),
            Some(Outcome::Busy(_)) => None,
            other => panic!("{other:?}"),
        });
        let (holder, token) = match leases {
            [Some(token), None] => (0, token),
            [None, Some(token)] => (1, token),
            other => panic!("{key}: {other:?}"),
        };
        let mut waiter = fleet.client(1 - holder);
        let wanted = key.clone();
        let wait = tokio::spawn(async move {
            let answer = ask(&mut waiter, waiting(&wanted, 20_000)).await.unwrap();
            (answer, tokio::time::Instant::now())
        });
        eventually("it waits", async || {
            fleet.metric(1 - holder, "redis_gateway_cache_waiting").await == 1
        })
        .await;
        let answer = fleet
            .client(holder)
            .fill(filling(&key, &token, "1"))
            .await
            .unwrap()
            .into_inner();
        assert!(answer.stored);
        let filled = tokio::time::Instant::now();
        let (answer, at) = wait.await.unwrap();
        assert_eq!(crate::cache::value_in(answer), b"1");
        woken.push(at.saturating_duration_since(filled));
    }
    woken.sort();
    println!(
        "woken after {:?} (median), {:?} (worst)",
        woken[ROUNDS / 2],
        woken[ROUNDS - 1]
    );
    // By looking alone it would be a fifth of a second: a node tells of what was published on any other.
    assert!(woken[ROUNDS / 2] < std::time::Duration::from_millis(100), "{woken:?}");
    fleet.stop().await;
}
