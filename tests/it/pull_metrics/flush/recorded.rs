//! The recording of the reference's flush, replayed: rows, and keys with their fields and TTLs.

use std::collections::{BTreeMap, BTreeSet};

use redis_gateway::proto::{ClaimPullsResponse, dropped_key::Reason};
use serde_json::{Value, json};

use super::{DB, Flusher, LONG, digest, fresh_key, pulled};
use crate::harness::RedisServer;

/// The end of the names that the reference claimed under, its clock and its random digits held still.
const RECORDED: &str = ":processing:1700000100123:01234567";

#[tokio::test]
async fn flush_gives_the_rows_of_the_reference_and_leaves_its_keys() {
    let mut replayed = 0;
    for scenario in scenarios() {
        let name = scenario["name"].as_str().unwrap();
        let server = RedisServer::new().start().await;
        let flusher = Flusher::on(&server).await;
        let steps = scenario["steps"].as_array().unwrap();
        // An odd hash comes with a good one: it must not be harmed.
        let odd = steps[0]["args"].get("hash");
        if let Some(hash) = odd {
            hset(&server, "pull_events:repo:9:tag:odd:x", hash).await;
            pulled(&mut server.client_of(DB).await, [77], 3).await;
        } else {
            for (key, hash) in keys_before() {
                hset(&server, &key, &hash).await;
            }
        }
        for (n, step) in steps.iter().enumerate() {
            let at = format!("{name}, step {n}");
            let mut expected = (
                rows(&step["result"]["value"]["manifest_updates"]),
                rows(&step["result"]["value"]["tag_updates"]),
            );
            if step["args"].get("before").is_some() {
                pull_of_a_claimed_key(&server, &mut expected).await;
            }
            if odd.is_some() {
                let good = json!([{"repository_id": 1, "manifest_digest": digest(77), "pull_count": 3,
                    "last_pull_timestamp": 1_700_000_000}]);
                expected.0.extend(rows(&good));
                expected.0.sort();
            }
            let claim = flusher.claim(0, LONG).await;
            assert_eq!(tag_rows(&claim), expected.1, "{at}");
            // Where writing tags raised, the reference did not come to the manifests.
            if step["args"]["database"] != "raises" {
                assert_eq!(manifest_rows(&claim), expected.0, "{at}");
            }
            assert_eq!(dropped(&claim), odd_field(name), "{at}");
            if step["args"]["database"] == "accepts" {
                let count = claim.keys.len() + claim.dropped.len();
                let committed = flusher.commit(&claim.claim_id).await.unwrap();
                assert_eq!(committed.deleted, i64::try_from(count).unwrap(), "{at}");
            } else {
                assert_eq!(flusher.give_back(&claim.claim_id).await.unwrap(), 6, "{at}");
            }
            assert_eq!(keys_after(&server).await, recorded_keys(&step["keys_after"]), "{at}");
            replayed += 1;
        }
        flusher.stop().await;
    }
    assert_eq!(replayed, 16);
}

fn scenarios() -> Vec<Value> {
    let recorded: Value = serde_json::from_str(include_str!("../../../vectors/recorded.json")).unwrap();
    let all = recorded["scenarios"].as_array().unwrap();
    all.iter()
        .filter(|scenario| scenario["pattern"] == "flush")
        .cloned()
        .collect()
}

/// The keys that stood there before a flush: those that one left whose database wrote nothing, under their earlier names.
fn keys_before() -> BTreeMap<String, Value> {
    let scenarios = scenarios();
    let failed = scenarios
        .iter()
        .find(|scenario| scenario["name"] == "database writes no row");
    let keys = failed.unwrap()["steps"][0]["keys_after"].as_object().unwrap();
    let unclaimed = |key: &str| key.strip_prefix("1|").unwrap().replace(RECORDED, "");
    keys.iter()
        .map(|(key, hash)| (unclaimed(key), hash["value"].clone()))
        .collect()
}

async fn hset(server: &RedisServer, key: &str, hash: &Value) {
    let mut words = vec!["HSET", key];
    for (field, value) in hash.as_object().unwrap() {
        words.extend([field.as_str(), value.as_str().unwrap()]);
    }
    server.run_on::<()>(DB, &words).await;
}

/// One new pull of `latest`, which stands among the claimed keys with 3. The recording's clock and digits stood still, so the
/// reference renamed the new key onto that one, lost its 3, and read the 1 under that name twice: 2 are missing in what it summed.
async fn pull_of_a_claimed_key(server: &RedisServer, (manifests, tags): &mut (Rows, Rows)) {
    let digest = format!("sha256:{}", "a1".repeat(32));
    let key = format!("pull_events:repo:1:tag:latest:{digest}");
    let hash = json!({"repository_id": "1", "tag_name": "latest", "manifest_digest": digest, "pull_count": "1",
        "last_pull_timestamp": "1700000200", "pull_method": "tag"});
    hset(server, &key, &hash).await;
    let mut corrected = 0;
    for row in [manifests, tags].into_iter().flatten() {
        if row.2 == digest && row.4 == Some(1_700_000_200) {
            row.3 += 2;
            corrected += 1;
        }
    }
    assert_eq!(corrected, 2);
}

