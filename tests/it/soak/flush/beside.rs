//! A flush beside a worker without the gateway, which takes claimed keys at any age.

use serde_json::Value;

use super::super::pulls::Tally;
use super::{FEW, LONG, LOST, Stand, claimer, pulls};
use crate::harness::{Peer, eventually, heavy, seeded};

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
