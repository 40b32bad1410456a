//! The scripts, by the recording of the reference's: the same answers and the same hashes, raw and through the RPCs, wherever
//! they have to be loaded again.

use redis_gateway::proto::{TrackManifestPullRequest, TrackTagPullRequest, pull_metrics_client::PullMetricsClient};
use serde_json::Value;
use tonic::{Code, transport::Channel};

use super::{DB, Stand, sorted};
use crate::harness::{Cut, Proxy, RedisServer, at, eventually};

const TAG: &str = include_str!("../../../src/pull_metrics/track_tag_pull-1.lua");
const MANIFEST: &str = include_str!("../../../src/pull_metrics/track_manifest_pull-1.lua");
const ADD: &str = include_str!("../../../src/pull_metrics/add_pulls-1.lua");

/// The steps of the recording's scenario.
fn inputs() -> Vec<Value> {
    let recorded: Value = serde_json::from_str(include_str!("../../vectors/recorded.json")).unwrap();
    let scenarios = recorded["scenarios"].as_array().unwrap();
    let found = scenarios
        .iter()
        .find(|scenario| scenario["name"] == "script inputs and outputs");
    let steps = found.unwrap()["steps"].as_array().unwrap().clone();
    assert_eq!(steps.len(), 15);
    steps
}

fn words(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect()
}

/// All keys are as recorded after `step`.
async fn check_keys(server: &RedisServer, step: &Value) {
    let recorded = step["keys_after"].as_object().unwrap();
    let mut keys: Vec<String> = server.run_on(DB.into(), &["KEYS", "*"]).await;
    keys.sort();
    let names: Vec<&str> = recorded.keys().map(|name| name.strip_prefix("1|").unwrap()).collect();
    assert_eq!(keys, names, "{step}");
    for (key, recorded) in keys.iter().zip(recorded.values()) {
        if recorded["type"] == "hash" {
            let hash = sorted(server.run_on(DB.into(), &["HGETALL", key]).await);
            assert_eq!(serde_json::to_value(hash).unwrap(), recorded["value"], "{step}");
        } else {
            assert_eq!(
                server.run_on::<String>(DB.into(), &["GET", key]).await,
                recorded["value"],
                "{step}"
            );
        }
        assert_eq!(server.run_on::<i64>(DB.into(), &["TTL", key]).await, -1, "{step}");
    }
}

/// Runs each input by `EVALSHA`, as a program without the gateway would.
async fn replay_raw(server: &RedisServer) {
    let mut client = server.client_of(DB.into()).await;
    for step in inputs() {
        let args = &step["args"];
        if step["op"] == "redis" {
            server.run_on::<()>(DB.into(), &words(&args["command"])).await;
            continue;
        }
        let source = if args["script"] == "track_tag_pull" {
            TAG
        } else {
            MANIFEST
        };
        let sha1: String = server.run_on(DB.into(), &["SCRIPT", "LOAD", source]).await;
        let mut eval = redis::cmd("EVALSHA");
        eval.arg(sha1)
            .arg(1)
            .arg(args["key"].as_str().unwrap())
            .arg(words(&args["argv"]));
        let reply: redis::RedisResult<String> = eval.query_async(&mut client).await;
        match (reply, step["result"].get("error")) {
            (Ok(count), None) => assert_eq!(count, step["result"]["value"], "{step}"),
            (Err(error), Some(_)) => {
                let recorded = step["result"]["message"].as_str().unwrap();
                // What follows names the reference's own script and its lines.
                let recorded = recorded.split(" script: ").next().unwrap();
                let told = format!(
                    "{} {}",
                    error.code().unwrap_or_default(),
                    error.detail().unwrap_or_default()
                );
                assert!(
                    told.contains(recorded.trim_start_matches("WRONGTYPE ")),
                    "{told}: {step}"
                );
                assert_eq!(
                    error.code() == Some("WRONGTYPE"),
                    recorded.starts_with("WRONGTYPE"),
                    "{step}"
                );
            }
            (reply, recorded) => panic!("{reply:?} instead of {recorded:?}: {step}"),
        }
        check_keys(server, &step).await;
    }
}

