//! Keys of build managers, and watches on them, through their RPCs, with direct clients on the other side.

mod expiries;
mod faults;
mod keyspace;
mod leases;
mod refusals;
mod unary;
mod watches;

use std::time::Duration;

use redis_gateway::{
    config::{Config, Endpoint},
    proto::{
        OrchestratorDeleteRequest, OrchestratorEntry, OrchestratorExpired, OrchestratorGap, OrchestratorGetRequest,
        OrchestratorListRequest, OrchestratorSetRequest, OrchestratorWatchAcknowledge, OrchestratorWatchOpen,
        OrchestratorWatchRequest, OrchestratorWatchResponse, orchestrator_client::OrchestratorClient,
        orchestrator_watch_open::Expiries, orchestrator_watch_request::Message, orchestrator_watch_response::Event,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use crate::harness::{Gateway, RedisServer, at, config, eventually, patience};

/// A day: how long a key stays for those who watch after its expiration.
const DAY_MS: i64 = 86_400_000;

/// A gateway on a Redis of its own.
struct Stand {
    server: RedisServer,
    gateway: Gateway,
    keys: OrchestratorClient<Channel>,
}

impl Stand {
    async fn new() -> Self {
        let server = RedisServer::new().start().await;
        let endpoint = at(server.addr());
        Stand::on(server, endpoint, |_| {}).await
    }

    /// On an endpoint that leads to `server`.
    async fn on(server: RedisServer, endpoint: Endpoint, change: impl FnOnce(&mut Config)) -> Self {
        let gateway = gateway(endpoint, change).await;
        Stand {
            keys: OrchestratorClient::new(gateway.channel().await),
            server,
            gateway,
        }
    }

    async fn set(&self, key: &str, value: &str, overwrite: bool, expiration_seconds: i64) -> Result<bool, Status> {
        let request = OrchestratorSetRequest {
            key: key.into(),
            value: value.to_owned().into(),
            overwrite,
            expiration_seconds,
        };
        let answer = self.keys.clone().set(request).await?;
        Ok(answer.into_inner().stored)
    }

    async fn create(&self, key: &str, value: &str, expiration_seconds: i64) {
        assert!(self.set(key, value, false, expiration_seconds).await.unwrap(), "{key}");
    }

    async fn get(&self, key: &str) -> Result<String, Status> {
        let answer = self
            .keys
            .clone()
            .get(OrchestratorGetRequest { key: key.into() })
            .await?;
        Ok(text(&answer.into_inner().value))
    }

    async fn delete(&self, key: &str) -> Result<String, Status> {
        let request = OrchestratorDeleteRequest { key: key.into() };
        Ok(text(&self.keys.clone().delete(request).await?.into_inner().value))
    }

    /// All pages of a list, sorted.
    async fn list(&self, prefix: &str, page_size: i32) -> Vec<(String, String)> {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = OrchestratorListRequest {
                prefix: prefix.into(),
                page_size,
                page_token,
            };
            let page = self.keys.clone().list(request).await.unwrap().into_inner();
            found.extend(page.entries.iter().map(pair));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                found.sort();
                found.dedup();
                return found;
            }
        }
    }

    /// A watch that is open.
    async fn watch(&self, prefix: &str, snapshot: bool, expiries: Expiries) -> Watching {
        self.watch_as("", prefix, snapshot, expiries).await.unwrap()
    }

    async fn watch_as(
        &self,
        client_id: &str,
        prefix: &str,
        snapshot: bool,
        expiries: Expiries,
    ) -> Result<Watching, Status> {
        watch(&self.keys, client_id, prefix, snapshot, expiries).await
    }

    /// One number of the metrics, all labels together.
    async fn metric(&self, name: &str) -> i64 {
        metric(&self.gateway, name).await
    }

    /// Waits until the first look at all keys is over, and Redis tells of expirations if it can.
    async fn ready(&self) {
        eventually("it has looked", async || self.metric("looks_total").await > 0).await;
    }

    /// Sets a key as the reference does.
    async fn direct(&self, key: &str, value: &str, expiration_seconds: i64) {
        let (day, seconds) = (
            (expiration_seconds + 86_400).to_string(),
            expiration_seconds.to_string(),
        );
        let expiring = format!("{key}/expiring");
        self.server.run::<()>(&["SET", key, value]).await;
        self.server.run::<()>(&["EXPIRE", key, &day]).await;
        self.server.run::<()>(&["SET", &expiring, "", "EX", &seconds]).await;
    }

    /// Leaves a key as one whose expiration was over a while ago.
    async fn left_behind(&self, key: &str, value: &str) {
        self.server.run::<()>(&["SET", key, value, "PX", "86000000"]).await;
    }

    /// Publishes what a manager tells.
    async fn publish(&self, event: u8, key: &str, value: &str) {
        let payload = format!(r#"{{"event": {event}, "key": "{key}", "value": "{value}"}}"#);
        self.server
            .run::<()>(&["PUBLISH", "orchestrator_events", &payload])
            .await;
    }

    /// Ends the gateway and checks that it leaves nothing behind.
    async fn stop(self) {
        drop(self.keys);
        self.gateway.stop().await;
        eventually("no connection is left", async || {
            self.server.connections().await.is_empty()
        })
        .await;
    }
}

async fn gateway(endpoint: Endpoint, change: impl FnOnce(&mut Config)) -> Gateway {
    let mut config = config();
    config.endpoints.orchestrator = Some(endpoint);
    change(&mut config);
    Gateway::start(config).await
}

async fn metric(gateway: &Gateway, name: &str) -> i64 {
    let (_, text) = gateway.admin("/metrics").await;
    let name = format!("redis_gateway_orchestrator_{name}");
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(&name)?;
        if !rest.starts_with([' ', '{']) {
            return None;
        }
        rest.rsplit(' ').next()?.parse::<i64>().ok()
    });
    values.sum()
}

