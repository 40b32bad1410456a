//! Batches over all shards, and what is left of them while a shard is silent.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::*;
use crate::harness::{MachineLag, heavy, within};

#[tokio::test]
async fn batches_over_a_thousand_slots_are_put_together_in_order() {
    let fleet = Fleet::new(1).await;
    let mut client = fleet.client(0);
    let keys: Vec<String> = (0..1_000).map(|n| format!("key{n}")).collect();
    let items = keys.iter().map(|key| CacheSetRequest {
        want_token: true,
        ..setting(key, &format!("value of {key}"), false)
    });
    let items: Vec<_> = items.collect();
    let mut asked = Vec::new();
    for node in &fleet.cluster.nodes {
        asked.push(node.calls("info").await);
    }
    let results = batch_set(&mut client, items.clone()).await;
    assert!(results.iter().all(|result| result.stored && result.degraded == 0));
    for (node, before) in fleet.cluster.nodes.iter().zip(asked) {
        // One for each primary, whatever the number of items, and one is this test's own.
        assert_eq!(node.calls("info").await, before + 2);
    }
    // Each brings the token of its own primary.
    let mut tokens: Vec<&str> = results.iter().map(|result| &result.write_token[..40]).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 3);
    assert!(batch_set(&mut client, items).await.iter().all(|result| !result.stored));

    // Some are missing, one is of another type.
    fleet.cluster.nodes[fleet.cluster.primary_of("key7")]
        .run::<()>(&["DEL", "key7"])
        .await;
    fleet.cluster.nodes[fleet.cluster.primary_of("key7")]
        .run::<()>(&["RPUSH", "key7", "x"])
        .await;
    fleet.cluster.nodes[fleet.cluster.primary_of("key500")]
        .run::<()>(&["DEL", "key500"])
        .await;
    let answer = batch_get(&mut client, keys.clone()).await;
    assert_eq!(answer.degraded, 0);
    for (key, value) in keys.iter().zip(texts(&answer)) {
        let there = key != "key7" && key != "key500";
        assert_eq!(value, there.then(|| format!("value of {key}")), "{key}");
    }
    // The same key twice.
    let twice = batch_get(&mut client, vec!["key1".into(), "key2".into(), "key1".into()]).await;
    assert_eq!(texts(&twice)[0], texts(&twice)[2]);

    let answer = batch_delete(&mut client, keys.clone()).await;
    assert_eq!((answer.deleted, answer.degraded), (999, 0));
    assert!(
        super::super::replicas::is_nowhere(&answer.write_token),
        "of three primaries: {}",
        answer.write_token
    );
    let answer = batch_delete(&mut client, vec!["key1".into()]).await;
    assert!(!super::super::replicas::is_nowhere(&answer.write_token));
    assert!(texts(&batch_get(&mut client, keys).await).iter().all(Option::is_none));
    drop(client);
    fleet.stop().await;
}

#[tokio::test]
async fn silent_shard_costs_nobody_who_does_not_need_it() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let fleet = Fleet::new(1).await;
    let mut client = fleet.client(0);
    let keys: Vec<String> = (0..3).map(|n| fleet.cluster.key_on(n, "key")).collect();
    for key in &keys {
        put(&mut client, key, "1").await;
    }
    fleet.cluster.nodes[0].pause();

    // Who needs it is told what there is, by the deadline.
    let limit = Duration::from_millis(400);
    let request = CacheBatchGetRequest {
        keys: keys.clone(),
        ..CacheBatchGetRequest::default()
    };
    let asked = Instant::now();
    let answer = client.batch_get(within(limit, request)).await.unwrap().into_inner();
    lag.assert_within("a batch", asked.elapsed(), limit);
    assert_eq!(answer.degraded(), DegradedReason::RedisTimeout);
    assert_eq!(texts(&answer), [None, Some("1".into()), Some("1".into())]);

    let mut worst = Duration::ZERO;
    let until = Instant::now() + Duration::from_millis(1_500);
    while Instant::now() < until {
        for key in &keys[1..] {
            let asked = Instant::now();
            assert_eq!(get(&mut client, fresh(key)).await.value.as_deref(), Some(&b"1"[..]));
            assert!(put(&mut client, key, "1").await.stored);
            worst = worst.max(asked.elapsed());
        }
        sleep(Duration::from_millis(1)).await;
    }
    println!("worst get and set beside a silent shard: {worst:?}");
    lag.assert_within("a get and a set", worst, Duration::from_millis(60));

    // By now it is known to be dead: a part is answered at once.
    eventually("the silent shard is refused at once", async || {
        get(&mut client, fresh(&keys[0])).await.degraded() == DegradedReason::RedisUnavailable
    })
    .await;
    let items = keys.iter().map(|key| setting(key, "2", true)).collect();
    let asked = Instant::now();
    let results = batch_set(&mut client, items).await;
    lag.assert_within("a batch of sets", asked.elapsed(), Duration::from_millis(60));
    assert_eq!(results[0].degraded(), DegradedReason::RedisUnavailable);
    assert!(results[1].stored && results[2].stored, "{results:?}");
    let answer = batch_delete(&mut client, keys.clone()).await;
    assert_eq!(
        (answer.deleted, answer.degraded()),
        (2, DegradedReason::RedisUnavailable)
    );

    let resumed = Instant::now();
    fleet.cluster.nodes[0].resume();
    eventually("the shard serves again", async || {
        get(&mut client, fresh(&keys[0])).await.value.as_deref() == Some(b"1")
    })
    .await;
    println!("a shard that goes on is back within {:?}", resumed.elapsed());
    drop(client);
    fleet.stop().await;
}
