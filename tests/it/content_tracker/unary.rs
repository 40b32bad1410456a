//! Marks, what they block, and what is refused.

use rand::Rng as _;
use redis_gateway::proto::{IsBlockedRequest, MarkModifiedRequest, MarkRevokedRequest};
use tokio::sync::oneshot;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{MODIFIED, Stand, python, revoked};
use crate::harness::{RedisServer, reason, seeded};

#[tokio::test]
async fn blocked_exactly_when_modified_after_revoked() {
    let mut stand = Stand::new().await;
    assert!(!stand.blocked(1).await.unwrap(), "neither mark is there");
    let before = stand.modify().await;
    assert!(!stand.blocked(1).await.unwrap(), "never revoked");
    let revoked = stand.revoke([1, 2]).await.unwrap();
    assert!(!stand.blocked(1).await.unwrap(), "nothing new since");
    let after = stand.modify().await;
    assert!(before < revoked && revoked < after, "{before} {revoked} {after}");
    assert!(stand.blocked(1).await.unwrap() && stand.blocked(2).await.unwrap());
    assert!(!stand.blocked(3).await.unwrap(), "another user");
    for (namespace, repository) in [("ns", "other"), ("other", "r")] {
        let other = IsBlockedRequest {
            user_id: 1,
            namespace: namespace.into(),
            repository: repository.into(),
        };
        let answer = stand.tracker.is_blocked(other).await.unwrap().into_inner();
        assert!(!answer.blocked, "{namespace}/{repository}");
    }
    stand.revoke([1]).await.unwrap();
    assert!(!stand.blocked(1).await.unwrap(), "revoked after the modification");
    assert!(stand.blocked(2).await.unwrap());
    stand.server.run::<()>(&["DEL", MODIFIED]).await;
    assert!(!stand.blocked(2).await.unwrap(), "the modification is forgotten");
    stand.stop().await;
}

#[tokio::test]
async fn marks_of_others_are_compared_as_numbers() {
    let mut stand = Stand::new().await;
    let cases = [
        ("1795455143.166022", "1795455143.166023", true),
        ("1795455143.166022", "1795455143.166022", false),
        ("1795455143.166023", "1795455143.166022", false),
        ("1795455143.16602", "1795455143.166021", true),
        ("1795455143.9", "1795455144.0", true),
        // By their texts it would be the other way round.
        ("999999999.5", "1795455143.0", true),
        ("1795455143.0", "999999999.5", false),
        ("1795455143", "1.795455144e+09", true),
    ];
    for (revoked_at, modified_at, blocked) in cases {
        let set = ["SET", &revoked(1), revoked_at, "EX", "300"];
        stand.server.run::<()>(&set).await;
        stand
            .server
            .run::<()>(&["SET", MODIFIED, modified_at, "EX", "300"])
            .await;
        assert_eq!(
            stand.blocked(1).await.unwrap(),
            blocked,
            "{revoked_at}, then {modified_at}"
        );
    }
    stand.stop().await;
}

#[tokio::test]
async fn mark_that_is_no_time_is_an_error() {
    let mut stand = Stand::new().await;
    let time = "1795455143.0";
    for broken in ["", "soon", "nan", "inf", "0x7fffffff", "1.5.2", "1\0", " 1", "1_0"] {
        for (revoked_at, modified_at) in [(broken, time), (time, broken)] {
            stand.server.run::<()>(&["SET", &revoked(1), revoked_at]).await;
            stand.server.run::<()>(&["SET", MODIFIED, modified_at]).await;
            let status = stand.blocked(1).await.unwrap_err();
            assert_eq!(
                (status.code(), reason(&status).as_deref()),
                (Code::Internal, Some("REDIS_ERROR")),
                "{broken:?}"
            );
            assert!(status.message().contains("NOTIME"), "{status}");
        }
        // Whether or not the other one is there.
        stand.server.run::<()>(&["DEL", &revoked(1)]).await;
        stand.blocked(1).await.unwrap_err();
    }
    for (list, string) in [(revoked(1).as_str(), MODIFIED), (MODIFIED, revoked(1).as_str())] {
        stand.server.run::<()>(&["DEL", list, string]).await;
        stand.server.run::<()>(&["RPUSH", list, time]).await;
        let status = stand.blocked(1).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_deref()),
            (Code::FailedPrecondition, Some("WRONG_TYPE"))
        );
    }
    stand.stop().await;
}

