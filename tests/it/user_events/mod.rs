//! User events through their RPCs, with a direct client on the other side.

mod faults;
mod listen;
mod recorded;
mod stream;

use redis_gateway::{
    config::{Config, Endpoint},
    proto::{
        ListenRequest, ListenResponse, PublishRequest, PublishResponse, UserEvent, listen_response::Item,
        user_events_client::UserEventsClient,
    },
};
use tokio::time::timeout;
use tonic::{Status, Streaming, transport::Channel};

use crate::harness::{Gateway, RedisServer, at, config, eventually, patience};

/// A gateway on a Redis of its own.
struct Stand {
    server: RedisServer,
    gateway: Gateway,
    events: UserEventsClient<Channel>,
}

impl Stand {
    async fn new() -> Self {
        let server = RedisServer::new().start().await;
        let endpoint = at(server.addr());
        Stand::on(server, endpoint, |_| {}).await
    }

    /// On an endpoint that leads to `server`.
    async fn on(server: RedisServer, endpoint: Endpoint, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        config.endpoints.user_events = Some(endpoint);
        change(&mut config);
        let gateway = Gateway::start(config).await;
        Stand {
            events: gateway.user_events().await,
            server,
            gateway,
        }
    }

    async fn publish(&self, username: &str, event_id: &str, payload: &str) -> Result<PublishResponse, Status> {
        let request = PublishRequest {
            username: username.into(),
            event_id: event_id.into(),
            payload: payload.to_owned().into(),
        };
        let mut events = self.events.clone();
        events.publish(request).await.map(tonic::Response::into_inner)
    }

    /// Publishes past the gateway.
    async fn direct(&self, username: &str, event_id: &str, payload: &str) -> i64 {
        let channel = format!("user/{username}/events/{event_id}");
        self.server.run(&["PUBLISH", &channel, payload]).await
    }

    async fn listen(&self, username: &str, event_ids: &[&str]) -> Result<Listening, Status> {
        let request = ListenRequest {
            username: username.into(),
            event_ids: event_ids.iter().map(|id| (*id).into()).collect(),
        };
        let mut events = self.events.clone();
        let stream = events.listen(request).await?.into_inner();
        let mut listening = Listening(stream);
        match listening.next().await? {
            Item::Opened(_) => Ok(listening),
            other => panic!("{other:?} instead of the confirmation"),
        }
    }

    /// The channels that somebody is subscribed to.
    async fn channels(&self) -> Vec<String> {
        let mut channels: Vec<String> = self.server.run(&["PUBSUB", "CHANNELS"]).await;
        channels.sort();
        channels
    }

    /// Ends the gateway and checks that it leaves nothing behind.
    async fn stop(self) {
        drop(self.events);
        self.gateway.stop().await;
        eventually("no connection is left", async || {
            self.server.connections().await.is_empty()
        })
        .await;
    }
}

/// A stream that is open.
struct Listening(Streaming<ListenResponse>);

impl Listening {
    async fn next(&mut self) -> Result<Item, Status> {
        let answer = timeout(patience(), self.0.message()).await.expect("an item");
        answer.map(|answer| answer.expect("an item, not an end").item.expect("an item"))
    }

    /// The next event, past heartbeats.
    async fn event(&mut self) -> UserEvent {
        loop {
            match self.next().await.unwrap() {
                Item::Event(event) => return event,
                Item::Heartbeat(_) => {}
                other => panic!("{other:?} instead of an event"),
            }
        }
    }
}

fn event(event_id: &str, payload: &str) -> UserEvent {
    UserEvent {
        event_id: event_id.into(),
        payload: payload.to_owned().into(),
    }
}
