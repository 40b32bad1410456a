//! The orchestrator's part of the recording.

use redis_gateway::proto::{
    OrchestratorDeleteRequest, OrchestratorGetRequest, OrchestratorListRequest, OrchestratorLockRequest,
    OrchestratorSetRequest, OrchestratorWatchOpen, OrchestratorWatchRequest, OrchestratorWatchResponse,
    orchestrator_client::OrchestratorClient, orchestrator_watch_open::Expiries, orchestrator_watch_request::Message,
    orchestrator_watch_response::Event,
};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Status, Streaming, transport::Channel};

use super::{check_keys, scenarios, steps};
use crate::harness::{Gateway, RedisServer, at, config, eventually, patience, reason};

#[tokio::test]
async fn orchestrator_leaves_and_tells_what_the_reference_did() {
    let mut replayed = 0;
    for scenario in scenarios("orchestrator") {
        let server = RedisServer::new().start().await;
        let mut config = config();
        config.endpoints.orchestrator = Some(at(server.addr()));
        let gateway = Gateway::start(config).await;
        let direct = redis::Client::open(format!("unix://{}", server.socket().display())).unwrap();
        let mut heard = direct.get_async_pubsub().await.unwrap();
        heard.subscribe("orchestrator_events").await.unwrap();
        let mut heard = heard.into_on_message();
        let mut run = Replay {
            keys: OrchestratorClient::new(gateway.channel().await),
            server,
            watch: None,
        };
        let began = Instant::now();
        for (n, step) in steps(&scenario).iter().enumerate() {
            let at = format!("{}, step {n}: {}", scenario["name"], step["op"]);
            let result = run.step(step).await;
            match step["result"].get("error") {
                // Where nothing is stored, nothing stands and nothing is told.
                _ if step["args"]["key"] == "building/absent" => {
                    run.absent(&step["args"]["key"]).await;
                    continue;
                }
                None => assert_eq!(result.unwrap(), step["result"]["value"], "{at}"),
                Some(_) => {
                    let refused = reason(&result.unwrap_err()).unwrap();
                    assert!(
                        ["KEY_EXISTS", "KEY_NOT_FOUND"].contains(&refused.as_str()),
                        "{at}: {refused}"
                    );
                }
            }
            for published in step["published"].as_array().into_iter().flatten() {
                let message = timeout(patience(), heard.next()).await.unwrap().unwrap();
                assert_eq!(message.get_payload::<String>().unwrap(), published["payload"], "{at}");
            }
            for told in step["watch_events"].as_array().into_iter().flatten() {
                assert_eq!(run.told().await, *told, "{at}");
            }
            if let Some(keys) = step.get("keys_after") {
                let mut keys = keys.clone();
                // See above.
                keys.as_object_mut().unwrap().remove("0|building/absent/expiring");
                check_keys(&at, &run.server, &keys, began.elapsed()).await;
            }
            replayed += 1;
        }
        drop((run.keys, run.watch, heard));
        gateway.stop().await;
    }
    assert_eq!(replayed, 20);
}

struct Replay {
    server: RedisServer,
    keys: OrchestratorClient<Channel>,
    watch: Option<Watch>,
}

/// The watch, and its other side, which keeps it open.
type Watch = (
    Streaming<OrchestratorWatchResponse>,
    mpsc::Sender<OrchestratorWatchRequest>,
);

impl Replay {
    /// Runs one step and answers what the reference's method would have answered.
    async fn step(&mut self, step: &Value) -> Result<Value, Status> {
        let args = &step["args"];
        let text = |name: &str| args[name].as_str().unwrap_or_default().to_owned();
        let key = text("key");
        match step["op"].as_str().unwrap() {
            "start_watching" => self.start_watching(text("prefix")).await,
            "set_key" => {
                let request = OrchestratorSetRequest {
                    key,
                    value: text("value").into(),
                    overwrite: args["overwrite"].as_bool().unwrap_or(false),
                    expiration_seconds: args["expiration"].as_i64().unwrap_or(0),
                };
                self.keys.set(request).await?;
                Ok(Value::Null)
            }
            "get_key" => {
                let answer = self.keys.get(OrchestratorGetRequest { key }).await?;
                Ok(String::from_utf8(answer.into_inner().value.into()).unwrap().into())
            }
            "delete_key" => {
                self.keys.delete(OrchestratorDeleteRequest { key }).await?;
                Ok(Value::Null)
            }
            "lock" => {
                let request = OrchestratorLockRequest {
                    key,
                    expiration_seconds: 0,
                };
                Ok(self.keys.lock(request).await?.into_inner().locked.into())
            }
            "get_prefixed_keys" => {
                let request = OrchestratorListRequest {
                    prefix: text("prefix"),
                    page_size: 1_000,
                    page_token: String::new(),
                };
                let page = self.keys.list(request).await?.into_inner();
                assert_eq!(page.next_page_token, "");
                let entries = page.entries.into_iter();
                let entries = entries.map(|entry| (entry.key, String::from_utf8(entry.value.into()).unwrap().into()));
                Ok(Value::Object(entries.collect()))
            }
            other => panic!("nobody knows how to replay {other}"),
        }
    }

    async fn start_watching(&mut self, prefix: String) -> Result<Value, Status> {
        let open = OrchestratorWatchOpen {
            prefix,
            snapshot: false,
            expiries: Expiries::One.into(),
            client_id: String::new(),
        };
        let (requests, taken) = mpsc::channel(1);
        let message = Some(Message::Open(open));
        requests.send(OrchestratorWatchRequest { message }).await.unwrap();
        let stream = self.keys.watch(ReceiverStream::new(taken)).await?.into_inner();
        self.watch = Some((stream, requests));
        assert!(matches!(self.next().await, Event::Confirmed(_)));
        assert!(matches!(self.next().await, Event::Synced(_)));
        let mut flags = String::new();
        eventually("notifications are set up", async || {
            let found: Vec<String> = self.server.run(&["CONFIG", "GET", "notify-keyspace-events"]).await;
            flags.clone_from(&found[1]);
            !flags.is_empty()
        })
        .await;
        Ok(json!({"notify-keyspace-events": flags}))
    }

    async fn next(&mut self) -> Event {
        let (stream, _) = self.watch.as_mut().expect("a watch that is open");
        let told = timeout(patience(), stream.message()).await.unwrap().unwrap();
        told.unwrap().event.unwrap()
    }

    /// What the watch is told next, as it was recorded.
    async fn told(&mut self) -> Value {
        let (event, key, value) = match self.next().await {
            Event::Create(entry) => ("CREATE", entry.key, entry.value),
            Event::Set(entry) => ("SET", entry.key, entry.value),
            Event::Delete(deleted) => ("DELETE", deleted.key, deleted.value.unwrap()),
            Event::Expire(expired) => ("EXPIRE", expired.key, expired.value),
            other => panic!("{other:?} was not recorded"),
        };
        json!({"event": event, "key": key, "value": String::from_utf8(value.into()).unwrap()})
    }

    async fn absent(&self, key: &Value) {
        let names = ["", "/expiring", "/expired"].map(|beside| format!("{}{beside}", key.as_str().unwrap()));
        let words: Vec<&str> = std::iter::once("EXISTS")
            .chain(names.iter().map(String::as_str))
            .collect();
        assert_eq!(self.server.run::<i64>(&words).await, 0);
    }
}
