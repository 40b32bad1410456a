//! What gateways keep under `redis-gateway:` is read by those of the releases before and after: `forms.jsonl` has each form as the
//! release before wrote it, a key a line: its type, its name, milliseconds to live (null: without end), its value. `<now+n>` is so
//! many milliseconds from now.

mod written;

use std::{collections::BTreeMap, time::UNIX_EPOCH};

use redis_gateway::{
    cache,
    forms::Form,
    locks, orchestrator,
    proto::{
        AcquireRequest, CacheFillRequest, CacheGetOrLeaseRequest, ClaimPullsRequest, CommitClaimRequest, HoldRequest,
        LocksGetRequest, OrchestratorWatchOpen, OrchestratorWatchRequest, OrchestratorWatchResponse, RenewRequest,
        cache_fill_response::Refusal, cache_get_or_lease_response::Outcome, hold_response::Event as Held,
        locks_client::LocksClient, orchestrator_client::OrchestratorClient, orchestrator_watch_open::Expiries,
        orchestrator_watch_request::Message, orchestrator_watch_response::Event,
    },
    pull_metrics,
};
use serde_json::Value;
use std::time::{Duration, SystemTime};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::harness::{Gateway, RedisServer, at, config, eventually, patience};

const HOLDER: &str = "aGVsZC1oZWxkLWhlbGQtaGVs";

/// A gateway that keeps all its patterns on one Redis.
async fn gateway(server: &RedisServer) -> Gateway {
    let mut config = config();
    for endpoint in [
        &mut config.endpoints.cache,
        &mut config.endpoints.user_events,
        &mut config.endpoints.orchestrator,
        &mut config.endpoints.pull_metrics,
    ] {
        *endpoint = Some(at(server.addr()));
    }
    config.orchestrator.look_interval = Duration::from_millis(100);
    Gateway::start(config).await
}

/// A key as it stands, or is to stand.
struct Key {
    kind: String,
    name: String,
    ttl_ms: Option<i64>,
    /// Of a string under no name.
    fields: BTreeMap<String, String>,
}

fn fixtures() -> Vec<Key> {
    include_str!("forms.jsonl").lines().map(key).collect()
}

fn key(line: &str) -> Key {
    let line: Value = serde_json::from_str(line).expect("a line of JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let fields = match &line[3] {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        value => BTreeMap::from([(String::new(), text(value))]),
    };
    Key {
        kind: text(&line[0]),
        name: text(&line[1]),
        ttl_ms: line[2].as_i64(),
        fields,
    }
}

/// Puts each key where the release before left it.
async fn left_behind(server: &RedisServer) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let now = i64::try_from(now).unwrap();
    for key in fixtures() {
        let fields: Vec<String> = key
            .fields
            .into_iter()
            .flat_map(|(name, value)| [name, at_time(&value, now)])
            .filter(|word| key.kind == "hash" || !word.is_empty())
            .collect();
        let mut words = vec![if key.kind == "hash" { "HSET" } else { "SET" }, &key.name];
        words.extend(fields.iter().map(String::as_str));
        if words.len() == 2 {
            words.push("");
        }
        let () = server.run(&words).await;
        if let Some(ttl_ms) = key.ttl_ms {
            let () = server.run(&["PEXPIREAT", &key.name, &(now + ttl_ms).to_string()]).await;
        }
    }
}

