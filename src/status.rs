//! The only place that builds a gRPC status: which code, which reason and which details say what happened.
//!
//! Every status carries an `ErrorInfo` of the domain [`DOMAIN`], whose metadata name the pattern and, where one was asked,
//! the endpoint. Bad input carries a `BadRequest` with the field's name; `RetryInfo` stands where waiting helps. No message
//! holds a key, a value, a password or an address of Redis.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::config::EndpointName;
use crate::layer::Method;
use crate::proto::DegradedReason;
use crate::redis::{Error, Reply};

/// The domain of every `ErrorInfo`: by it a caller tells our statuses from those of a proxy or a client library.
pub const DOMAIN: &str = "redisgateway";

/// The reasons of [`DOMAIN`], each once.
pub const REASONS: [&str; 18] = [
    INVALID_ARGUMENT,
    UNAVAILABLE.reason,
    TIMEOUT.reason,
    UNKNOWN.reason,
    WRONG_TYPE.reason,
    OUT_OF_MEMORY.reason,
    DENIED.reason,
    REFUSED.reason,
    REQUEST_TOO_LARGE.reason,
    NOT_CONFIGURED.reason,
    CLAIM_NOT_FOUND.reason,
    LOCK_LOST.reason,
    NO_TTL.reason,
    KEY_EXISTS.reason,
    KEY_NOT_FOUND.reason,
    TOO_MANY_KEYS.reason,
    OVERLOADED.reason,
    DRAINING.reason,
];

/// What a call ends with that Redis or the gateway failed, and not what its caller asked for. The status page and the alert
/// `RedisGatewayCallsFail` take the same calls for failed, and spans too. Not among them is what is none of our statuses: that is how a
/// request ends that cannot be read, or is given up halfway; spans take most of these for errors, as OpenTelemetry has it.
pub const FAULTS: [&str; 8] = [
    UNAVAILABLE.reason,
    TIMEOUT.reason,
    UNKNOWN.reason,
    OUT_OF_MEMORY.reason,
    DENIED.reason,
    REFUSED.reason,
    NOT_CONFIGURED.reason,
    OVERLOADED.reason,
];

/// The place in [`REASONS`] of what a status says. None: it is not one of ours.
pub fn reason(status: &Status) -> Option<usize> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    REASONS.iter().position(|reason| *reason == info.reason)
}

/// What became of a call whose command has no result.
pub fn redis(error: &Error, endpoint: EndpointName, method: &'static Method) -> Status {
    let status = |row: &Row, message: &str| row.status(message, Some(endpoint), method, None);
    if error.leaves_doubt() && !method.retry_safe {
        return status(&UNKNOWN, UNKNOWN_MESSAGE);
    }
    match error {
        // Whoever may repeat the call learns all by doing so: no doubt to be told of.
        Error::Unknown
        | Error::Unavailable
        | Error::Reply(Reply::NotServing(_) | Reply::Elsewhere(_) | Reply::NoScript) => {
            status(&UNAVAILABLE, "redis cannot be reached or does not serve")
        }
        Error::Timeout => status(&TIMEOUT, TIMEOUT_MESSAGE),
        Error::Overloaded => status(
            &OVERLOADED,
            "too many commands in flight to redis, try again when there are fewer",
        ),
        Error::Reply(Reply::WrongType) => status(&WRONG_TYPE, "the key holds another type than this method works on"),
        Error::Reply(Reply::OutOfMemory) => status(&OUT_OF_MEMORY, "redis has no memory left, nothing was changed"),
        Error::Reply(Reply::Denied(command)) => DENIED.status(
            format!("the gateway's redis user may not run {command} on this key, its acl must allow it"),
            Some(endpoint),
            method,
            Some(("command", command)),
        ),
        Error::Reply(Reply::Other(code)) => REFUSED.status(
            format!("redis refused the command with {code}, nothing was changed"),
            Some(endpoint),
            method,
            Some(("error", code)),
        ),
        Error::Protocol(command) => REFUSED.status(
            format!("redis answered {command} in a form that is not the command's"),
            Some(endpoint),
            method,
            Some(("command", command)),
        ),
    }
}

