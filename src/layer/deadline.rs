//! When a call must be answered, and the answer if its handler has none by then.
//!
//! Handlers and `redis::Endpoint` keep to [`Call::deadline`] themselves and say precisely what became of the call; this layer
//! is there for everything else, such as a request whose body does not come.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tower::Service;

use super::cut::{Cut, CutBody, CutFuture};
use super::refuse::Refusable;
use super::{Call, Method};
use crate::deadline::Deadline;
use crate::status;

/// The longest margin before the caller's deadline: the way back takes no longer on any network worth the name.
const MAX_MARGIN: Duration = Duration::from_millis(20);

/// What a handler gets beyond the deadline to say so itself, at most.
const MAX_GRACE: Duration = Duration::from_millis(5);

/// The timeout of calls that bring none, by pattern.
pub(super) type Timeouts = HashMap<&'static str, Duration>;

/// Tells each call its deadline and answers for it a moment later.
#[derive(Clone)]
pub struct Deadlines<S> {
    inner: S,
    timeouts: Arc<Timeouts>,
}

impl<S> Deadlines<S> {
    pub(super) fn new(inner: S, timeouts: Arc<Timeouts>) -> Self {
        Deadlines { inner, timeouts }
    }
}

impl<S, A, B> Service<Request<A>> for Deadlines<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Default,
{
    type Response = Response<CutBody<B, Overdue>>;
    type Error = S::Error;
    type Future = Refusable<CutFuture<S::Future, Overdue>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let method = Call::in_request(&request).method;
        let limits = match timeout(request.headers()) {
            Err(status) => return Refusable::refused(status),
            Ok(Some(Duration::ZERO)) => return Refusable::refused(status::expired(method)),
            Ok(Some(timeout)) => {
                let margin = MAX_MARGIN.min(timeout / 10);
                // Within the margin in any case: the caller's own clock must not speak first.
                Some((timeout.saturating_sub(margin), MAX_GRACE.min(margin / 2)))
            }
            Ok(None) if method.streaming => None,
            Ok(None) => self.timeouts.get(method.pattern).map(|timeout| (*timeout, MAX_GRACE)),
        };
        let cut = limits.map(|(timeout, grace)| {
            let deadline = Deadline::within(timeout);
            Call::in_request_mut(&mut request).deadline = Some(deadline);
            Overdue {
                at: deadline.instant() + grace,
                method,
            }
        });
        Refusable::passed(CutFuture::new(self.inner.call(request), cut))
    }
}

/// A call's end by its deadline.
pub struct Overdue {
    at: Instant,
    method: &'static Method,
}

impl Cut for Overdue {
    type Wait = Sleep;

    fn wait(&self) -> Sleep {
        tokio::time::sleep_until(self.at)
    }

    fn cuts_body(&self) -> bool {
        self.method.streaming
    }

    fn status(&self) -> Status {
        status::overdue(self.method)
    }
}

/// What is left to the caller, by the header `grpc-timeout`: at most 8 digits and a unit.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    parse(value.as_bytes()).map(Some).ok_or_else(|| {
        let expected = "must be 1 to 8 digits and one of H, M, S, m, u, n, such as 500m";
        status::invalid("grpc-timeout", expected)
    })
}

fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tonic::Code;
    use tonic_types::StatusExt as _;
    use tower::{Layer as _, ServiceExt as _, service_fn};

    use super::super::testing::{
        APPEND, Answer, CHECK, Fixture, GET, LIST, STREAM_PULLS, TAIL, answer, message, open, reason,
    };
    use super::super::testing::{request, seen, timed};
    use super::*;

    /// What is left until the deadline that a handler is told.
    async fn told(request: Request<tonic::body::Body>) -> Option<Duration> {
        let left = Arc::new(std::sync::Mutex::new(None));
        let handler = service_fn(|request: Request<_>| {
            let deadline = Call::of(&tonic::Request::from_http(request)).deadline;
            *left.lock().unwrap() = deadline.map(|deadline| deadline.instant() - Instant::now());
            async { answer() }
        });
        let response = Fixture::new().stack.layer(handler).oneshot(request).await.unwrap();
        seen(response).await;
        *left.lock().unwrap()
    }

    async fn unanswered(request: Request<tonic::body::Body>) -> Status {
        let handler = service_fn(|_: Request<_>| pending::<Answer>());
        let response = Fixture::new().stack.layer(handler).oneshot(request).await.unwrap();
        seen(response).await.1
    }

    #[test]
    fn the_header_is_read_as_the_specification_has_it() {
        let cases: [(&[u8], _); 12] = [
            (b"1H", Some(Duration::from_hours(1))),
            (b"2M", Some(Duration::from_mins(2))),
            (b"3S", Some(Duration::from_secs(3))),
            (b"400m", Some(Duration::from_millis(400))),
            (b"99999999u", Some(Duration::from_micros(99_999_999))),
            (b"0n", Some(Duration::ZERO)),
            (b"123456789m", None),
            (b"m", None),
            (b"", None),
            (b"5", None),
            (b"-5m", None),
            (b"5s", None),
        ];
        for (value, expected) in cases {
            assert_eq!(parse(value), expected, "{}", String::from_utf8_lossy(value));
        }
    }

    #[tokio::test]
    async fn a_handler_is_told_of_the_deadline_without_the_margin() {
        let cases = [("10S", 9_980), ("100m", 90), ("1H", 3_599_980)];
        for (timeout, expected) in cases {
            let left = told(timed(GET, timeout)).await.unwrap();
            let expected = Duration::from_millis(expected);
            assert!(left <= expected && left > expected / 2, "{left:?}");
        }
    }

    #[tokio::test]
    async fn without_one_the_pattern_decides_for_unary_calls_alone() {
        assert!(told(request(GET)).await.unwrap() <= Duration::from_secs(2));
        assert_eq!(told(request(TAIL)).await, None);
        // A body that does not come is waited for no longer there.
        assert!(told(request(CHECK)).await.unwrap() <= Duration::from_secs(2));
    }

    #[tokio::test]
    async fn an_answer_comes_before_the_callers_deadline_whatever_the_handler_does() {
        for (path, code, expected) in [
            (LIST, Code::DeadlineExceeded, "REDIS_TIMEOUT"),
            (APPEND, Code::Unknown, "OUTCOME_UNKNOWN"),
            (TAIL, Code::DeadlineExceeded, "REDIS_TIMEOUT"),
            (STREAM_PULLS, Code::Unknown, "OUTCOME_UNKNOWN"),
        ] {
            // A machine that is late now and then is not late each time.
            let mut late = Vec::new();
            loop {
                let begun = Instant::now();
                let status = unanswered(timed(path, "200m")).await;
                assert_eq!((status.code(), reason(&status).as_str()), (code, expected), "{path}");
                if begun.elapsed() < Duration::from_millis(200) {
                    break;
                }
                late.push(begun.elapsed());
                assert!(late.len() < 5, "{late:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_deadline_that_has_passed_is_answered_without_the_handler() {
        let handler = service_fn(|_: Request<_>| async { panic!("called") as Answer });
        let service = Fixture::new().stack.layer(handler);
        let status = seen(service.oneshot(timed(APPEND, "0n")).await.unwrap()).await.1;
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn a_malformed_header_is_named() {
        let status = unanswered(timed(APPEND, "soon")).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "grpc-timeout");
    }

    #[tokio::test]
    async fn a_stream_ends_by_its_deadline() {
        let handler = service_fn(|_: Request<_>| async { open(vec![message(), message()]) });
        let service = Fixture::new().stack.layer(handler);
        let (messages, status) = seen(service.oneshot(timed(TAIL, "100m")).await.unwrap()).await;
        assert_eq!((messages, status.code()), (2, Code::DeadlineExceeded));
    }
}