/// A value with its times.
fn at_time(value: &str, now: i64) -> String {
    let word = |word: &str| {
        let delta = word.strip_prefix("<now").and_then(|rest| rest.strip_suffix('>'));
        delta.map_or_else(
            || word.to_owned(),
            |delta| (now + delta.parse::<i64>().expect("a number")).to_string(),
        )
    };
    value.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn locks_of_the_release_before_are_known() {
    let server = RedisServer::new().start().await;
    left_behind(&server).await;
    let gateway = gateway(&server).await;
    let mut locks = LocksClient::new(gateway.channel().await);
    let name = || "held".to_owned();
    let mut held = None;
    eventually("the gateway is connected", async || {
        let answer = locks.get(LocksGetRequest { name: name() }).await;
        held = answer.ok().map(tonic::Response::into_inner);
        held.is_some()
    })
    .await;
    let held = held.unwrap();
    assert_eq!(
        (held.holder_id.as_str(), held.fencing_token),
        (HOLDER, 8_999_999_999_999_999)
    );
    assert!(held.acquired_at_ms.is_some());

    let renewal = RenewRequest {
        name: name(),
        holder_id: HOLDER.into(),
        ttl_ms: 30_000,
    };
    locks.renew(renewal).await.unwrap();
    let request = HoldRequest {
        name: name(),
        ttl_ms: 30_000,
        holder_id: HOLDER.into(),
        fencing_token: held.fencing_token,
        ..HoldRequest::default()
    };
    let mut stream = locks.hold(request).await.unwrap().into_inner();
    match stream.message().await.unwrap().unwrap().event {
        Some(Held::Acquired(taken_up)) => assert_eq!(taken_up.fencing_token, held.fencing_token),
        other => panic!("{other:?} instead of the lock"),
    }
    let request = AcquireRequest {
        name: "another".into(),
        ttl_ms: 30_000,
        ..AcquireRequest::default()
    };
    let next = locks.acquire(request).await.unwrap().into_inner();
    assert_eq!(next.fencing_token, 9_000_000_000_000_001);
    drop((stream, locks));
    gateway.stop().await;
}

#[tokio::test]
async fn leases_of_the_release_before_hold() {
    let server = RedisServer::new().start().await;
    left_behind(&server).await;
    let gateway = gateway(&server).await;
    let mut cache = gateway.cache().await;
    let asking = |key: &str| CacheGetOrLeaseRequest {
        key: key.into(),
        lease_ms: 60_000,
        early_refresh: true,
        ..CacheGetOrLeaseRequest::default()
    };
    // As somebody has the lease to refresh this one, nobody else gets it.
    let mut timed = None;
    eventually("the gateway is connected", async || {
        timed = Some(cache.get_or_lease(asking("timed")).await.unwrap().into_inner());
        timed.as_ref().is_some_and(|timed| timed.outcome.is_some())
    })
    .await;
    let timed = timed.unwrap();
    assert!(
        timed.refresh.is_none() && timed.outcome == Some(Outcome::Value("v".into())),
        "{timed:?}"
    );
    let busy = cache.get_or_lease(asking("wanted")).await.unwrap().into_inner();
    assert!(matches!(busy.outcome, Some(Outcome::Busy(_))), "{busy:?}");
    // By the time that its load took, which is far longer than it has to live.
    let early = cache.get_or_lease(asking("early")).await.unwrap().into_inner();
    assert!(early.refresh.is_some(), "{early:?}");

    for (key, token, refusal) in [
        ("fresh", "f1", Refusal::Unspecified),
        ("wanted", "f2", Refusal::Unspecified),
        ("voided", "f3", Refusal::Deleted),
        ("timed", "f4", Refusal::Unspecified),
    ] {
        let request = CacheFillRequest {
            key: key.into(),
            token: format!("{token:0>32}"),
            value: "loaded".into(),
            ttl_seconds: 60,
            ..CacheFillRequest::default()
        };
        let answer = cache.fill(request).await.unwrap().into_inner();
        assert_eq!(
            (answer.stored, answer.refusal()),
            (refusal == Refusal::Unspecified, refusal),
            "{key}"
        );
    }
    drop(cache);
    gateway.stop().await;
}

#[tokio::test]
async fn expiries_of_the_release_before_are_given_on() {
    let server = RedisServer::new().start().await;
    left_behind(&server).await;
    let gateway = gateway(&server).await;
    let mut keys = OrchestratorClient::new(gateway.channel().await);
    let (requests, mut stream) = watch(&mut keys).await;
    let mut told = BTreeMap::new();
    while told.len() < 2 {
        match timeout(patience(), stream.message())
            .await
            .expect("an expiry")
            .unwrap()
            .unwrap()
            .event
        {
            Some(Event::Expire(expired)) => {
                told.insert(expired.key, expired.value);
            }
            Some(Event::Create(_) | Event::Set(_) | Event::Delete(_)) | None => panic!("nothing was changed"),
            Some(_) => {}
        }
    }
    // The client's own, and one whose lease was over.
    let expected = [("building/due", "2"), ("building/own", "1")].map(|(key, value)| (key.to_owned(), value.into()));
    assert_eq!(told, BTreeMap::from(expected));
    let looks = looks(&gateway).await;
    eventually("it looks once more", async || self::looks(&gateway).await > looks + 1).await;
    let claimed: bool = server
        .run(&["HEXISTS", "redis-gateway:v1:orchestrator:claims", "building/empty"])
        .await;
    assert!(!claimed, "it had its expiry, as its mark says");
    drop((requests, stream, keys));
    gateway.stop().await;
}

#[tokio::test]
async fn claims_of_the_release_before_are_committed() {
    let server = RedisServer::new().start().await;
    left_behind(&server).await;
    let gateway = gateway(&server).await;
    let mut pulls = gateway.pull_metrics().await;
    let commit = |claim: &str| CommitClaimRequest {
        claim_id: format!("{claim:0>32}"),
    };
    let mut committed = None;
    eventually("the gateway is connected", async || {
        committed = pulls.commit_claim(commit("a1")).await.ok();
        committed.is_some()
    })
    .await;
    let committed = committed.unwrap().into_inner();
    assert_eq!((committed.deleted, committed.lost), (1, Vec::new()));
    let again = pulls.commit_claim(commit("a2")).await.unwrap().into_inner();
    assert_eq!(again.deleted, 3);
    // Its lease is over, as only its key tells: it is far too young for an orphan.
    let claimed = pulls
        .claim_pulls(ClaimPullsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!((claimed.keys.len(), claimed.tags[0].pull_count), (1, 2));
    drop(pulls);
    gateway.stop().await;
}

/// A watch on all keys of builds, that is given expiries.
async fn watch(
    keys: &mut OrchestratorClient<Channel>,
) -> (
    mpsc::Sender<OrchestratorWatchRequest>,
    Streaming<OrchestratorWatchResponse>,
) {
    let open = OrchestratorWatchOpen {
        prefix: "building/".into(),
        expiries: Expiries::One.into(),
        client_id: "watcher".into(),
        ..OrchestratorWatchOpen::default()
    };
    let (requests, taken) = mpsc::channel(1);
    let open = OrchestratorWatchRequest {
        message: Some(Message::Open(open)),
    };
    requests.send(open).await.unwrap();
    let stream = keys.watch(ReceiverStream::new(taken)).await.unwrap().into_inner();
    (requests, stream)
}

async fn looks(gateway: &Gateway) -> u64 {
    let (_, metrics) = gateway.admin("/metrics").await;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("redis_gateway_orchestrator_looks_total "));
    line.expect("a metric").parse().expect("a number")
}

/// The kinds of keys that gateways keep for themselves, but for those that only their own gateway reads.
fn kept() -> impl Iterator<Item = &'static Form> {
    let all = [cache::FORMS, locks::FORMS, orchestrator::FORMS, pull_metrics::FORMS];
    let kept = |form: &&Form| form.name.starts_with("redis-gateway:") && !form.name.ends_with("{gateway}");
    all.into_iter().flatten().filter(kept)
}

#[test]
fn each_form_has_been_kept() {
    for form in kept() {
        let known = fixtures().iter().any(|key| (form.is)(key.name.as_bytes()));
        assert!(known, "{}: add one to tests/it/releases/forms.jsonl", form.name);
    }
}
