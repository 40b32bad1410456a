//! Logs and traces of the process.
//!
//! Logs go to standard error. The Redis client's own do not appear: it logs through another facade, with addresses, and each
//! lost connection is logged here anyway.

mod collector;

use std::io::IsTerminal as _;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use self::collector::Collector;
use crate::config::{LogFormat, Telemetry};

/// What a collector that does not answer may delay the end of the process by.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there are no logs or no traces.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter says nothing.
    #[error("log_level: {0}")]
    LogLevel(#[from] LogLevelError),
    /// The collector's address is none.
    #[error("otlp_endpoint: {0}; expected a URL such as http://localhost:4317")]
    Otlp(String),
    /// The process has logs already.
    #[error("telemetry has been started in this process already")]
    Started,
}

/// What is wrong with a log filter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{part:?} is no filter; expected off, error, warn, info, debug, trace, or target=level such as redis_gateway=debug"
)]
pub struct LogLevelError {
    part: String,
}

/// Starts logs, and traces if there is a collector to send them to. Spans are kept in bounded memory and sent by a thread of
/// their own; what does not fit, or finds no collector, is dropped and told in the log. To be called in a tokio runtime, which
/// then carries the connection to the collector.
pub fn init(config: &Telemetry) -> Result<Guard, Error> {
    let filter = log_filter(&config.log_level)?;
    let provider = config.otlp_endpoint.as_deref().map(provider).transpose()?;
    let tracer = provider
        .as_ref()
        .map(|provider| provider.tracer(env!("CARGO_PKG_NAME")));
    subscriber(config.log_format, filter, tracer, std::io::stderr)
        .try_init()
        .map_err(|_| Error::Started)?;
    Ok(Guard { provider })
}

/// Reads a filter as `log_level` has it: levels and `target=level`, separated by commas.
pub fn log_filter(text: &str) -> Result<EnvFilter, LogLevelError> {
    for part in text.split(',').map(str::trim) {
        // A word alone would be taken for a target, and a misspelt level for silence.
        let level_alone = !part.contains(['=', '[']);
        let readable = !part.is_empty() && EnvFilter::builder().parse(part).is_ok();
        if !readable || (level_alone && part.parse::<LevelFilter>().is_err()) {
            return Err(LogLevelError { part: part.to_owned() });
        }
    }
    EnvFilter::builder()
        .parse(text)
        .map_err(|_| LogLevelError { part: text.to_owned() })
}

/// Ends telemetry.
#[derive(Debug)]
#[must_use = "spans are lost without `Guard::shutdown`"]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

impl Guard {
    /// Sends the spans that are still here, if the collector takes them in 2 seconds.
    pub async fn shutdown(self) {
        if let Some(provider) = self.provider {
            let flush = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT));
            if !matches!(flush.await, Ok(Ok(()))) {
                tracing::warn!("the last spans did not reach the collector");
            }
        }
    }
}

fn provider(endpoint: &str) -> Result<SdkTracerProvider, Error> {
    let collector = Collector::new(endpoint).map_err(|error| Error::Otlp(error.to_string()))?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder()
        .with_service_name(env!("CARGO_PKG_NAME"))
        .with_attribute(version)
        .build();
    Ok(SdkTracerProvider::builder()
        // What is not sampled never becomes a span: src/layer/trace.rs decides.
        .with_sampler(Sampler::AlwaysOn)
        .with_resource(resource)
        .with_batch_exporter(collector)
        .build())
}

