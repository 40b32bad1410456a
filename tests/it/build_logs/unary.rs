//! Append, compare and append, pages, status, expiry, delete.

use redis_gateway::{
    config::Password,
    proto::{
        AppendRequest, CompareAndAppendRequest, CompareAndAppendResponse, DeleteEntriesRequest, ExpireEntriesRequest,
        ExpireStatusRequest, GetStatusRequest, ListEntriesRequest, ListEntriesResponse, LogEntry, LogMessage,
        SetStatusRequest, TailRequest, log_entry::Kind,
    },
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Stand, append, entry, logs_key, status_key, texts};
use crate::harness::{Gateway, RedisServer, at, config, reason};

fn list(build: &str, start: i64, page_size: i32) -> ListEntriesRequest {
    ListEntriesRequest {
        build_id: build.into(),
        start,
        page_size,
    }
}

fn compare(build: &str, expected_length: i64, entries: &[&str]) -> CompareAndAppendRequest {
    CompareAndAppendRequest {
        build_id: build.into(),
        entries: entries.iter().map(|text| entry(text)).collect(),
        expected_length,
    }
}

fn message(message: &str, kind: &str, data: &str) -> LogEntry {
    LogEntry {
        kind: Some(Kind::Message(LogMessage {
            message: message.into(),
            r#type: kind.into(),
            data: data.to_owned().into(),
        })),
    }
}

impl Stand {
    async fn list(&mut self, build: &str, start: i64, page_size: i32) -> ListEntriesResponse {
        let page = self.logs.list_entries(list(build, start, page_size)).await;
        page.unwrap().into_inner()
    }

    async fn compare(&mut self, build: &str, expected: i64, entries: &[&str]) -> (bool, i64) {
        let request = compare(build, expected, entries);
        let CompareAndAppendResponse { appended, length } =
            self.logs.compare_and_append(request).await.unwrap().into_inner();
        (appended, length)
    }

    async fn ttl(&self, key: &str) -> i64 {
        self.server.run(&["TTL", key]).await
    }
}

