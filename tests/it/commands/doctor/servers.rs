//! What is wrong with a server by its own settings, and with what stands in it.

use serde_json::json;

use super::super::{all_at, placed, run};
use super::{Said, apply, flags};
use crate::harness::{RedisCluster, RedisServer, eventually};

#[tokio::test]
async fn a_healthy_server_is_found_fine_and_stays_as_it_was() {
    let server = RedisServer::new().append_only().start().await;
    let endpoints = all_at(server.addr());
    let before: Vec<String> = server.run(&["CONFIG", "GET", "*"]).await;
    let ran = run(&["doctor"], &endpoints).await;
    assert_eq!(ran.code, Some(0), "{ran}");
    assert_eq!(ran.out.lines().count(), 6, "{ran}");
    assert!(
        ran.out.lines().skip(1).all(|line| line.trim_end().ends_with(" fine")),
        "{ran}"
    );
    assert!(ran.err.is_empty() && !ran.out.contains('\u{1b}'), "{ran}");

    let said = Said::of(&endpoints).await;
    assert_eq!(
        (said.code(), said.findings().len(), said.servers().len()),
        (Some(0), 0, 5),
        "{}",
        said.ran
    );
    assert_eq!(server.run::<Vec<String>>(&["CONFIG", "GET", "*"]).await, before);
    assert_eq!(server.run::<i64>(&["DBSIZE"]).await, 0);
    assert_eq!(server.info("rdb_changes_since_last_save").await, 0);
    let ran = server.run::<String>(&["INFO", "commandstats"]).await;
    assert!(!ran.contains("cmdstat_exec") && ran.contains("cmdstat_multi"), "{ran}");
}

#[tokio::test]
async fn an_evicting_policy_under_locks_is_found() {
    let server = RedisServer::new()
        .setting("maxmemory 100mb")
        .setting("maxmemory-policy allkeys-lru")
        .start()
        .await;
    let endpoints = placed(&["locks", "orchestrator", "pull_metrics", "cache"], server.addr());
    let said = Said::of(&endpoints).await;
    assert_eq!(said.code(), Some(1), "{}", said.ran);
    let grave = said.of_check("eviction");
    let errors: Vec<_> = grave.iter().filter(|finding| finding["level"] == "error").collect();
    assert_eq!((errors.len(), grave.len()), (3, 4), "{}", said.ran);

    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let said = Said::of(&placed(&["locks"], server.addr())).await;
    let (level, what, fix) = said.only("eviction");
    assert_eq!((said.code(), level), (Some(0), "warning"));
    assert!(what.starts_with("locks: maxmemory-policy is allkeys-lru"), "{what}");
    apply(&server, fix).await;
    Said::of(&endpoints).await.assert_fine();
}

#[tokio::test]
async fn what_a_server_is_set_to_is_shown() {
    let server = RedisServer::new()
        .append_only()
        .setting("maxmemory 100mb")
        .setting("maxmemory-policy allkeys-lru")
        .setting("notify-keyspace-events Eg")
        .start()
        .await;
    let endpoints = placed(&["cache"], server.addr());
    let said = Said::of(&endpoints).await;
    let info: String = server.run(&["INFO", "server"]).await;
    let product = if info.contains("valkey_version:") {
        "Valkey"
    } else {
        "Redis"
    };
    let facts = json!({
        "product": product, "role": "master", "maxmemory": 100 << 20, "maxmemory_policy": "allkeys-lru",
        "append_only": true, "save": "", "notify_keyspace_events": said.servers()[0]["facts"]["notify_keyspace_events"],
        "lag_ms": null,
    });
    assert_eq!(said.servers()[0]["facts"], facts, "{}", said.ran);
    let ran = run(&["doctor"], &endpoints).await;
    let row: Vec<&str> = ran.out.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        (row[3], &row[5..7]),
        (product, ["allkeys-lru", "aof"].as_slice()),
        "{ran}"
    );
    assert!(row[7].contains('g') && row[7].contains('E'), "{ran}");

    let bare = RedisServer::new().start().await;
    let ran = run(&["doctor"], &placed(&["cache"], bare.addr())).await;
    let row: Vec<&str> = ran.out.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[5..], ["noeviction", "nothing", "nothing", "fine"], "{ran}");
}