/// Rows as repository, tag, digest, count, last timestamp; sorted.
type Rows = Vec<(i64, String, String, i64, Option<i64>)>;

fn rows(recorded: &Value) -> Rows {
    let row = |row: &Value| {
        let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
        let number = |field: &str| row[field].as_i64();
        let (tag, digest) = (text("tag_name"), text("manifest_digest"));
        let (repository, count) = (number("repository_id").unwrap(), number("pull_count").unwrap());
        (repository, tag, digest, count, number("last_pull_timestamp"))
    };
    let mut rows: Rows = recorded.as_array().unwrap().iter().map(row).collect();
    rows.sort();
    rows
}

fn manifest_rows(claim: &ClaimPullsResponse) -> Rows {
    let rows = claim.manifests.iter().map(|row| {
        let (id, digest) = (row.repository_id, row.digest.clone());
        (id, String::new(), digest, row.pull_count, row.last_pull_timestamp)
    });
    rows.collect::<BTreeSet<_>>().into_iter().collect()
}

fn tag_rows(claim: &ClaimPullsResponse) -> Rows {
    let rows = claim.tags.iter().map(|row| {
        let (id, tag, digest) = (row.repository_id, row.tag.clone(), row.digest.clone());
        (id, tag, digest, row.pull_count, row.last_pull_timestamp)
    });
    rows.collect::<BTreeSet<_>>().into_iter().collect()
}

fn dropped(claim: &ClaimPullsResponse) -> Option<(Reason, &str)> {
    assert!(claim.dropped.len() <= 1);
    let key = claim.dropped.first()?;
    assert!(key.name.starts_with("pull_events:repo:9:tag:odd:x:processing:") && !key.orphan);
    Some((key.reason(), &key.field))
}

/// What is wrong with the odd hash of a scenario.
fn odd_field(scenario: &str) -> Option<(Reason, &'static str)> {
    match scenario.strip_prefix("odd hash: ")? {
        "no digest" | "digest not hex" | "digest tail" => Some((Reason::NotADigest, "manifest_digest")),
        "repo 0" => Some((Reason::OutOfRange, "repository_id")),
        "count text" => Some((Reason::NotWhole, "pull_count")),
        "count negative" => Some((Reason::OutOfRange, "pull_count")),
        "count zero" => Some((Reason::NoPulls, "pull_count")),
        "time negative" => Some((Reason::OutOfRange, "last_pull_timestamp")),
        "time missing" => Some((Reason::Missing, "last_pull_timestamp")),
        _ => None,
    }
}

/// Keys of pulls with their fields and TTLs, under the names that the recording has for them.
async fn keys_after(server: &RedisServer) -> BTreeMap<String, (BTreeMap<String, String>, i64)> {
    let mut keys = BTreeMap::new();
    for name in server.run_on::<Vec<String>>(DB, &["KEYS", "pull_events:*"]).await {
        let (fresh, claimed) = name.split_once(":processing:").unwrap_or((&name, ""));
        let (time, digits) = claimed.split_once(':').unwrap();
        assert!(time.len() == 13 && time.parse::<u64>().is_ok(), "{name}");
        assert!(
            digits.len() == 8 && digits.bytes().all(|b| b"0123456789abcdef".contains(&b)),
            "{name}"
        );
        let recorded = if digits == "deadbeef" {
            name.clone()
        } else {
            format!("{fresh}{RECORDED}")
        };
        let hash = server.run_on(DB, &["HGETALL", &name]).await;
        let ttl = server.run_on(DB, &["TTL", &name]).await;
        assert!(keys.insert(recorded, (hash, ttl)).is_none(), "{name}");
    }
    keys
}

fn recorded_keys(recorded: &Value) -> BTreeMap<String, (BTreeMap<String, String>, i64)> {
    let key = |(name, key): (&String, &Value)| {
        assert_eq!(key["type"], "hash");
        let fields = key["value"].as_object().unwrap().iter();
        let fields = fields.map(|(field, value)| (field.clone(), value.as_str().unwrap().to_owned()));
        let name = name.strip_prefix("1|").unwrap().to_owned();
        (name, (fields.collect(), key["ttl"].as_i64().unwrap()))
    };
    recorded.as_object().unwrap().iter().map(key).collect()
}

#[tokio::test]
async fn dropped_keys_alone_make_a_claim_too() {
    let server = RedisServer::new().start().await;
    let flusher = Flusher::on(&server).await;
    hset(&server, &fresh_key(0), &json!({"repository_id": "1"})).await;
    let claim = flusher.claim(0, LONG).await;
    assert_eq!(
        (claim.claim_id.len(), claim.keys.len(), claim.dropped.len()),
        (32, 0, 1)
    );
    assert_eq!(
        (claim.dropped[0].reason(), claim.dropped[0].field.as_str()),
        (Reason::Missing, "manifest_digest")
    );
    let dropped = super::counted(&flusher.gateway, r#"dropped_keys_total{reason="missing"}"#).await;
    assert_eq!(dropped, 1);
    assert_eq!(flusher.commit(&claim.claim_id).await.unwrap().deleted, 1);
    assert!(super::standing(&server).await.is_empty());
    flusher.stop().await;
}
