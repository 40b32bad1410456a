//! `clients`: who talks to Redis, and who of them does so without a gateway.

use serde_json::{Value, json};

use super::{all_at, logged_in, placed, run, secret};
use crate::harness::{Gateway, Peer, RedisServer, at, config, eventually, unused_port};

/// The arguments of a peer that keeps a lock, or waits for it, on a connection of that name.
fn holder(server: &RedisServer, name: &str, folder: &tempfile::TempDir, dashes: &str) -> Vec<String> {
    let journal = folder.path().join(name);
    let url = format!("redis://{}?client_name={name}", server.addr());
    let options = [("redis", url.as_str()), ("journal", journal.to_str().unwrap())];
    let numbers = [("holders", "1"), ("locks", "1"), ("ttl", "600"), ("hold", "100000")];
    let all = options.iter().chain(&numbers);
    all.flat_map(|(name, value)| [format!("{dashes}{name}"), (*value).to_owned()])
        .collect()
}

/// The connections of one class in the answer of `clients --json`.
fn of_class<'a>(answer: &'a Value, class: &str) -> Vec<&'a Value> {
    let servers = answer["servers"].as_array().unwrap();
    let all = servers
        .iter()
        .flat_map(|server| server["connections"].as_array().unwrap());
    all.filter(|one| one["class"] == class).collect()
}

#[tokio::test]
async fn direct_clients_are_told_from_gateways_until_none_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let server = RedisServer::new().start().await;
    let mut settings = config();
    settings.endpoints.user_events = Some(at(server.addr()));
    settings.endpoints.cache = Some(at(server.addr()));
    let gateway = Gateway::start(settings).await;
    let endpoints = all_at(server.addr());
    // Both want the same lock, so one of them waits.
    let mut peers = vec![Peer::start("lock_holders.py", None, &holder(&server, "python", &folder, "--")).await];
    if Peer::has_go() {
        peers.push(Peer::start_go(&holder(&server, "golang", &folder, "-")).await);
    }
    let waiting = usize::from(Peer::has_go());
    let named = async |name: &str| {
        let lines = server.connections().await;
        lines
            .iter()
            .filter(|line| line.contains(&format!(" name={name} ")))
            .count()
    };
    let blocked = async || {
        let lines = server.connections().await;
        lines.iter().filter(|line| line.contains(" cmd=blpop ")).count()
    };
    eventually("one holds, one waits, the gateway is connected", async || {
        let held = server.run::<i64>(&["EXISTS", "lock:m0"]).await == 1;
        held && blocked().await >= waiting && named("redis-gateway").await >= 2
    })
    .await;

    let ran = run(&["clients --json"], &endpoints).await;
    let answer = ran.json();
    assert_eq!(ran.code, Some(0), "{ran}");
    assert_eq!(
        answer["servers"].as_array().unwrap().len(),
        1,
        "five endpoints, one server: {ran}"
    );
    for name in ["python", "golang"].iter().take(peers.len()) {
        let direct = of_class(&answer, "direct");
        let theirs: Vec<_> = direct.iter().filter(|one| one["name"] == *name).collect();
        assert_eq!(theirs.len(), named(name).await, "{name}: {ran}");
        assert!(
            theirs
                .iter()
                .any(|one| one["patterns"].as_array().unwrap().contains(&json!("locks"))),
            "{name}: {ran}"
        );
        assert!(
            theirs
                .iter()
                .all(|one| one["user"] == "default" && one["address"] != ""),
            "{ran}"
        );
    }
    let gateways = of_class(&answer, "gateway");
    assert_eq!(gateways.len(), named("redis-gateway").await, "{ran}");
    assert!(gateways.iter().all(|one| one["name"] == "redis-gateway"), "{ran}");
    assert!(!of_class(&answer, "this command").is_empty(), "{ran}");
    assert_eq!(answer["direct"], of_class(&answer, "direct").len());
    let known: String = server.run(&["INFO", "server"]).await;
    let new = !["redis_version:6", "redis_version:7.0"]
        .iter()
        .any(|old| known.contains(old));
    assert_eq!(answer["servers"][0]["tells_libraries"], new, "{ran}");

    let ran = run(&["clients --fail-on-direct"], &endpoints).await;
    let row = |name: &str| {
        ran.out
            .lines()
            .any(|line| line.starts_with("direct ") && line.contains(name))
    };
    assert!(
        ran.code == Some(1) && row("python") && row("golang") == Peer::has_go(),
        "{ran}"
    );
    assert_eq!(
        ran.out.contains("no client can tell which library it is"),
        !new,
        "{ran}"
    );

    for peer in peers {
        peer.terminate().await;
    }
    eventually("nobody but the gateway is left", async || {
        server
            .connections()
            .await
            .iter()
            .all(|line| line.contains(" name=redis-gateway "))
    })
    .await;
    let ran = run(&["clients --fail-on-direct"], &endpoints).await;
    assert!(
        ran.code == Some(0) && ran.out.ends_with("connections without a gateway: 0\n"),
        "{ran}"
    );
    gateway.stop().await;
}