#[tokio::test]
async fn a_log_lives_as_the_reference_lets_it_live() {
    let mut stand = Stand::new().await;
    let (logs, status) = (logs_key("b"), status_key("b"));
    let first = AppendRequest {
        build_id: "b".into(),
        entries: vec![message("Step 1/3", "", "{ }")],
    };
    assert_eq!(stand.logs.append(first).await.unwrap().into_inner().length, 1);
    assert_eq!(stand.ttl(&logs).await, -1);
    assert_eq!(stand.append("b", &["{\"z\":1,\"é\":[1.0,2e16]}", "7"]).await, 3);
    assert!(stand.ttl(&logs).await > 604_790);
    let page = stand.list("b", 0, 0).await;
    let stored = [r#"{"message": "Step 1/3"}"#, r#"{"z": 1, "\u00e9": [1.0, 2e+16]}"#, "7"];
    assert_eq!(
        (texts(&page.entries), page.length, page.next_start),
        (stored.to_vec(), 3, 3)
    );
    let direct: Vec<String> = stand.server.run(&["LRANGE", &logs, "0", "-1"]).await;
    assert_eq!(direct, stored);

    let build_id = || "b".to_owned();
    let get = || GetStatusRequest { build_id: build_id() };
    assert_eq!(stand.logs.get_status(get()).await.unwrap().into_inner().status, None);
    let expire = || ExpireStatusRequest { build_id: build_id() };
    assert!(!stand.logs.expire_status(expire()).await.unwrap().into_inner().found);
    let set = SetStatusRequest {
        build_id: build_id(),
        status: "{\"pull\":0.25}".into(),
    };
    stand.logs.set_status(set).await.unwrap();
    let got = stand.logs.get_status(get()).await.unwrap().into_inner().status;
    assert_eq!(got.as_deref(), Some(b"{\"pull\": 0.25}".as_slice()));
    assert!(stand.ttl(&status).await > 604_790);

    assert!(stand.logs.expire_status(expire()).await.unwrap().into_inner().found);
    assert!((86_390..=86_400).contains(&stand.ttl(&status).await));
    let expire = || ExpireEntriesRequest { build_id: build_id() };
    assert!(stand.logs.expire_entries(expire()).await.unwrap().into_inner().found);
    assert!((86_390..=86_400).contains(&stand.ttl(&logs).await));
    let delete = || DeleteEntriesRequest { build_id: build_id() };
    assert!(stand.logs.delete_entries(delete()).await.unwrap().into_inner().found);
    assert!(!stand.logs.delete_entries(delete()).await.unwrap().into_inner().found);
    assert!(!stand.logs.expire_entries(expire()).await.unwrap().into_inner().found);
    assert_eq!(stand.list("b", 0, 0).await, ListEntriesResponse::default());
    stand.stop().await;
}

#[tokio::test]
async fn the_first_append_gives_a_ttl_where_it_is_told_to() {
    let mut stand = Stand::with(|config| config.build_logs.ttl_from_first_append = true).await;
    stand.append("a", &["1"]).await;
    assert_eq!(stand.compare("b", 0, &["1"]).await, (true, 1));
    for build in ["a", "b"] {
        assert!(stand.ttl(&logs_key(build)).await > 604_790);
    }
    stand.stop().await;
}

#[tokio::test]
async fn pages_are_bounded_in_entries_and_bytes() {
    let mut stand = Stand::new().await;
    let numbers: Vec<String> = (0..2_500).map(|n| n.to_string()).collect();
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    assert_eq!(stand.append("n", &numbers).await, 2_500);
    let (mut start, mut got) = (0, Vec::new());
    while start < 2_500 {
        let page = stand.list("n", start, 0).await;
        assert_eq!(page.length, 2_500);
        got.extend(page.entries.clone());
        start = page.next_start;
    }
    assert_eq!(texts(&got), numbers);
    let ends = |page: &ListEntriesResponse| (page.entries.len(), page.next_start);
    assert_eq!(ends(&stand.list("n", 0, 0).await), (1_000, 1_000));
    assert_eq!(ends(&stand.list("n", 2_000, 10_000).await), (500, 2_500));
    assert_eq!(ends(&stand.list("n", 7, 3).await), (3, 10));
    assert_eq!(texts(&stand.list("n", -2, 0).await.entries), ["2498", "2499"]);
    assert_eq!(ends(&stand.list("n", -9_999, 2).await), (2, 2));
    assert_eq!(ends(&stand.list("n", i64::MIN, 1).await), (1, 1));
    assert_eq!(ends(&stand.list("n", 2_500, 0).await), (0, 2_500));
    assert_eq!(ends(&stand.list("n", i64::MAX, 0).await), (0, i64::MAX));

    // Two of these take less than 1 MiB, three do not; one of the last takes more.
    let large = format!("\"{}\"", "a".repeat(500_000));
    let larger = format!("\"{}\"", "b".repeat(3_000_000));
    stand.append("l", &[&large, &large, &large]).await;
    stand.append("l", &[&larger]).await;
    assert_eq!(ends(&stand.list("l", 0, 0).await), (2, 2));
    assert_eq!(ends(&stand.list("l", 2, 0).await), (1, 3));
    assert_eq!(texts(&stand.list("l", 3, 0).await.entries), [larger.as_str()]);
    stand.stop().await;
}

#[tokio::test]
async fn compare_and_append_can_be_repeated() {
    let mut stand = Stand::new().await;
    assert_eq!(stand.compare("b", 0, &["1", "{\"a\":1}"]).await, (true, 2));
    assert_eq!(stand.ttl(&logs_key("b")).await, -1);
    assert_eq!(stand.compare("b", 0, &["1", "{ \"a\" : 1 }"]).await, (true, 2));
    assert_eq!(stand.ttl(&logs_key("b")).await, -1);
    assert_eq!(stand.compare("b", 2, &["3"]).await, (true, 3));
    assert!(stand.ttl(&logs_key("b")).await > 604_790);
    // Longer by now, and still the same; others there; not all of them there; not long enough.
    assert_eq!(stand.compare("b", 0, &["1"]).await, (true, 1));
    assert_eq!(stand.compare("b", 1, &["{\"a\":1}", "3"]).await, (true, 3));
    assert_eq!(stand.compare("b", 1, &["{\"a\":2}", "3"]).await, (false, 3));
    assert_eq!(stand.compare("b", 2, &["3", "4"]).await, (false, 3));
    assert_eq!(stand.compare("b", 4, &["5"]).await, (false, 3));
    assert_eq!(stand.compare("b", i64::MAX, &["5"]).await, (false, 3));
    assert_eq!(stand.list("b", 0, 0).await.length, 3);

    // More than Lua's stack takes.
    let many: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
    for _ in 0..2 {
        assert_eq!(stand.compare("m", 0, &many).await, (true, 10_000));
    }
    let direct: Vec<String> = stand.server.run(&["LRANGE", &logs_key("m"), "0", "-1"]).await;
    assert_eq!(direct, many);
    many[9_999] = "0";
    assert_eq!(stand.compare("m", 0, &many).await, (false, 10_000));
    stand.stop().await;
}

#[tokio::test]
async fn a_key_of_another_type_is_named_so() {
    let mut stand = Stand::new().await;
    stand.server.run::<()>(&["SET", &logs_key("x"), "not a list"]).await;
    stand
        .server
        .run::<()>(&["RPUSH", &status_key("x"), "not a string"])
        .await;
    let build_id = || "x".to_owned();
    let tail = TailRequest {
        build_id: build_id(),
        ..TailRequest::default()
    };
    let failures = [
        stand.logs.append(append("x", &["1"])).await.unwrap_err(),
        stand
            .logs
            .compare_and_append(compare("x", 0, &["1"]))
            .await
            .unwrap_err(),
        stand.logs.list_entries(list("x", 0, 0)).await.unwrap_err(),
        stand.logs.tail(tail).await.unwrap_err(),
        stand
            .logs
            .get_status(GetStatusRequest { build_id: build_id() })
            .await
            .unwrap_err(),
    ];
    for status in failures {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert_eq!(reason(&status).as_deref(), Some("WRONG_TYPE"));
    }
    stand.stop().await;
}

#[tokio::test]
async fn bad_input_is_named_by_its_field() {
    let mut stand = Stand::new().await;
    let long = "x".repeat(1_025);
    let too_many = vec!["1"; 10_001];
    let too_long = format!("\"{}\"", "é".repeat(700_000));
    let entries = |entries: Vec<LogEntry>| AppendRequest {
        build_id: "b".into(),
        entries,
    };
    let status = SetStatusRequest {
        build_id: "b".into(),
        status: "".into(),
    };
    let tail = TailRequest {
        build_id: "b".into(),
        start: 0,
        previous_entry: Some("1".into()),
    };
    let logs = &mut stand.logs;
    let refused: [(Status, &str); 14] = [
        (logs.append(append("", &["1"])).await.unwrap_err(), "build_id"),
        (logs.append(append("a\0b", &["1"])).await.unwrap_err(), "build_id"),
        (logs.append(append(&long, &["1"])).await.unwrap_err(), "build_id"),
        (logs.append(append("b", &[])).await.unwrap_err(), "entries"),
        (logs.append(append("b", &too_many)).await.unwrap_err(), "entries"),
        (
            logs.append(append("b", &["1", "2", "[", "{}"])).await.unwrap_err(),
            "entries[2].json",
        ),
        (
            logs.append(append("b", &[&too_long])).await.unwrap_err(),
            "entries[0].json",
        ),
        (
            logs.append(entries(vec![LogEntry { kind: None }])).await.unwrap_err(),
            "entries[0]",
        ),
        (
            logs.append(entries(vec![message("m", "", "{"), message("", "", "")]))
                .await
                .unwrap_err(),
            "entries[0].message.data",
        ),
        (
            logs.compare_and_append(compare("b", -1, &["1"])).await.unwrap_err(),
            "expected_length",
        ),
        (logs.list_entries(list("b", 0, -1)).await.unwrap_err(), "page_size"),
        (logs.list_entries(list("b", 0, 10_001)).await.unwrap_err(), "page_size"),
        (logs.set_status(status).await.unwrap_err(), "status"),
        (logs.tail(tail).await.unwrap_err(), "previous_entry"),
    ];
    for (status, field) in refused {
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, field);
    }
    assert_eq!(stand.server.run::<i64>(&["EXISTS", &logs_key("b")]).await, 0);
    stand.stop().await;
}

