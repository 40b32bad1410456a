//! The content tracker's part of the recording. Values are times, so what is compared is how they stand to each other.

use std::collections::BTreeMap;

use redis_gateway::proto::{
    IsBlockedRequest, MarkModifiedRequest, MarkRevokedRequest, content_tracker_client::ContentTrackerClient,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::transport::Channel;

use super::{check_names, check_ttl, scenarios, steps};
use crate::harness::{Gateway, RedisServer, at, config};

#[tokio::test]
async fn content_tracker_leaves_what_the_reference_left_but_for_the_times() {
    let mut replayed = 0;
    for scenario in scenarios("content_tracker") {
        let server = RedisServer::new().start().await;
        let mut config = config();
        config.endpoints.cache = Some(at(server.addr()));
        let gateway = Gateway::start(config).await;
        let mut tracker = gateway.content_tracker().await;
        let began = Instant::now();
        for (n, step) in steps(&scenario).iter().enumerate() {
            let at = format!("step {n}: {}", step["op"]);
            let result = run(&mut tracker, step["op"].as_str().unwrap(), &step["args"]).await;
            let recorded = &step["result"]["value"];
            // Steps without keys only read.
            let Some(keys) = step.get("keys_after") else {
                assert_eq!(result, *recorded, "{at}");
                replayed += 1;
                continue;
            };
            assert_eq!(recorded, "float", "{at}");
            let mut here: BTreeMap<String, String> = BTreeMap::new();
            for name in check_names(&at, &server, keys).await {
                check_ttl(&at, &server, &name, &keys[format!("0|{name}")], began.elapsed()).await;
                here.insert(format!("0|{name}"), server.run(&["GET", &name]).await);
            }
            let latest = here.values().max_by(|a, b| time(a).total_cmp(&time(b))).unwrap();
            assert_eq!(result, json!(time(latest)), "{at}: the time of the latest mark");
            for (one, value) in &here {
                assert_eq!(keys[one]["type"], "string");
                for (other, other_value) in &here {
                    let recorded = |key: &str| time(keys[key]["value"].as_str().unwrap());
                    assert_eq!(
                        time(value).total_cmp(&time(other_value)),
                        recorded(one).total_cmp(&recorded(other)),
                        "{at}: {one} {value}, {other} {other_value}"
                    );
                }
            }
            replayed += 1;
        }
        drop(tracker);
        gateway.stop().await;
    }
    assert!(replayed >= 7, "only {replayed} steps");
}

/// Runs one step and answers what the reference's method would have answered.
async fn run(tracker: &mut ContentTrackerClient<Channel>, op: &str, args: &Value) -> Value {
    let text = |name: &str| args[name].as_str().unwrap().to_owned();
    let (namespace, repository) = (text("namespace"), text("repo"));
    let user = |id: &Value| id.as_i64().unwrap();
    match op {
        "should_block_read_access" => {
            let question = IsBlockedRequest {
                user_id: user(&args["user_id"]),
                namespace,
                repository,
            };
            tracker.is_blocked(question).await.unwrap().into_inner().blocked.into()
        }
        "mark_repo_modified" => {
            let modification = MarkModifiedRequest { namespace, repository };
            tracker
                .mark_modified(modification)
                .await
                .unwrap()
                .into_inner()
                .time
                .into()
        }
        "mark_permission_revoked" | "mark_permissions_revoked_batch" => {
            let user_ids = match args["user_ids"].as_array() {
                Some(users) => users.iter().map(user).collect(),
                None => vec![user(&args["user_id"])],
            };
            let revocation = MarkRevokedRequest {
                user_ids,
                namespace,
                repository,
            };
            tracker.mark_revoked(revocation).await.unwrap().into_inner().time.into()
        }
        other => panic!("nobody knows how to replay {other}"),
    }
}

/// A time as it stands in Redis: seconds, a point, at most six digits of which the last is zero only if it is the first.
fn time(text: &str) -> f64 {
    let (seconds, micros) = text.split_once('.').expect("a point");
    assert!(
        seconds.len() == 10 && (1..=6).contains(&micros.len()) && (micros.len() == 1 || !micros.ends_with('0')),
        "{text}"
    );
    text.parse().expect("a number")
}
