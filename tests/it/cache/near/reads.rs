//! What is answered from memory, and what is not.

use std::time::Duration;

use redis_gateway::proto::{CacheBatchDeleteRequest, CacheBatchGetRequest, CacheBatchSetRequest, CacheGetRequest};
use tokio::time::{Instant, sleep};

use super::super::refresh::{early, load_key, refreshing, standing};
use super::super::{Client, Stand, ask, asking, delete, filled, fresh, setting, value_in};
use super::{behind_proxy, get, keep, plain, reads, stand, stand_with};
use crate::harness::{Mode, RedisServer, eventually};

#[tokio::test]
async fn second_read_costs_redis_nothing() {
    let stand = stand(1).await;
    let mut client = stand.client(0);
    stand.server.run::<()>(&["SET", "near:a", "1"]).await;
    stand.server.run::<()>(&["SET", "far:a", "1"]).await;
    keep(&stand, 0, "near:a").await;
    let asked = stand.server.calls("get").await;
    let ttls = stand.server.calls("pttl").await;
    let [hits, misses] = [reads(&stand, 0, "hit").await, reads(&stand, 0, "miss").await];
    for _ in 0..10 {
        assert_eq!(get(&mut client, "near:a").await.unwrap(), "1");
        assert_eq!(value_in(ask(&mut client, asking("near:a")).await.unwrap()), b"1");
    }
    assert_eq!(stand.server.calls("get").await, asked);
    assert_eq!(reads(&stand, 0, "hit").await, hits + 20);
    // Others are none of its business.
    for _ in 0..10 {
        assert_eq!(get(&mut client, "far:a").await.unwrap(), "1");
    }
    assert_eq!(stand.server.calls("get").await, asked + 10);
    assert_eq!(stand.server.calls("pttl").await, ttls);
    assert_eq!(reads(&stand, 0, "hit").await, hits + 20);
    assert_eq!(reads(&stand, 0, "miss").await, misses);
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn misses_are_not_kept() {
    let stand = stand(1).await;
    let mut client = stand.client(0);
    for _ in 0..3 {
        assert_eq!(get(&mut client, "near:none").await, None);
    }
    assert_eq!(reads(&stand, 0, "miss").await, 3);
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn fresh_reads_and_those_with_a_token_go_past_memory() {
    let stand = stand(1).await;
    let mut client = stand.client(0);
    let mut request = setting("near:a", "1", true);
    request.want_token = true;
    let token = client.set(request).await.unwrap().into_inner().write_token;
    keep(&stand, 0, "near:a").await;
    let (asked, hits) = (stand.server.calls("get").await, reads(&stand, 0, "hit").await);
    let with_token = CacheGetRequest {
        write_token: token,
        ..plain("near:a")
    };
    for request in [fresh("near:a"), with_token] {
        let answer = client.get(request).await.unwrap().into_inner();
        assert_eq!(answer.value.as_deref(), Some(b"1".as_slice()));
    }
    assert_eq!(stand.server.calls("get").await, asked + 2);
    assert_eq!(reads(&stand, 0, "hit").await, hits);
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn who_accepts_less_than_is_known_asks_redis() {
    let server = RedisServer::new().start().await;
    // All that is known is at least so old, but for what has just been read.
    let interval = Duration::from_millis(600);
    let stand = stand_with(server, 1, |config| {
        config.endpoints.cache.as_mut().unwrap().probe_interval = interval;
    })
    .await;
    let mut client = stand.client(0);
    stand.server.run::<()>(&["SET", "near:a", "1"]).await;
    keep(&stand, 0, "near:a").await;
    let within = |bound: Duration| CacheGetRequest {
        max_staleness_ms: bound.as_millis().try_into().unwrap(),
        ..plain("near:a")
    };
    let mut seen = [false; 2];
    eventually("both are seen: known well enough, and not", async || {
        let asked = stand.server.calls("get").await;
        client.get(within(interval / 3)).await.unwrap();
        seen[usize::from(stand.server.calls("get").await > asked)] = true;
        seen == [true; 2]
    })
    .await;
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn ttl_is_honoured_even_where_redis_does_not_tell_of_its_end() {
    let server = RedisServer::new().setting("enable-debug-command yes").start().await;
    let stand = stand_with(server, 1, |_| {}).await;
    let mut client = stand.client(0);
    stand.server.run::<()>(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).await;
    let mut direct = stand.server.client().await;
    for (round, command) in ["SET", "PEXPIRE"].into_iter().cycle().take(6).enumerate() {
        let key = format!("near:{round}");
        let set: [&[&str]; 2] = [&["SET", &key, "1", "PX", "400"], &["PEXPIRE", &key, "400"]];
        if command == "PEXPIRE" {
            stand.server.run::<()>(&["SET", &key, "1"]).await;
            keep(&stand, 0, &key).await;
        }
        let last = set[usize::from(command == "PEXPIRE")];
        redis::cmd(last[0])
            .arg(&last[1..])
            .exec_async(&mut direct)
            .await
            .unwrap();
        // Redis counts in whole milliseconds.
        let over = Instant::now() + Duration::from_millis(402);
        let before = reads(&stand, 0, "hit").await;
        loop {
            let asked = Instant::now();
            match get(&mut client, &key).await {
                Some(_) => assert!(asked < over, "read after its end: {:?}", asked - over),
                None => break,
            }
            sleep(Duration::from_millis(1)).await;
        }
        assert!(reads(&stand, 0, "hit").await > before, "it was never kept");
    }
    drop((client, direct));
    stand.stop().await;
}

#[tokio::test]
async fn batch_that_is_larger_than_what_may_be_in_flight_is_answered() {
    let server = RedisServer::new().start().await;
    let stand = stand_with(server, 1, |config| {
        config.endpoints.cache.as_mut().unwrap().max_in_flight = 8;
    })
    .await;
    let mut client = stand.client(0);
    let keys: Vec<String> = (0..200).map(|n| format!("near:{n}")).collect();
    for key in &keys {
        stand.server.run::<()>(&["SET", key, key]).await;
    }
    let commands = r#"redis_gateway_redis_commands_total{endpoint="cache",outcome="ok",server="primary"}"#;
    let before = stand.metric(0, commands).await;
    let request = CacheBatchGetRequest {
        keys: keys.clone(),
        ..CacheBatchGetRequest::default()
    };
    let batch = client.batch_get(request).await.unwrap().into_inner();
    assert_eq!(batch.degraded, 0);
    for (key, read) in keys.iter().zip(batch.values) {
        assert_eq!(read.value.as_deref(), Some(key.as_bytes()));
    }
    // Each of them counts: a PTTL for each key, an MGET for each 64.
    assert!(stand.metric(0, commands).await >= before + 204);
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn batch_asks_only_for_what_is_not_in_memory() {
    let stand = stand(1).await;
    let mut client = stand.client(0);
    for (key, value) in [("near:a", "1"), ("near:b", "2"), ("far:c", "3")] {
        stand.server.run::<()>(&["SET", key, value]).await;
    }
    keep(&stand, 0, "near:a").await;
    let request = CacheBatchGetRequest {
        keys: ["near:b", "far:c", "near:none", "near:a", "near:b"]
            .map(Into::into)
            .to_vec(),
        ..CacheBatchGetRequest::default()
    };
    let expected = [Some("2"), Some("3"), None, Some("1"), Some("2")].map(|value| value.map(Into::into));
    let mut asked = Vec::new();
    for _ in 0..2 {
        let (gets, ttls) = (stand.server.calls("mget").await, stand.server.calls("pttl").await);
        let answer = client.batch_get(request.clone()).await.unwrap().into_inner();
        let values: Vec<Option<bytes::Bytes>> = answer.values.into_iter().map(|read| read.value).collect();
        assert_eq!(values, expected);
        asked.push((
            stand.server.calls("mget").await - gets,
            stand.server.calls("pttl").await - ttls,
        ));
    }
    // The miss is asked for again, what was read has a place in memory.
    assert_eq!(asked, [(1, 3), (1, 1)]);
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn ones_own_writes_are_seen_at_once_however_late_redis_tells_of_them() {
    let (stand, proxy) = behind_proxy(|config| {
        let endpoint = config.endpoints.cache.as_mut().unwrap();
        // What tracking has to tell is held back all the time, which makes no dead connection of it.
        endpoint.probe_timeout = Duration::from_mins(1);
        endpoint.max_staleness = Duration::from_hours(1);
    })
    .await;
    let mut client = stand.client(0);
    proxy.split(1, Mode::Pass, Mode::Stall);
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let mut client = stand.client(0);
            tokio::spawn(async move {
                loop {
                    get(&mut client, "near:a").await;
                }
            })
        })
        .collect();
    for round in 0..300 {
        let value = round.to_string();
        let item = setting("near:a", &value, true);
        let keys = vec![item.key.clone()];
        if round % 2 == 0 {
            assert!(client.set(item).await.unwrap().into_inner().stored);
        } else {
            let request = CacheBatchSetRequest { items: vec![item] };
            assert!(client.batch_set(request).await.unwrap().into_inner().results[0].stored);
        }
        assert_eq!(get(&mut client, "near:a").await, Some(value));
        if round % 2 == 0 {
            assert!(delete(&mut client, "near:a").await);
        } else {
            let request = CacheBatchDeleteRequest {
                keys,
                want_token: false,
            };
            assert_eq!(client.batch_delete(request).await.unwrap().into_inner().deleted, 1);
        }
        assert_eq!(get(&mut client, "near:a").await, None);
    }
    for reader in readers {
        reader.abort();
        // None of them has panicked.
        assert!(reader.await.unwrap_err().is_cancelled());
    }
    assert!(reads(&stand, 0, "hit").await > 100, "nothing was kept");
    drop((client, proxy));
    stand.stop().await;
}

#[tokio::test]
async fn value_in_memory_is_refreshed_early_and_a_hit_asks_redis_for_the_lease_alone() {
    let stand = stand(2).await;
    let mut client = stand.client(0);
    // One that takes no time to load is never drawn.
    stand.server.run::<()>(&["SET", &load_key("near:a"), "0"]).await;
    stand.server.run::<()>(&["SET", "near:a", "1", "EX", "60"]).await;
    keep(&stand, 0, "near:a").await;
    // It was brought there without its load time: that is asked for, unless news of the SET comes late, once.
    timed(&stand, &mut client, "near:a").await;
    let asked = stand.server.calls("get").await;
    for _ in 0..10 {
        let answer = ask(&mut client, early("near:a")).await.unwrap();
        assert_eq!(answer.refresh, None);
        assert_eq!(value_in(answer), b"1");
    }
    assert_eq!(stand.server.calls("get").await, asked);

    standing(&stand, "near:b", "old").await;
    let token = refreshing(&mut client, "near:b").await;
    timed(&stand, &mut client, "near:b").await;
    let (asked, scripts) = (stand.server.calls("get").await, stand.server.calls("evalsha").await);
    for _ in 0..10 {
        let answer = ask(&mut client, early("near:b")).await.unwrap();
        assert_eq!(answer.refresh, None);
        assert_eq!(value_in(answer), b"old");
    }
    assert_eq!(stand.server.calls("get").await, asked);
    assert_eq!(stand.server.calls("evalsha").await, scripts + 10);
    keep(&stand, 1, "near:b").await;
    filled(&mut client, "near:b", &token, "new").await;
    assert_eq!(get(&mut client, "near:b").await.unwrap(), "new");
    eventually("the other gateway hears of it", async || {
        get(&mut stand.client(1), "near:b").await.unwrap() == "new"
    })
    .await;
    drop(client);
    stand.stop().await;
}

/// Asks until the value and its load time are in memory.
async fn timed(stand: &Stand, client: &mut Client, key: &str) {
    eventually("the load time is kept too", async || {
        let asked = stand.server.calls("get").await;
        ask(client, early(key)).await.unwrap();
        stand.server.calls("get").await == asked
    })
    .await;
}
