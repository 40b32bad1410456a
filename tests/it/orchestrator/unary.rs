//! Keys: set, read, deleted, listed, locked, beside managers without the gateway.

use redis_gateway::proto::{OrchestratorLockRequest, OrchestratorUnlockRequest, orchestrator_watch_open::Expiries};
use tonic::Code;

use super::{Stand, pairs, short};
use crate::harness::reason;

#[tokio::test]
async fn of_many_creators_one_stores_and_one_creation_is_told() {
    let stand = Stand::new().await;
    let mut watching = stand.watch("building/", false, Expiries::Unspecified).await;
    for round in 0..20 {
        let key = format!("building/{round}");
        let creators = (0..16).map(|n| {
            let (stand, key) = (&stand, &key);
            async move { stand.set(key, &n.to_string(), false, 100).await }
        });
        let results = futures_util::future::join_all(creators).await;
        let winners: Vec<usize> = (0..16).filter(|n| results[*n].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{key}");
        for refused in results.iter().filter_map(|result| result.as_ref().err()) {
            assert_eq!(
                (refused.code(), reason(refused).as_deref()),
                (Code::AlreadyExists, Some("KEY_EXISTS"))
            );
        }
        let told = short(&watching.next().await);
        assert_eq!(told, format!("create {key} {}", winners[0]), "and nothing else");
    }
    drop(watching);
    stand.stop().await;
}

#[tokio::test]
async fn overwriting_what_is_not_there_leaves_and_tells_nothing() {
    let stand = Stand::new().await;
    let mut watching = stand.watch("building/", false, Expiries::Unspecified).await;
    assert!(!stand.set("building/1", "v", true, 50).await.unwrap());
    let left: Vec<String> = stand.server.run(&["KEYS", "*"]).await;
    assert!(left.is_empty(), "{left:?}");
    stand.create("building/2", "v", 0).await;
    assert_eq!(short(&watching.next().await), "create building/2 v");
    drop(watching);
    stand.stop().await;
}

#[tokio::test]
async fn a_deletion_tells_the_value_that_it_deleted() {
    let stand = Stand::new().await;
    let mut watching = stand.watch("k", false, Expiries::Unspecified).await;
    stand.create("k", "0", 0).await;
    // Others set it all the while.
    let setting = async {
        for n in 1..200 {
            stand.server.run::<()>(&["SET", "k", &n.to_string()]).await;
        }
    };
    let deleting = async {
        let mut had = Vec::new();
        for _ in 0..100 {
            match stand.delete("k").await {
                Ok(value) => had.push(value),
                Err(status) => assert_eq!(reason(&status).as_deref(), Some("KEY_NOT_FOUND")),
            }
        }
        had
    };
    let ((), had) = tokio::join!(setting, deleting);
    assert!(!had.is_empty());
    assert_eq!(short(&watching.next().await), "create k 0");
    for value in had {
        assert_eq!(short(&watching.next().await), format!("delete k {value}"));
    }
    drop(watching);
    stand.stop().await;
}

#[tokio::test]
async fn a_list_has_the_keys_without_a_time_to_live_and_takes_its_prefix_as_text() {
    let stand = Stand::new().await;
    let mut expected = Vec::new();
    for n in 0..500 {
        stand
            .create(&format!("a*/{n:03}"), "v", i64::from(n % 2 == 0) * 100)
            .await;
        if n % 2 == 1 {
            expected.push((format!("a*/{n:03}"), "v".to_owned()));
        }
    }
    for (key, value) in [("ab/1", "x"), ("a*/9/expired", "x"), ("a*/9/expiring", "x")] {
        stand.server.run::<()>(&["SET", key, value]).await;
    }
    stand.server.run::<()>(&["RPUSH", "a*/list", "x"]).await;
    for page_size in [0, 1, 7, 1_000] {
        assert_eq!(stand.list("a*/", page_size).await, expected, "{page_size}");
    }
    assert_eq!(stand.list("ab", 0).await, pairs(&[("ab/1", "x")]));
    assert_eq!(stand.list("", 0).await.len(), 251);
    assert!(stand.list("nothing", 0).await.is_empty());
    stand.stop().await;
}

#[tokio::test]
async fn a_lock_is_taken_once_and_unlocked_by_anyone() {
    let stand = Stand::new().await;
    let mut keys = stand.keys.clone();
    let lock = |expiration_seconds| OrchestratorLockRequest {
        key: "lock/1".into(),
        expiration_seconds,
    };
    assert!(keys.lock(lock(0)).await.unwrap().into_inner().locked);
    assert!(!keys.lock(lock(0)).await.unwrap().into_inner().locked);
    assert_eq!(stand.server.run::<i64>(&["TTL", "lock/1/expiring"]).await, 10_000);
    let unlock = || OrchestratorUnlockRequest { key: "lock/1".into() };
    keys.unlock(unlock()).await.unwrap();
    let gone = keys.unlock(unlock()).await.unwrap_err();
    assert_eq!(
        (gone.code(), reason(&gone).as_deref()),
        (Code::NotFound, Some("KEY_NOT_FOUND"))
    );
    assert!(keys.lock(lock(7)).await.unwrap().into_inner().locked);
    assert_eq!(stand.server.run::<i64>(&["TTL", "lock/1/expiring"]).await, 7);
    drop(keys);
    stand.stop().await;
}

#[tokio::test]
async fn one_channel_for_all_who_are_told_the_same_prefix() {
    let server = crate::harness::RedisServer::new().start().await;
    let endpoint = crate::harness::at(server.addr());
    let stand = Stand::on(server, endpoint, |config| {
        config.orchestrator.channel_prefix = "buildman/production/".into();
    })
    .await;
    let mut watching = stand.watch("k", false, Expiries::Unspecified).await;
    let payload = r#"{"event": 2, "key": "k\u00e9", "value": "\ud83d\ude00"}"#;
    for channel in ["orchestrator_events", "buildman/production/orchestrator_events"] {
        stand.server.run::<()>(&["PUBLISH", channel, payload]).await;
    }
    stand.create("k2", "v", 0).await;
    assert_eq!(short(&watching.next().await), "set ké 😀");
    assert_eq!(short(&watching.next().await), "create k2 v");
    drop(watching);
    stand.stop().await;
}
