//! What this release writes has the forms of the release before.

use std::collections::{BTreeMap, BTreeSet};

use redis_gateway::proto::{
    AcquireRequest, CacheDeleteRequest, CacheFillRequest, CacheGetOrLeaseRequest, ClaimPullsRequest,
    CommitClaimRequest, TrackTagPullRequest, cache_client::CacheClient, cache_get_or_lease_response::Outcome,
    locks_client::LocksClient, orchestrator_client::OrchestratorClient, pull_metrics_client::PullMetricsClient,
};
use tonic::transport::Channel;

use super::{HOLDER, Key, fixtures, gateway, kept, watch};
use crate::harness::{Gateway, RedisServer, eventually, patience, within};

/// All that tells forms apart: numbers and ids are any. Where a hash has a field for each of many keys, each is one.
fn shapes(key: &Key) -> Vec<String> {
    let word = |word: &str| {
        let any = word.starts_with("<now") || (!word.is_empty() && word.bytes().all(|digit| digit.is_ascii_hexdigit()));
        if any { "#".to_owned() } else { word.to_owned() }
    };
    let words = |text: &str| {
        let parts = text
            .split(' ')
            .map(|part| part.split(':').map(word).collect::<Vec<_>>().join(":"));
        parts.collect::<Vec<_>>().join(" ")
    };
    let life = if key.ttl_ms.is_some() { "ends" } else { "stays" };
    let fields = key.fields.iter();
    let fields: Vec<_> = fields
        .map(|(name, value)| format!("{}={:?}", words(name), words(value)))
        .collect();
    let many = key.name.starts_with("redis-gateway:v1:orchestrator:");
    let fields = if many { fields } else { vec![fields.join(" ")] };
    let shape = |fields: String| format!("{} {} {life} {fields}", key.kind, words(&key.name));
    fields.into_iter().map(shape).collect()
}

/// The gateway's own keys, as they stand.
async fn stand(server: &RedisServer) -> Vec<Key> {
    let (_, names): (String, Vec<String>) = server
        .run(&["SCAN", "0", "MATCH", "redis-gateway:*", "COUNT", "1000"])
        .await;
    let mut found = Vec::new();
    for name in names {
        let kind: String = server.run(&["TYPE", &name]).await;
        let ttl_ms: i64 = server.run(&["PTTL", &name]).await;
        let fields = match kind.as_str() {
            "hash" => server.run(&["HGETALL", &name]).await,
            "string" => BTreeMap::from([(String::new(), server.run(&["GET", &name]).await)]),
            other => panic!("{name} is a {other}"),
        };
        found.push(Key {
            kind,
            ttl_ms: (ttl_ms >= 0).then_some(ttl_ms),
            name,
            fields,
        });
    }
    found
}

#[tokio::test]
async fn forms_change_with_their_version_alone() {
    let server = RedisServer::new().start().await;
    let gateway = gateway(&server).await;
    let mut seen = Vec::new();
    lock(&gateway).await;
    lease(&gateway, &server, &mut seen).await;
    let watching = expire(&gateway, &server).await;
    claim(&gateway).await;
    seen.extend(stand(&server).await);
    for form in kept() {
        assert!(
            seen.iter().any(|key| (form.is)(key.name.as_bytes())),
            "{} is not written",
            form.name
        );
    }
    let known: BTreeSet<String> = fixtures().iter().flat_map(shapes).collect();
    for form in seen.iter().flat_map(shapes) {
        assert!(
            known.contains(&form),
            "{form}\nis no form that the release before reads. Write it under the next version, redis-gateway:v2:…, and read \
             both; known are\n{known:#?}"
        );
    }
    drop(watching);
    gateway.stop().await;
}

async fn lock(gateway: &Gateway) {
    let mut locks = LocksClient::new(gateway.channel().await);
    let request = AcquireRequest {
        name: "held".into(),
        ttl_ms: 60_000,
        holder_id: HOLDER.into(),
        ..AcquireRequest::default()
    };
    eventually("the lock is held", async || {
        let answer = locks.acquire(request.clone()).await;
        answer.is_ok_and(|answer| answer.into_inner().acquired)
    })
    .await;
}

