//! What is counted of values in memory.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntGauge, Opts, Registry};

/// The metrics of what is kept.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) invalidations: IntCounter,
    pub(super) evictions: IntCounter,
    reads: [IntCounter; OUTCOMES.len()],
    bytes: IntGauge,
    entries: IntGauge,
    tracking: IntGauge,
}

/// As the label `outcome` names them, in the order of [`Outcome`].
const OUTCOMES: [&str; 3] = ["hit", "miss", "stale"];

/// How a read ended that might have been answered from memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    /// In memory.
    Hit,
    /// In Redis.
    Miss,
    /// After a miss, with a value past its end.
    Stale,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Panics
    /// If the registry has metrics of these names already.
    pub(super) fn new(registry: &Registry) -> Self {
        let name = |name: &str| format!("redis_gateway_cache_near_{name}");
        // Names, helps and labels are constants: they are valid.
        let counter = |text: &str, help: &str| IntCounter::new(name(text), help).expect("valid");
        let gauge = |text: &str, help: &str| IntGauge::new(name(text), help).expect("valid");
        let read = |outcome| {
            let help = "Reads of keys whose values are kept in memory, by where they ended.";
            let opts = Opts::new(name("reads_total"), help).const_label("outcome", outcome);
            // As above.
            IntCounter::with_opts(opts).expect("valid")
        };
        let metrics = Metrics {
            invalidations: counter("invalidations_total", "Changes of such keys that Redis told of."),
            evictions: counter("evictions_total", "Values that had to go to make room."),
            reads: OUTCOMES.map(read),
            bytes: gauge("bytes", "Memory for values, overhead included, at the latest probe."),
            entries: gauge("entries", "Values in memory, at the latest probe."),
            tracking: gauge(
                "tracking_up",
                "Whether Redis tells of changes; while 0, nothing is answered from memory.",
            ),
        };
        let counters = metrics.reads.iter().chain([&metrics.invalidations, &metrics.evictions]);
        let gauges = [&metrics.bytes, &metrics.entries, &metrics.tracking];
        let counters = counters.map(|counter| Box::new(counter.clone()) as Box<dyn Collector>);
        let gauges = gauges.map(|gauge| Box::new(gauge.clone()) as Box<dyn Collector>);
        for collector in counters.chain(gauges) {
            // The documented panic: one gateway has one registry and makes this once.
            registry.register(collector).expect("registered once");
        }
        metrics
    }

    /// Counts a read.
    pub(super) fn read(&self, outcome: Outcome) {
        self.reads[outcome as usize].inc();
    }

    /// Counts a look into memory.
    pub(super) fn looked(&self, found: bool) {
        self.read(if found { Outcome::Hit } else { Outcome::Miss });
    }

    /// Shows what is kept.
    pub(super) fn observe(&self, tracking: bool, entries: usize, bytes: u64) {
        self.tracking.set(tracking.into());
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}
