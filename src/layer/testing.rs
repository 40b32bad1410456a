//! What the layers' tests share: handlers made by hand, and what a caller would see of their answers.
#![allow(clippy::unnecessary_wraps, reason = "a handler answers with a Result")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Stack, stack};
use crate::config::{Limits, LogFormat, Telemetry};

pub(super) const GET: &str = "/redisgateway.v1.Cache/Get";
pub(super) const APPEND: &str = "/redisgateway.v1.BuildLogs/Append";
pub(super) const LIST: &str = "/redisgateway.v1.BuildLogs/ListEntries";
pub(super) const TAIL: &str = "/redisgateway.v1.BuildLogs/Tail";
pub(super) const STREAM_PULLS: &str = "/redisgateway.v1.PullMetrics/StreamPulls";
pub(super) const CHECK: &str = "/grpc.health.v1.Health/Check";

/// A stack and what can be done to it from outside.
pub(super) struct Fixture {
    pub(super) stack: Stack,
    pub(super) registry: Registry,
    pub(super) drain: CancellationToken,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Fixture::with(10_000, 10_000, None)
    }

    pub(super) fn with(max_calls: usize, max_streams: usize, sample_ratio: Option<f64>) -> Self {
        let limits = Limits {
            max_calls,
            max_streams,
            max_request_bytes: 4 << 20,
            max_value_bytes: 3 << 20,
            max_answer_bytes: 4 << 20,
        };
        let telemetry = Telemetry {
            log_format: LogFormat::Text,
            log_level: "info".to_owned(),
            otlp_endpoint: sample_ratio.map(|_| "http://127.0.0.1:4317".to_owned()),
            sample_ratio: sample_ratio.unwrap_or_default(),
        };
        let (registry, drain) = (Registry::new(), CancellationToken::new());
        let timeout = |_| Duration::from_secs(2);
        let stack = stack(&limits, &telemetry, timeout, drain.clone(), &registry);
        Fixture { stack, registry, drain }
    }

    /// The value of a sample, by the name and labels as they stand in the text form.
    pub(super) fn sample(&self, sample: &str) -> Option<f64> {
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap();
        let line = text.lines().find(|line| line.starts_with(sample))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// How many calls of the cache's Get ended with `code`.
    pub(super) fn gets(&self, code: &str) -> Option<f64> {
        self.sample(&format!(
            "redis_gateway_rpc_requests_total{{code=\"{code}\",method=\"Get\",service=\"Cache\"}}"
        ))
    }
}

pub(super) fn request(path: &str) -> Request<Body> {
    Request::post(path).body(Body::empty()).unwrap()
}

pub(super) fn timed(path: &str, timeout: &str) -> Request<Body> {
    let request = Request::post(path).header("grpc-timeout", timeout);
    request.body(Body::empty()).unwrap()
}

/// A handler that answers with these frames.
pub(super) type Answer = Result<Response<Body>, Infallible>;

/// An answer of one message and OK in its trailers.
pub(super) fn answer() -> Answer {
    Ok(frames(vec![message(), ok()], false))
}

/// A stream that stays open after `first`.
pub(super) fn open(first: Vec<Frame<Bytes>>) -> Answer {
    Ok(frames(first, true))
}

pub(super) fn message() -> Frame<Bytes> {
    Frame::data(Bytes::from_static(&[0; 5]))
}

pub(super) fn ok() -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    Status::new(Code::Ok, "").add_header(&mut trailers).unwrap();
    Frame::trailers(trailers)
}

fn frames(frames: Vec<Frame<Bytes>>, stays_open: bool) -> Response<Body> {
    let frames = frames.into();
    Response::new(Body::new(Frames { frames, stays_open }))
}

/// What a caller sees of an answer: how many messages, and the status in the end.
pub(super) async fn seen<B>(response: Response<B>) -> (usize, Status)
where
    B: http_body::Body<Data = Bytes, Error = Status>,
{
    let (parts, body) = response.into_parts();
    let mut body = std::pin::pin!(body);
    let mut messages = 0;
    let mut status = Status::from_header_map(&parts.headers);
    while let Some(frame) = body.frame().await {
        match frame.unwrap().into_trailers() {
            Ok(trailers) => status = Status::from_header_map(&trailers),
            Err(_) => messages += 1,
        }
    }
    (messages, status.expect("a status"))
}

/// The reason in a status.
pub(super) fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("an ErrorInfo").reason
}

struct Frames {
    frames: VecDeque<Frame<Bytes>>,
    stays_open: bool,
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if self.stays_open => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}
