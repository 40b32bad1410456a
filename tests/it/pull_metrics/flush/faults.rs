//! Answers that are lost, late or unwanted, at each step of a claim.

use std::{collections::BTreeSet, time::Duration};

use redis_gateway::proto::ClaimPullsRequest;
use tonic::Code;

use super::{DB, Flusher, LONG, fresh_key, lease_end, leases, names, now, pulled, standing};
use crate::harness::{Cut, Mode, Proxy, RedisServer, at, eventually, reason, within};

/// Each way through the proxy takes so long: time to see a step in Redis and do something before its answer.
const WAY: Duration = Duration::from_millis(100);

/// A gateway that reaches Redis through a proxy.
struct Stand {
    server: RedisServer,
    proxy: Proxy,
    flusher: Flusher,
}

impl Stand {
    /// With so many keys of pulls, and probes that are patient enough for the proxy.
    async fn with(keys: usize) -> Self {
        let server = RedisServer::new().start().await;
        let proxy = Proxy::new(server.addr());
        let mut endpoint = at(proxy.addr());
        endpoint.probe_timeout = Duration::from_millis(600);
        endpoint.command_timeout = Duration::from_secs(3);
        let flusher = Flusher::with(endpoint, |_| {}).await;
        let mut db = server.client_of(DB).await;
        // So that Redis knows the scripts: the first answer to one that it does not know is not that of a step.
        pulled(&mut db, [0], 1).await;
        let claim = flusher.claim(0, LONG).await;
        flusher.give_back(&claim.claim_id).await.unwrap();
        server.run_on::<()>(DB, &["FLUSHDB"]).await;
        pulled(&mut db, 0..keys, 1).await;
        Stand { server, proxy, flusher }
    }

    /// Ready once Redis has carried out a step of a claim.
    async fn step_is_done(&self) {
        eventually("a step is done", async || leases(&self.server).await > 0).await;
    }

    /// Ready when the proxy has a page of names for the gateway, which it keeps for a while.
    async fn page_is_coming(&self) {
        let before = self.proxy.replies();
        eventually("a page is coming", async || self.proxy.replies() > before + 5_000).await;
    }

    async fn stop(self) {
        self.proxy.set(Mode::Pass);
        self.flusher.stop().await;
    }
}

fn claim() -> ClaimPullsRequest {
    ClaimPullsRequest {
        max_keys: 0,
        lease_seconds: LONG,
    }
}

#[tokio::test]
async fn step_whose_answer_is_lost_costs_nothing() {
    let stand = Stand::with(100).await;
    stand.proxy.set(Mode::Delay(WAY));
    let mut pulls = stand.flusher.pulls.clone();
    let (claim, ()) = tokio::join!(pulls.claim_pulls(within(Duration::from_secs(10), claim())), async {
        stand.page_is_coming().await;
        // What passed the proxy before goes on its way.
        stand.proxy.set_open(Mode::SwallowReplies);
        stand.step_is_done().await;
        stand.proxy.cut(Cut::Reset).await;
    });
    let claim = claim.unwrap().into_inner();
    assert_eq!((claim.keys.len(), claim.more), (100, true));
    assert!(claim.keys.iter().all(|key| !key.orphan));
    assert_eq!(stand.flusher.commit(&claim.claim_id).await.unwrap().deleted, 100);
    assert!(standing(&stand.server).await.is_empty());
    stand.stop().await;
}

