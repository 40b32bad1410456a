//! One span for each RPC that is sampled, as a child of the caller's.
//!
//! The caller's sampled flag decides, or else the share that the configuration names; before any span is made, so that what is
//! not sampled costs a look at one header.

use std::sync::LazyLock;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::{Code, Status};
use tower::Service;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::metrics::CODES;
use super::watch::{Watch, WatchedBody, WatchedFuture};
use super::{Call, Method};
use crate::config::Telemetry;
use crate::status;

/// The W3C header that names the caller's span.
const TRACEPARENT: &str = "traceparent";

static W3C: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);

/// Which calls are traced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Sampling {
    /// None: there is nowhere to send spans to.
    Off,
    /// What the caller has sampled, and this share of what comes without a word about it.
    Ratio(f64),
}

impl Sampling {
    pub(super) fn of(telemetry: &Telemetry) -> Self {
        match telemetry.otlp_endpoint {
            Some(_) => Sampling::Ratio(telemetry.sample_ratio),
            None => Sampling::Off,
        }
    }

    /// The parent of the call's span, which may be none; or None if it gets no span.
    fn decide(self, headers: &HeaderMap) -> Option<opentelemetry::Context> {
        let Sampling::Ratio(ratio) = self else {
            return None;
        };
        match headers.get(TRACEPARENT).and_then(|value| sampled(value.as_bytes())) {
            Some(false) => None,
            Some(true) => Some(W3C.extract_with_context(&opentelemetry::Context::new(), &Headers(headers))),
            None => (ratio > 0.0 && rand::random::<f64>() < ratio).then(opentelemetry::Context::new),
        }
    }
}

/// Makes spans.
#[derive(Clone)]
pub struct Trace<S> {
    inner: S,
    sampling: Sampling,
}

impl<S> Trace<S> {
    pub(super) fn new(inner: S, sampling: Sampling) -> Self {
        Trace { inner, sampling }
    }
}

impl<S, A, B> Service<Request<A>> for Trace<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: http_body::Body,
{
    type Response = Response<WatchedBody<B, Traced>>;
    type Error = S::Error;
    type Future = WatchedFuture<S::Future, Traced>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let parent = self.sampling.decide(request.headers());
        let traced = parent.map(|parent| Traced(span(parent, Call::in_request(&request).method)));
        let inner = {
            let _entered = traced.as_ref().map(|traced| traced.0.enter());
            self.inner.call(request)
        };
        WatchedFuture::new(inner, traced)
    }
}

/// A call with a span.
pub struct Traced(Span);

impl Watch for Traced {
    fn span(&self) -> Option<&Span> {
        Some(&self.0)
    }

    fn failed(&mut self, status: &Status) {
        let fault = match status::reason(status) {
            Some(reason) => status::FAULTS.contains(&status::REASONS[reason]),
            // Not one of ours, such as that of an unknown method or service: what a server answers for by OpenTelemetry's conventions.
            None => matches!(
                status.code(),
                Code::Unknown
                    | Code::DeadlineExceeded
                    | Code::Unimplemented
                    | Code::Internal
                    | Code::Unavailable
                    | Code::DataLoss
            ),
        };
        if fault {
            self.0
                .record("otel.status_code", "ERROR")
                .record("error.type", CODES[status.code() as usize]);
        }
    }

    fn ended(&mut self, code: Code) {
        self.0.record("rpc.grpc.status_code", code as i32);
    }
}

fn span(parent: opentelemetry::Context, method: &'static Method) -> Span {
    let name = &method.path[1..];
    let service = name.split('/').next();
    // At the highest level, so that every line logged within carries the trace id, whatever the log's own level.
    let span = tracing::error_span!(
        parent: None,
        "rpc",
        otel.name = name,
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method.name,
        rpc.grpc.status_code = Empty,
        error.r#type = Empty,
        trace_id = Empty,
    );
    // Fails only without a collector to send to, and then there is no need for a parent.
    let _ = span.set_parent(parent);
    let context = span.context();
    let id = context.span().span_context().trace_id();
    span.record("trace_id", tracing::field::display(id));
    span
}

