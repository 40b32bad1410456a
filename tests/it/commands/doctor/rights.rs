//! What a user may do: what lacks is found, and granting it is enough.

use redis_gateway::{
    config::{Endpoint, Password},
    proto::{
        AcquireRequest, AppendRequest, CacheDeleteRequest, CacheSetRequest, ClaimPullsRequest, LogEntry,
        PublishRequest, locks_client::LocksClient, log_entry::Kind,
    },
};

use super::super::placed;
use super::{Said, apply};
use crate::harness::{Gateway, RedisServer, at, config};

const PASSWORD: &str = "a-secret-of-the-user";

/// A server that knows the user `gw`, who may do what `rules` say, and the flags for an endpoint on it.
async fn known(endpoint: &str, rules: &str) -> (RedisServer, Vec<String>, tempfile::NamedTempFile) {
    let rules = format!("on >{PASSWORD} resetkeys resetchannels -@all {rules}");
    let server = RedisServer::new().append_only().user("gw", &rules).start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), PASSWORD).unwrap();
    let name = endpoint.replace('_', "-");
    let mut flags = placed(&[endpoint], server.addr());
    flags.push(format!("--endpoints-{name}-username=gw"));
    flags.push(format!("--endpoints-{name}-password-file={}", file.path().display()));
    (server, flags, file)
}

/// Does all that is said of rights.
async fn grant(server: &RedisServer, said: &Said) {
    for finding in said.of_check("rights") {
        apply(server, finding["fix"].as_str().unwrap()).await;
    }
}

fn as_user(server: &RedisServer) -> Endpoint {
    Endpoint {
        username: Some("gw".to_owned()),
        password: Some(Password::Inline(PASSWORD.to_owned())),
        ..at(server.addr())
    }
}

