//! What is counted of logs that are followed, beside the RPCs and the Redis commands.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::known::Cause;

/// Seconds, from a look that finds nothing on a quiet loopback to the longest command timeout.
const BUCKETS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// As the label `cause` names them, in the order of [`Cause`]. All are there from the start: of a counter that begins with its first
/// event, Prometheus sees no increase.
const CAUSES: [&str; 4] = ["shortened", "deleted", "archived", "replaced"];

/// The metrics of the pattern.
#[derive(Debug)]
pub(super) struct Metrics {
    /// Tails that are open or begin.
    pub(super) tails: IntGauge,
    /// Builds that are followed: by one tail at least.
    pub(super) followed: IntGauge,
    resets: [IntCounter; CAUSES.len()],
    look: Histogram,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Panics
    /// If the registry has metrics of these names already.
    pub(super) fn new(registry: &Registry) -> Self {
        let name = |name: &str| format!("redis_gateway_build_logs_{name}");
        // Names and labels are constants: they are valid.
        let gauge = |text: &str, help| IntGauge::new(name(text), help).expect("valid");
        let opts = Opts::new(
            name("resets_total"),
            "Times that a tail was told that what it had read is void, by cause.",
        );
        let resets = IntCounterVec::new(opts, &["cause"]).expect("valid");
        let look = HistogramOpts::new(
            name("look_seconds"),
            "Time of a look at a log that is followed, whoever reads it; tails are behind by that and the time until the look.",
        );
        let metrics = Metrics {
            tails: gauge("tails", "Open tails."),
            followed: gauge("followed", "Builds whose logs are followed: one or more tails each."),
            resets: CAUSES.map(|cause| resets.with_label_values(&[cause])),
            // As above.
            look: Histogram::with_opts(look.buckets(BUCKETS.to_vec())).expect("valid"),
        };
        let collectors: [Box<dyn Collector>; 4] = [
            Box::new(metrics.tails.clone()),
            Box::new(metrics.followed.clone()),
            Box::new(resets),
            Box::new(metrics.look.clone()),
        ];
        for collector in collectors {
            // The documented panic: one gateway has one registry and makes this once.
            registry.register(collector).expect("registered once");
        }
        metrics
    }

    /// Counts a reset.
    pub(super) fn reset(&self, cause: Cause) {
        self.resets[cause as usize].inc();
    }

    /// Notes how long a look took.
    pub(super) fn looked(&self, took: Duration) {
        self.look.observe(took.as_secs_f64());
    }
}