fn subscriber<W>(
    format: LogFormat,
    filter: EnvFilter,
    tracer: Option<SdkTracer>,
    writer: W,
) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let log = tracing_subscriber::fmt::layer().with_writer(writer);
    let log = match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).boxed(),
        // With all spans, since the trace id stands in the outermost.
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).boxed(),
    };
    let spans = tracer.map(|tracer| {
        let own = Targets::new().with_target("redis_gateway", Level::INFO);
        let layer = tracing_opentelemetry::layer().with_tracer(tracer);
        // What runs on which thread of the gateway, and from which line, is nothing to who reads a trace.
        let layer = layer.with_location(false).with_threads(false).with_target(false);
        layer.with_tracked_inactivity(false).with_filter(own)
    });
    tracing_subscriber::registry().with(log.with_filter(filter)).with(spans)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged in a call's span under `filter`.
    fn logged(format: LogFormat, filter: &str) -> String {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = subscriber(format, log_filter(filter).unwrap(), None, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::error_span!("rpc", trace_id = "4bf92f35").in_scope(|| {
                tracing::info_span!("redis", command = "GET").in_scope(|| tracing::warn!(endpoint = "cache", "slow"));
            });
        });
        let written = written.0.lock().unwrap();
        String::from_utf8(written.clone()).unwrap()
    }

    #[test]
    fn lines_carry_the_trace_id_in_both_forms() {
        for filter in ["info", "warn"] {
            let json = logged(LogFormat::Json, filter);
            let line: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
            assert_eq!(line["spans"][0]["trace_id"], "4bf92f35", "{json}");
            assert_eq!((&line["message"], &line["level"]), (&"slow".into(), &"WARN".into()));
            assert!(logged(LogFormat::Text, filter).contains("4bf92f35"));
        }
        assert_eq!(logged(LogFormat::Text, "error"), "");
    }

    #[test]
    fn a_filter_that_would_say_nothing_is_named() {
        for good in [
            "info",
            "WARN",
            "off",
            "warn,redis_gateway=debug",
            "redis_gateway::redis=trace",
        ] {
            assert!(log_filter(good).is_ok(), "{good}");
        }
        for (text, part) in [
            ("inof", "inof"),
            ("warn,redis_gateway=loud", "redis_gateway=loud"),
            ("", ""),
        ] {
            let part = part.to_owned();
            assert_eq!(log_filter(text).unwrap_err(), LogLevelError { part });
        }
    }

    fn telemetry(otlp_endpoint: Option<&str>) -> Telemetry {
        Telemetry {
            log_format: LogFormat::Text,
            log_level: "off".to_owned(),
            otlp_endpoint: otlp_endpoint.map(str::to_owned),
            sample_ratio: 1.0,
        }
    }

    #[tokio::test]
    async fn a_second_start_is_an_error() {
        let first = init(&telemetry(None));
        assert!(matches!(init(&telemetry(None)), Err(Error::Started)));
        first.unwrap().shutdown().await;
    }

    #[tokio::test]
    async fn a_bad_address_is_an_error() {
        let error = init(&telemetry(Some("not a url"))).unwrap_err();
        assert!(matches!(error, Error::Otlp(_)), "{error}");
    }

    fn span(provider: &SdkTracerProvider) {
        let filter = log_filter("off").unwrap();
        let tracer = Some(provider.tracer("test"));
        let subscriber = subscriber(LogFormat::Text, filter, tracer, io::sink);
        tracing::subscriber::with_default(subscriber, || tracing::info_span!("rpc").in_scope(|| {}));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn spans_reach_the_collector_before_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (requests, mut received) = tokio::sync::mpsc::channel(1);
        let collector = axum::Router::new().fallback(move |request: http::Request<axum::body::Body>| async move {
            requests.send(request.uri().path().to_owned()).await.unwrap();
            let empty = axum::body::Body::from(vec![0; 5]);
            let headers = [("content-type", "application/grpc"), ("grpc-status", "0")];
            (headers, empty)
        });
        let collector = tonic::transport::Server::builder().add_routes(collector.into());
        let collector = tokio::spawn(collector.serve_with_incoming(TcpListenerStream::new(listener)));

        let provider = provider(&address).unwrap();
        span(&provider);
        Guard {
            provider: Some(provider),
        }
        .shutdown()
        .await;
        let path = received.try_recv().unwrap();
        assert_eq!(path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
        collector.abort();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_is_away_delays_the_end_by_its_limit_at_most() {
        // Bound and never accepted: as silent as a firewall.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let provider = provider(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        span(&provider);
        let begun = std::time::Instant::now();
        Guard {
            provider: Some(provider),
        }
        .shutdown()
        .await;
        assert!(begun.elapsed() < FLUSH_TIMEOUT * 2, "{:?}", begun.elapsed());
    }
}
