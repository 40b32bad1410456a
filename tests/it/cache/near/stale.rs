//! What is past its end: for those alone who allow it, marked with its age, and never if it was deleted.

use std::time::Duration;

use redis_gateway::proto::{
    CacheBatchGetRequest, CacheGetOrLeaseRequest, DegradedReason, cache_get_or_lease_response::Outcome,
};

use super::super::{ask, asking, busy_in, delete, give_up, lease_in, set, waiting};
use super::{answer, behind_proxy, get, keep, plain, reads, stale, stand, stand_with, tracks, tracks_no_more};
use crate::harness::{Mode, RedisServer, eventually};

const LONG: Duration = Duration::from_hours(1);

#[tokio::test]
async fn old_value_is_answered_with_its_age_to_who_allows_it_while_redis_is_away() {
    let mut stand = stand(1).await;
    let mut client = stand.client(0);
    for key in ["near:a", "near:deleted", "near:gone"] {
        stand.server.run::<()>(&["SET", key, "1"]).await;
        keep(&stand, 0, key).await;
    }
    // While Redis answers, what it says is all that counts.
    stand.server.run::<()>(&["DEL", "near:gone"]).await;
    eventually("it is gone", async || get(&mut client, "near:gone").await.is_none()).await;
    assert_eq!(answer(&mut client, stale("near:gone", LONG)).await.value, None);
    assert!(delete(&mut client, "near:deleted").await);

    stand.server.kill();
    tracks_no_more(&stand, 0).await;
    let read = answer(&mut client, plain("near:a")).await;
    assert_eq!((read.value, read.stale_age_ms), (None, 0));
    assert_ne!(read.degraded, 0);
    let mut ages = Vec::new();
    eventually("it grows old", async || {
        let read = answer(&mut client, stale("near:a", LONG)).await;
        assert_eq!(read.value.as_deref(), Some(b"1".as_slice()));
        assert_ne!(read.degraded(), DegradedReason::Unspecified);
        ages.push(read.stale_age_ms);
        ages[0] + 300 < *ages.last().unwrap()
    })
    .await;
    assert!(ages[0] > 0 && ages.is_sorted(), "{ages:?}");
    let read = answer(&mut client, stale("near:a", Duration::from_millis(200))).await;
    assert_eq!((read.value, read.stale_age_ms), (None, 0), "older than allowed");
    for key in ["near:gone", "near:deleted"] {
        assert_eq!(answer(&mut client, stale(key, LONG)).await.value, None, "{key}");
    }
    let request = CacheBatchGetRequest {
        keys: ["near:gone", "near:a"].map(Into::into).to_vec(),
        allow_stale_ms: LONG.as_millis().try_into().unwrap(),
        ..CacheBatchGetRequest::default()
    };
    let batch = client.batch_get(request).await.unwrap().into_inner();
    assert_ne!(batch.degraded, 0);
    assert_eq!((&batch.values[0].value, batch.values[0].stale_age_ms), (&None, 0));
    assert_eq!(batch.values[1].value.as_deref(), Some(b"1".as_slice()));
    assert!(batch.values[1].stale_age_ms > 300);
    let leased = ask(&mut client, allowing(asking("near:a"))).await.unwrap();
    assert!(leased.stale_age_ms > 0 && leased.degraded != 0);
    assert_eq!(leased.outcome, Some(Outcome::Value("1".into())));

    stand.server.restart().await;
    tracks(&stand, 0).await;
    // It came back with nothing, and that is true.
    assert_eq!(get(&mut client, "near:a").await, None);
    assert_eq!(answer(&mut client, stale("near:a", LONG)).await.value, None);
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn value_past_its_ttl_spares_a_wait_while_another_loads() {
    let stand = stand(2).await;
    let mut client = stand.client(0);
    stand.server.run::<()>(&["SET", "near:a", "1", "PX", "1500"]).await;
    keep(&stand, 0, "near:a").await;
    eventually("its TTL is over", async || get(&mut client, "near:a").await.is_none()).await;
    // Nobody loads yet: the first one does, however much it allows.
    let lease = lease_in(ask(&mut client, allowing(asking("near:a"))).await.unwrap());
    for _ in 0..2 {
        let read = ask(&mut client, allowing(waiting("near:a", 20_000))).await.unwrap();
        assert_eq!(read.outcome, Some(Outcome::Value("1".into())));
        assert!(read.stale_age_ms > 0 && read.degraded == 0, "{read:?}");
    }
    // Those alone are counted, and nothing had to make room.
    assert_eq!(reads(&stand, 0, "stale").await, 2);
    assert_eq!(super::metric(&stand, 0, "evictions_total").await, 0);
    busy_in(ask(&mut client, asking("near:a")).await.unwrap());
    // Allowed past its end for a millisecond at most, which is over.
    let mut barely = asking("near:a");
    barely.allow_stale_ms = 1;
    busy_in(ask(&mut client, barely).await.unwrap());
    // A delete here ends all that.
    delete(&mut client, "near:a").await;
    assert!(!give_up(&mut client, "near:a", &lease).await);
    lease_in(ask(&mut client, asking("near:a")).await.unwrap());
    busy_in(ask(&mut client, allowing(asking("near:a"))).await.unwrap());
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn value_that_was_set_anew_after_its_end_takes_the_old_ones_place() {
    let mut stand = stand(2).await;
    let [mut a, mut b] = [0, 1].map(|gateway| stand.client(gateway));
    stand.server.run::<()>(&["SET", "near:a", "old", "PX", "700"]).await;
    keep(&stand, 0, "near:a").await;
    eventually("its TTL is over", async || get(&mut a, "near:a").await.is_none()).await;
    let changes = super::metric(&stand, 0, "invalidations_total").await;
    assert!(set(&mut b, "near:a", "new", true).await);
    assert!(delete(&mut b, "near:a").await);
    eventually("both are told", async || {
        super::metric(&stand, 0, "invalidations_total").await >= changes + 2
    })
    .await;
    stand.server.kill();
    tracks_no_more(&stand, 0).await;
    assert_eq!(answer(&mut a, stale("near:a", LONG)).await.value, None);
    drop((a, b));
    stand.server.restart().await;
    stand.stop().await;
}

#[tokio::test]
async fn nothing_is_answered_that_is_older_than_is_kept() {
    let server = RedisServer::new().start().await;
    let mut stand = stand_with(server, 1, |config| config.cache.near_max_stale = Duration::ZERO).await;
    let mut client = stand.client(0);
    stand.server.run::<()>(&["SET", "near:a", "1"]).await;
    keep(&stand, 0, "near:a").await;
    stand.server.kill();
    tracks_no_more(&stand, 0).await;
    assert_eq!(answer(&mut client, stale("near:a", LONG)).await.value, None);
    drop(client);
    stand.server.restart().await;
    stand.stop().await;
}

#[tokio::test]
async fn value_that_redis_tells_is_something_else_now_is_not_answered_however_late_the_news() {
    let (stand, proxy) = behind_proxy(|config| {
        // What tracking has to tell is held back all the time, which makes no dead connection of it.
        config.endpoints.cache.as_mut().unwrap().probe_timeout = Duration::from_mins(1);
    })
    .await;
    let mut client = stand.client(0);
    stand.server.run::<()>(&["SET", "near:a", "1"]).await;
    keep(&stand, 0, "near:a").await;
    proxy.split(1, Mode::Pass, Mode::BlackHole);
    stand.server.run::<()>(&["DEL", "near:a"]).await;
    stand.server.run::<()>(&["HSET", "near:a", "field", "1"]).await;
    let mut request = stale("near:a", LONG);
    request.max_staleness_ms = 1;
    eventually("redis is asked", async || {
        let read = answer(&mut client, request.clone()).await;
        let told = read.degraded() == DegradedReason::WrongType;
        assert_eq!(read.value.is_none(), told, "{read:?}");
        told
    })
    .await;
    let read = answer(&mut client, stale("near:a", LONG)).await;
    assert_eq!((read.value, read.stale_age_ms), (None, 0), "it is kept no more");
    drop((client, proxy));
    stand.stop().await;
}

fn allowing(request: CacheGetOrLeaseRequest) -> CacheGetOrLeaseRequest {
    CacheGetOrLeaseRequest {
        allow_stale_ms: LONG.as_millis().try_into().unwrap(),
        ..request
    }
}
