//! What is counted of leases, beside the RPCs and the Redis commands.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

use super::store::Refusal;

/// Seconds, from a lease that is got at once to the longest that a caller may wait.
const BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0,
];

/// The metrics of the pattern.
#[derive(Debug)]
pub(super) struct Metrics {
    /// Calls that wait.
    pub(super) waiting: IntGauge,
    leases: IntCounterVec,
    waits: IntCounterVec,
    wait: Histogram,
}

/// What became of a lease, as the label `event` names it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// A caller got it.
    Given,
    /// Its value is stored.
    Filled,
    /// Its value was refused.
    Refused(Refusal),
    /// A caller got the lease to load a value again, with the value.
    RefreshGiven,
    /// The value is replaced.
    Refreshed,
    /// The value is no longer the one that the lease saw.
    RefreshRefused,
    /// Its holder gave it up.
    GivenUp,
    /// It was got, or may have been, when nobody wanted it any more.
    Unwanted,
}

/// How the wait after a miss ended, as the label `outcome` names it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waited {
    /// With the value that another caller has stored.
    Value,
    /// With the lease.
    Lease,
    /// With neither, when the time was over.
    Busy,
    /// Redis could not be asked.
    Failed,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Panics
    /// If the registry has metrics of these names already.
    pub(super) fn new(registry: &Registry) -> Self {
        let name = |name: &str| format!("redis_gateway_cache_{name}");
        // Names, helps and labels are constants: they are valid.
        let counters =
            |text: &str, help: &str, label| IntCounterVec::new(Opts::new(name(text), help), &[label]).expect("valid");
        let wait = HistogramOpts::new(name("wait_seconds"), "Time from a miss to a value, a lease or the end.");
        let metrics = Metrics {
            // As above.
            waiting: IntGauge::new(name("waiting"), "Calls that wait for a value or a lease.").expect("valid"),
            leases: counters("leases_total", "Leases, by what became of them.", "event"),
            waits: counters("waits_total", "Waits after a miss, by how they ended.", "outcome"),
            wait: Histogram::with_opts(wait.buckets(BUCKETS.to_vec())).expect("valid"),
        };
        let collectors: [Box<dyn Collector>; 4] = [
            Box::new(metrics.waiting.clone()),
            Box::new(metrics.leases.clone()),
            Box::new(metrics.waits.clone()),
            Box::new(metrics.wait.clone()),
        ];
        for collector in collectors {
            // The documented panic: one gateway has one registry and makes this once.
            registry.register(collector).expect("registered once");
        }
        metrics
    }

    /// Counts what became of a lease.
    pub(super) fn lease(&self, event: Event) {
        let event = match event {
            Event::Given => "given",
            Event::Filled => "filled",
            Event::Refused(Refusal::Written) => "refused_written",
            Event::Refused(Refusal::Deleted) => "refused_deleted",
            Event::Refused(Refusal::LeaseOver) => "refused_lease_over",
            Event::RefreshGiven => "refresh_given",
            Event::Refreshed => "refresh_filled",
            Event::RefreshRefused => "refresh_refused",
            Event::GivenUp => "given_up",
            Event::Unwanted => "unwanted",
        };
        self.leases.with_label_values(&[event]).inc();
    }

    /// Counts a wait, and how long it took.
    pub(super) fn waited(&self, outcome: Waited, took: Duration) {
        let outcome = match outcome {
            Waited::Value => "value",
            Waited::Lease => "lease",
            Waited::Busy => "busy",
            Waited::Failed => "failed",
        };
        self.waits.with_label_values(&[outcome]).inc();
        self.wait.observe(took.as_secs_f64());
    }
}