#[tokio::test]
async fn marks_stand_as_the_reference_writes_them() {
    let mut stand = Stand::new().await;
    for _ in 0..20 {
        let (time, revoked_at) = (stand.modify().await, stand.revoke([1, 2, 1]).await.unwrap());
        for (key, time) in [(MODIFIED, time), (&revoked(1), revoked_at), (&revoked(2), revoked_at)] {
            assert_eq!(stand.server.run::<String>(&["GET", key]).await, python(time));
            let left: i64 = stand.server.run(&["PTTL", key]).await;
            assert!((290_000..=300_000).contains(&left), "{left}");
        }
    }
    stand.stop().await;
}

/// The script itself, with clocks of the test's own.
#[tokio::test]
async fn any_time_is_written_as_python_writes_it() {
    let script = include_str!("../../../src/content_tracker/mark-1.lua");
    let clock = "redis.call('TIME')";
    assert_eq!(script.matches(clock).count(), 1);
    let script = script.replace(clock, "{ ARGV[2], ARGV[3] }");
    // Beyond, doubles lie further apart than microseconds.
    let end = f64::from(1 << 30) * 8.0;
    let mut rng = seeded();
    let mut times: Vec<(f64, u32)> = Vec::new();
    for seconds in [1e9, 1_795_455_143.0, 2_147_483_647.0, 4_294_967_296.0, end - 1.0] {
        let micros = [
            0, 1, 9, 10, 20, 99, 100, 1_234, 5_000, 10_000, 100_000, 500_000, 900_900, 999_990, 999_999,
        ];
        times.extend(micros.map(|micros| (seconds, micros)));
    }
    let mut seconds = || rng.random_range(1e9..end).floor();
    // Each ending in zeros, and others.
    times.extend((0..10_000).map(|n| (seconds(), n * 100)));
    times.extend((0..10_000).map(|n| (seconds(), n * 99 + 1)));

    let server = RedisServer::new().start().await;
    let sha1: String = server.run(&["SCRIPT", "LOAD", &script]).await;
    let mut client = server.client().await;
    for times in times.chunks(1_000) {
        let mut pipe = redis::pipe();
        for (seconds, micros) in times {
            let args = [seconds.to_string(), micros.to_string()];
            pipe.cmd("EVALSHA").arg(&sha1).arg(&[1]).arg("key").arg(300).arg(&args);
        }
        let texts: Vec<String> = pipe.query_async(&mut client).await.unwrap();
        for ((seconds, micros), text) in times.iter().zip(texts) {
            assert_eq!(text, python(seconds + f64::from(*micros) / 1_000_000.0));
        }
    }
}

