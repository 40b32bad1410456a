//! The life of a claim: lease, commit, give back, extend; and orphans of others.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;
use tonic::{Code, Status};

use super::{DB, Flusher, LONG, counted, digest, fresh_key, leases_end, names, now, pulled, standing};
use crate::harness::{RedisServer, at, eventually, reason};

fn assert_no_claim<T: std::fmt::Debug>(result: Result<T, Status>) {
    let status = result.unwrap_err();
    let told = (status.code(), reason(&status));
    assert_eq!(told, (Code::NotFound, Some("CLAIM_NOT_FOUND".to_owned())));
}

#[tokio::test]
async fn abandoned_claim_comes_up_again_when_its_lease_ends_and_not_before() {
    let server = RedisServer::new().start().await;
    let flusher = Flusher::on(&server).await;
    pulled(&mut server.client_of(DB).await, 0..3, 2).await;

    let began = Instant::now();
    let first = flusher.claim(0, 1).await;
    assert_eq!((first.keys.len(), first.more), (3, false));
    assert!(first.keys.iter().all(|key| !key.orphan && key.pull_count == 2));
    assert_eq!(
        names(&first),
        standing(&server).await,
        "keys are claimed by their new names"
    );
    let second = flusher.claim_some().await;
    assert!(began.elapsed().as_millis() >= 1000, "taken after {:?}", began.elapsed());
    assert_eq!(names(&second), names(&first));
    assert!(second.keys.iter().all(|key| key.orphan && key.pull_count == 2));

    // The first claimer comes too late: it hears so, and takes nothing from the second.
    for _ in 0..2 {
        let extended = flusher.extend(&first.claim_id, LONG).await.unwrap();
        assert_eq!((extended.held, extended.lost.into_iter().collect()), (0, names(&first)));
    }
    for _ in 0..2 {
        let committed = flusher.commit(&first.claim_id).await.unwrap();
        assert_eq!(
            (committed.deleted, committed.lost.into_iter().collect()),
            (0, names(&first))
        );
    }
    assert_eq!(standing(&server).await, names(&first));
    let committed = flusher.commit(&second.claim_id).await.unwrap();
    assert_eq!((committed.deleted, committed.lost.len()), (3, 0));
    assert!(standing(&server).await.is_empty());

    for (metric, count) in [
        (r#"claims_total{event="claimed"}"#, 2),
        (r#"claims_total{event="committed"}"#, 3),
        (r#"claims_total{event="extended"}"#, 2),
        (r#"claimed_keys_total{kind="fresh"}"#, 3),
        (r#"claimed_keys_total{kind="orphan"}"#, 3),
        ("lost_keys_total", 12),
    ] {
        assert_eq!(counted(&flusher.gateway, metric).await, count, "{metric}");
    }
    flusher.stop().await;
}

#[tokio::test]
async fn commit_after_the_lease_deletes_what_nobody_took() {
    let server = RedisServer::new().start().await;
    let flusher = Flusher::on(&server).await;
    pulled(&mut server.client_of(DB).await, 0..3, 1).await;
    let claim = flusher.claim(2, 1).await;
    assert_eq!((claim.keys.len(), claim.more), (2, true));
    leases_end(&server, &claim).await;
    for _ in 0..2 {
        let committed = flusher.commit(&claim.claim_id).await.unwrap();
        assert_eq!(
            (committed.deleted, committed.lost.len()),
            (2, 0),
            "each time the same answer"
        );
    }
    assert_eq!(standing(&server).await.len(), 1);
    assert_no_claim(flusher.give_back(&claim.claim_id).await);
    assert_no_claim(flusher.extend(&claim.claim_id, LONG).await);
    flusher.stop().await;
}

#[tokio::test]
async fn key_gone_before_commit_is_told_as_lost() {
    let server = RedisServer::new().start().await;
    let flusher = Flusher::on(&server).await;
    pulled(&mut server.client_of(DB).await, 0..2, 1).await;
    let claim = flusher.claim(0, LONG).await;
    // As a flush worker without the gateway does with an orphan.
    server.run_on::<()>(DB, &["DEL", &claim.keys[0].name]).await;
    let extended = flusher.extend(&claim.claim_id, LONG).await.unwrap();
    assert_eq!((extended.held, &extended.lost), (1, &vec![claim.keys[0].name.clone()]));
    let committed = flusher.commit(&claim.claim_id).await.unwrap();
    assert_eq!(
        (committed.deleted, committed.lost),
        (1, vec![claim.keys[0].name.clone()])
    );
    flusher.stop().await;
}

#[tokio::test]
async fn keys_given_back_are_claimed_at_once() {
    let server = RedisServer::new().start().await;
    let flusher = Flusher::on(&server).await;
    pulled(&mut server.client_of(DB).await, 0..3, 1).await;
    let claim = flusher.claim(0, LONG).await;
    assert!(flusher.claim(0, LONG).await.claim_id.is_empty(), "they are held");
    for _ in 0..2 {
        assert_eq!(
            flusher.give_back(&claim.claim_id).await.unwrap(),
            3,
            "each time the same answer"
        );
    }
    assert_no_claim(flusher.commit(&claim.claim_id).await);
    assert_no_claim(flusher.extend(&claim.claim_id, LONG).await);
    let again = flusher.claim(0, LONG).await;
    assert_eq!(names(&again), names(&claim));
    assert!(again.keys.iter().all(|key| key.orphan));
    flusher.stop().await;
}

#[tokio::test]
async fn commit_of_keys_that_another_gave_back_deletes_them() {
    let server = RedisServer::new().start().await;
    let flusher = Flusher::on(&server).await;
    pulled(&mut server.client_of(DB).await, 0..3, 1).await;
    let written = flusher.claim(0, 1).await;
    leases_end(&server, &written).await;
    let other = flusher.claim(0, LONG).await;
    assert_eq!(flusher.give_back(&other.claim_id).await.unwrap(), 3);
    // They stand in the first one's database alone, and must not be counted by a third.
    assert_eq!(flusher.commit(&written.claim_id).await.unwrap().deleted, 3);
    assert!(standing(&server).await.is_empty());
    flusher.stop().await;
}

#[tokio::test]
async fn extended_claim_keeps_its_keys() {
    let server = RedisServer::new().start().await;
    let flusher = Flusher::on(&server).await;
    pulled(&mut server.client_of(DB).await, 0..3, 1).await;
    let claim = flusher.claim(0, 1).await;
    leases_end(&server, &claim).await;
    let extended = flusher.extend(&claim.claim_id, LONG).await.unwrap();
    assert_eq!((extended.held, extended.lost.len()), (3, 0));
    assert!(flusher.claim(0, LONG).await.claim_id.is_empty());

    // Also where Redis knows of no lease any more.
    let lease = format!("redis-gateway:v1:pull_metrics:lease:{}", claim.keys[0].name);
    server.run_on::<()>(DB, &["DEL", &lease]).await;
    assert_eq!(flusher.extend(&claim.claim_id, LONG).await.unwrap().held, 3);
    assert!(flusher.claim(0, LONG).await.claim_id.is_empty());
    assert_eq!(flusher.commit(&claim.claim_id).await.unwrap().deleted, 3);
    flusher.stop().await;
}

#[tokio::test]
async fn everything_of_the_gateway_has_a_ttl_and_commit_leaves_one_record() {
    let server = RedisServer::new().start().await;
    let flusher = Flusher::on(&server).await;
    assert!(flusher.claim(0, LONG).await.claim_id.is_empty());
    assert_eq!(server.run_on::<i64>(DB, &["DBSIZE"]).await, 0, "no claim, no key");
    pulled(&mut server.client_of(DB).await, 0..2, 1).await;
    let claim = flusher.claim(0, LONG).await;
    let own: BTreeSet<String> = server.run_on(DB, &["KEYS", "redis-gateway:*"]).await;
    let record = format!("redis-gateway:v1:pull_metrics:claim:{}", claim.claim_id);
    let lease = |name: &String| format!("redis-gateway:v1:pull_metrics:lease:{name}");
    let expected: BTreeSet<String> = names(&claim).iter().map(lease).chain([record.clone()]).collect();
    assert_eq!(own, expected);
    for name in &own {
        let ttl: i64 = server.run_on(DB, &["TTL", name]).await;
        // The lease, and 15 minutes for a lease's key, an hour for the record.
        let most = LONG + if name == &record { 3_600 } else { 900 };
        assert!((most - 10..=most).contains(&ttl), "{name}: {ttl}");
    }
    flusher.commit(&claim.claim_id).await.unwrap();
    let left: Vec<String> = server.run_on(DB, &["KEYS", "*"]).await;
    assert_eq!(left, std::slice::from_ref(&record));
    assert!((3_590..=3_600).contains(&server.run_on::<i64>(DB, &["TTL", &record]).await));
    flusher.stop().await;
}

#[tokio::test]
async fn orphans_of_others_are_taken_from_an_age_on() {
    let server = RedisServer::new().start().await;
    let flusher = Flusher::on(&server).await;
    let mut db = server.client_of(DB).await;
    pulled(&mut db, 0..2, 7).await;
    let now = now(&server).await;
    let minutes = |age: u64| now - age * 60_000;
    let young = format!("{}:processing:{}:deadbeef", fresh_key(0), minutes(14));
    let old = format!("{}:processing:{}:deadbeef", fresh_key(1), minutes(16));
    server.run_on::<()>(DB, &["RENAME", &fresh_key(0), &young]).await;
    server.run_on::<()>(DB, &["RENAME", &fresh_key(1), &old]).await;
    let claim = flusher.claim(0, LONG).await;
    let key = &claim.keys[0];
    assert_eq!((claim.keys.len(), &key.name, key.orphan), (1, &old, true));
    assert_eq!((key.digest.as_str(), key.pull_count), (digest(1).as_str(), 7));
    assert!(
        flusher.claim(0, LONG).await.claim_id.is_empty(),
        "nobody else gets the same orphan"
    );
    flusher.commit(&claim.claim_id).await.unwrap();
    assert_eq!(standing(&server).await, BTreeSet::from([young]));
    flusher.stop().await;
}

#[tokio::test]
async fn orphan_comes_of_age() {
    let server = RedisServer::new().start().await;
    let endpoint = at(server.addr());
    let flusher = Flusher::with(endpoint, |config| {
        config.pull_metrics.orphan_age = Duration::from_secs(1);
    })
    .await;
    pulled(&mut server.client_of(DB).await, 0..1, 1).await;
    let claimed_at = now(&server).await;
    let name = format!("{}:processing:{claimed_at}:0123abcd", fresh_key(0));
    server.run_on::<()>(DB, &["RENAME", &fresh_key(0), &name]).await;
    let claim = flusher.claim_some().await;
    assert!(now(&server).await >= claimed_at + 1_000);
    assert_eq!(names(&claim), BTreeSet::from([name]));
    flusher.stop().await;
}

#[tokio::test]
async fn pull_after_the_claim_is_counted_by_the_next() {
    let server = RedisServer::new().start().await;
    let flusher = Flusher::on(&server).await;
    let mut db = server.client_of(DB).await;
    pulled(&mut db, [0], 5).await;
    let first = flusher.claim(0, LONG).await;
    pulled(&mut db, [0], 2).await;
    assert_eq!(flusher.commit(&first.claim_id).await.unwrap().deleted, 1);
    assert_eq!(standing(&server).await, BTreeSet::from([fresh_key(0)]));
    let second = flusher.claim(0, LONG).await;
    assert_eq!((first.keys[0].pull_count, second.keys[0].pull_count), (5, 2));
    assert!(!second.keys[0].orphan && second.keys[0].name != first.keys[0].name);
    flusher.stop().await;
}

#[tokio::test]
async fn requests_are_checked() {
    let server = RedisServer::new().start().await;
    let flusher = Flusher::on(&server).await;
    let invalid = |status: Status| assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    for id in ["", "x", &"A".repeat(32), &"0".repeat(31)] {
        invalid(flusher.commit(id).await.unwrap_err());
        invalid(flusher.give_back(id).await.unwrap_err());
        invalid(flusher.extend(id, LONG).await.unwrap_err());
    }
    for (max_keys, lease) in [(-1, LONG), (2_001, LONG), (0, -1), (0, 3_601)] {
        invalid(flusher.try_claim(max_keys, lease).await.unwrap_err());
    }
    let unknown = "0123456789abcdef0123456789abcdef";
    assert_no_claim(flusher.commit(unknown).await);
    assert_no_claim(flusher.give_back(unknown).await);
    assert_no_claim(flusher.extend(unknown, LONG).await);
    eventually("it is counted", async || {
        counted(&flusher.gateway, r#"claims_total{event="not_found"}"#).await >= 3
    })
    .await;
    flusher.stop().await;
}
