use super::*;
use crate::layer::METHODS;

fn method(name: &str) -> &'static Method {
    METHODS.iter().find(|method| method.name == name).unwrap()
}

/// What a caller reads out of a status.
#[derive(Debug, PartialEq)]
struct Seen {
    code: Code,
    reason: String,
    retry: Option<Duration>,
}

fn seen(status: &Status) -> Seen {
    let details = status.check_error_details().unwrap();
    let info = details.error_info().unwrap();
    assert_eq!(info.domain, DOMAIN);
    assert!(!status.message().ends_with('.'), "{}", status.message());
    Seen {
        code: status.code(),
        reason: info.reason.clone(),
        retry: details.retry_info().and_then(|info| info.retry_delay),
    }
}

fn row(code: Code, reason: &str, retry_ms: Option<u64>) -> Seen {
    Seen {
        code,
        reason: reason.to_owned(),
        retry: retry_ms.map(Duration::from_millis),
    }
}

fn metadata(status: &Status, name: &str) -> Option<String> {
    status.get_details_error_info().unwrap().metadata.get(name).cloned()
}

#[test]
fn each_redis_error_has_its_row() {
    use Code::{DeadlineExceeded, FailedPrecondition, Internal, ResourceExhausted, Unavailable, Unknown};
    let (append, list) = (method("Append"), method("ListEntries"));
    let unavailable = || row(Unavailable, "REDIS_UNAVAILABLE", Some(250));
    let cases = [
        (Error::Unavailable, append, unavailable()),
        (Error::Reply(Reply::NotServing("LOADING")), append, unavailable()),
        (Error::Reply(Reply::NoScript), append, unavailable()),
        (Error::Timeout, append, row(DeadlineExceeded, "REDIS_TIMEOUT", None)),
        (Error::Timeout, list, row(DeadlineExceeded, "REDIS_TIMEOUT", None)),
        (Error::Unknown, append, row(Unknown, "OUTCOME_UNKNOWN", None)),
        (Error::Unknown, list, unavailable()),
        (Error::Protocol("RPUSH"), append, row(Unknown, "OUTCOME_UNKNOWN", None)),
        (Error::Protocol("LRANGE"), list, row(Internal, "REDIS_ERROR", None)),
        (
            Error::Overloaded,
            append,
            row(ResourceExhausted, "OVERLOADED", Some(100)),
        ),
        (
            Error::Reply(Reply::WrongType),
            append,
            row(FailedPrecondition, "WRONG_TYPE", None),
        ),
        (
            Error::Reply(Reply::OutOfMemory),
            append,
            row(ResourceExhausted, "REDIS_OUT_OF_MEMORY", None),
        ),
        (
            Error::Reply(Reply::Denied("RPUSH")),
            append,
            row(FailedPrecondition, "REDIS_DENIED", None),
        ),
        (
            Error::Reply(Reply::Other("ERR".to_owned())),
            append,
            row(Internal, "REDIS_ERROR", None),
        ),
    ];
    for (error, method, expected) in cases {
        let status = redis(&error, EndpointName::BuildLogs, method);
        assert_eq!(seen(&status), expected, "{error:?}, {}", method.name);
        assert_eq!(metadata(&status, "endpoint").as_deref(), Some("build_logs"));
        assert_eq!(metadata(&status, "pattern").as_deref(), Some("build_logs"));
    }
}

#[test]
fn a_denied_command_is_named() {
    let status = redis(
        &Error::Reply(Reply::Denied("LRANGE")),
        EndpointName::BuildLogs,
        method("ListEntries"),
    );
    assert!(status.message().contains("LRANGE"), "{}", status.message());
    assert_eq!(metadata(&status, "command").as_deref(), Some("LRANGE"));
}

#[test]
fn bad_input_names_the_field() {
    let status = invalid("build_id", "must not be empty");
    assert_eq!(seen(&status), row(Code::InvalidArgument, "INVALID_ARGUMENT", None));
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].field, "build_id");
    assert_eq!(violations[0].description, "must not be empty");
    assert_eq!(metadata(&status, "field").as_deref(), Some("build_id"));
}

#[test]
fn what_the_gateway_itself_refuses_has_its_row() {
    let (append, tail) = (method("Append"), method("Tail"));
    let status = not_configured(EndpointName::BuildLogs, append);
    assert_eq!(seen(&status), row(Code::FailedPrecondition, "NOT_CONFIGURED", None));
    assert_eq!(metadata(&status, "endpoint").as_deref(), Some("build_logs"));
    assert_eq!(
        seen(&overloaded(append)),
        row(Code::ResourceExhausted, "OVERLOADED", Some(100))
    );
    assert_eq!(seen(&draining(tail)), row(Code::Unavailable, "DRAINING", Some(0)));
    let key_is = |code, reason| row(code, reason, None);
    assert_eq!(seen(&key_exists(append)), key_is(Code::AlreadyExists, "KEY_EXISTS"));
    assert_eq!(seen(&key_not_found(append)), key_is(Code::NotFound, "KEY_NOT_FOUND"));
    assert_eq!(
        seen(&too_many_keys(tail)),
        key_is(Code::ResourceExhausted, "TOO_MANY_KEYS")
    );
    assert_eq!(
        seen(&expired(append)),
        row(Code::DeadlineExceeded, "REDIS_TIMEOUT", None)
    );
    assert_eq!(seen(&overdue(append)), row(Code::Unknown, "OUTCOME_UNKNOWN", None));
    assert_eq!(seen(&overdue(tail)), row(Code::DeadlineExceeded, "REDIS_TIMEOUT", None));
    assert_eq!(metadata(&overdue(append), "endpoint"), None);
}

#[test]
fn each_error_degrades_for_a_reason() {
    let cases = [
        (Error::Unavailable, DegradedReason::RedisUnavailable),
        (
            Error::Reply(Reply::NotServing("READONLY")),
            DegradedReason::RedisUnavailable,
        ),
        (Error::Timeout, DegradedReason::RedisTimeout),
        (Error::Unknown, DegradedReason::OutcomeUnknown),
        (Error::Protocol("SET"), DegradedReason::OutcomeUnknown),
        (Error::Overloaded, DegradedReason::Overloaded),
        (Error::Reply(Reply::WrongType), DegradedReason::WrongType),
        (Error::Reply(Reply::OutOfMemory), DegradedReason::RedisOutOfMemory),
        (Error::Reply(Reply::Denied("GET")), DegradedReason::RedisDenied),
        (Error::Reply(Reply::Other("ERR".into())), DegradedReason::RedisError),
    ];
    for (error, reason) in cases {
        assert_eq!(degraded(&error), reason, "{error:?}");
    }
}

#[test]
fn each_reason_is_known() {
    let rows = include_str!("../status.rs").lines();
    let rows = rows.filter_map(|line| line.trim().strip_prefix("reason: \"")?.strip_suffix("\","));
    let mut rows: Vec<&str> = rows.chain([INVALID_ARGUMENT]).collect();
    rows.sort_unstable();
    let mut known = REASONS;
    known.sort_unstable();
    assert_eq!(rows, known);
    let place = |status: &Status| reason(status).map(|n| REASONS[n]);
    assert_eq!(place(&draining(method("Tail"))), Some("DRAINING"));
    assert_eq!(place(&invalid("key", "a key")), Some("INVALID_ARGUMENT"));
    assert_eq!(place(&Status::internal("another's")), None);
}