#[tokio::test]
async fn batch_is_marked_whole_or_not_at_all() {
    let mut stand = Stand::new().await;
    let users = 1..=10_000;
    let (done, mut ended) = oneshot::channel::<()>();
    let mut client = stand.server.client().await;
    let look = tokio::spawn(async move {
        let mut seen = 0;
        while ended.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
            let marks: Vec<Option<String>> = redis::cmd("MGET")
                .arg(&[revoked(1), revoked(5_000), revoked(10_000)])
                .query_async(&mut client)
                .await
                .unwrap();
            assert!(marks.iter().all(|mark| *mark == marks[0]), "{marks:?}");
            seen += usize::from(marks[0].is_some());
        }
        seen
    });
    for _ in 0..20 {
        let time = stand.revoke(users.clone()).await.unwrap();
        assert_eq!(
            stand.server.run::<String>(&["GET", &revoked(10_000)]).await,
            python(time)
        );
    }
    done.send(()).unwrap();
    assert!(look.await.unwrap() > 20, "hardly looked at");
    assert_eq!(stand.server.run::<usize>(&["DBSIZE"]).await, 10_000);

    stand.server.run::<()>(&["FLUSHDB"]).await;
    stand.server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let status = stand.revoke(users.clone()).await.unwrap_err();
    assert_eq!(reason(&status).as_deref(), Some("REDIS_OUT_OF_MEMORY"));
    stand.server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    stand.revoke([1, 2, 0]).await.unwrap_err();
    stand.revoke(0..=10_000).await.unwrap_err();
    assert_eq!(stand.server.run::<usize>(&["DBSIZE"]).await, 0);
    stand.stop().await;

    // Nothing where one of the keys is denied.
    let mut stand = Stand::as_user("+@all ~quay:repo_content_tracker:permission_revoked:1:*").await;
    stand.revoke([1]).await.unwrap();
    stand.server.run::<()>(&["FLUSHDB"]).await;
    let status = stand.revoke([1, 2]).await.unwrap_err();
    assert_eq!(reason(&status).as_deref(), Some("REDIS_DENIED"));
    assert_eq!(stand.server.run::<usize>(&["DBSIZE"]).await, 0);
    stand.stop().await;
}

/// Those that docs/content-tracker.md names.
#[tokio::test]
async fn the_documented_rights_are_enough() {
    let rights = "~quay:repo_content_tracker:* +get +set +time +evalsha +script|load";
    let mut stand = Stand::as_user(&format!("+ping {rights}")).await;
    stand.revoke([1]).await.unwrap();
    stand.modify().await;
    assert!(stand.blocked(1).await.unwrap());
    stand.stop().await;
}

#[tokio::test]
async fn bad_input_names_the_field() {
    let mut stand = Stand::new().await;
    let long = "a".repeat(256);
    for (namespace, repository, field, expected) in [
        ("", "r", "namespace", "must not be empty"),
        ("a\0", "r", "namespace", "must not contain a nul byte"),
        (&long, "r", "namespace", "must be at most 255 bytes, not 256"),
        ("ns", "", "repository", "must not be empty"),
        ("ns", "\0", "repository", "must not contain a nul byte"),
        ("ns", &long, "repository", "must be at most 255 bytes, not 256"),
    ] {
        let (namespace, repository) = (namespace.to_owned(), repository.to_owned());
        let modified = MarkModifiedRequest {
            namespace: namespace.clone(),
            repository: repository.clone(),
        };
        let revoked = MarkRevokedRequest {
            user_ids: vec![1],
            namespace: namespace.clone(),
            repository: repository.clone(),
        };
        let question = IsBlockedRequest {
            user_id: 1,
            namespace,
            repository,
        };
        refused(stand.tracker.mark_modified(modified).await, field, expected);
        refused(stand.tracker.mark_revoked(revoked).await, field, expected);
        refused(stand.tracker.is_blocked(question).await, field, expected);
    }
    for (users, field, expected) in [
        (vec![], "user_ids", "must be from 1 to 10000 users, not 0"),
        (vec![1; 10_001], "user_ids", "must be from 1 to 10000 users, not 10001"),
        (vec![1, 0], "user_ids[1]", "must be above 0"),
        (vec![i64::MIN, 1], "user_ids[0]", "must be above 0"),
    ] {
        refused(stand.revoke(users).await, field, expected);
    }
    refused(stand.blocked(0).await, "user_id", "must be above 0");
    refused(stand.blocked(-1).await, "user_id", "must be above 0");
    assert_eq!(stand.server.run::<usize>(&["DBSIZE"]).await, 0);
    // The longest that there may be.
    let longest = MarkModifiedRequest {
        namespace: "é".repeat(127),
        repository: "a/".repeat(127),
    };
    stand.tracker.mark_modified(longest).await.unwrap();
    stand.revoke([i64::MAX]).await.unwrap();
    stand.stop().await;
}

fn refused<T: std::fmt::Debug>(result: Result<T, Status>, field: &str, expected: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(
        (violations[0].field.as_str(), violations[0].description.as_str()),
        (field, expected)
    );
}
