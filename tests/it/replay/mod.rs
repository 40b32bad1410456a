//! The recording of the reference, replayed through the RPCs: results, keys, values and TTLs, byte for byte.

mod content_tracker;
mod json;
mod locks;
mod orchestrator;

use std::time::Duration;

use redis_gateway::{
    config::{Config, Password},
    proto::{
        AppendRequest, CacheDeleteRequest, CacheGetRequest, CacheSetRequest, DegradedReason, DeleteEntriesRequest,
        ExpireEntriesRequest, ExpireStatusRequest, GetStatusRequest, ListEntriesRequest, LogEntry, LogMessage,
        SetStatusRequest, build_logs_client::BuildLogsClient, cache_client::CacheClient, log_entry::Kind,
    },
};
use serde_json::Value;
use tokio::time::Instant;
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use self::json::stored;
pub(crate) use self::json::{dumps, given};
use crate::harness::{Gateway, Mode, Proxy, RedisServer, at, config, eventually, reason, unused_port};

#[tokio::test]
async fn build_logs_leave_what_the_reference_left() {
    replay("build_logs").await;
}

#[tokio::test]
async fn cache_leaves_what_the_reference_left() {
    replay("cache").await;
}

#[tokio::test]
async fn health_says_what_the_reference_said() {
    for scenario in scenarios("health") {
        for step in steps(&scenario) {
            let healthy = &step["result"]["value"][0];
            check_health(
                step["args"]["endpoint"].as_str().unwrap(),
                healthy.as_bool().unwrap(),
                step,
            )
            .await;
        }
    }
}

/// Replays a pattern's scenarios, each on a server of its own.
async fn replay(pattern: &str) {
    let mut replayed = 0;
    for scenario in scenarios(pattern) {
        let server = RedisServer::new().start().await;
        let mut config = config();
        config.endpoints.build_logs = Some(at(server.addr()));
        config.endpoints.cache = Some(at(server.addr()));
        let gateway = Gateway::start(config).await;
        let mut run = Replay {
            logs: gateway.build_logs().await,
            cache: gateway.cache().await,
            server,
        };
        let began = Instant::now();
        for (n, step) in steps(&scenario).iter().enumerate() {
            let at = format!("{pattern}, step {n}: {}", step["op"]);
            let result = run.step(step["op"].as_str().unwrap(), &step["args"]).await;
            let recorded = &step["result"];
            match (&result, recorded.get("error")) {
                (Ok(value), None) => assert_eq!(dumps(value), dumps(&recorded["value"]), "{at}"),
                (Err(status), Some(_)) => {
                    // The reference's error replies in these scenarios are all of this kind.
                    assert!(recorded["message"].as_str().unwrap().contains("WRONGTYPE"), "{at}");
                    assert_eq!(status.code(), Code::FailedPrecondition, "{at}");
                    assert_eq!(reason(status).as_deref(), Some("WRONG_TYPE"), "{at}");
                }
                (result, recorded) => panic!("{at}: {result:?} instead of {recorded:?}"),
            }
            // Steps without keys only read.
            if let Some(keys) = step.get("keys_after") {
                check_keys(&at, &run.server, keys, began.elapsed()).await;
            }
            replayed += 1;
        }
        drop((run.logs, run.cache));
        gateway.stop().await;
    }
    assert!(replayed >= 19, "only {replayed} steps");
}

struct Replay {
    server: RedisServer,
    logs: BuildLogsClient<Channel>,
    cache: CacheClient<Channel>,
}

impl Replay {
    /// Runs one step and answers what the reference's method would have answered.
    async fn step(&mut self, op: &str, args: &Value) -> Result<Value, Status> {
        let text = |name: &str| args[name].as_str().unwrap_or_default().to_owned();
        let build_id = text("build_id");
        match op {
            "redis" => {
                let words: Vec<&str> = args["command"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|w| w.as_str().unwrap())
                    .collect();
                self.server.run::<redis::Value>(&words).await;
                Ok(Value::Null)
            }
            "append_log_message" => {
                let data = args.get("data").map(given).unwrap_or_default();
                let kind = Kind::Message(LogMessage {
                    message: text("message"),
                    r#type: text("type"),
                    data,
                });
                // The reference answers the index of a message, and the length for an entry.
                self.append(build_id, kind).await.map(|length| Value::from(length - 1))
            }
            "append_log_entry" => self
                .append(build_id, Kind::Json(given(&args["entry"])))
                .await
                .map(Value::from),
            "get_log_entries" => {
                let start = args["start"].as_i64().unwrap();
                let page = self
                    .logs
                    .list_entries(ListEntriesRequest {
                        build_id,
                        start,
                        page_size: 0,
                    })
                    .await?;
                let page = page.into_inner();
                let entries: Vec<Value> = page.entries.iter().map(|entry| stored(entry)).collect();
                Ok(serde_json::json!({ "count": page.length, "entries": entries }))
            }
            "retrieve" => self.retrieve(args).await,
            "invalidate" => {
                let deleted = self
                    .cache
                    .delete(CacheDeleteRequest {
                        key: text("key"),
                        ..CacheDeleteRequest::default()
                    })
                    .await?
                    .into_inner();
                assert_eq!(
                    (deleted.deleted, deleted.degraded()),
                    (true, DegradedReason::Unspecified)
                );
                Ok(Value::Null)
            }
            _ => self.keep(op, build_id, &args["status"]).await,
        }
    }