#[tokio::test]
async fn step_that_comes_late_adds_nothing_to_a_claim_that_was_handed_out() {
    let stand = Stand::with(1_200).await;
    stand.proxy.set(Mode::Delay(WAY));
    let mut pulls = stand.flusher.pulls.clone();
    let (claim, ()) = tokio::join!(pulls.claim_pulls(within(Duration::from_secs(10), claim())), async {
        stand.step_is_done().await;
        stand.page_is_coming().await;
        // The next step stays on its way; what comes over a new connection passes.
        stand.proxy.set_open(Mode::Stall);
    });
    let claim = claim.unwrap().into_inner();
    assert!(
        (300..900).contains(&claim.keys.len()) && claim.more,
        "{} keys",
        claim.keys.len()
    );
    let scripts = scripts_run(&stand.server).await;
    stand.proxy.set(Mode::Pass);
    eventually("the step comes", async || scripts_run(&stand.server).await > scripts).await;
    assert_eq!(leases(&stand.server).await, claim.keys.len(), "it took nothing");
    let committed = stand.flusher.commit(&claim.claim_id).await.unwrap();
    assert_eq!(committed.deleted, i64::try_from(claim.keys.len()).unwrap());
    let rest = stand.flusher.claim(2_000, LONG).await;
    assert_eq!(rest.keys.len(), 1_200 - claim.keys.len());
    assert!(rest.keys.iter().all(|key| !key.orphan));
    stand.stop().await;
}