#[tokio::test]
async fn without_an_endpoint_every_call_says_so() {
    let gateway = Gateway::start(config()).await;
    let mut logs = gateway.build_logs().await;
    let tail = TailRequest {
        build_id: "b".into(),
        ..TailRequest::default()
    };
    for status in [
        logs.append(append("b", &["1"])).await.unwrap_err(),
        logs.list_entries(list("b", 0, 0)).await.unwrap_err(),
        logs.tail(tail).await.unwrap_err(),
    ] {
        assert_eq!(reason(&status).as_deref(), Some("NOT_CONFIGURED"));
    }
    drop(logs);
    gateway.stop().await;
}

/// An error would say that nothing was appended, and a caller would append again.
#[tokio::test]
async fn entries_that_stand_are_acknowledged_though_their_expiry_was_refused() {
    for ttl_from_first_append in [false, true] {
        let rules = "on >secret ~* &* +@all -expire";
        let server = RedisServer::new().user("logs", rules).start().await;
        let mut config = config();
        config.build_logs.ttl_from_first_append = ttl_from_first_append;
        let mut endpoint = at(server.addr());
        endpoint.username = Some("logs".into());
        endpoint.password = Some(Password::Inline("secret".into()));
        config.endpoints.build_logs = Some(endpoint);
        let gateway = Gateway::start(config).await;
        let logs = gateway.build_logs().await;
        let mut stand = Stand { server, gateway, logs };
        assert_eq!(stand.append("b", &["1"]).await, 1);
        assert_eq!(stand.server.run::<i64>(&["LLEN", &logs_key("b")]).await, 1);
        stand.stop().await;
    }
}

