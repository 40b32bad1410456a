//! Counts every call, whatever becomes of it, by its method and code.
//!
//! All labels are resolved at start; a call touches counters of its own method alone and takes no lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use tonic::{Code, Status};
use tower::Service;

use super::method::{OTHERS, UNKNOWN};
use super::watch::{Watch, WatchedBody, WatchedFuture};
use super::{Call, Caller, Degraded, METHODS, Method};
use crate::proto::DegradedReason;
use crate::status;

/// Seconds, from an answer out of a warm Redis to the longest deadline that is common.
const BUCKETS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The codes in the order of their numbers, as the label `code` and spans name them.
pub(super) const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// What a degraded answer is counted by, as the label `reason` names it.
const REASONS: [(DegradedReason, &str); 9] = [
    (DegradedReason::RedisUnavailable, "REDIS_UNAVAILABLE"),
    (DegradedReason::RedisTimeout, "REDIS_TIMEOUT"),
    (DegradedReason::OutcomeUnknown, "OUTCOME_UNKNOWN"),
    (DegradedReason::WrongType, "WRONG_TYPE"),
    (DegradedReason::RedisOutOfMemory, "REDIS_OUT_OF_MEMORY"),
    (DegradedReason::RedisDenied, "REDIS_DENIED"),
    (DegradedReason::Overloaded, "OVERLOADED"),
    (DegradedReason::RedisError, "REDIS_ERROR"),
    (DegradedReason::ValueTooLarge, "VALUE_TOO_LARGE"),
];

/// The counters of all methods, by path.
pub(super) struct Counters {
    methods: HashMap<&'static str, Arc<MethodCounters>>,
    unknown: Arc<MethodCounters>,
}

impl Counters {
    /// Registers the metrics and resolves their labels.
    ///
    /// # Panics
    /// If the registry has metrics of these names already.
    pub(super) fn new(registry: &Registry) -> Self {
        const METHOD: [&str; 2] = ["service", "method"];
        let families = Families {
            requests: counters(
                registry,
                "redis_gateway_rpc_requests_total",
                "RPCs that ended, by code; CANCELLED also if the caller went away. A batch of a stream counts as one, too.",
                &["service", "method", "code"],
            ),
            degraded: counters(
                registry,
                "redis_gateway_rpc_degraded_total",
                "RPCs answered OK although Redis failed, by reason.",
                &["service", "method", "reason"],
            ),
            failures: counters(
                registry,
                "redis_gateway_rpc_failures_total",
                "RPCs that the gateway failed, by the reason that callers read; OTHER has none.",
                &["service", "reason"],
            ),
            in_flight: {
                let opts = Opts::new("redis_gateway_rpc_in_flight", "RPCs and streams that have not ended.");
                // Names and labels are constants of this file: they are valid.
                register(registry, IntGaugeVec::new(opts, &METHOD).expect("valid"))
            },
            duration: {
                let name = "redis_gateway_rpc_duration_seconds";
                let help =
                    "Time from a unary RPC's headers to the end of its answer, or from a stream's batch to its own.";
                let opts = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
                // Names and labels are constants of this file: they are valid.
                register(registry, HistogramVec::new(opts, &METHOD).expect("valid"))
            },
        };
        let methods = METHODS.iter().chain(OTHERS);
        Counters {
            methods: methods
                .map(|method| (method.path, Arc::new(families.of(method))))
                .collect(),
            unknown: Arc::new(families.of(&UNKNOWN)),
        }
    }
}

/// Looks a call's method up, tells the layers within by a [`Call`], and counts.
#[derive(Clone)]
pub struct Metrics<S> {
    inner: S,
    counters: Arc<Counters>,
}

impl<S> Metrics<S> {
    pub(super) fn new(inner: S, counters: Arc<Counters>) -> Self {
        Metrics { inner, counters }
    }
}

impl<S, A, B> Service<Request<A>> for Metrics<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: http_body::Body,
{
    type Response = Response<WatchedBody<B, Count>>;
    type Error = S::Error;
    type Future = WatchedFuture<S::Future, Count>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let counters = self.counters.methods.get(request.uri().path());
        let counters = counters.unwrap_or(&self.counters.unknown).clone();
        request.extensions_mut().insert(Call {
            method: counters.method,
            deadline: None,
            caller: Caller::Anonymous,
        });
        if counters.method.client_streaming {
            request.extensions_mut().insert(counters.clone());
        }
        let count = Count::begin(counters);
        WatchedFuture::new(self.inner.call(request), Some(count))
    }
}

/// A call while it is counted as in flight.
pub struct Count {
    counters: Arc<MethodCounters>,
    since: Instant,
}

impl Count {
    fn begin(counters: Arc<MethodCounters>) -> Self {
        counters.in_flight.inc();
        let since = Instant::now();
        Count { counters, since }
    }
}

