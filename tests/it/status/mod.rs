//! What `/status.json` says, and what scripts may count on.

use std::collections::BTreeSet;

use redis_gateway::proto::{
    AcquireRequest, AppendRequest, LogEntry, build_logs_client::BuildLogsClient, locks_client::LocksClient,
    log_entry::Kind,
};
use serde_json::Value;

use crate::harness::{Gateway, RedisServer, at, config, eventually, reason};

async fn status(gateway: &Gateway) -> Value {
    let (code, body) = gateway.admin("/status.json").await;
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// A service's calls of the last minute.
fn calls<'a>(status: &'a Value, name: &str) -> &'a Value {
    let services = status["services"].as_array().unwrap();
    let service = services.iter().find(|service| service["name"] == name).unwrap();
    &service["calls"][0]
}

/// The paths of all members, as jq would have them. What is counted by name has no members, but names.
fn members(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(all) if !path.ends_with("reasons") && !path.ends_with("outcomes") => {
            for (name, value) in all {
                members(value, &format!("{path}.{name}"), found);
            }
        }
        Value::Array(all) if !all.is_empty() && !all[0].is_string() => {
            for value in all {
                members(value, &format!("{path}[]"), found);
            }
        }
        _ => drop(found.insert(path.to_owned())),
    }
}

/// One that is missing here is a promise broken; one that is new is to be added to the list.
#[tokio::test]
async fn members_of_the_json_stay() {
    let server = RedisServer::new().password("secret").start().await;
    let mut config = config();
    let endpoints = &mut config.endpoints;
    for endpoint in [
        &mut endpoints.build_logs,
        &mut endpoints.user_events,
        &mut endpoints.pull_metrics,
        &mut endpoints.cache,
        &mut endpoints.orchestrator,
    ] {
        *endpoint = Some(at(server.addr()));
    }
    config.cache.near_prefixes = vec!["hot_".into()];
    let gateway = Gateway::start(config).await;
    // Without its password each Redis is a problem.
    let mut said = Value::Null;
    eventually("a problem", async || {
        said = status(&gateway).await;
        said["problems"] != Value::Array(Vec::new())
    })
    .await;
    let mut found = BTreeSet::new();
    members(&said, "", &mut found);
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    let promised: Vec<&str> = include_str!("members.txt").lines().collect();
    assert!(found == promised, "{}", found.join("\n"));
    gateway.stop().await;
}

#[tokio::test]
async fn what_redis_refuses_is_a_failure() {
    let server = RedisServer::new()
        .user("default", "on nopass ~* &* +@all -rpush -eval -evalsha")
        .start()
        .await;
    let mut config = config();
    config.endpoints.build_logs = Some(at(server.addr()));
    let gateway = Gateway::start(config).await;
    let mut logs = BuildLogsClient::new(gateway.channel().await);
    eventually("a call that Redis refuses", async || {
        let request = AppendRequest {
            build_id: "7".into(),
            entries: vec![LogEntry {
                kind: Some(Kind::Json("{}".into())),
            }],
        };
        let refused = logs.append(request).await.unwrap_err();
        reason(&refused).as_deref() == Some("REDIS_DENIED")
    })
    .await;
    let mut said = Value::Null;
    // A call is counted once its answer has gone out, which may be after it was heard.
    eventually("the failure is counted", async || {
        said = status(&gateway).await;
        calls(&said, "BuildLogs")["failed_share"] == 1.0
    })
    .await;
    let problems = said["problems"].as_array().unwrap();
    let failed = problems
        .iter()
        .find(|problem| problem["text"].as_str().unwrap().contains("REDIS_DENIED"));
    assert_eq!(failed.expect("a problem")["severity"], "critical");
    drop(logs);
    gateway.stop().await;
}

/// As for the alert, which would otherwise fire for locks that are merely held.
#[tokio::test]
async fn what_may_wait_is_not_timed() {
    let server = RedisServer::new().start().await;
    let mut config = config();
    config.endpoints.user_events = Some(at(server.addr()));
    let gateway = Gateway::start(config).await;
    let mut locks = LocksClient::new(gateway.channel().await);
    let request = AcquireRequest {
        name: "busy".into(),
        ttl_ms: 1_000,
        ..AcquireRequest::default()
    };
    locks.acquire(request).await.unwrap();
    eventually("the call is counted", async || {
        calls(&status(&gateway).await, "Locks")["count"] == 1
    })
    .await;
    assert_eq!(calls(&status(&gateway).await, "Locks")["p99_ms"], Value::Null);
    drop(locks);
    gateway.stop().await;
}