/// Those that docs/build-logs.md names.
#[tokio::test]
async fn the_documented_rights_are_enough() {
    let rights = "+expire +rpush +llen +lrange +set +get +ttl +del +evalsha +script|load";
    let rules = format!("on >secret ~builds/* ~_health +ping {rights}");
    let server = RedisServer::new().user("logs", &rules).start().await;
    let mut config = config();
    let mut endpoint = at(server.addr());
    endpoint.username = Some("logs".into());
    endpoint.password = Some(Password::Inline("secret".into()));
    config.endpoints.build_logs = Some(endpoint);
    let gateway = Gateway::start(config).await;
    let logs = gateway.build_logs().await;
    let mut stand = Stand { server, gateway, logs };
    assert_eq!(stand.append("b", &["1"]).await, 1);
    assert_eq!(stand.compare("b", 1, &["2"]).await, (true, 2));
    let build_id = || "b".to_owned();
    let set = SetStatusRequest {
        build_id: build_id(),
        status: "1".into(),
    };
    stand.logs.set_status(set).await.unwrap();
    stand
        .logs
        .get_status(GetStatusRequest { build_id: build_id() })
        .await
        .unwrap();
    let entries = ExpireEntriesRequest { build_id: build_id() };
    stand.logs.expire_entries(entries).await.unwrap();
    let status = ExpireStatusRequest { build_id: build_id() };
    stand.logs.expire_status(status).await.unwrap();
    let entries = DeleteEntriesRequest { build_id: build_id() };
    stand.logs.delete_entries(entries).await.unwrap();
    let tail = TailRequest {
        build_id: build_id(),
        ..TailRequest::default()
    };
    stand.logs.tail(tail).await.unwrap();
    stand.stop().await;
}
