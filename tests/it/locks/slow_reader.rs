//! One who does not read what it is told keeps its place in a line, and keeps nobody behind it from theirs.

use std::time::Duration;

use redis_gateway::proto::{
    HoldRequest, ListenRequest, LocksGetRequest, PublishRequest, locks_client::LocksClient,
    user_events_client::UserEventsClient,
};
use tokio::time::timeout;
use tonic::transport::Endpoint;

use super::{Held, Stand, acquire, asking, got, holding, release, waiters};
use crate::harness::eventually;

/// What HTTP/2 lets a server send to one who reads nothing.
const WINDOW: u32 = 65_535;

/// An answer that has not come after this does not come.
const UNANSWERED: Duration = Duration::from_millis(500);

#[tokio::test]
async fn stream_that_nobody_reads_takes_its_turn_in_the_line() {
    let mut stand = Stand::new().await;
    let held = got(&mut stand.locks, "a").await;
    let channel = Endpoint::from_shared(format!("http://{}", stand.gateway.grpc()))
        .unwrap()
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW)
        .connect()
        .await
        .unwrap();
    let mut events = UserEventsClient::new(channel.clone());
    let request = ListenRequest {
        username: "somebody".into(),
        event_ids: vec!["event".into()],
    };
    let unread = events.listen(request).await.unwrap();
    // More than the connection takes: nothing else that is told on it gets through.
    let request = PublishRequest {
        username: "somebody".into(),
        event_id: "event".into(),
        payload: format!("\"{}\"", "x".repeat(2 * WINDOW as usize)).into(),
    };
    let mut publisher = stand.gateway.user_events().await;
    let sent = publisher.publish(request).await.unwrap().into_inner();
    assert_eq!(sent.receivers, 1);

    let mut slow = LocksClient::new(channel);
    eventually("nothing gets through", async || {
        let asked = LocksGetRequest { name: "a".into() };
        timeout(UNANSWERED, slow.get(asked)).await.is_err()
    })
    .await;
    let request = HoldRequest {
        wait_ms: 600_000,
        ..holding("a")
    };
    let stream = Held::open(&mut slow, request).await.unwrap();
    waiters(&mut stand.locks, "a", 1).await;
    let (mut locks, mut request) = (stand.locks.clone(), asking("a"));
    request.wait_ms = 20_000;
    let next = tokio::spawn(async move { acquire(&mut locks, request).await });
    waiters(&mut stand.locks, "a", 2).await;
    release(&mut stand.locks, "a", &held.holder_id).await.unwrap();
    eventually("the first in the line has it", async || {
        stand.value("a").await.is_some()
    })
    .await;
    drop((stream, unread, slow, events, publisher));
    assert!(next.await.unwrap().unwrap().acquired);
    stand.stop().await;
}
