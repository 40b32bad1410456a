//! How large values, requests and answers may be, and what callers hear beyond.

use std::collections::BTreeMap;

use prost::Message as _;
use redis_gateway::proto::{
    CacheBatchGetRequest, CacheBatchGetResponse, CacheBatchSetRequest, CacheFillRequest, CacheSetRequest, CacheValue,
    DegradedReason,
};
use tonic::{Code, Status, codec::CompressionEncoding};

use super::{Client, Stand, ask, asking, filling, fresh, leased, refusals::names, setting, waiting};
use crate::harness::reason;

/// What clients take unless told otherwise.
const ANSWER: usize = 4 << 20;
const VALUE: usize = 3 << 20;

fn item(key: &str, len: usize) -> CacheSetRequest {
    CacheSetRequest {
        value: vec![b'v'; len].into(),
        ..setting(key, "", true)
    }
}

async fn get_many(client: &mut Client, keys: &[String]) -> CacheBatchGetResponse {
    let request = CacheBatchGetRequest {
        keys: keys.to_vec(),
        fresh: true,
        ..CacheBatchGetRequest::default()
    };
    client.batch_get(request).await.unwrap().into_inner()
}

/// Stores values past the gateway.
async fn plant(stand: &Stand, keys: &[String], len: usize) {
    let mut pipe = redis::pipe();
    for key in keys {
        pipe.set(key, vec![b'v'; len]);
    }
    let () = pipe.query_async(&mut stand.server.client().await).await.unwrap();
}

fn is_too_large(status: &Status) {
    let told = (status.code(), reason(status));
    let expected = (Code::InvalidArgument, Some("REQUEST_TOO_LARGE".into()));
    assert_eq!(told, expected, "{status}");
    assert!(status.message().contains("4194304"), "{status}");
}

#[tokio::test]
async fn value_that_is_too_large_is_refused_by_its_field() {
    let stand = Stand::new(1).await;
    let mut client = stand.client(0);
    names(&client.set(item("key", VALUE + 1)).await.unwrap_err(), "value");
    let token = leased(&mut client, "key").await;
    let fill = CacheFillRequest {
        value: vec![b'v'; VALUE + 1].into(),
        ..filling("key", &token, "")
    };
    names(&client.fill(fill).await.unwrap_err(), "value");
    let items = vec![item("a", 1), item("b", VALUE + 1)];
    let status = client.batch_set(CacheBatchSetRequest { items }).await.unwrap_err();
    names(&status, "items[1].value");
    assert!(status.message().contains("3145728"), "{status}");
    for key in ["key", "a", "b"] {
        assert_eq!(stand.value(key).await, None);
    }
    // The largest one goes there and back.
    assert!(client.set(item("key", VALUE)).await.unwrap().into_inner().stored);
    let got = client.get(fresh("key")).await.unwrap().into_inner();
    assert_eq!(got.value.map(|value| value.len()), Some(VALUE));
    let many = get_many(&mut client, &["key".into()]).await;
    assert_eq!(many.values[0].value().len(), VALUE);
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn request_that_is_too_large_is_refused_before_it_is_unpacked() {
    let stand = Stand::new(1).await;
    let mut client = stand.client(0);
    is_too_large(&client.set(item("key", ANSWER)).await.unwrap_err());
    let items = (0..3).map(|n| item(&format!("key{n}"), VALUE)).collect();
    is_too_large(&client.batch_set(CacheBatchSetRequest { items }).await.unwrap_err());
    // 256 MiB in 260 KB.
    let mut packing = stand.client(0).send_compressed(CompressionEncoding::Gzip);
    is_too_large(&packing.set(item("key", 256 << 20)).await.unwrap_err());
    assert_eq!(stand.server.calls("set").await, 0);
    drop((client, packing));
    stand.stop().await;
}

#[tokio::test]
async fn batch_that_fits_no_answer_is_got_in_a_few() {
    const EACH: usize = 40_000;
    let stand = Stand::new(1).await;
    let mut client = stand.client(0);
    let keys: Vec<String> = (0..1_000).map(|n| format!("key{n}")).collect();
    plant(&stand, &keys, EACH).await;
    let mut left: Vec<String> = keys.clone();
    let (mut got, mut calls) = (BTreeMap::new(), 0);
    while !left.is_empty() {
        let before = stand.server.calls("mget").await;
        let answer = get_many(&mut client, &left).await;
        calls += 1;
        assert!(answer.encoded_len() <= ANSWER, "{}", answer.encoded_len());
        assert_eq!((answer.values.len(), answer.degraded), (left.len(), 0));
        // Redis is not made to read what has no room.
        let reads = stand.server.calls("mget").await - before;
        assert!(reads <= 2, "{reads} of 64 keys each for {} bytes", answer.encoded_len());
        let asked = std::mem::take(&mut left);
        for (key, CacheValue { value, left_out, .. }) in asked.into_iter().zip(answer.values) {
            if let Some(value) = value {
                assert!(got.insert(key, value.len()).is_none() && !left_out);
            } else {
                assert!(left_out, "{key} is there");
                left.push(key);
            }
        }
        assert!(calls <= 10);
    }
    assert_eq!(got.len(), 1_000);
    assert!(got.values().all(|len| *len == EACH));
    // Small ones all come at once, those that are not there too.
    plant(&stand, &keys[..900], 10).await;
    stand.server.run::<()>(&["DEL", "key0"]).await;
    for key in &keys[900..] {
        stand.server.run::<()>(&["DEL", key]).await;
    }
    let answer = get_many(&mut client, &keys).await;
    let there: Vec<bool> = answer.values.iter().map(|value| value.value.is_some()).collect();
    assert_eq!(there, (0..1_000).map(|n| (1..900).contains(&n)).collect::<Vec<_>>());
    assert!(answer.values.iter().all(|value| !value.left_out));
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn value_that_no_answer_holds_is_a_miss_that_says_so() {
    let stand = Stand::new(1).await;
    let mut client = stand.client(0);
    plant(&stand, &["large".into()], ANSWER).await;
    plant(&stand, &["small".into()], 1).await;
    let answer = client.get(fresh("large")).await.unwrap().into_inner();
    assert_eq!(
        (answer.value.is_none(), answer.degraded()),
        (true, DegradedReason::ValueTooLarge)
    );
    for asked in [asking("large"), waiting("large", 1_000)] {
        let answer = ask(&mut client, asked).await.unwrap();
        assert_eq!(
            (&answer.outcome, answer.degraded()),
            (&None, DegradedReason::ValueTooLarge)
        );
    }
    let answer = get_many(&mut client, &["large".into(), "small".into(), "none".into()]).await;
    assert_eq!(answer.degraded(), DegradedReason::ValueTooLarge);
    let lens: Vec<_> = answer
        .values
        .iter()
        .map(|value| value.value.as_ref().map(bytes::Bytes::len))
        .collect();
    assert_eq!(lens, [None, Some(1), None]);
    // Asking again would not help for any of them.
    assert!(answer.values.iter().all(|value| !value.left_out));
    assert_eq!(
        stand
            .metric(
                0,
                "redis_gateway_rpc_degraded_total{method=\"Get\",reason=\"VALUE_TOO_LARGE\",service=\"Cache\"}"
            )
            .await,
        1
    );
    assert!(
        client
            .set(setting("large", "1", true))
            .await
            .unwrap()
            .into_inner()
            .stored
    );
    assert_eq!(stand.value("large").await.as_deref(), Some("1"));
    drop(client);
    stand.stop().await;
}
