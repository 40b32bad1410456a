//! The recording of the reference: what is published, and what a listener hears.

use redis_gateway::proto::listen_response::Item;
use serde_json::Value;
use tokio_stream::StreamExt as _;

use super::Stand;
use crate::replay::{dumps, given, scenarios, steps};

#[tokio::test]
async fn user_events_are_published_and_heard_as_by_the_reference() {
    let mut published = 0;
    for scenario in scenarios("user_events") {
        let stand = Stand::new().await;
        let login = redis::Client::open(format!("unix://{}", stand.server.socket().display())).unwrap();
        let mut direct = login.get_async_pubsub().await.unwrap();
        direct.psubscribe("*").await.unwrap();
        let steps = steps(&scenario);
        let listen = steps.iter().find(|step| step["op"] == "listen").unwrap();
        let ids: Vec<&str> = listen["args"]["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_str().unwrap())
            .collect();
        let user = listen["args"]["username"].as_str().unwrap();
        let mut listening = None;

        let mut messages = direct.on_message();
        for step in steps.iter().filter(|step| step["op"] != "listen") {
            let args = &step["args"];
            // The direct subscriber, and the listener once it is there.
            let receivers = step["result"]["value"].as_i64().unwrap();
            if receivers == 2 && listening.is_none() {
                listening = Some(stand.listen(user, &ids).await.unwrap());
            }
            if step["op"] == "redis" {
                let words: Vec<&str> = args["command"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|w| w.as_str().unwrap())
                    .collect();
                assert_eq!(stand.server.run::<i64>(&words).await, receivers, "{step}");
            } else {
                let (user, id) = (args["username"].as_str().unwrap(), args["event_id"].as_str().unwrap());
                let payload = given(&args["data"]);
                let answer = stand
                    .publish(user, id, std::str::from_utf8(&payload).unwrap())
                    .await
                    .unwrap();
                assert_eq!(answer.receivers, receivers, "{step}");
            }
            let recorded = &step["published"][0];
            let message = messages.next().await.unwrap();
            assert_eq!(message.get_channel_name(), recorded["channel"], "{step}");
            assert_eq!(message.get_payload::<String>().unwrap(), recorded["payload"], "{step}");
            published += 1;
        }
        let mut listening = listening.expect("a step that it heard");
        // Pulses are confirmations and heartbeats.
        let recorded = listen["result"]["value"].as_array().unwrap();
        for told in recorded.iter().filter(|told| told["event"] != "pulse") {
            let event = listening.event().await;
            assert_eq!(event.event_id, told["event"]);
            let payload: Value = serde_json::from_slice(&event.payload).unwrap();
            assert_eq!(dumps(&payload), dumps(&told["data"]));
        }
        let Item::Heartbeat(_) = listening.next().await.unwrap() else {
            panic!("more than was recorded")
        };
        drop((listening, messages));
        drop(direct);
        stand.stop().await;
    }
    assert!(published >= 12, "only {published} steps");
}
