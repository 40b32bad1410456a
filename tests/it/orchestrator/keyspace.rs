//! The server's own notifications: set up beside what stands, and done without where they are denied.

use std::time::Duration;

use redis_gateway::{
    config::{Endpoint, Password},
    proto::orchestrator_watch_open::Expiries,
};

use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::{Stand, short};
use crate::harness::{RedisServer, at, eventually};

/// What `grpc.health.v1` says of notifications. None: nothing.
async fn health(stand: &Stand) -> Option<ServingStatus> {
    let service = "keyspace-notifications".to_owned();
    let answer = stand.gateway.health().await.check(HealthCheckRequest { service }).await;
    answer.ok().map(|answer| answer.into_inner().status())
}

async fn flags(server: &RedisServer) -> String {
    let found: Vec<String> = server.run(&["CONFIG", "GET", "notify-keyspace-events"]).await;
    let mut flags: Vec<char> = found[1].chars().collect();
    flags.sort_unstable();
    flags.into_iter().collect()
}

#[tokio::test]
async fn flags_that_stand_are_kept_and_those_that_go_are_set_again() {
    let mut server = RedisServer::new().setting("notify-keyspace-events Elg").start().await;
    let endpoint = at(server.addr());
    let stand = Stand::on(server, endpoint, |_| {}).await;
    eventually("K and x are there too", async || flags(&stand.server).await == "EKglx").await;
    stand.ready().await;
    assert_eq!(stand.metric("keyspace_notifications").await, 1);
    eventually("health says so", async || {
        health(&stand).await == Some(ServingStatus::Serving)
    })
    .await;
    server = stand.server;
    server.kill();
    server.restart().await;
    eventually("a server that came back has them again", async || {
        flags(&server).await == "EKglx"
    })
    .await;
    drop(stand.keys);
    stand.gateway.stop().await;
}

#[tokio::test]
async fn what_redis_alone_tells_of_is_heard_without_looking() {
    let stand = Stand::new().await;
    stand.ready().await;
    let looks = stand.metric("looks_total").await;
    let mut watching = stand.watch("building/", false, Expiries::One).await;
    eventually("it has looked for the watch", async || {
        stand.metric("looks_total").await > looks
    })
    .await;
    let looks = stand.metric("looks_total").await;
    stand.direct("building/1", "v", 1).await;
    eventually("redis has noticed", async || {
        stand.server.run::<i64>(&["EXISTS", "building/1/expiring"]).await == 0
    })
    .await;
    assert_eq!(short(&watching.next().await), "expire building/1 v");
    assert_eq!(stand.metric("looks_total").await, looks);
    drop(watching);
    stand.stop().await;
}

#[tokio::test]
async fn nothing_is_set_where_it_is_to_be_skipped() {
    let server = RedisServer::new().start().await;
    let endpoint = at(server.addr());
    let stand = Stand::on(server, endpoint, |config| {
        config.orchestrator.skip_keyspace_event_setup = true;
    })
    .await;
    stand.ready().await;
    assert_eq!(
        (
            flags(&stand.server).await.as_str(),
            stand.metric("keyspace_notifications").await
        ),
        ("", -1)
    );
    assert_eq!(health(&stand).await, None);
    let mut watching = stand.watch("building/", false, Expiries::One).await;
    stand.create("building/1", "v", 1).await;
    assert_eq!(short(&watching.next().await), "create building/1 v");
    assert_eq!(short(&watching.next().await), "expire building/1 v");
    drop(watching);
    stand.stop().await;
}

#[tokio::test]
async fn expiries_come_by_looking_where_the_acl_denies_all_that_tells() {
    for (rules, channels) in [
        ("-config", "&*"),
        ("-config -psubscribe", "&*"),
        ("-config", "resetchannels &orchestrator_events"),
    ] {
        let server = RedisServer::new()
            .user("gateway", &format!("on >secret ~* {channels} +@all {rules}"))
            .start()
            .await;
        let endpoint = Endpoint {
            username: Some("gateway".into()),
            password: Some(Password::Inline("secret".into())),
            ..at(server.addr())
        };
        let stand = Stand::on(server, endpoint, |config| {
            config.orchestrator.look_interval = Duration::from_millis(200);
        })
        .await;
        let mut watching = stand.watch("building/", false, Expiries::One).await;
        assert_eq!(health(&stand).await, Some(ServingStatus::NotServing));
        stand.create("building/1", "v", 1).await;
        assert_eq!(
            short(&watching.next().await),
            "create building/1 v",
            "{rules} {channels}"
        );
        assert_eq!(
            short(&watching.next().await),
            "expire building/1 v",
            "{rules} {channels}"
        );
        // One that nobody told of.
        stand.direct("building/2", "w", 1).await;
        assert_eq!(
            short(&watching.next().await),
            "expire building/2 w",
            "{rules} {channels}"
        );
        eventually("it is said", async || stand.metric("keyspace_notifications").await == 0).await;
        drop(watching);
        stand.stop().await;
    }
}
