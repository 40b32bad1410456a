//! What is counted of pulls and their flush, beside the RPCs and the Redis commands.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::open::OpenClaims;

/// The metrics of the pattern; the labels are those of the arrays below.
#[derive(Debug)]
pub(super) struct Metrics {
    /// Pulls that callers waited for.
    pub(super) waited: IntCounter,
    /// Pulls that were taken on to be written later.
    pub(super) buffered: IntCounter,
    /// Redis calls that counted pulls: far fewer than pulls where a key is popular.
    pub(super) writes: IntCounter,
    /// Pulls in the buffer.
    pub(super) buffer_pulls: IntGauge,
    /// Bytes of the buffer that are taken.
    pub(super) buffer_bytes: IntGauge,
    /// Bytes that it may take.
    pub(super) buffer_limit: IntGauge,
    buffer_ends: [IntCounter; BUFFER_ENDS.len()],
    claims: [IntCounter; CLAIM_EVENTS.len()],
    /// Claims that have not ended.
    pub(super) open: OpenClaims,
    /// Keys claimed while fresh.
    pub(super) fresh_keys: IntCounter,
    /// Keys claimed that had been claimed before and not seen through.
    pub(super) orphan_keys: IntCounter,
    dropped_keys: IntCounterVec,
    /// Keys that were gone, or another's, when their claim was committed or extended.
    pub(super) lost_keys: IntCounter,
}

/// As the label `outcome` names them, in the order of [`BufferEnd`]. All are there from the start: of a counter that begins with its first event, Prometheus sees no increase.
const BUFFER_ENDS: [&str; 5] = ["written", "unknown", "refused", "full", "lost"];

/// As the label `event` names them, in the order of [`ClaimEvent`].
const CLAIM_EVENTS: [&str; 5] = ["claimed", "committed", "given_back", "extended", "not_found"];

/// What became of a buffered pull.
#[derive(Debug, Clone, Copy)]
pub(super) enum BufferEnd {
    /// It stands in Redis.
    Written,
    /// It was sent, and may or may not stand.
    Unknown,
    /// Redis will never take it.
    Refused,
    /// There was no room for it, and its caller was told.
    Full,
    /// The gateway ended before Redis took it.
    Lost,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy)]
pub(super) enum ClaimEvent {
    /// It was made.
    Claimed,
    /// Its keys were deleted.
    Committed,
    /// Its keys were freed.
    GivenBack,
    /// It got a new lease.
    Extended,
    /// It was asked for, and is not there.
    NotFound,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Panics
    /// If the registry has metrics of these names already.
    pub(super) fn new(registry: &Registry) -> Self {
        let pulls = counters(
            "pulls_total",
            "Pulls taken on, by whether their callers wait for Redis.",
            "mode",
        );
        let buffer_ends = counters("buffered_total", "Buffered pulls by what became of them.", "outcome");
        let claims = counters("claims_total", "Claims by what was done to them.", "event");
        let keys = counters("claimed_keys_total", "Keys claimed for a flush.", "kind");
        // Name and help are constants: they are valid.
        let gauge =
            |name: &str, help| IntGauge::new(format!("redis_gateway_pull_metrics_{name}"), help).expect("valid");
        let counter =
            |name: &str, help| IntCounter::new(format!("redis_gateway_pull_metrics_{name}"), help).expect("valid");
        let metrics = Metrics {
            waited: pulls.with_label_values(&["waited"]),
            buffered: pulls.with_label_values(&["buffered"]),
            writes: counter(
                "writes_total",
                "Redis calls that count pulls; fewer than pulls where pulls of a key meet.",
            ),
            buffer_pulls: gauge("buffer_pulls", "Pulls that wait in memory for Redis."),
            buffer_bytes: gauge("buffer_bytes", "Memory taken by pulls that wait for Redis."),
            buffer_limit: gauge("buffer_limit_bytes", "Memory that they may take; more are refused."),
            buffer_ends: BUFFER_ENDS.map(|outcome| buffer_ends.with_label_values(&[outcome])),
            claims: CLAIM_EVENTS.map(|event| claims.with_label_values(&[event])),
            open: OpenClaims::new(gauge(
                "open_claims",
                "Claims made or extended here that have not ended here, and whose leases run.",
            )),
            fresh_keys: keys.with_label_values(&["fresh"]),
            orphan_keys: keys.with_label_values(&["orphan"]),
            dropped_keys: counters(
                "dropped_keys_total",
                "Claimed keys that add nothing, by reason.",
                "reason",
            ),
            lost_keys: counter(
                "lost_keys_total",
                "Keys that a claim no longer held when it was committed or extended: perhaps counted twice.",
            ),
        };
        let collectors: [Box<dyn Collector>; 11] = [
            Box::new(pulls),
            Box::new(keys),
            Box::new(metrics.writes.clone()),
            Box::new(metrics.buffer_pulls.clone()),
            Box::new(metrics.buffer_bytes.clone()),
            Box::new(metrics.buffer_limit.clone()),
            Box::new(buffer_ends),
            Box::new(claims),
            Box::new(metrics.open.clone()),
            Box::new(metrics.dropped_keys.clone()),
            Box::new(metrics.lost_keys.clone()),
        ];
        for collector in collectors {
            // The documented panic: one gateway has one registry and makes this once.
            registry.register(collector).expect("registered once");
        }
        metrics
    }

    /// Counts buffered pulls that have come to an end.
    pub(super) fn buffer_ended(&self, end: BufferEnd, pulls: u64) {
        self.buffer_ends[end as usize].inc_by(pulls);
    }

    /// Counts what was done to a claim.
    pub(super) fn claim(&self, event: ClaimEvent) {
        self.claims[event as usize].inc();
    }

    /// Counts a claimed key that adds nothing.
    pub(super) fn dropped(&self, reason: &'static str) {
        self.dropped_keys.with_label_values(&[reason]).inc();
    }
}

fn counters(name: &str, help: &str, label: &str) -> IntCounterVec {
    // Names and labels are constants of this file: they are valid.
    IntCounterVec::new(Opts::new(format!("redis_gateway_pull_metrics_{name}"), help), &[label]).expect("valid")
}