/// Runs each input through the RPCs.
async fn replay_rpc(server: &RedisServer, pulls: &mut PullMetricsClient<Channel>) {
    for step in inputs() {
        let args = &step["args"];
        if step["op"] == "redis" {
            server.run_on::<()>(DB.into(), &words(&args["command"])).await;
            continue;
        }
        let given = words(&args["argv"]);
        // What is no number is no repository, and 0 is none either. The method is the RPC's own.
        let repository_id = given[0].parse().unwrap_or(0);
        let result = if args["script"] == "track_tag_pull" {
            let request = TrackTagPullRequest {
                repository_id,
                tag: given[1].into(),
                digest: given[2].into(),
                // A missing argument is an empty one: without a timestamp, the gateway would take its own clock.
                timestamp: Some(given.get(3).copied().unwrap_or_default().into()),
                buffered: false,
            };
            pulls
                .track_tag_pull(request)
                .await
                .map(|answer| answer.into_inner().pull_count)
        } else {
            let request = TrackManifestPullRequest {
                repository_id,
                digest: given[1].into(),
                timestamp: Some(given[2].into()),
                buffered: false,
            };
            pulls
                .track_manifest_pull(request)
                .await
                .map(|answer| answer.into_inner().pull_count)
        };
        match (result, step["result"].get("error")) {
            (Ok(count), None) => assert_eq!(count.to_string(), step["result"]["value"], "{step}"),
            (Err(status), Some(_)) => {
                let wrong_type = step["result"]["message"].as_str().unwrap().starts_with("WRONGTYPE");
                let code = if wrong_type {
                    Code::FailedPrecondition
                } else {
                    Code::InvalidArgument
                };
                assert_eq!(status.code(), code, "{step}");
            }
            (result, recorded) => panic!("{result:?} instead of {recorded:?}: {step}"),
        }
        check_keys(server, &step).await;
    }
}

#[tokio::test]
async fn scripts_answer_and_leave_what_the_reference_did() {
    let server = RedisServer::new().start().await;
    replay_raw(&server).await;
    server.run::<()>(&["FLUSHALL"]).await;
    server.run::<()>(&["SCRIPT", "FLUSH"]).await;
    replay_raw(&server).await;
}

#[tokio::test]
async fn rpcs_answer_and_leave_what_the_reference_did_also_after_flush_and_failover() {
    let primary = RedisServer::new().start().await;
    let replica = RedisServer::new().replica_of(&primary).start().await;
    let proxy = Proxy::new(primary.addr());
    let endpoint = at(proxy.addr());
    let mut stand = Stand::on(primary, endpoint, |_| {}).await;

    replay_rpc(&stand.server, &mut stand.pulls).await;
    stand.server.run::<()>(&["FLUSHALL"]).await;
    stand.server.run::<()>(&["SCRIPT", "FLUSH"]).await;
    replay_rpc(&stand.server, &mut stand.pulls).await;
    assert!(stand.server.calls("script|load").await >= 4, "both scripts, twice");

    // The replica has the same keys, and takes over.
    let step = inputs().pop().unwrap();
    eventually("the replica has caught up", async || {
        let keys: i64 = replica.run_on(DB.into(), &["DBSIZE"]).await;
        keys == 3
    })
    .await;
    check_keys(&replica, &step).await;
    stand.server.kill();
    replica.run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    replica.run::<()>(&["FLUSHALL"]).await;
    let loaded = replica.calls("script|load").await;
    proxy.lead_to(replica.addr());
    proxy.cut(Cut::Reset).await;
    eventually("the gateway has followed", async || {
        replica.connections().await.iter().any(|line| line.contains("db=1"))
    })
    .await;
    replay_rpc(&replica, &mut stand.pulls).await;
    assert!(
        replica.calls("script|load").await >= loaded + 2,
        "the new primary did not know them"
    );
    stand.stop().await;
}

#[tokio::test]
async fn n_at_once_leave_what_n_one_by_one_leave() {
    let server = RedisServer::new().start().await;
    let mut client = server.client_of(DB.into()).await;
    for (source, tag, argv) in [
        (TAG, "latest", vec!["7", "latest", "sha256:a1", "", "tag"]),
        (MANIFEST, "", vec!["7", "sha256:a1", "", "digest"]),
    ] {
        for (known, n) in [(false, 1), (false, 5), (true, 2), (true, 1_000)] {
            let stamp = argv.iter().position(|arg| arg.is_empty()).unwrap();
            let with = |timestamp| {
                let mut argv = argv.clone();
                argv[stamp] = timestamp;
                argv
            };
            let mut run = async |source: &str, key: &str, argv: Vec<&str>| -> String {
                redis::cmd("EVAL")
                    .arg(source)
                    .arg(1)
                    .arg(key)
                    .arg(argv)
                    .query_async(&mut client)
                    .await
                    .unwrap()
            };
            server.run::<()>(&["FLUSHALL"]).await;
            if known {
                for key in ["one by one", "at once"] {
                    run(source, key, with("1700000000")).await;
                }
            }
            let mut single = String::new();
            for i in 0..n {
                let timestamp = if i + 1 == n { "1600000000" } else { "1800000000" };
                single = run(source, "one by one", with(timestamp)).await;
            }
            let count = n.to_string();
            let method = argv.last().unwrap();
            let added = run(
                ADD,
                "at once",
                vec!["7", tag, "sha256:a1", "1600000000", method, &count],
            )
            .await;
            assert_eq!(added, single);
            // In the same order too.
            let hash = async |key| server.run_on::<Vec<String>>(DB.into(), &["HGETALL", key]).await;
            assert_eq!(hash("at once").await, hash("one by one").await, "{tag} {known} {n}");
        }
    }
}
