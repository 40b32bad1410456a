//! What is refused, and what the refusal names.

use redis_gateway::proto::{
    OrchestratorGetRequest, OrchestratorListRequest, OrchestratorLockRequest, OrchestratorSetRequest,
    OrchestratorWatchAcknowledge, OrchestratorWatchOpen, orchestrator_watch_open::Expiries,
    orchestrator_watch_request::Message,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Stand, message};
use crate::harness::{Gateway, config, reason};

fn field(status: &Status) -> String {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations.len(), 1);
    violations[0].field.clone()
}

#[tokio::test]
async fn bad_input_is_refused_by_its_field_and_changes_nothing() {
    let stand = Stand::new().await;
    let mut keys = stand.keys.clone();
    let long = "k".repeat(1_025);
    let good = || OrchestratorSetRequest {
        key: "k".into(),
        value: "v".into(),
        overwrite: false,
        expiration_seconds: 1,
    };
    for key in ["", "a\0b", &long, "/a", "a/", "a/expiring", "a/expired"] {
        let request = OrchestratorSetRequest {
            key: key.into(),
            ..good()
        };
        assert_eq!(field(&keys.set(request).await.unwrap_err()), "key", "{key:.20}");
        let request = OrchestratorLockRequest {
            key: key.into(),
            expiration_seconds: 0,
        };
        assert_eq!(field(&keys.lock(request).await.unwrap_err()), "key", "{key:.20}");
    }
    for key in ["", "a\0b", &long] {
        let request = OrchestratorGetRequest { key: key.into() };
        assert_eq!(field(&keys.get(request).await.unwrap_err()), "key");
        assert_eq!(field(&stand.delete(key).await.unwrap_err()), "key");
    }
    for value in [vec![0xff], vec![b'v'; (1 << 20) + 1]] {
        let request = OrchestratorSetRequest {
            value: value.into(),
            ..good()
        };
        assert_eq!(field(&keys.set(request).await.unwrap_err()), "value");
    }
    for expiration_seconds in [-1, 315_360_001, i64::MIN, i64::MAX] {
        let request = OrchestratorSetRequest {
            expiration_seconds,
            ..good()
        };
        assert_eq!(field(&keys.set(request).await.unwrap_err()), "expiration_seconds");
    }
    for (prefix, page_size, page_token, wrong) in [
        (long.as_str(), 0, "", "prefix"),
        ("a\0", 0, "", "prefix"),
        ("a", -1, "", "page_size"),
        ("a", 1_001, "", "page_size"),
        ("a", 0, "0", "page_token"),
        ("a", 0, "x", "page_token"),
    ] {
        let request = OrchestratorListRequest {
            prefix: prefix.into(),
            page_size,
            page_token: page_token.into(),
        };
        assert_eq!(field(&keys.list(request).await.unwrap_err()), wrong);
    }
    assert_eq!(stand.server.run::<i64>(&["DBSIZE"]).await, 0);
    drop(keys);
    stand.stop().await;
}

#[tokio::test]
async fn a_watch_must_be_opened_well_and_only_once() {
    let stand = Stand::new().await;
    let good = || OrchestratorWatchOpen {
        prefix: "a".into(),
        snapshot: false,
        expiries: 0,
        client_id: String::new(),
    };
    let acknowledge = |ack_id: &str| {
        Message::Acknowledge(OrchestratorWatchAcknowledge {
            ack_id: ack_id.to_owned(),
        })
    };
    let cases = [
        (
            Message::Open(OrchestratorWatchOpen {
                prefix: String::new(),
                ..good()
            }),
            "open.prefix",
        ),
        (
            Message::Open(OrchestratorWatchOpen {
                prefix: "a\0".into(),
                ..good()
            }),
            "open.prefix",
        ),
        (
            Message::Open(OrchestratorWatchOpen { expiries: 3, ..good() }),
            "open.expiries",
        ),
        (
            Message::Open(OrchestratorWatchOpen {
                client_id: "c".repeat(256),
                ..good()
            }),
            "open.client_id",
        ),
        (acknowledge("1:k"), "message"),
    ];
    for (first, wrong) in cases {
        let (requests, taken) = mpsc::channel(1);
        requests.send(message(first)).await.unwrap();
        let refused = stand
            .keys
            .clone()
            .watch(ReceiverStream::new(taken))
            .await
            .expect_err("a refusal");
        assert_eq!(field(&refused), wrong);
    }
    let (_, nothing) = mpsc::channel(1);
    let refused = stand
        .keys
        .clone()
        .watch(ReceiverStream::new(nothing))
        .await
        .expect_err("a refusal");
    assert_eq!(field(&refused), "message");

    for (second, wrong) in [
        (Message::Open(good()), "message"),
        (acknowledge("x"), "acknowledge.ack_id"),
        (acknowledge("1:"), "acknowledge.ack_id"),
    ] {
        let mut watching = stand.watch("a", false, Expiries::One).await;
        watching.requests.send(message(second)).await.unwrap();
        assert_eq!(field(&watching.end().await), wrong);
    }
    stand.stop().await;
}

#[tokio::test]
async fn without_an_endpoint_every_call_says_so() {
    let gateway = Gateway::start(config()).await;
    let mut keys = redis_gateway::proto::orchestrator_client::OrchestratorClient::new(gateway.channel().await);
    let get = keys.get(OrchestratorGetRequest { key: "k".into() }).await.unwrap_err();
    let watch = keys.watch(tokio_stream::empty()).await.expect_err("a refusal");
    for refused in [get, watch] {
        assert_eq!(
            (refused.code(), reason(&refused).as_deref()),
            (Code::FailedPrecondition, Some("NOT_CONFIGURED"))
        );
    }
    drop(keys);
    gateway.stop().await;
}

#[tokio::test]
async fn a_key_of_another_type_is_named_so() {
    let stand = Stand::new().await;
    stand.server.run::<()>(&["RPUSH", "k", "x"]).await;
    for refused in [stand.get("k").await.unwrap_err(), stand.delete("k").await.unwrap_err()] {
        assert_eq!(
            (refused.code(), reason(&refused).as_deref()),
            (Code::FailedPrecondition, Some("WRONG_TYPE"))
        );
    }
    stand.stop().await;
}