/// Input that cannot be served: the field as the proto names it, and what would be right.
pub fn invalid(field: impl Into<String>, expected: impl Into<String>) -> Status {
    let (field, expected) = (field.into(), expected.into());
    let message = format!("{field}: {expected}");
    let metadata = HashMap::from([("field".to_owned(), field.clone())]);
    let mut details = ErrorDetails::with_bad_request_violation(field, expected);
    details.set_error_info(INVALID_ARGUMENT, DOMAIN, metadata);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// The request is longer than `most` bytes; nothing was executed.
pub fn request_too_large(most: usize, method: &'static Method) -> Status {
    let message = format!("the request must be at most {most} bytes long, by limits.max_request_bytes");
    REQUEST_TOO_LARGE.status(message, None, method, None)
}

/// The pattern has no endpoint.
pub fn not_configured(endpoint: EndpointName, method: &'static Method) -> Status {
    let message = format!("no redis for {0}, endpoints.{0} must name one", endpoint.as_str());
    NOT_CONFIGURED.status(message, Some(endpoint), method, None)
}

/// There is no claim of that id.
pub fn claim_not_found(method: &'static Method) -> Status {
    let message = "no such claim: it has ended, or its lease ran out long ago";
    CLAIM_NOT_FOUND.status(message, None, method, None)
}

/// The lock is not the holder's; nothing was changed.
pub fn lock_lost(method: &'static Method) -> Status {
    let message = "the holder does not hold the lock: it was released, or lost before";
    LOCK_LOST.status(message, None, method, None)
}

/// The lock stays until it is released; nothing was changed.
pub fn no_ttl(method: &'static Method) -> Status {
    let message = "the lock has no time to live that could be renewed";
    NO_TTL.status(message, None, method, None)
}

/// The key is there; nothing was changed.
pub fn key_exists(method: &'static Method) -> Status {
    let message = "the key is there already, overwrite it or delete it before";
    KEY_EXISTS.status(message, None, method, None)
}

/// The key is not there.
pub fn key_not_found(method: &'static Method) -> Status {
    KEY_NOT_FOUND.status("the key is not there", None, method, None)
}

/// More keys are under a prefix than can be watched.
pub fn too_many_keys(method: &'static Method) -> Status {
    let message = "too many keys are under the prefix, watch a longer one";
    TOO_MANY_KEYS.status(message, None, method, None)
}

/// The gateway has too much in flight; nothing was executed.
pub fn overloaded(method: &'static Method) -> Status {
    let message = "too much in flight at this gateway, try again when there is less";
    OVERLOADED.status(message, None, method, None)
}

/// The gateway is about to end, or the connection by its age, and the stream or the wait with it.
pub fn draining(method: &'static Method) -> Status {
    let message = "this connection is about to end, ask again on another one";
    DRAINING.status(message, None, method, None)
}

/// The deadline had passed before anything was executed.
pub fn expired(method: &'static Method) -> Status {
    TIMEOUT.status(TIMEOUT_MESSAGE, None, method, None)
}

/// The deadline has passed, and what was under way with it.
pub fn overdue(method: &'static Method) -> Status {
    if method.retry_safe {
        TIMEOUT.status(TIMEOUT_MESSAGE, None, method, None)
    } else {
        UNKNOWN.status(UNKNOWN_MESSAGE, None, method, None)
    }
}

/// Why an answer that is OK in spite of `error` is degraded.
pub fn degraded(error: &Error) -> DegradedReason {
    match error {
        Error::Unavailable | Error::Reply(Reply::NotServing(_) | Reply::Elsewhere(_) | Reply::NoScript) => {
            DegradedReason::RedisUnavailable
        }
        Error::Reply(Reply::Other(_)) => DegradedReason::RedisError,
        Error::Timeout => DegradedReason::RedisTimeout,
        Error::Unknown | Error::Protocol(_) => DegradedReason::OutcomeUnknown,
        Error::Overloaded => DegradedReason::Overloaded,
        Error::Reply(Reply::WrongType) => DegradedReason::WrongType,
        Error::Reply(Reply::OutOfMemory) => DegradedReason::RedisOutOfMemory,
        Error::Reply(Reply::Denied(_)) => DegradedReason::RedisDenied,
    }
}

const INVALID_ARGUMENT: &str = "INVALID_ARGUMENT";
const TIMEOUT_MESSAGE: &str = "no answer within the deadline";
const UNKNOWN_MESSAGE: &str = "no answer from redis, the change may or may not stand";

const UNAVAILABLE: Row = Row {
    code: Code::Unavailable,
    reason: "REDIS_UNAVAILABLE",
    // About what a new connection or a restarted server takes.
    retry: Some(Duration::from_millis(250)),
};
const TIMEOUT: Row = Row {
    code: Code::DeadlineExceeded,
    reason: "REDIS_TIMEOUT",
    retry: None,
};
const UNKNOWN: Row = Row {
    code: Code::Unknown,
    reason: "OUTCOME_UNKNOWN",
    retry: None,
};
const WRONG_TYPE: Row = Row {
    code: Code::FailedPrecondition,
    reason: "WRONG_TYPE",
    retry: None,
};
const OUT_OF_MEMORY: Row = Row {
    code: Code::ResourceExhausted,
    reason: "REDIS_OUT_OF_MEMORY",
    retry: None,
};
const DENIED: Row = Row {
    code: Code::FailedPrecondition,
    reason: "REDIS_DENIED",
    retry: None,
};
const REFUSED: Row = Row {
    code: Code::Internal,
    reason: "REDIS_ERROR",
    retry: None,
};
const REQUEST_TOO_LARGE: Row = Row {
    code: Code::InvalidArgument,
    reason: "REQUEST_TOO_LARGE",
    retry: None,
};
const NOT_CONFIGURED: Row = Row {
    code: Code::FailedPrecondition,
    reason: "NOT_CONFIGURED",
    retry: None,
};
const CLAIM_NOT_FOUND: Row = Row {
    code: Code::NotFound,
    reason: "CLAIM_NOT_FOUND",
    retry: None,
};
const LOCK_LOST: Row = Row {
    code: Code::FailedPrecondition,
    reason: "LOCK_LOST",
    retry: None,
};
const NO_TTL: Row = Row {
    code: Code::FailedPrecondition,
    reason: "NO_TTL",
    retry: None,
};
const KEY_EXISTS: Row = Row {
    code: Code::AlreadyExists,
    reason: "KEY_EXISTS",
    retry: None,
};
const KEY_NOT_FOUND: Row = Row {
    code: Code::NotFound,
    reason: "KEY_NOT_FOUND",
    retry: None,
};
const TOO_MANY_KEYS: Row = Row {
    code: Code::ResourceExhausted,
    reason: "TOO_MANY_KEYS",
    retry: None,
};
const OVERLOADED: Row = Row {
    code: Code::ResourceExhausted,
    reason: "OVERLOADED",
    // Many times what a call takes.
    retry: Some(Duration::from_millis(100)),
};
const DRAINING: Row = Row {
    code: Code::Unavailable,
    reason: "DRAINING",
    // Another gateway serves at once.
    retry: Some(Duration::ZERO),
};

/// A row of the table of codes and reasons.
struct Row {
    code: Code,
    reason: &'static str,
    retry: Option<Duration>,
}

impl Row {
    fn status(
        &self,
        message: impl Into<String>,
        endpoint: Option<EndpointName>,
        method: &'static Method,
        more: Option<(&str, &str)>,
    ) -> Status {
        let endpoint = endpoint.map(|name| ("endpoint", name.as_str()));
        let metadata: HashMap<String, String> = [Some(("pattern", method.pattern)), endpoint, more]
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut details = ErrorDetails::with_error_info(self.reason, DOMAIN, metadata);
        if self.retry.is_some() {
            details.set_retry_info(self.retry);
        }
        Status::with_error_details(self.code, message, details)
    }
}
