//! The content tracker where the marks of one call lie on several servers of a Cluster.

use redis_gateway::proto::{IsBlockedRequest, MarkModifiedRequest, MarkRevokedRequest};
use tonic::Code;

use crate::harness::{Gateway, RedisCluster, config, eventually, reason};

const USERS: i64 = 60;

fn modified_key(repository: &str) -> String {
    format!("quay:repo_content_tracker:repo_modified:n:{repository}")
}

fn revoked_key(user: i64, repository: &str) -> String {
    format!("quay:repo_content_tracker:permission_revoked:{user}:n:{repository}")
}

fn asked(user_id: i64, repository: &str) -> IsBlockedRequest {
    IsBlockedRequest {
        user_id,
        namespace: "n".into(),
        repository: repository.into(),
    }
}

fn modified(repository: &str) -> MarkModifiedRequest {
    MarkModifiedRequest {
        namespace: "n".into(),
        repository: repository.into(),
    }
}

fn revoked(user_ids: Vec<i64>, repository: &str) -> MarkRevokedRequest {
    MarkRevokedRequest {
        user_ids,
        namespace: "n".into(),
        repository: repository.into(),
    }
}

#[tokio::test]
async fn marks_on_several_servers_block_by_one_clock() {
    let cluster = RedisCluster::new().await;
    let mut config = config();
    config.endpoints.cache = Some(cluster.endpoint());
    let gateway = Gateway::start(config).await;
    let mut tracker = gateway.content_tracker().await;
    eventually("the gateway is connected", async || {
        let mut all = true;
        for primary in 0..RedisCluster::PRIMARIES {
            let repository = (0..100)
                .map(|n| format!("r{n}"))
                .find(|r| cluster.primary_of(&modified_key(r)) == primary);
            all &= tracker.mark_modified(modified(&repository.unwrap())).await.is_ok();
        }
        all
    })
    .await;

    let users: Vec<i64> = (1..=USERS).collect();
    let told = tracker
        .mark_revoked(revoked(users.clone(), "r"))
        .await
        .unwrap()
        .into_inner()
        .time;
    for user in &users {
        let text = cluster.value(&revoked_key(*user, "r")).await.expect("a mark");
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.parse(), Ok(told), "the same time for all");
        assert!(
            !tracker
                .is_blocked(asked(*user, "r"))
                .await
                .unwrap()
                .into_inner()
                .blocked
        );
    }
    let later = tracker.mark_modified(modified("r")).await.unwrap().into_inner().time;
    assert!(later > told);
    for user in &users {
        assert!(
            tracker
                .is_blocked(asked(*user, "r"))
                .await
                .unwrap()
                .into_inner()
                .blocked
        );
    }
    assert!(
        !tracker
            .is_blocked(asked(USERS + 1, "r"))
            .await
            .unwrap()
            .into_inner()
            .blocked
    );
    tracker.mark_revoked(revoked(vec![1], "r")).await.unwrap();
    assert!(!tracker.is_blocked(asked(1, "r")).await.unwrap().into_inner().blocked);
    let home = cluster.primary_of(&modified_key("r"));
    let ttl: i64 = cluster.nodes[home].run(&["TTL", &modified_key("r")]).await;
    assert!((290..=300).contains(&ttl), "{ttl}");

    // What is no time is an error, and so is silence.
    cluster.nodes[home].run::<()>(&["SET", &modified_key("r"), "nan"]).await;
    let status = tracker.is_blocked(asked(2, "r")).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_deref()),
        (Code::Internal, Some("REDIS_ERROR"))
    );
    let away = (home + 1) % RedisCluster::PRIMARIES;
    let user = *users
        .iter()
        .find(|user| cluster.primary_of(&revoked_key(**user, "r")) == away)
        .unwrap();
    cluster.nodes[away].pause();
    let status = tracker.is_blocked(asked(user, "r")).await.unwrap_err();
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Unavailable),
        "{status:?}"
    );
    // Some of the marks stand.
    let status = tracker.mark_revoked(revoked(users, "r")).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_deref()),
        (Code::Unknown, Some("OUTCOME_UNKNOWN"))
    );
    cluster.nodes[away].resume();
    drop(tracker);
    gateway.stop().await;
}