#[tokio::test]
async fn the_rights_that_its_page_lists_are_enough() {
    let rights = "on >secret +ping +select +client|setname +client|list +client|id +info";
    let server = RedisServer::new().user("looks", rights).start().await;
    let file = secret();
    let names = ["cache", "pull_metrics"];
    let endpoints = [placed(&names, server.addr()), logged_in(&names, "looks", &file)].concat();
    let ran = run(&["clients --json --fail-on-direct"], &endpoints).await;
    let answer = ran.json();
    assert_eq!(
        (ran.code, answer["servers"].as_array().unwrap().len()),
        (Some(0), 1),
        "{ran}"
    );
    assert!(!of_class(&answer, "this command").is_empty(), "{ran}");
}

#[tokio::test]
async fn replicas_are_looked_at_and_follow_without_being_direct_clients() {
    let primary = RedisServer::new().start().await;
    let replica = RedisServer::new().replica_of(&primary).start().await;
    eventually("the replica follows", async || {
        primary.info("connected_slaves").await == 1
    })
    .await;
    let mut endpoints = placed(&["cache"], primary.addr());
    endpoints.push(format!("--endpoints-cache-replicas={}", replica.addr()));
    let _reader = replica.client().await;
    let ran = run(&["clients --json"], &endpoints).await;
    let answer = ran.json();
    assert_eq!(of_class(&answer, "replication").len(), 2, "each end of one link: {ran}");
    let servers = answer["servers"].as_array().unwrap();
    let seen: Vec<_> = servers
        .iter()
        .map(|server| (&server["server"], &server["replica"]))
        .collect();
    let (first, second) = (json!(primary.addr().to_string()), json!(replica.addr().to_string()));
    assert_eq!(seen, [(&first, &json!(false)), (&second, &json!(true))], "{ran}");
    assert_eq!(answer["direct"], 1, "the reader of the replica: {ran}");
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_named() {
    let server = RedisServer::new()
        .user("mute", "on >secret ~* +@all -client|list")
        .start()
        .await;
    let away = unused_port();
    let mut endpoints = placed(&["build_logs", "cache"], server.addr());
    endpoints.extend(placed(&["user_events"], ([127, 0, 0, 1], away).into()));
    let ran = run(&["clients"], &endpoints).await;
    assert_eq!(ran.code, Some(69), "{ran}");
    assert!(
        ran.err
            .contains(&format!("user_events 127.0.0.1:{away}: it takes no connection")),
        "{ran}"
    );
    assert!(ran.out.contains("endpoints: build_logs, cache"), "{ran}");
    assert!(ran.out.ends_with("on the servers that answered\n"), "{ran}");
    let ran = run(&["clients --endpoint cache"], &endpoints).await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran}");

    let file = secret();
    let mut muted = placed(&["cache"], server.addr());
    muted.extend(logged_in(&["cache"], "mute", &file));
    let ran = run(&["clients"], &muted).await;
    assert!(
        ran.code == Some(69) && ran.err.contains("not permitted to run CLIENT"),
        "{ran}"
    );
    let ran = run(&["clients --endpoint orchestrator"], &muted).await;
    assert!(
        ran.code == Some(64) && ran.err.contains("orchestrator is not configured"),
        "{ran}"
    );
}