impl Watch for Count {
    fn answered(&mut self, extensions: &http::Extensions) {
        if let Some(Degraded(reason)) = extensions.get::<Degraded>() {
            self.counters.degraded(*reason);
        }
    }

    fn failed(&mut self, status: &Status) {
        self.counters.failures[status::reason(status).unwrap_or(status::REASONS.len())].inc();
    }

    fn ended(&mut self, code: Code) {
        self.counters.in_flight.dec();
        // How long a stream was open says nothing about how fast it is.
        let since = (!self.counters.method.streaming).then_some(self.since);
        self.counters.ended(code, since);
    }
}

/// What is counted of one method. Put into requests whose callers stream, for handlers that answer batches.
pub(super) struct MethodCounters {
    method: &'static Method,
    codes: [IntCounter; CODES.len()],
    degraded: [IntCounter; REASONS.len()],
    // Those of the service, in the order of [`status::REASONS`], and what is none of them.
    failures: Vec<IntCounter>,
    in_flight: IntGauge,
    // None for streams without batches.
    duration: Option<Histogram>,
}

impl MethodCounters {
    /// Counts a batch that came in at `since`, and is answered, as a call. Its stream may stay open for days.
    pub(super) fn batch(&self, since: Instant, degraded: DegradedReason) {
        self.degraded(degraded);
        self.ended(Code::Ok, Some(since));
    }

    fn degraded(&self, reason: DegradedReason) {
        if let Some(n) = REASONS.iter().position(|(known, _)| *known == reason) {
            self.degraded[n].inc();
        }
    }

    fn ended(&self, code: Code, since: Option<Instant>) {
        self.codes[code as usize].inc();
        if let (Some(duration), Some(since)) = (&self.duration, since) {
            duration.observe(since.elapsed().as_secs_f64());
        }
    }
}

struct Families {
    requests: IntCounterVec,
    degraded: IntCounterVec,
    failures: IntCounterVec,
    in_flight: IntGaugeVec,
    duration: HistogramVec,
}

impl Families {
    fn of(&self, method: &'static Method) -> MethodCounters {
        let labels = &[method.service, method.name];
        let with = |family: &IntCounterVec, label| family.with_label_values(&[method.service, method.name, label]);
        MethodCounters {
            method,
            codes: CODES.map(|code| with(&self.requests, code)),
            degraded: REASONS.map(|(_, reason)| with(&self.degraded, reason)),
            failures: status::REASONS
                .iter()
                .chain(&["OTHER"])
                .map(|reason| self.failures.with_label_values(&[method.service, reason]))
                .collect(),
            in_flight: self.in_flight.with_label_values(labels),
            duration: (!method.streaming || method.client_streaming).then(|| self.duration.with_label_values(labels)),
        }
    }
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    // Names and labels are constants of this file: they are valid.
    register(
        registry,
        IntCounterVec::new(Opts::new(name, help), labels).expect("valid"),
    )
}

