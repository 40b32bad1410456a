//! What others change is seen, and a read that a change overtook is not kept.

use std::time::Duration;

use tokio::time::Instant;

use super::{behind_proxy, get, keep, metric, reads, stand};
use crate::harness::{MachineLag, Mode, eventually, heavy, soak};

#[tokio::test]
async fn changes_by_direct_clients_are_seen_within_50_ms() {
    let _one = heavy().await;
    let stand = stand(2).await;
    let mut direct = stand.server.client().await;
    let rounds = if soak() { 10_000 } else { 150 };
    let lag = MachineLag::watch();
    let mut took = Vec::new();
    for round in 0..rounds {
        let mut client = stand.client(round % 2);
        redis::cmd("SET")
            .arg(&["near:a", "old"])
            .exec_async(&mut direct)
            .await
            .unwrap();
        eventually("the old value is kept", async || {
            let hits = reads(&stand, round % 2, "hit").await;
            get(&mut client, "near:a").await.as_deref() == Some("old") && reads(&stand, round % 2, "hit").await > hits
        })
        .await;
        let (change, new): (&[&str], _) = match round % 3 {
            0 => (&["DEL", "near:a"], None),
            1 => (&["PEXPIRE", "near:a", "0"], None),
            _ => (&["SET", "near:a", "new"], Some("new")),
        };
        redis::cmd(change[0])
            .arg(&change[1..])
            .exec_async(&mut direct)
            .await
            .unwrap();
        let changed = Instant::now();
        while get(&mut client, "near:a").await.as_deref() != new {
            assert!(changed.elapsed() < crate::harness::patience(), "never seen");
        }
        took.push(changed.elapsed());
    }
    took.sort();
    let p99 = took[took.len() * 99 / 100];
    println!(
        "{rounds} changes, seen after: median {:?}, p99 {p99:?}, at most {:?}",
        took[rounds / 2],
        took[rounds - 1]
    );
    lag.assert_within("99 of 100 changes", p99, Duration::from_millis(50));
    drop(direct);
    stand.stop().await;
}

#[tokio::test]
async fn everything_flushed_is_seen() {
    let stand = stand(1).await;
    let mut client = stand.client(0);
    for command in ["FLUSHALL", "FLUSHDB"] {
        stand.server.run::<()>(&["MSET", "near:a", "1", "near:b", "2"]).await;
        for key in ["near:a", "near:b"] {
            keep(&stand, 0, key).await;
        }
        stand.server.run::<()>(&[command]).await;
        for key in ["near:a", "near:b"] {
            eventually(command, async || get(&mut client, key).await.is_none()).await;
        }
    }
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn read_that_a_change_overtook_is_not_kept() {
    let (stand, proxy) = behind_proxy(|config| {
        let endpoint = config.endpoints.cache.as_mut().unwrap();
        // Slow replies are no dead connection here.
        endpoint.probe_timeout = Duration::from_secs(20);
        endpoint.command_timeout = Duration::from_secs(20);
    })
    .await;
    let mut overtaken = 0;
    for round in 0..40 {
        let key = format!("near:{round}");
        stand.server.run::<()>(&["SET", &key, "old"]).await;
        let changes = metric(&stand, 0, "invalidations_total").await;
        let asked = stand.server.calls("get").await;
        proxy.split(1, Mode::Delay(Duration::from_millis(300)), Mode::Pass);
        let read = tokio::spawn({
            let (mut client, key) = (stand.client(0), key.clone());
            async move { get(&mut client, &key).await }
        });
        eventually("Redis was asked", async || stand.server.calls("get").await > asked).await;
        stand.server.run::<()>(&["DEL", &key]).await;
        eventually("the gateway was told", async || {
            metric(&stand, 0, "invalidations_total").await > changes
        })
        .await;
        let told_first = !read.is_finished();
        assert_eq!(read.await.unwrap().as_deref(), Some("old"), "it was asked before");
        proxy.split(1, Mode::Pass, Mode::Pass);
        assert_eq!(get(&mut stand.client(0), &key).await, None);
        overtaken += u32::from(told_first);
        if overtaken == 3 {
            break;
        }
    }
    assert!(overtaken == 3, "replies were never held back long enough");
    drop(proxy);
    stand.stop().await;
}
