//! The collector of traces: how it is reached, and what the log says when it is not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as Export};

/// Sends spans, and says so in the log when that begins to fail and when it works again: once, for however long it lasts.
#[derive(Debug)]
pub(super) struct Collector {
    exporter: SpanExporter,
    away: AtomicBool,
}

impl Collector {
    /// Connects with the first spans.
    pub(super) fn new(endpoint: &str) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
        // Plain text is asked for by its scheme.
        let exporter = if endpoint.starts_with("https:") {
            exporter.with_tls_config(ClientTlsConfig::new().with_native_roots())
        } else {
            exporter
        };
        Ok(Collector {
            exporter: exporter.build()?,
            away: AtomicBool::new(false),
        })
    }
}

impl Export for Collector {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(spans).await;
        match (&sent, self.away.swap(sent.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => tracing::warn!(%error, "spans do not reach the collector, and are dropped"),
            (Ok(()), true) => tracing::info!("spans reach the collector again"),
            _ => {}
        }
        // Whoever hears of a failure would log each.
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