fn register<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    // The documented panic: one gateway has one registry and makes this once.
    registry.register(Box::new(collector.clone())).expect("registered once");
    collector
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;
    use tower::{Layer as _, ServiceExt as _, service_fn};

    use super::super::testing::{Answer, CHECK, Fixture, GET, TAIL, answer, message, open, request, seen, timed};
    use super::*;

    async fn get(fixture: &Fixture, answer: impl Fn() -> Answer) {
        let handler = service_fn(|_: Request<_>| std::future::ready(answer()));
        let response = fixture.stack.layer(handler).oneshot(request(GET)).await.unwrap();
        seen(response).await;
    }

    #[tokio::test]
    async fn the_code_is_read_from_trailers_and_from_headers() {
        let fixture = Fixture::new();
        get(&fixture, answer).await;
        get(&fixture, || Ok(Status::new(Code::NotFound, "").into_http())).await;
        assert_eq!((fixture.gets("OK"), fixture.gets("NOT_FOUND")), (Some(1.0), Some(1.0)));
        let labels = "{method=\"Get\",service=\"Cache\"}";
        let count = fixture.sample(&format!("redis_gateway_rpc_duration_seconds_count{labels}"));
        let in_flight = fixture.sample(&format!("redis_gateway_rpc_in_flight{labels}"));
        assert_eq!((count, in_flight), (Some(2.0), Some(0.0)));
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_has_cancelled() {
        let fixture = Fixture::new();
        let open = service_fn(|_: Request<_>| async { open(vec![message()]) });
        let service = fixture.stack.layer(open);
        let response = service.clone().oneshot(request(GET)).await.unwrap();
        let mut body = Box::pin(response.into_body());
        body.frame().await.unwrap().unwrap();
        drop(body);
        assert_eq!(fixture.gets("CANCELLED"), Some(1.0));

        let never = service_fn(|_: Request<_>| std::future::pending::<Answer>());
        let mut call = Box::pin(fixture.stack.layer(never).oneshot(request(GET)));
        assert!((&mut call).now_or_never().is_none());
        drop(call);
        assert_eq!(fixture.gets("CANCELLED"), Some(2.0));
        assert_eq!(
            fixture.sample("redis_gateway_rpc_in_flight{method=\"Get\",service=\"Cache\"}"),
            Some(0.0)
        );
    }

    #[tokio::test]
    async fn failures_are_counted_by_the_reason_that_callers_read() {
        let fixture = Fixture::new();
        get(&fixture, answer).await;
        get(&fixture, || Ok(status::invalid("key", "a key").into_http())).await;
        get(&fixture, || Ok(Status::internal("another's").into_http())).await;
        // In the trailers, as of a stream.
        let mut trailers = http::HeaderMap::new();
        status::draining(&UNKNOWN).add_header(&mut trailers).unwrap();
        let frames = || vec![message(), http_body::Frame::trailers(trailers.clone())];
        let service = service_fn(|_: Request<_>| std::future::ready(open(frames())));
        let response = fixture.stack.layer(service).oneshot(request(TAIL)).await.unwrap();
        let mut body = Box::pin(response.into_body());
        for _ in frames() {
            body.frame().await.unwrap().unwrap();
        }
        let failures = |service: &str, reason: &str| {
            let labels = format!("{{reason=\"{reason}\",service=\"{service}\"}}");
            fixture.sample(&format!("redis_gateway_rpc_failures_total{labels}"))
        };
        assert_eq!(failures("Cache", "INVALID_ARGUMENT"), Some(1.0));
        assert_eq!(failures("Cache", "OTHER"), Some(1.0));
        assert_eq!(failures("Cache", "DRAINING"), Some(0.0));
        assert_eq!(failures("BuildLogs", "DRAINING"), Some(1.0));
    }

    #[tokio::test]
    async fn what_the_layers_refuse_is_counted_too() {
        let fixture = Fixture::new();
        let service = fixture.stack.layer(service_fn(|_: Request<_>| async { answer() }));
        seen(service.oneshot(timed(GET, "soon")).await.unwrap()).await;
        assert_eq!(fixture.gets("INVALID_ARGUMENT"), Some(1.0));
    }

    #[tokio::test]
    async fn an_open_stream_is_in_flight() {
        let fixture = Fixture::new();
        let open = service_fn(|_: Request<_>| async { open(vec![message()]) });
        let response = fixture.stack.layer(open).oneshot(request(TAIL)).await.unwrap();
        let in_flight = || fixture.sample("redis_gateway_rpc_in_flight{method=\"Tail\",service=\"BuildLogs\"}");
        assert_eq!(in_flight(), Some(1.0));
        drop(response);
        assert_eq!(in_flight(), Some(0.0));
    }

    #[tokio::test]
    async fn degraded_answers_are_counted_by_reason() {
        let fixture = Fixture::new();
        get(&fixture, || {
            let mut response = answer()?;
            let degraded = Degraded(DegradedReason::RedisTimeout);
            response.extensions_mut().insert(degraded);
            Ok(response)
        })
        .await;
        let sample = "redis_gateway_rpc_degraded_total{method=\"Get\",reason=\"REDIS_TIMEOUT\",service=\"Cache\"}";
        assert_eq!(fixture.sample(sample), Some(1.0));
    }

    #[test]
    fn each_reason_is_counted_by_its_name() {
        let all = (1..).map_while(|n| DegradedReason::try_from(n).ok());
        let names = all.map(|reason| {
            let name = reason.as_str_name().strip_prefix("DEGRADED_REASON_").unwrap();
            (reason, name)
        });
        let mut known = REASONS;
        known.sort_by_key(|(reason, _)| *reason as i32);
        assert_eq!(names.collect::<Vec<_>>(), known);
    }

    #[tokio::test]
    async fn names_that_callers_make_up_are_no_labels() {
        let fixture = Fixture::new();
        let service = fixture.stack.layer(service_fn(|_: Request<_>| async { answer() }));
        for path in ["/redisgateway.v1.Cache/Made", "/made.Up/Get", CHECK] {
            seen(service.clone().oneshot(request(path)).await.unwrap()).await;
        }
        let requests = "redis_gateway_rpc_requests_total{code=\"OK\",method=";
        let unknown = fixture.sample(&format!("{requests}\"unknown\",service=\"unknown\"}}"));
        let check = fixture.sample(&format!("{requests}\"Check\",service=\"grpc.health.v1\"}}"));
        assert_eq!((unknown, check), (Some(2.0), Some(1.0)));
        assert_eq!(fixture.sample(&format!("{requests}\"Made\"")), None);
    }
}