/// How often Redis has run scripts.
async fn scripts_run(server: &RedisServer) -> u64 {
    let stats: String = server.run(&["INFO", "commandstats"]).await;
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn claim_whose_rows_are_lost_is_given_back_at_once() {
    let stand = Stand::with(100).await;
    stand.proxy.set(Mode::Delay(WAY));
    let mut pulls = stand.flusher.pulls.clone();
    let (failed, ()) = tokio::join!(pulls.claim_pulls(within(Duration::from_secs(10), claim())), async {
        stand.step_is_done().await;
        // Longer than a probe: the seal, which the proxy keeps for a while.
        let before = stand.proxy.requests();
        eventually("the seal is on its way", async || stand.proxy.requests() > before + 150).await;
        stand.proxy.set_open(Mode::SwallowReplies);
    });
    let failed = failed.unwrap_err();
    // It changes nothing that would not come up again, so a retry is safe.
    assert_eq!(
        (failed.code(), reason(&failed).as_deref()),
        (Code::Unavailable, Some("REDIS_UNAVAILABLE"))
    );
    let claim = stand.flusher.claim_some().await;
    assert_eq!(claim.keys.len(), 100);
    assert!(claim.keys.iter().all(|key| key.orphan));
    assert_eq!(stand.flusher.commit(&claim.claim_id).await.unwrap().deleted, 100);
    stand.stop().await;
}

#[tokio::test]
async fn cancelled_claim_is_given_back_at_once() {
    let stand = Stand::with(100).await;
    stand.proxy.set(Mode::Delay(WAY));
    let mut pulls = stand.flusher.pulls.clone();
    tokio::select! {
        claim = pulls.claim_pulls(claim()) => panic!("{claim:?} faster than the proxy"),
        () = stand.step_is_done() => {}
    }
    stand.proxy.set(Mode::Pass);
    let again = stand.flusher.claim_some().await;
    assert_eq!(again.keys.len(), 100);
    let back = super::counted(&stand.flusher.gateway, r#"claims_total{event="given_back"}"#).await;
    assert_eq!(back, 2, "that of the warm-up, and the cancelled one");
    stand.stop().await;
}

#[tokio::test]
async fn claim_that_redis_sleeps_over_is_given_back() {
    let stand = Stand::with(100).await;
    stand.proxy.set(Mode::Delay(WAY));
    let mut pulls = stand.flusher.pulls.clone();
    let (failed, ()) = tokio::join!(pulls.claim_pulls(within(Duration::from_millis(900), claim())), async {
        stand.page_is_coming().await;
        stand.server.pause();
    });
    assert!(failed.is_err());
    stand.server.resume();
    stand.proxy.set(Mode::Pass);
    let claim = stand.flusher.claim_some().await;
    assert_eq!(
        names(&claim),
        standing(&stand.server).await,
        "all of them, in one claim"
    );
    assert_eq!(stand.flusher.commit(&claim.claim_id).await.unwrap().deleted, 100);
    stand.stop().await;
}

#[tokio::test]
async fn claim_slower_than_its_lease_hands_out_nothing_that_another_took() {
    let stand = Stand::with(1_200).await;
    let other = Flusher::on(&stand.server).await;
    stand.proxy.set(Mode::Delay(WAY * 2));
    let slow = ClaimPullsRequest {
        max_keys: 2_000,
        lease_seconds: 1,
    };
    let mut pulls = stand.flusher.pulls.clone();
    let (slow, taken) = tokio::join!(pulls.claim_pulls(within(Duration::from_secs(20), slow)), async {
        stand.step_is_done().await;
        // One page, whose lease ends before the others are seen.
        let mut held = standing(&stand.server).await;
        held.retain(|name| name.contains(":processing:"));
        let end = lease_end(&stand.server, held.first().unwrap()).await;
        eventually("the lease ends", async || now(&stand.server).await >= end).await;
        let mut taken = BTreeSet::new();
        eventually("some of the page are taken", async || {
            taken.extend(names(&other.claim(20, LONG).await));
            !held.is_disjoint(&taken)
        })
        .await;
        taken
    });
    let slow = slow.unwrap().into_inner();
    stand.proxy.set(Mode::Pass);
    assert!(taken.is_disjoint(&names(&slow)), "in two hands");
    assert_eq!(slow.keys.len() + taken.len(), 1_200);
    // The lease of all counts from the end of the claim.
    let mut ends = BTreeSet::new();
    for key in &slow.keys {
        ends.insert(lease_end(&stand.server, &key.name).await);
    }
    assert_eq!(ends.len(), 1);
    let committed = stand.flusher.commit(&slow.claim_id).await.unwrap();
    assert_eq!(
        (committed.deleted, committed.lost.len()),
        (i64::try_from(slow.keys.len()).unwrap(), 0)
    );
    other.stop().await;
    stand.stop().await;
}

#[tokio::test]
async fn flush_goes_on_when_redis_is_out_of_memory() {
    let stand = Stand::with(3).await;
    let orphan = |n| format!("{}:processing:1600000000000:deadbeef", fresh_key(n));
    for n in 0..3 {
        stand
            .server
            .run_on::<()>(DB, &["RENAME", &fresh_key(n), &orphan(n)])
            .await;
    }
    stand.server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let claim = stand.flusher.claim(0, LONG).await;
    assert_eq!(names(&claim), BTreeSet::from([0, 1, 2].map(orphan)));
    assert_eq!(stand.flusher.extend(&claim.claim_id, LONG).await.unwrap().held, 3);
    assert_eq!(stand.flusher.give_back(&claim.claim_id).await.unwrap(), 3);
    let claim = stand.flusher.claim(0, LONG).await;
    assert_eq!(stand.flusher.commit(&claim.claim_id).await.unwrap().deleted, 3);
    stand.stop().await;
}

#[tokio::test]
async fn flush_needs_no_more_rights_than_the_docs_name() {
    let server = RedisServer::new()
        .user(
            "gateway",
            "on >secret ~pull_events:* ~redis-gateway:v1:pull_metrics:* +ping +client|info +hello +auth +select +evalsha +script|load +scan +time +type +get +set +hset +hsetnx +hget +hmget \
             +hgetall +hkeys +hlen +hdel +hexists +exists +del +renamenx +pexpire",
        )
        .start()
        .await;
    let mut endpoint = at(server.addr());
    endpoint.username = Some("gateway".into());
    endpoint.password = Some(redis_gateway::config::Password::Inline("secret".into()));
    let flusher = Flusher::with(endpoint, |_| {}).await;
    pulled(&mut server.client_of(DB).await, 0..3, 1).await;
    let claim = flusher.claim(0, LONG).await;
    assert_eq!(claim.keys.len(), 3);
    assert_eq!(flusher.extend(&claim.claim_id, LONG).await.unwrap().held, 3);
    assert_eq!(flusher.give_back(&claim.claim_id).await.unwrap(), 3);
    let claim = flusher.claim(0, LONG).await;
    assert_eq!(flusher.commit(&claim.claim_id).await.unwrap().deleted, 3);
    flusher.stop().await;
}