#[tokio::test]
async fn one_round_of_fixes_makes_a_user_who_may_do_nothing_one_who_may_do_all() {
    let mut gateway = config();
    let mut servers = Vec::new();
    for endpoint in ["build_logs", "user_events", "pull_metrics", "cache", "orchestrator"] {
        let (server, flags, _file) = known(endpoint, "+multi +select").await;
        let said = Said::of(&flags).await;
        assert_eq!(said.code(), Some(1), "{}", said.ran);
        assert!(!said.ran.out.contains(PASSWORD), "{}", said.ran);
        grant(&server, &said).await;
        let said = Said::of(&flags).await;
        let left: Vec<_> = said
            .findings()
            .into_iter()
            .filter(|finding| finding["level"] != "unseen")
            .collect();
        assert!(left.is_empty() && said.code() == Some(0), "{}", said.ran);
        let user = Some(as_user(&server));
        match endpoint {
            "build_logs" => gateway.endpoints.build_logs = user,
            "user_events" => gateway.endpoints.user_events = user,
            "pull_metrics" => gateway.endpoints.pull_metrics = user.map(|user| Endpoint { db: 1, ..user }),
            "cache" => gateway.endpoints.cache = user,
            _ => gateway.endpoints.orchestrator = user,
        }
        // What else there is to see needs two rights more.
        server
            .run::<()>(&["ACL", "SETUSER", "gw", "+info", "+config|get"])
            .await;
        assert!(Said::of(&flags).await.findings().is_empty(), "{endpoint}");
        server.run::<()>(&["ACL", "LOG", "RESET"]).await;
        servers.push(server);
    }
    // What was granted is enough.
    let gateway = Gateway::start(gateway).await;
    let append = AppendRequest {
        build_id: "7".to_owned(),
        entries: vec![LogEntry {
            kind: Some(Kind::Json(r#"{"a": 1}"#.into())),
        }],
    };
    gateway.build_logs().await.append(append).await.unwrap();
    let set = CacheSetRequest {
        key: "repo_blob__a".to_owned(),
        value: "{}".into(),
        ..CacheSetRequest::default()
    };
    let set = gateway.cache().await.set(set).await.unwrap().into_inner();
    assert!(set.stored, "{set:?}");
    let delete = CacheDeleteRequest {
        key: "repo_blob__a".to_owned(),
        ..CacheDeleteRequest::default()
    };
    assert_eq!(
        gateway
            .cache()
            .await
            .delete(delete)
            .await
            .unwrap()
            .into_inner()
            .degraded,
        0
    );
    let acquire = AcquireRequest {
        name: "GC".to_owned(),
        ttl_ms: 1_000,
        ..AcquireRequest::default()
    };
    let mut locks = LocksClient::new(gateway.channel().await);
    assert!(locks.acquire(acquire).await.unwrap().into_inner().acquired);
    let claim = ClaimPullsRequest {
        lease_seconds: 1,
        ..ClaimPullsRequest::default()
    };
    gateway.pull_metrics().await.claim_pulls(claim).await.unwrap();
    let publish = PublishRequest {
        username: "devtable".to_owned(),
        event_id: "docker-cli".to_owned(),
        payload: "{}".into(),
    };
    gateway.user_events().await.publish(publish).await.unwrap();
    for server in &servers {
        let denied: Vec<redis::Value> = server.run(&["ACL", "LOG"]).await;
        assert!(denied.is_empty(), "{denied:?}");
    }
}

#[tokio::test]
async fn a_right_that_lacks_is_named_and_so_is_what_it_costs() {
    let all = "+@all ~* &*";
    for (endpoint, rules, lacks, level) in [
        ("locks", "+@all -evalsha ~* &*", "+evalsha", "error"),
        ("locks", "+@all -blpop ~* &*", "+blpop", "warning"),
        (
            "locks",
            "+@all ~lock:* ~redis-gateway:v1:locks:* &*",
            "~lock-signal:*",
            "error",
        ),
        (
            "locks",
            "+@all ~lock:* ~lock-signal:* ~redis-gateway:v1:locks:token &*",
            "~redis-gateway:v1:locks:*",
            "error",
        ),
        ("user_events", "+@all ~* &orchestrator_events", "&user/*", "error"),
        ("orchestrator", "+@all -config|set ~* &*", "+config|set", "warning"),
        (
            "orchestrator",
            "+@all ~* &orchestrator_events &redis-gateway:* &__keyspace@*",
            "&__keyspace@0__:*/expiring",
            "warning",
        ),
        ("pull_metrics", "+@all -renamenx -scan ~* &*", "+renamenx", "error"),
        ("build_logs", "+@all -script ~* &*", "+script|load", "error"),
        (
            "cache",
            "+@all ~repo_* ~redis-gateway:* &*",
            "~catalog_page__*",
            "error",
        ),
    ] {
        let (server, flags, _file) = known(endpoint, rules).await;
        let said = Said::of(&flags).await;
        let found = said.of_check("rights");
        let named = found
            .iter()
            .find(|finding| finding["fix"].as_str().unwrap().split(' ').any(|rule| rule == lacks));
        let named = named.unwrap_or_else(|| panic!("{rules}: {}", said.ran));
        assert_eq!(named["level"], level, "{}", said.ran);
        assert_eq!(said.code(), Some(i32::from(level == "error")), "{}", said.ran);
        grant(&server, &said).await;
        assert!(Said::of(&flags).await.findings().is_empty(), "{rules}");
    }
    let (_server, flags, _file) = known("locks", all).await;
    assert!(Said::of(&flags).await.findings().is_empty());
}

#[tokio::test]
async fn who_may_not_try_is_told_so() {
    let (server, flags, _file) = known("locks", "+@all -multi ~* &*").await;
    let said = Said::of(&flags).await;
    let (level, _, fix) = said.only("rights");
    assert_eq!((said.code(), level), (Some(0), "unseen"), "{}", said.ran);
    apply(&server, fix.split(',').next().unwrap()).await;
    assert!(Said::of(&flags).await.findings().is_empty());
}

#[tokio::test]
async fn a_command_that_was_taken_away_is_found() {
    let server = RedisServer::new().setting("rename-command BLPOP \"\"").start().await;
    let said = Said::of(&placed(&["locks"], server.addr())).await;
    let (level, what, _) = said.only("rights");
    assert!(
        level == "warning" && what.contains("has no command blpop"),
        "{}",
        said.ran
    );
}

#[tokio::test]
async fn what_a_user_may_not_look_at_is_told() {
    let (server, flags, _file) = known("build_logs", "+multi +info").await;
    server.run_on::<()>(3, &["RPUSH", "builds/7/logs", "{}"]).await;
    grant(&server, &Said::of(&flags).await).await;
    for denied in ["SELECT", "SCAN"] {
        let said = Said::of(&flags).await;
        let (level, what, fix) = said.only("db");
        assert_eq!((said.code(), level), (Some(0), "unseen"), "{}", said.ran);
        assert!(what.contains("that hold some (3)") && what.contains(denied), "{what}");
        if denied == "SELECT" {
            server.run::<()>(&["ACL", "SETUSER", "gw", "+select"]).await;
        } else {
            apply(&server, fix).await;
        }
    }
    assert_eq!(Said::of(&flags).await.only("db").0, "error");

    let (server, flags, _file) = known("orchestrator", "+@all -config|get -info ~* &*").await;
    let said = Said::of(&flags).await;
    let (level, what, fix) = said.only("config");
    assert!(
        level == "unseen" && what.contains("of which keys it notifies"),
        "{what}"
    );
    apply(&server, fix).await;
    let said = Said::of(&flags).await;
    let (level, what, fix) = said.only("info");
    assert!(level == "unseen" && what.contains("replication"), "{what}");
    apply(&server, fix).await;
    assert!(Said::of(&flags).await.findings().is_empty());
}

#[tokio::test]
async fn what_a_server_cannot_say_is_no_matter_of_rights() {
    let server = RedisServer::new().setting("rename-command CONFIG \"\"").start().await;
    let said = Said::of(&placed(&["user_events"], server.addr())).await;
    let (level, what, fix) = said.only("config");
    assert!(
        level == "unseen" && what.contains("the server has no CONFIG GET"),
        "{}",
        said.ran
    );
    assert!(!fix.contains("ACL"), "{fix}");
}
