//! What a listener hears, and what is left when it goes.

use std::time::Duration;

use redis_gateway::proto::{DegradedReason, ListenRequest, listen_response::Item};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{Stand, event};
use crate::harness::{RedisServer, at, eventually, reason};

#[tokio::test]
async fn what_is_published_anywhere_is_heard_in_order() {
    let stand = Stand::new().await;
    let mut both = stand.listen("devtable", &["docker-cli", "test", "test"]).await.unwrap();
    let mut one = stand.listen("devtable", &["test"]).await.unwrap();
    for n in 0..20 {
        let payload = format!("{{\"n\": {n}}}");
        if n % 2 == 0 {
            // One connection for all of the gateway's listeners.
            assert_eq!(stand.direct("devtable", "test", &payload).await, 1);
        } else {
            let answer = stand.publish("devtable", "test", &payload).await.unwrap();
            assert_eq!((answer.receivers, answer.degraded()), (1, DegradedReason::Unspecified));
        }
        assert_eq!(stand.direct("devtable", "docker-cli", &payload).await, 1);
        assert_eq!(stand.direct("other", "test", &payload).await, 0);
    }
    for n in 0..20 {
        let payload = format!("{{\"n\": {n}}}");
        assert_eq!(one.event().await, event("test", &payload));
        assert_eq!(both.event().await, event("test", &payload));
        assert_eq!(both.event().await, event("docker-cli", &payload));
    }
    drop((both, one));
    stand.stop().await;
}

#[tokio::test]
async fn what_the_reference_leaves_out_is_left_out() {
    let stand = Stand::new().await;
    let mut listening = stand.listen("devtable", &["test"]).await.unwrap();
    for payload in ["{not json", "", "{}", "[]", "0", "\"\"", "null", "false", "{\"a\":1}"] {
        stand.direct("devtable", "test", payload).await;
    }
    // As it was published, whatever its form.
    assert_eq!(listening.event().await, event("test", "{\"a\":1}"));
    drop(listening);
    stand.stop().await;
}

#[tokio::test]
async fn names_may_have_any_characters() {
    let stand = Stand::new().await;
    for (user, id) in [
        ("a/b", "x"),
        ("*", "?[a]"),
        ("é ü", "\u{1f600}"),
        ("a\nb", "c\\d"),
        ("{x}", "y"),
    ] {
        let mut listening = stand.listen(user, &[id]).await.unwrap();
        assert_eq!(stand.direct(user, id, "1").await, 1, "{user} {id}");
        assert_eq!(stand.publish(user, id, "2").await.unwrap().receivers, 1);
        assert_eq!(
            [listening.event().await, listening.event().await],
            [event(id, "1"), event(id, "2")]
        );
    }
    stand.stop().await;
}

#[tokio::test]
async fn the_last_listener_ends_the_subscription_and_one_before_it_does_not() {
    let stand = Stand::new().await;
    let first = stand.listen("devtable", &["a", "b"]).await.unwrap();
    let mut second = stand.listen("devtable", &["b", "c"]).await.unwrap();
    let channel = |id: &str| format!("user/devtable/events/{id}");
    assert_eq!(stand.channels().await, ["a", "b", "c"].map(channel));
    drop(first);
    eventually("what it alone listened to is ended", async || {
        stand.channels().await == ["b", "c"].map(channel)
    })
    .await;
    stand.direct("devtable", "b", "1").await;
    assert_eq!(second.event().await, event("b", "1"));
    drop(second);
    eventually("nothing is left", async || stand.channels().await.is_empty()).await;
    let (_, text) = stand.gateway.admin("/metrics").await;
    for gauge in ["listeners", "channels"] {
        assert!(
            text.contains(&format!("redis_gateway_user_events_{gauge} 0\n")),
            "{gauge}"
        );
    }
    // And again.
    let mut third = stand.listen("devtable", &["b"]).await.unwrap();
    stand.direct("devtable", "b", "2").await;
    assert_eq!(third.event().await, event("b", "2"));
    drop(third);
    stand.stop().await;
}

#[tokio::test]
async fn silence_is_broken_by_heartbeats() {
    let server = RedisServer::new().start().await;
    let endpoint = at(server.addr());
    let stand = Stand::on(server, endpoint, |config| {
        config.user_events.heartbeat = Duration::from_millis(100);
    })
    .await;
    let mut listening = stand.listen("devtable", &["test"]).await.unwrap();
    for _ in 0..3 {
        let Item::Heartbeat(beat) = listening.next().await.unwrap() else {
            panic!("no heartbeat")
        };
        assert_eq!(beat.degraded(), DegradedReason::Unspecified);
    }
    drop(listening);
    stand.stop().await;
}

#[tokio::test]
async fn a_drain_tells_listeners_to_go_elsewhere() {
    let Stand {
        server,
        gateway,
        events,
    } = Stand::new().await;
    let stand = Stand {
        server,
        gateway,
        events,
    };
    let mut listening = stand.listen("devtable", &["test"]).await.unwrap();
    let Stand {
        server: _server,
        gateway,
        events,
    } = stand;
    drop(events);
    let told = async {
        let status = listening.next().await.unwrap_err();
        drop(listening);
        status
    };
    let ((), status) = tokio::join!(gateway.stop(), told);
    assert_eq!(
        (status.code(), reason(&status).as_deref()),
        (Code::Unavailable, Some("DRAINING"))
    );
}

#[tokio::test]
async fn bad_input_names_its_field() {
    let mut stand = Stand::new().await;
    let long = "x".repeat(256);
    let field = |status: tonic::Status| {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        status.get_details_bad_request().unwrap().field_violations[0]
            .field
            .clone()
    };
    for (user, id, payload, expected) in [
        ("", "a", "1", "username"),
        ("a\0", "a", "1", "username"),
        (&long, "a", "1", "username"),
        ("a", "", "1", "event_id"),
        ("a", &long, "1", "event_id"),
        ("a", "a", "", "payload"),
        ("a", "a", "{not json", "payload"),
        ("a", "a", &format!("\"{}\"", "x".repeat(1 << 20)), "payload"),
    ] {
        assert_eq!(field(stand.publish(user, id, payload).await.unwrap_err()), expected);
    }
    for (user, ids, expected) in [
        ("", vec!["a".to_owned()], "username"),
        ("a", Vec::new(), "event_ids"),
        ("a", vec!["a".into(); 101], "event_ids"),
        ("a", vec!["a".into(), String::new()], "event_ids[1]"),
    ] {
        let request = ListenRequest {
            username: user.into(),
            event_ids: ids,
        };
        assert_eq!(field(stand.events.listen(request).await.unwrap_err()), expected);
    }
    stand.stop().await;
}
