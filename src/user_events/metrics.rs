//! What is counted of events and listeners.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::redis::Error;

/// As the label `outcome` names them. All are there from the start: of a counter that begins with its first event, Prometheus sees
/// no increase.
const OUTCOMES: [&str; 3] = ["published", "unknown", "failed"];

/// The metrics of the pattern.
#[derive(Debug)]
pub(super) struct Metrics {
    /// Events that callers publish.
    pub(super) published: Published,
    /// Open listeners.
    pub(super) listeners: IntGauge,
    /// Channels that somebody listens to.
    pub(super) channels: IntGauge,
    /// Events handed to listeners.
    pub(super) delivered: IntCounter,
    /// Events that slow listeners have lost.
    pub(super) dropped: IntCounter,
    /// Gaps told after a lost connection.
    pub(super) lost: IntCounter,
    /// Gaps told because the gateway was too slow.
    pub(super) overloaded: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Panics
    /// If the registry has metrics of these names already.
    pub(super) fn new(registry: &Registry) -> Self {
        let name = |name: &str| format!("redis_gateway_user_events_{name}");
        // Names and labels are constants: they are valid.
        let gauge = |text: &str, help| IntGauge::new(name(text), help).expect("valid");
        let counter = |text: &str, help| IntCounter::new(name(text), help).expect("valid");
        let opts = Opts::new(name("gaps_total"), "Gaps that were not a slow reader's own, by cause.");
        let gaps = IntCounterVec::new(opts, &["cause"]).expect("valid");
        let opts = Opts::new(
            name("published_total"),
            "Events to be published, by what became of them; not those in flight when their caller gave up.",
        );
        // As above.
        let published = IntCounterVec::new(opts, &["outcome"]).expect("valid");
        let metrics = Metrics {
            published: Published(OUTCOMES.map(|outcome| published.with_label_values(&[outcome]))),
            listeners: gauge("listeners", "Open listeners."),
            channels: gauge("channels", "Channels that somebody listens to."),
            delivered: counter(
                "delivered_total",
                "Events handed to listeners; one event counts for each.",
            ),
            dropped: counter("dropped_total", "Events that slow listeners have lost."),
            lost: gaps.with_label_values(&["connection_lost"]),
            overloaded: gaps.with_label_values(&["overloaded"]),
        };
        let collectors: [Box<dyn Collector>; 6] = [
            Box::new(published),
            Box::new(metrics.listeners.clone()),
            Box::new(metrics.channels.clone()),
            Box::new(metrics.delivered.clone()),
            Box::new(metrics.dropped.clone()),
            Box::new(gaps),
        ];
        for collector in collectors {
            // The documented panic: one gateway has one registry and makes this once.
            registry.register(collector).expect("registered once");
        }
        metrics
    }
}

/// Counts events by what became of them.
#[derive(Debug, Clone)]
pub(super) struct Published([IntCounter; OUTCOMES.len()]);

impl Published {
    /// Counts one.
    pub(super) fn count(&self, result: &Result<i64, Error>) {
        let outcome = match result {
            Ok(_) => 0,
            Err(error) if error.leaves_doubt() => 1,
            Err(_) => 2,
        };
        self.0[outcome].inc();
    }
}