    /// Runs a step about a status, or about how long something stays.
    async fn keep(&mut self, op: &str, build_id: String, status: &Value) -> Result<Value, Status> {
        match op {
            "set_status" => {
                let status = given(status);
                self.logs.set_status(SetStatusRequest { build_id, status }).await?;
                Ok(Value::Null)
            }
            "get_status" => {
                let status = self
                    .logs
                    .get_status(GetStatusRequest { build_id })
                    .await?
                    .into_inner()
                    .status;
                Ok(status.map_or(Value::Null, |status| stored(&status)))
            }
            "expire_status" => {
                let known = build_id != "absent";
                let found = self
                    .logs
                    .expire_status(ExpireStatusRequest { build_id })
                    .await?
                    .into_inner()
                    .found;
                assert_eq!(found, known);
                Ok(Value::Null)
            }
            "expire_log_entries" => {
                assert!(
                    self.logs
                        .expire_entries(ExpireEntriesRequest { build_id })
                        .await?
                        .into_inner()
                        .found
                );
                Ok(Value::Null)
            }
            "delete_log_entries" => {
                assert!(
                    self.logs
                        .delete_entries(DeleteEntriesRequest { build_id })
                        .await?
                        .into_inner()
                        .found
                );
                Ok(Value::Null)
            }
            other => panic!("nobody knows how to replay {other}"),
        }
    }

    async fn append(&mut self, build_id: String, kind: Kind) -> Result<i64, Status> {
        let entries = vec![LogEntry { kind: Some(kind) }];
        Ok(self
            .logs
            .append(AppendRequest { build_id, entries })
            .await?
            .into_inner()
            .length)
    }

    /// What the reference's cache does around a loader.
    async fn retrieve(&mut self, args: &Value) -> Result<Value, Status> {
        let key = args["key"].as_str().unwrap().to_owned();
        let hit = self
            .cache
            .get(CacheGetRequest {
                key: key.clone(),
                ..CacheGetRequest::default()
            })
            .await?
            .into_inner();
        if let Some(value) = hit.value.and_then(|value| serde_json::from_slice(&value).ok()) {
            return Ok(value);
        }
        let loaded = &args["loader_returns"];
        if !loaded.is_null() {
            let expiration = args["expiration"].as_str().unwrap_or("0s");
            let ttl_seconds = expiration.strip_suffix('s').unwrap().parse().unwrap();
            let set = CacheSetRequest {
                key: key.clone(),
                value: dumps(loaded).into(),
                ttl_seconds,
                ..CacheSetRequest::default()
            };
            let set = self.cache.set(set).await?.into_inner();
            // What is there stays, of whatever type it is.
            assert_eq!(set.stored, !matches!(key.as_str(), "broken" | "alist"), "{key}");
            assert_eq!(set.degraded(), DegradedReason::Unspecified, "{key}");
        }
        assert_eq!(
            hit.degraded == DegradedReason::WrongType as i32,
            key == "alist",
            "{key}"
        );
        Ok(loaded.clone())
    }
}

