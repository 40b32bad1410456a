//! The gateway itself is killed, or drains, and comes back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{task::JoinSet, time::sleep};

use super::{
    appends::{append, compare_and_append},
    pulls::{Keys, Tally, count},
    standing,
};
use crate::harness::{Counts, GatewayProcess, RedisServer, heavy, seeded, soak};

/// Appenders of each kind.
const APPENDERS: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_gateway_loses_no_acknowledged_append() {
    let _one = heavy().await;
    let mut random = seeded();
    let server = RedisServer::new().start().await;
    let mut gateway = GatewayProcess::start(server.addr()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (mut plain, mut compared) = (JoinSet::new(), JoinSet::new());
    for n in 0..APPENDERS {
        let random = &mut random;
        let own = StdRng::from_rng(random);
        plain.spawn(append(gateway.build_logs(), format!("plain-{n}"), stop.clone(), own));
        let own = StdRng::from_rng(random);
        compared.spawn(compare_and_append(
            gateway.build_logs(),
            format!("compared-{n}"),
            stop.clone(),
            own,
        ));
    }
    let ends = if soak() { 100 } else { 10 };
    for n in 0..ends {
        sleep(Duration::from_millis(random.random_range(50..300))).await;
        if n % 2 == 0 {
            gateway.kill();
        } else {
            assert!(gateway.terminate().await.success());
        }
        gateway.restart().await;
    }
    stop.store(true, Relaxed);

    let (mut counts, mut entries) = (Counts::default(), 0);
    for (build_id, ledger) in plain.join_all().await {
        counts += ledger.check(&build_id, &standing(&server, &build_id).await);
    }
    for (build_id, length, _) in compared.join_all().await {
        assert_eq!(
            standing(&server, &build_id).await,
            (0..length).collect::<Vec<_>>(),
            "{build_id}"
        );
        entries += length;
    }
    println!(
        "{ends} ends of the gateway: {entries} entries compared and appended once and in order; appended: {counts:?}"
    );
    assert!(entries >= 100 * ends && counts.done >= 100 * ends, "too little traffic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_gateway_loses_no_acknowledged_pull() {
    let _one = heavy().await;
    let mut random = seeded();
    let server = RedisServer::new().start().await;
    let mut gateway = GatewayProcess::start(server.addr()).await;
    let keys = Keys {
        repositories: 2,
        tags: 2,
    };
    let (ends, wanted) = if soak() { (100, 100_000) } else { (10, 10_000) };
    let mut callers = JoinSet::new();
    for n in 0..APPENDERS {
        let own = StdRng::from_rng(&mut random);
        callers.spawn(count(gateway.pull_metrics(), n, keys, wanted, own));
    }
    let mut done = 0;
    while !callers.is_empty() && done < ends {
        sleep(Duration::from_millis(random.random_range(50..300))).await;
        if done % 2 == 0 {
            gateway.kill();
        } else {
            assert!(gateway.terminate().await.success());
        }
        gateway.restart().await;
        done += 1;
    }
    let mut tally = Tally::default();
    for told in callers.join_all().await {
        tally += told;
    }

    let mut standing = 0;
    for key in server.run_on::<Vec<String>>(1, &["KEYS", "pull_events:*"]).await {
        standing += server.run_on::<u64>(1, &["HGET", &key, "pull_count"]).await;
    }
    println!("{done} ends of the gateway: {tally:?}, {standing} stand");
    assert!((tally.acknowledged..=tally.sent()).contains(&standing));
    assert!(done >= 5 && tally.unknown > 0, "too few ends");
}