/// A lease that was just given, one that is waited for, a voided one, and one to refresh a value.
async fn lease(gateway: &Gateway, server: &RedisServer, seen: &mut Vec<Key>) {
    let mut cache = CacheClient::new(gateway.channel().await);
    eventually("the cache is connected", async || {
        leased(&mut cache, "fresh", false).await.is_some()
    })
    .await;
    leased(&mut cache, "wanted", false).await.expect("a lease");
    let mut other = cache.clone();
    let waits = tokio::spawn(async move {
        let request = CacheGetOrLeaseRequest {
            wait_ms: 60_000,
            ..asking("wanted", false)
        };
        drop(other.get_or_lease(within(patience(), request)).await);
    });
    eventually("somebody waits", async || {
        server
            .run::<bool>(&["HEXISTS", "redis-gateway:v1:cache:lease:{wanted}", "wanted"])
            .await
    })
    .await;
    leased(&mut cache, "voided", false).await.expect("a lease");
    cache
        .delete(CacheDeleteRequest {
            key: "voided".into(),
            ..CacheDeleteRequest::default()
        })
        .await
        .unwrap();

    let token = leased(&mut cache, "timed", true).await.expect("a lease");
    let request = CacheFillRequest {
        key: "timed".into(),
        token,
        value: "v".into(),
        ttl_seconds: 60,
        ..CacheFillRequest::default()
    };
    assert!(cache.fill(request).await.unwrap().into_inner().stored);
    seen.extend(stand(server).await);
    // As if the load had taken so long that it is time for the next.
    let load = "redis-gateway:v1:cache:load_ms:{timed}";
    let () = server.run(&["SET", load, "30000000", "KEEPTTL"]).await;
    let refresh = cache
        .get_or_lease(asking("timed", true))
        .await
        .unwrap()
        .into_inner()
        .refresh;
    assert!(refresh.is_some());
    waits.abort();
}

fn asking(key: &str, early_refresh: bool) -> CacheGetOrLeaseRequest {
    CacheGetOrLeaseRequest {
        key: key.into(),
        lease_ms: 60_000,
        early_refresh,
        ..CacheGetOrLeaseRequest::default()
    }
}

/// The token of a lease to load.
async fn leased(cache: &mut CacheClient<Channel>, key: &str, early_refresh: bool) -> Option<String> {
    match cache
        .get_or_lease(asking(key, early_refresh))
        .await
        .unwrap()
        .into_inner()
        .outcome
    {
        Some(Outcome::Lease(lease)) => Some(lease.token),
        _ => None,
    }
}

/// Two keys whose expiration is over: one with a value, one without. What watches them gives them back when it is dropped.
async fn expire(gateway: &Gateway, server: &RedisServer) -> impl Sized {
    let mut keys = OrchestratorClient::new(gateway.channel().await);
    let watching = watch(&mut keys).await;
    for (key, value) in [("building/own", "1"), ("building/empty", "")] {
        let () = server.run(&["SET", key, value, "PX", "86000000"]).await;
    }
    eventually("both are claimed", async || {
        server
            .run::<i64>(&["HLEN", "redis-gateway:v1:orchestrator:claims"])
            .await
            == 2
    })
    .await;
    // It is its mark that is of interest.
    let () = server
        .run(&["HDEL", "redis-gateway:v1:orchestrator:claims", "building/empty"])
        .await;
    let () = server
        .run(&["HDEL", "redis-gateway:v1:orchestrator:values", "building/empty"])
        .await;
    watching
}

/// A claim that is committed, and one that is not.
async fn claim(gateway: &Gateway) {
    let mut pulls = PullMetricsClient::new(gateway.channel().await);
    for (tag, commit) in [("two", true), ("one", false)] {
        let pull = TrackTagPullRequest {
            repository_id: 7,
            tag: tag.into(),
            digest: "sha256:a1a1".into(),
            ..TrackTagPullRequest::default()
        };
        eventually("the pull is counted", async || {
            pulls.track_tag_pull(pull.clone()).await.is_ok()
        })
        .await;
        let claimed = pulls
            .claim_pulls(ClaimPullsRequest::default())
            .await
            .unwrap()
            .into_inner();
        if commit {
            pulls
                .commit_claim(CommitClaimRequest {
                    claim_id: claimed.claim_id,
                })
                .await
                .unwrap();
        }
    }
}
