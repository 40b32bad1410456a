//! Claims among many keys, and among keys that are none of theirs.

use std::{collections::BTreeSet, time::Duration};

use redis::aio::MultiplexedConnection;
use redis_gateway::proto::ClaimPullsRequest;

use super::{DB, Flusher, LONG, digest, fresh_key, names, pulled, standing};
use crate::harness::{Mode, Proxy, RedisServer, at, heavy, within};

/// Fills the database with keys of others.
async fn others(db: &mut MultiplexedConnection, count: usize) {
    for first in (0..count).step_by(10_000) {
        let mut mset = redis::cmd("MSET");
        for n in first..(first + 10_000).min(count) {
            mset.arg(format!("other:{n}")).arg(n);
        }
        mset.query_async::<()>(db).await.unwrap();
    }
}

/// A number of a command in `INFO commandstats`, such as `calls`; 0 if it never ran.
async fn stat(server: &RedisServer, command: &str, field: &str) -> f64 {
    let stats: String = server.run(&["INFO", "commandstats"]).await;
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:")));
    let value = line.and_then(|line| line.split(',').find_map(|part| part.strip_prefix(&format!("{field}="))));
    value.map_or(0.0, |value| value.parse().unwrap())
}

/// The microseconds of the longest script in the slow log; 0 if none is there.
async fn slowest_script(server: &RedisServer) -> u64 {
    type Entry = (u64, u64, u64, Vec<String>, String, String);
    let slow: Vec<Entry> = server.run(&["SLOWLOG", "GET", "-1"]).await;
    let scripts = slow.iter().filter(|entry| entry.3[0].eq_ignore_ascii_case("EVALSHA"));
    scripts.map(|entry| entry.2).max().unwrap_or(0)
}

#[tokio::test]
async fn claims_go_in_small_steps_past_many_other_keys() {
    let _one = heavy().await;
    let server = RedisServer::new().start().await;
    let flusher = Flusher::on(&server).await;
    let mut db = server.client_of(DB).await;
    others(&mut db, 100_000).await;
    pulled(&mut db, 0..4_000, 1).await;
    server.run::<()>(&["CONFIG", "RESETSTAT"]).await;
    server
        .run::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", "1000"])
        .await;
    server.run::<()>(&["SLOWLOG", "RESET"]).await;
    let mut claimed = BTreeSet::new();
    loop {
        let claim = flusher.claim(2_000, LONG).await;
        for name in names(&claim) {
            assert!(claimed.insert(name), "claimed twice");
        }
        if !claim.claim_id.is_empty() {
            let committed = flusher.commit(&claim.claim_id).await.unwrap();
            assert_eq!(
                (committed.deleted, committed.lost.len()),
                (i64::try_from(claim.keys.len()).unwrap(), 0)
            );
        }
        if !claim.more {
            break;
        }
    }
    assert_eq!(claimed.len(), 4_000);
    let (scans, scan) = (
        stat(&server, "scan", "calls").await,
        stat(&server, "scan", "usec_per_call").await,
    );
    let longest = slowest_script(&server).await;
    println!("{scans} scans of {scan} us; the longest script took {longest} us");
    assert!((200.0..=1_000.0).contains(&scans), "{scans} scans");
    assert!(stat(&server, "keys", "calls").await < 1.0, "KEYS was sent");
    flusher.stop().await;
}

#[tokio::test]
async fn claim_ends_in_time_and_the_next_goes_on() {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let flusher = Flusher::with(at(proxy.addr()), |_| {}).await;
    let mut db = server.client_of(DB).await;
    others(&mut db, 10_000).await;
    pulled(&mut db, 0..20, 1).await;
    proxy.set(Mode::Delay(Duration::from_millis(15)));
    let (mut claims, mut claimed) = (0, BTreeSet::new());
    loop {
        let request = ClaimPullsRequest {
            max_keys: 0,
            lease_seconds: LONG,
        };
        let request = within(Duration::from_millis(600), request);
        let claim = flusher.pulls.clone().claim_pulls(request).await.unwrap().into_inner();
        claims += 1;
        for name in names(&claim) {
            assert!(claimed.insert(name), "claimed twice");
        }
        // What is not seen through in one claim, twenty scans of 30 ms at least, is in the next.
        if claimed.len() == 20 {
            break;
        }
        assert!(claims < 50, "{} keys after {claims} claims", claimed.len());
    }
    assert!(claims > 1, "one claim had time for all");
    proxy.set(Mode::Pass);
    flusher.stop().await;
}

#[tokio::test]
async fn every_key_has_its_turn_though_others_come_in() {
    let server = RedisServer::new().start().await;
    let flusher = Flusher::on(&server).await;
    let mut db = server.client_of(DB).await;
    // More of them than a claim takes, in every part of the keyspace.
    let (popular, rare) = (0..400, 400..1_600);
    pulled(&mut db, rare.clone(), 1).await;
    let mut left: BTreeSet<String> = rare.map(digest).collect();
    let mut claims = 0;
    while !left.is_empty() {
        pulled(&mut db, popular.clone(), 1).await;
        let claim = flusher.claim(200, LONG).await;
        assert!(claim.keys.len() <= 200);
        for key in &claim.keys {
            left.remove(&key.digest);
        }
        flusher.commit(&claim.claim_id).await.unwrap();
        claims += 1;
        assert!(claims < 300, "{} keys had no turn in {claims} claims", left.len());
    }
    flusher.stop().await;
}

#[tokio::test]
async fn keys_that_are_no_hash_are_left_alone() {
    let server = RedisServer::new().start().await;
    let flusher = Flusher::on(&server).await;
    let orphan = format!("{}:processing:1600000000000:deadbeef", fresh_key(1));
    server.run_on::<()>(DB, &["SET", &fresh_key(0), "text"]).await;
    server.run_on::<()>(DB, &["RPUSH", &orphan, "item"]).await;
    server
        .run_on::<()>(DB, &["HSET", "pull_event", "pull_count", "1"])
        .await;
    pulled(&mut server.client_of(DB).await, [2], 1).await;
    let claim = flusher.claim(0, LONG).await;
    assert_eq!((claim.keys.len(), claim.dropped.len(), claim.more), (1, 0, false));
    assert_eq!(flusher.commit(&claim.claim_id).await.unwrap().deleted, 1);
    assert_eq!(standing(&server).await, BTreeSet::from([fresh_key(0), orphan]));
    flusher.stop().await;
}