#[tokio::test]
async fn notifications_that_nobody_sets_are_found() {
    let server = RedisServer::new().setting("notify-keyspace-events Eg").start().await;
    let mut endpoints = placed(&["orchestrator"], server.addr());
    // The gateway sets them itself.
    Said::of(&endpoints).await.assert_fine();
    endpoints.push("--orchestrator-skip-keyspace-event-setup=true".to_owned());
    let said = Said::of(&endpoints).await;
    let (level, what, fix) = said.only("notifications");
    assert!(level == "warning" && what.contains("without Kx"), "{}", said.ran);
    apply(&server, fix).await;
    Said::of(&endpoints).await.assert_fine();
    let flags: Vec<String> = server.run(&["CONFIG", "GET", "notify-keyspace-events"]).await;
    assert!("EgKx".chars().all(|flag| flags[1].contains(flag)), "{flags:?}");
}

#[tokio::test]
async fn a_server_that_keeps_nothing_is_found() {
    let server = RedisServer::new().start().await;
    let endpoints = placed(&["pull_metrics"], server.addr());
    let said = Said::of(&endpoints).await;
    let (level, what, fix) = said.only("persistence");
    assert!(
        level == "warning" && what.contains("pulls that are counted"),
        "{}",
        said.ran
    );
    apply(&server, fix).await;
    assert!(Said::of(&endpoints).await.findings().is_empty());
    // A cache may go.
    let server = RedisServer::new().start().await;
    assert!(Said::of(&placed(&["cache"], server.addr())).await.findings().is_empty());
}

#[tokio::test]
async fn keys_in_another_database_are_found() {
    let server = RedisServer::new().start().await;
    server.run_on::<()>(3, &["RPUSH", "builds/7/logs", "{}"]).await;
    let mut endpoints = placed(&["build_logs"], server.addr());
    let said = Said::of(&endpoints).await;
    let (level, what, fix) = said.only("db");
    assert_eq!((said.code(), level), (Some(1), "error"));
    assert!(
        what.starts_with("build logs: keys stand in database 3, and none in 0"),
        "{what}"
    );
    let there: Vec<String> = endpoints.iter().cloned().chain(flags(fix)).collect();
    Said::of(&there).await.assert_fine();

    server.run::<()>(&["RPUSH", "builds/8/logs", "{}"]).await;
    assert_eq!(Said::of(&endpoints).await.only("db").0, "warning");
    // One that the server does not have.
    endpoints.push("--endpoints-build-logs-db=99".to_owned());
    let said = Said::of(&endpoints).await;
    let (level, _, fix) = said.only("db");
    assert!(
        level == "error" && fix.contains("endpoints.build_logs.db"),
        "{}",
        said.ran
    );
}

#[tokio::test]
async fn a_small_buffer_for_subscribers_is_found() {
    let server = RedisServer::new()
        .setting("client-output-buffer-limit pubsub 1mb 256kb 60")
        .start()
        .await;
    let endpoints = placed(&["user_events"], server.addr());
    let said = Said::of(&endpoints).await;
    let (level, what, fix) = said.only("output_buffer");
    assert!(
        level == "warning" && what.contains("pubsub 1048576 262144 60"),
        "{}",
        said.ran
    );
    apply(&server, fix).await;
    Said::of(&endpoints).await.assert_fine();
    // No limit is none.
    server
        .run::<()>(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0"])
        .await;
    Said::of(&endpoints).await.assert_fine();
}

#[tokio::test]
async fn a_cluster_is_looked_at_as_one_and_is_no_single_server() {
    let cluster = RedisCluster::with(1, std::time::Duration::from_secs(30)).await;
    let seed = cluster.nodes[0].addr();
    let endpoint = vec![
        format!("--endpoints-cache-cluster={seed}"),
        "--endpoints-cache-read-from-replicas=true".to_owned(),
    ];
    // CLUSTER SLOTS leaves out replicas that have taken nothing in.
    for primary in &cluster.nodes[..RedisCluster::PRIMARIES] {
        primary.run::<()>(&["FLUSHALL"]).await;
    }
    eventually("the first server knows all replicas", async || {
        Said::of(&endpoint).await.servers().len() == 6
    })
    .await;
    let said = Said::of(&endpoint).await;
    assert!(said.findings().is_empty() && said.servers().len() == 6, "{}", said.ran);

    let said = Said::of(&placed(&["cache"], seed)).await;
    let (level, _, fix) = said.only("cluster");
    assert!(
        level == "error" && fix == "set endpoints.cache.cluster in place of host",
        "{}",
        said.ran
    );
    let alone = RedisServer::new().start().await;
    let said = Said::of(&[format!("--endpoints-cache-cluster={}", alone.addr())]).await;
    assert_eq!(
        (said.code(), said.only("cluster").0),
        (Some(1), "error"),
        "{}",
        said.ran
    );
}
