//! What is counted of locks, beside the RPCs and the Redis commands.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::keeper::Cause;

/// Seconds, from two commands on a quiet loopback to the longest that a wake-up can be missed.
const BUCKETS: &[f64] = &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// The metrics of the pattern.
#[derive(Debug)]
pub(super) struct Metrics {
    /// Calls and streams that wait.
    pub(super) waiting: IntGauge,
    /// Locks that are kept for streams, and for those whose grace runs.
    pub(super) held: IntGauge,
    /// Wake-ups that nobody here wanted any more.
    pub(super) handed_on: IntCounter,
    acquires: [IntCounter; OUTCOMES.len()],
    lost: [IntCounter; CAUSES.len()],
    hand_over: Histogram,
}

/// As the label `outcome` names them, in the order of [`Outcome`]. All are there from the start: of a counter that begins with its first event, Prometheus sees no increase.
const OUTCOMES: [&str; 5] = ["acquired", "again", "busy", "failed", "given_up"];

/// As the label `cause` names them, in the order of [`Cause`].
const CAUSES: [&str; 4] = ["gone", "taken", "unknown", "taken_up"];

/// What became of a question for a lock.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    /// The holder got it.
    Acquired,
    /// The holder had it before, or took it up again.
    Again,
    /// It was busy for as long as the caller would wait.
    Busy,
    /// Redis did not answer, or refused.
    Failed,
    /// It was got, or may have been, for a caller that was gone.
    GivenUp,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Panics
    /// If the registry has metrics of these names already.
    pub(super) fn new(registry: &Registry) -> Self {
        // Names, helps and labels are constants: they are valid.
        let gauge = |name: &str, help| IntGauge::new(format!("redis_gateway_locks_{name}"), help).expect("valid");
        let counters = |name: &str, help: &str, label| {
            IntCounterVec::new(Opts::new(format!("redis_gateway_locks_{name}"), help), &[label]).expect("valid")
        };
        let hand_over = HistogramOpts::new(
            "redis_gateway_locks_hand_over_seconds",
            "Time from a wake-up to the lock being held by one who waited here.",
        );
        let acquires = counters("acquires_total", "Locks asked for, by what became of it.", "outcome");
        let lost = counters("lost_total", "Locks that streams lost, by cause.", "cause");
        let metrics = Metrics {
            waiting: gauge("waiting", "Calls and streams that wait for a lock."),
            held: gauge("held", "Locks kept for streams."),
            // As above.
            handed_on: IntCounter::new(
                "redis_gateway_locks_wake_ups_handed_on_total",
                "Wake-ups given back since nobody here wanted them any more.",
            )
            .expect("valid"),
            acquires: OUTCOMES.map(|outcome| acquires.with_label_values(&[outcome])),
            lost: CAUSES.map(|cause| lost.with_label_values(&[cause])),
            // As above.
            hand_over: Histogram::with_opts(hand_over.buckets(BUCKETS.to_vec())).expect("valid"),
        };
        let collectors: [Box<dyn Collector>; 6] = [
            Box::new(metrics.waiting.clone()),
            Box::new(metrics.held.clone()),
            Box::new(metrics.handed_on.clone()),
            Box::new(acquires),
            Box::new(lost),
            Box::new(metrics.hand_over.clone()),
        ];
        for collector in collectors {
            // The documented panic: one gateway has one registry and makes this once.
            registry.register(collector).expect("registered once");
        }
        metrics
    }

    /// Counts a question for a lock.
    pub(super) fn asked(&self, outcome: Outcome) {
        self.acquires[outcome as usize].inc();
    }

    /// Counts a lock that was lost.
    pub(super) fn lost(&self, cause: Cause) {
        self.lost[cause as usize].inc();
    }

    /// Notes how long it took from a wake-up to a lock that is held.
    pub(super) fn handed_over(&self, took: Duration) {
        self.hand_over.observe(took.as_secs_f64());
    }
}