async fn watch(
    keys: &OrchestratorClient<Channel>,
    client_id: &str,
    prefix: &str,
    snapshot: bool,
    expiries: Expiries,
) -> Result<Watching, Status> {
    let open = OrchestratorWatchOpen {
        prefix: prefix.into(),
        snapshot,
        expiries: expiries.into(),
        client_id: client_id.into(),
    };
    let (requests, taken) = mpsc::channel(16);
    requests.send(message(Message::Open(open))).await.unwrap();
    let stream = keys.clone().watch(ReceiverStream::new(taken)).await?.into_inner();
    let mut watching = Watching { stream, requests };
    match watching.next().await {
        Event::Confirmed(confirmed) => assert!(client_id.is_empty() || confirmed.client_id == client_id),
        other => panic!("{other:?} instead of the confirmation"),
    }
    if !snapshot {
        assert!(matches!(watching.next().await, Event::Synced(_)));
    }
    Ok(watching)
}

fn message(message: Message) -> OrchestratorWatchRequest {
    OrchestratorWatchRequest { message: Some(message) }
}

/// A stream that is open.
struct Watching {
    stream: Streaming<OrchestratorWatchResponse>,
    requests: mpsc::Sender<OrchestratorWatchRequest>,
}

impl Watching {
    /// The next event, heartbeats aside.
    async fn next(&mut self) -> Event {
        loop {
            let told = timeout(patience(), self.stream.message()).await.expect("an event");
            match told.unwrap().expect("an event, not an end").event.expect("an event") {
                Event::Heartbeat(_) => {}
                event => return event,
            }
        }
    }

    /// How the stream ends.
    async fn end(&mut self) -> Status {
        loop {
            match timeout(patience(), self.stream.message()).await.expect("an end") {
                Ok(Some(_)) => {}
                Ok(None) => panic!("an end without a reason"),
                Err(status) => return status,
            }
        }
    }

    /// What is there, up to `synced`, sorted.
    async fn snapshot(&mut self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        loop {
            match self.next().await {
                Event::Entry(entry) => found.push(pair(&entry)),
                Event::Synced(_) => break,
                other => panic!("{other:?} in the snapshot"),
            }
        }
        found.sort();
        found
    }

    async fn expiry(&mut self) -> OrchestratorExpired {
        match self.next().await {
            Event::Expire(expired) => expired,
            other => panic!("{other:?} instead of an expiry"),
        }
    }

    async fn gap(&mut self) -> OrchestratorGap {
        match self.next().await {
            Event::Gap(gap) => gap,
            other => panic!("{other:?} instead of a gap"),
        }
    }

    async fn acknowledge(&self, expired: &OrchestratorExpired) {
        let ack_id = expired.ack_id.clone();
        let acknowledge = OrchestratorWatchAcknowledge { ack_id };
        self.requests
            .send(message(Message::Acknowledge(acknowledge)))
            .await
            .unwrap();
    }

    /// Nothing comes for so long.
    async fn silent(&mut self, time: Duration) {
        if let Ok(event) = timeout(time, self.next()).await {
            panic!("{event:?} instead of silence");
        }
    }
}

/// An event in a short form: `create key value`.
fn short(event: &Event) -> String {
    match event {
        Event::Create(entry) => format!("create {} {}", entry.key, text(&entry.value)),
        Event::Set(entry) => format!("set {} {}", entry.key, text(&entry.value)),
        Event::Delete(deleted) => match &deleted.value {
            Some(value) => format!("delete {} {}", deleted.key, text(value)),
            None => format!("delete {}", deleted.key),
        },
        Event::Expire(expired) => format!("expire {} {}", expired.key, text(&expired.value)),
        other => format!("{other:?}"),
    }
}

fn pair(entry: &OrchestratorEntry) -> (String, String) {
    (entry.key.clone(), text(&entry.value))
}

fn text(value: &[u8]) -> String {
    String::from_utf8(value.to_vec()).unwrap()
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect()
}