/// Compares all keys on the server with those recorded.
async fn check_keys(at: &str, server: &RedisServer, recorded: &Value, elapsed: Duration) {
    for name in check_names(at, server, recorded).await {
        let recorded = &recorded[format!("0|{name}")];
        let form: String = server.run(&["TYPE", &name]).await;
        assert_eq!(form, recorded["type"].as_str().unwrap(), "{at}: {name}");
        match form.as_str() {
            "string" => {
                let value: String = server.run(&["GET", &name]).await;
                assert_eq!(value, recorded["value"].as_str().unwrap(), "{at}: {name}");
            }
            "list" => {
                let value: Vec<String> = server.run(&["LRANGE", &name, "0", "-1"]).await;
                let recorded: Vec<&str> = recorded["value"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|v| v.as_str().unwrap())
                    .collect();
                assert_eq!(value, recorded, "{at}: {name}");
            }
            other => panic!("{at}: {name} is a {other}"),
        }
        check_ttl(at, server, &name, recorded, elapsed).await;
    }
}

/// The names of all keys on the server, which are those recorded.
async fn check_names(at: &str, server: &RedisServer, recorded: &Value) -> Vec<String> {
    let mut names: Vec<String> = server.run(&["KEYS", "*"]).await;
    names.sort();
    // The gateway's own check of its endpoint is no part of these scenarios, nor is what it keeps for itself.
    names.retain(|name| name != "_health" && !name.starts_with("redis-gateway:"));
    let mut recorded: Vec<&String> = recorded.as_object().unwrap().keys().collect();
    recorded.sort();
    let here: Vec<String> = names.iter().map(|name| format!("0|{name}")).collect();
    assert_eq!(here.iter().collect::<Vec<_>>(), recorded, "{at}");
    names
}

/// A key lives as long as recorded, but for the time that passed meanwhile.
async fn check_ttl(at: &str, server: &RedisServer, name: &str, recorded: &Value, elapsed: Duration) {
    let (ttl, recorded) = (
        server.run::<i64>(&["TTL", name]).await,
        recorded["ttl"].as_i64().unwrap(),
    );
    let spent = i64::try_from(elapsed.as_secs()).unwrap() + 1;
    // The recording itself took up to two seconds.
    let fits = if recorded < 0 {
        ttl == recorded
    } else {
        (recorded - spent..=recorded + 2).contains(&ttl)
    };
    assert!(fits, "{at}: {name} expires in {ttl} s instead of {recorded} s");
}

/// A gateway on an endpoint that is well or ill says so.
async fn check_health(kind: &str, healthy: bool, step: &Value) {
    let server = RedisServer::new().password("right").start().await;
    let proxy = Proxy::new(server.addr());
    let mut endpoint = at(proxy.addr());
    endpoint.password = Some(Password::Inline("right".into()));
    match kind {
        "reachable" => {}
        "nothing listens" => endpoint.server = at(([127, 0, 0, 1], unused_port()).into()).server,
        "wrong password" => endpoint.password = Some(Password::Inline("wrong".into())),
        "accepts and never answers" => proxy.set(Mode::BlackHole),
        other => panic!("nobody knows how to be {other}"),
    }
    let mut config: Config = config();
    config.endpoints.build_logs = Some(endpoint);
    let gateway = Gateway::start(config).await;
    let mut health = gateway.health().await;
    let expected = if healthy {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    eventually(&format!("{kind} is {expected:?}"), async || {
        let request = HealthCheckRequest {
            service: "redisgateway.v1.BuildLogs".into(),
        };
        health.check(request).await.unwrap().into_inner().status() == expected
    })
    .await;
    if let Some(keys) = step.get("keys_after") {
        let keys: Vec<&String> = keys.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["0|_health"]);
        assert_eq!(server.run::<Vec<String>>(&["KEYS", "*"]).await, ["_health"]);
        // A time as Python writes it: seconds since 1970 with a fraction.
        let time: String = server.run(&["GET", "_health"]).await;
        let (seconds, fraction) = time.split_once('.').expect("a float");
        assert!(
            seconds.parse::<u64>().unwrap() > 1_700_000_000 && fraction.parse::<u64>().is_ok(),
            "{time}"
        );
        assert_eq!(server.run::<i64>(&["TTL", "_health"]).await, -1);
    }
    drop(health);
    gateway.stop().await;
}

pub(crate) fn scenarios(pattern: &str) -> Vec<Value> {
    let recorded: Value = serde_json::from_str(include_str!("../../vectors/recorded.json")).unwrap();
    let all = recorded["scenarios"].as_array().unwrap();
    let found: Vec<Value> = all
        .iter()
        .filter(|scenario| scenario["pattern"] == pattern)
        .cloned()
        .collect();
    assert!(!found.is_empty(), "the recording has no {pattern}");
    found
}

pub(crate) fn steps(scenario: &Value) -> &[Value] {
    scenario["steps"].as_array().unwrap()
}