/// What `traceparent` says about sampling. None if it is not one.
fn sampled(traceparent: &[u8]) -> Option<bool> {
    let text = std::str::from_utf8(traceparent).ok()?;
    let mut parts = text.split('-');
    let mut hex = |digits: usize| {
        let part = parts.next()?;
        let valid = part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (valid && !(digits > 2 && part.bytes().all(|b| b == b'0'))).then_some(part)
    };
    let (version, _trace, _parent, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    if version == "ff" || (version == "00" && text.len() != 55) {
        return None;
    }
    Some(u8::from_str_radix(flags, 16).ok()? & 1 == 1)
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use opentelemetry::trace::{self, SpanKind, TracerProvider as _};
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, Span as SdkSpan, SpanData, SpanProcessor};
    use tonic::body::Body;
    use tower::{Layer as _, ServiceExt as _, service_fn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::super::METHODS;
    use super::super::testing::{Fixture, GET, answer, request, seen};
    use super::*;
    use crate::config::EndpointName;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanProcessor for Kept {
        fn on_start(&self, _: &mut SdkSpan, _: &opentelemetry::Context) {}
        fn on_end(&self, span: SpanData) {
            self.0.lock().unwrap().push(span);
        }
        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }
        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    /// The spans of one call whose handler makes a span of its own if it is in one.
    async fn spans(ratio: Option<f64>, traceparent: Option<String>, failure: Option<Status>) -> Vec<SpanData> {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::AlwaysOn)
            .with_span_processor(kept.clone())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));

        let service = Fixture::with(1, 1, ratio)
            .stack
            .layer(service_fn(move |_: Request<Body>| {
                if !Span::current().is_none() {
                    tracing::info_span!("redis").in_scope(|| {});
                }
                let failure = failure.clone();
                std::future::ready(failure.map_or_else(answer, |status| Ok(status.into_http())))
            }));
        let mut request = request(GET);
        if let Some(value) = traceparent {
            request.headers_mut().insert(TRACEPARENT, value.parse().unwrap());
        }
        seen(service.oneshot(request).await.unwrap()).await;
        std::mem::take(&mut kept.0.lock().unwrap())
    }

    #[tokio::test]
    async fn a_sampled_parent_gets_a_child_in_its_trace() {
        let spans = spans(Some(0.0), Some(format!("00-{TRACE}-{PARENT}-01")), None).await;
        let [redis, rpc] = &spans[..] else {
            panic!("{spans:?}");
        };
        assert_eq!(rpc.span_context.trace_id().to_string(), TRACE);
        assert_eq!(rpc.parent_span_id.to_string(), PARENT);
        assert_eq!(
            (rpc.name.as_ref(), &rpc.span_kind),
            ("redisgateway.v1.Cache/Get", &SpanKind::Server)
        );
        assert_eq!(
            (redis.parent_span_id, redis.name.as_ref()),
            (rpc.span_context.span_id(), "redis")
        );
        let attribute = |key: &str| {
            let attribute = rpc.attributes.iter().find(|attribute| attribute.key.as_str() == key);
            attribute.map(|attribute| attribute.value.to_string())
        };
        let expected = [
            ("rpc.system", "grpc"),
            ("rpc.service", "redisgateway.v1.Cache"),
            ("rpc.method", "Get"),
            ("rpc.grpc.status_code", "0"),
            ("trace_id", TRACE),
        ];
        for (key, value) in expected {
            assert_eq!(attribute(key).as_deref(), Some(value), "{key}");
        }
        assert_eq!(rpc.status, trace::Status::Unset);
    }

    #[tokio::test]
    async fn what_the_gateway_answers_for_marks_the_span() {
        let get = METHODS.iter().find(|method| method.path == GET).unwrap();
        for (failure, error) in [
            (status::expired(get), true),
            (status::not_configured(EndpointName::Cache, get), true),
            (status::overloaded(get), true),
            (Status::unimplemented("no such method"), true),
            // The end of each stream whose connection comes to its age.
            (status::draining(get), false),
            (status::too_many_keys(get), false),
            (status::invalid("key", "a key"), false),
            (Status::not_found("no such service"), false),
        ] {
            let spans = spans(Some(1.0), None, Some(failure.clone())).await;
            let marked = matches!(spans[1].status, trace::Status::Error { .. });
            assert_eq!(marked, error, "{failure}");
        }
    }

    #[tokio::test]
    async fn what_is_not_sampled_makes_no_span() {
        let sampled = || Some(format!("00-{TRACE}-{PARENT}-01"));
        let unsampled = || Some(format!("00-{TRACE}-{PARENT}-00"));
        for (ratio, traceparent, expected) in [
            (None, sampled(), 0),
            (Some(1.0), unsampled(), 0),
            (Some(0.0), None, 0),
            (Some(0.0), Some("nonsense".to_owned()), 0),
            (Some(1.0), None, 2),
        ] {
            let spans = spans(ratio, traceparent.clone(), None).await;
            assert_eq!(spans.len(), expected, "{ratio:?} {traceparent:?}");
        }
    }

    #[test]
    fn the_flag_is_read_from_what_is_a_traceparent() {
        let cases = [
            (format!("00-{TRACE}-{PARENT}-01"), Some(true)),
            (format!("00-{TRACE}-{PARENT}-03"), Some(true)),
            (format!("00-{TRACE}-{PARENT}-00"), Some(false)),
            (format!("cc-{TRACE}-{PARENT}-01-later"), Some(true)),
            (format!("00-{TRACE}-{PARENT}-01-later"), None),
            (format!("ff-{TRACE}-{PARENT}-01"), None),
            (format!("00-{}-{PARENT}-01", "0".repeat(32)), None),
            (format!("00-{}-{PARENT}-01", TRACE.to_uppercase()), None),
            (String::new(), None),
        ];
        for (value, expected) in cases {
            assert_eq!(sampled(value.as_bytes()), expected, "{value}");
        }
    }
}
