//! What is counted of watches and expiries.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::queue::Gap;

/// Why a watch had to look, as the label `cause` names it, in the order of [`Gap`]. All are there from the start: of a counter that begins with its first event, Prometheus sees no increase.
const GAPS: [&str; 3] = ["slow_reader", "connection_lost", "overloaded"];

/// The metrics of the pattern.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    /// Open watches.
    pub(super) watches: IntGauge,
    /// Keys whose expiration is known.
    pub(super) dues: IntGauge,
    /// Whether Redis tells of expirations; -1: not known, or not asked.
    pub(super) notifications: IntGauge,
    /// Expiries that this gateway has taken for its watches.
    pub(super) claimed: IntCounter,
    /// Expiries given to a watch since nobody had acknowledged them.
    pub(super) given_again: IntCounter,
    /// Expiries that clients have acknowledged.
    pub(super) acknowledged: IntCounter,
    /// Looks at all keys.
    pub(super) looks: IntCounter,
    gaps: [IntCounter; GAPS.len()],
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Panics
    /// If the registry has metrics of these names already.
    pub(super) fn new(registry: &Registry) -> Self {
        let name = |name: &str| format!("redis_gateway_orchestrator_{name}");
        // Names and labels are constants: they are valid.
        let gauge = |text: &str, help| IntGauge::new(name(text), help).expect("valid");
        let counter = |text: &str, help| IntCounter::new(name(text), help).expect("valid");
        let opts = Opts::new(
            name("gaps_total"),
            "Times that a watch had to look for what it missed, by cause.",
        );
        // As above.
        let gaps = IntCounterVec::new(opts, &["cause"]).expect("valid");
        let metrics = Metrics {
            watches: gauge("watches", "Open watches."),
            dues: gauge("dues", "Keys whose expiration is known."),
            notifications: gauge(
                "keyspace_notifications",
                "Whether Redis tells of expirations; -1: not known, or not asked.",
            ),
            claimed: counter("expiries_claimed_total", "Expiries taken for watches here."),
            given_again: counter(
                "expiries_given_again_total",
                "Expiries given to a watch here since nobody had acknowledged them.",
            ),
            acknowledged: counter(
                "expiries_acknowledged_total",
                "Expiries that clients have acknowledged.",
            ),
            looks: counter("looks_total", "Looks at all keys."),
            gaps: GAPS.map(|cause| gaps.with_label_values(&[cause])),
        };
        metrics.notifications.set(-1);
        let collectors: [Box<dyn Collector>; 8] = [
            Box::new(metrics.watches.clone()),
            Box::new(metrics.dues.clone()),
            Box::new(metrics.notifications.clone()),
            Box::new(metrics.claimed.clone()),
            Box::new(metrics.given_again.clone()),
            Box::new(metrics.acknowledged.clone()),
            Box::new(metrics.looks.clone()),
            Box::new(gaps),
        ];
        for collector in collectors {
            // The documented panic: one gateway has one registry and makes this once.
            registry.register(collector).expect("registered once");
        }
        metrics
    }

    /// Counts that a watch has missed something.
    pub(super) fn gap(&self, gap: Gap) {
        self.gaps[gap as usize].inc();
    }
}
