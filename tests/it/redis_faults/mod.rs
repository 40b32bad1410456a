//! Endpoints of the gateway on real Redis under faults: one test for each trap of the client library.

mod appends;
mod blocking;
mod dead_connections;
mod logins;
mod refusals;
mod replicas;
mod subscriptions;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prometheus::Registry;
use redis_gateway::{
    config::{self, EndpointName},
    deadline::Deadline,
    redis::{Command, Endpoint, Error, Metrics, Once, State, command},
};
use tokio::time::timeout;

use crate::harness::{RedisServer, Told, eventually, patience};

/// Opens an endpoint.
fn open(config: &config::Endpoint) -> Arc<Endpoint> {
    Endpoint::open(EndpointName::BuildLogs, config, &Metrics::new(&Registry::new()))
}

/// Opens an endpoint and waits until it serves.
async fn serving(config: &config::Endpoint) -> Arc<Endpoint> {
    let endpoint = open(config);
    up(&endpoint).await;
    endpoint
}

/// Waits until the endpoint serves.
async fn up(endpoint: &Endpoint) {
    reaches(endpoint, State::Up).await;
}

/// Waits until the endpoint's breaker is open.
async fn down(endpoint: &Endpoint) {
    reaches(endpoint, State::Down).await;
}

async fn reaches(endpoint: &Endpoint, wanted: State) {
    let mut state = endpoint.state();
    let reached = timeout(patience(), state.wait_for(|state| *state == wanted)).await;
    assert!(reached.is_ok(), "an endpoint that never came to be {wanted:?}");
}

/// Ends the endpoint and checks that it leaves no connection behind.
async fn close(endpoint: Arc<Endpoint>, server: &RedisServer) {
    endpoint.settled().await;
    assert_eq!(Arc::strong_count(&endpoint), 1, "somebody still holds the endpoint");
    drop(endpoint);
    eventually("no connection is left", async || server.connections().await.is_empty()).await;
}

/// The deadline `ms` milliseconds from now.
fn within_ms(ms: u64) -> Deadline {
    Deadline::within(Duration::from_millis(ms))
}

/// A number appended to `list`.
fn push(list: &str, number: usize) -> Command<Once, i64> {
    command::rpush(
        Bytes::copy_from_slice(list.as_bytes()),
        [Bytes::from(number.to_string())],
    )
}

/// What an outcome says about a change.
fn told<T>(result: &Result<T, Error>) -> Told {
    match result {
        Ok(_) => Told::Done,
        Err(Error::Unknown) => Told::Unknown,
        Err(_) => Told::NotExecuted,
    }
}

/// The numbers that stand in `list`.
async fn standing(server: &RedisServer, list: &str) -> Vec<usize> {
    server.run(&["LRANGE", list, "0", "-1"]).await
}
