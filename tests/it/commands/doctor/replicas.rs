//! Replicas: as such, and where a primary should be.

use serde_json::json;

use super::super::placed;
use super::{Said, apply, flags};
use crate::harness::{Mode, Proxy, RedisServer, eventually, unused_port};

async fn follows(replica: &RedisServer) {
    eventually("the replica follows", async || {
        let info: String = replica.run(&["INFO", "replication"]).await;
        info.contains("master_link_status:up")
    })
    .await;
}

#[tokio::test]
async fn a_replica_given_as_primary_is_found() {
    let primary = RedisServer::new().start().await;
    let replica = RedisServer::new().replica_of(&primary).start().await;
    follows(&replica).await;
    let mut endpoints = placed(&["locks"], replica.addr());
    let said = Said::of(&endpoints).await;
    let (level, what, fix) = said.only("role");
    assert_eq!((said.code(), level), (Some(1), "error"));
    assert!(what.contains(&format!("is a replica of {}", primary.addr())), "{what}");
    endpoints = flags(fix);
    Said::of(&endpoints).await.assert_fine();
}

#[tokio::test]
async fn replicas_are_judged_by_whom_they_follow_and_how_far_they_are() {
    let primary = RedisServer::new().start().await;
    let other = RedisServer::new().start().await;
    let replica = RedisServer::new().start().await;
    let mut endpoints = placed(&["cache"], primary.addr());
    endpoints.push(format!("--endpoints-cache-replicas={}", replica.addr()));

    let said = Said::of(&endpoints).await;
    let (level, what, fix) = said.only("role");
    assert!(
        level == "error" && what.starts_with("follows no primary"),
        "{}",
        said.ran
    );
    apply(&replica, fix).await;
    follows(&replica).await;
    let said = Said::of(&endpoints).await;
    said.assert_fine();
    let servers = said.servers();
    assert_eq!(
        (&servers[1]["part"], &servers[1]["facts"]["role"]),
        (&json!("replica"), &json!("slave"))
    );
    assert!(
        servers[1]["facts"]["lag_ms"].is_u64() && servers[0]["facts"]["lag_ms"].is_null(),
        "{}",
        said.ran
    );

    let port = other.addr().port().to_string();
    replica.run::<()>(&["REPLICAOF", "127.0.0.1", &port]).await;
    follows(&replica).await;
    let said = Said::of(&endpoints).await;
    let (level, what, fix) = said.only("replication");
    assert!(
        level == "error" && what.starts_with("follows another primary"),
        "{}",
        said.ran
    );
    apply(&replica, fix).await;
    follows(&replica).await;
    Said::of(&endpoints).await.assert_fine();

    let nobody = unused_port().to_string();
    replica.run::<()>(&["REPLICAOF", "127.0.0.1", &nobody]).await;
    let said = Said::of(&endpoints).await;
    let (level, what, _) = said.only("replication");
    assert!(
        level == "error" && what.starts_with("has lost its primary"),
        "{}",
        said.ran
    );
}

#[tokio::test]
async fn a_replica_that_lags_is_found() {
    let primary = RedisServer::new().start().await;
    let replica = RedisServer::new().start().await;
    let between = Proxy::new(primary.addr());
    let port = between.addr().port().to_string();
    replica.run::<()>(&["REPLICAOF", "127.0.0.1", &port]).await;
    follows(&replica).await;
    let mut endpoints = placed(&["cache"], primary.addr());
    endpoints.push(format!("--endpoints-cache-replicas={}", replica.addr()));
    endpoints.push("--endpoints-cache-command-timeout=300ms".to_owned());
    Said::of(&endpoints).await.assert_fine();

    between.set(Mode::Stall);
    primary.run::<()>(&["SET", "key", "value"]).await;
    let said = Said::of(&endpoints).await;
    let (level, what, _) = said.only("replication");
    assert!(
        level == "warning" && what.starts_with("is behind its primary"),
        "{}",
        said.ran
    );
    between.set(Mode::Pass);
    eventually("the replica has the value", async || {
        replica.run::<Option<String>>(&["GET", "key"]).await.is_some()
    })
    .await;
    Said::of(&endpoints).await.assert_fine();
}
