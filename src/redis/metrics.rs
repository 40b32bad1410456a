//! What is counted of each endpoint. All labels are resolved when a server is first named, none while a command runs.

use std::time::Duration;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::error::Error;
use super::replication::Shortfall;

/// Seconds, from a command on a quiet loopback to the longest command timeout.
const BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// Outcomes of a command, as the label `outcome` names them; in the order of [`outcome`].
const OUTCOMES: [&str; 7] = [
    "ok",
    "error_reply",
    "unavailable",
    "overloaded",
    "timeout",
    "unknown",
    "protocol",
];

/// Why a connection was replaced, as the label `cause` names it.
const CAUSES: [&str; 3] = ["lost", "silent", "not_serving"];

/// Why a read went to the primary, as the label `reason` names it: those of [`Shortfall`] in its order, and two more.
const PRIMARY_REASONS: [&str; 7] = ["down", "unknown", "stale", "behind", "unlinked", "latest", "failed"];

/// Why a read went to a replica.
const REPLICA_REASONS: [&str; 2] = ["fresh_enough", "primary_down"];

/// The metrics of all endpoints.
#[derive(Debug, Clone)]
pub struct Metrics {
    commands: IntCounterVec,
    duration: HistogramVec,
    in_flight: IntGaugeVec,
    up: IntGaugeVec,
    replaced: IntCounterVec,
    connect_failures: IntCounterVec,
    subscriptions_lost: IntCounterVec,
    reads: IntCounterVec,
    current_as_of: GaugeVec,
    lag_bytes: IntGaugeVec,
    redirects: IntCounterVec,
    script_runs: IntCounterVec,
    script_loads: IntCounterVec,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Panics
    /// If the registry has metrics of these names already.
    pub fn new(registry: &Registry) -> Self {
        const SERVER: &[&str] = &["endpoint", "server"];
        let metrics = Metrics {
            commands: counters(
                "redis_gateway_redis_commands_total",
                "Commands by what became of them; a pipeline counts once for each command.",
                &["endpoint", "server", "outcome"],
            ),
            // Names and labels are constants above: they are valid.
            duration: HistogramVec::new(
                HistogramOpts::new(
                    "redis_gateway_redis_command_duration_seconds",
                    "Time from asking for a command to its reply or its end.",
                )
                .buckets(BUCKETS.to_vec()),
                SERVER,
            )
            .expect("valid"),
            in_flight: gauges(
                "redis_gateway_redis_in_flight",
                "Commands waiting for their reply.",
                SERVER,
            ),
            up: gauges(
                "redis_gateway_redis_up",
                "Whether the server is connected and answers; while 0, commands are refused at once.",
                SERVER,
            ),
            replaced: counters(
                "redis_gateway_redis_connections_replaced_total",
                "Connections given up, by cause.",
                &["endpoint", "server", "cause"],
            ),
            connect_failures: counters(
                "redis_gateway_redis_connect_failures_total",
                "Attempts to connect that failed.",
                SERVER,
            ),
            subscriptions_lost: counters(
                "redis_gateway_redis_subscriptions_lost_total",
                "Subscription connections given up while something was listened to.",
                &["endpoint"],
            ),
            reads: counters(
                "redis_gateway_redis_reads_total",
                "Reads of endpoints with replicas, by the server that answered and why it was asked.",
                &["endpoint", "server", "reason"],
            ),
            // As above.
            current_as_of: GaugeVec::new(
                Opts::new(
                    "redis_gateway_redis_replica_current_timestamp_seconds",
                    "Until when the replica has all that was written; time() minus this is its lag. 0: never known.",
                ),
                SERVER,
            )
            .expect("valid"),
            lag_bytes: gauges(
                "redis_gateway_redis_replica_lag_bytes",
                "Bytes of its primary's writes that the replica lacked at the latest probe that it answered.",
                SERVER,
            ),
            redirects: counters(
                "redis_gateway_redis_redirects_total",
                "Commands that a server of a Cluster sent elsewhere (moved, ask) or told to try again, not executed.",
                &["endpoint", "kind"],
            ),
            script_runs: counters("redis_gateway_redis_script_runs_total", "Scripts asked for.", SERVER),
            script_loads: counters(
                "redis_gateway_redis_script_loads_total",
                "Scripts that the server did not know and was given: new, restarted, failed over, or flushed.",
                SERVER,
            ),
        };
        let collectors: [Box<dyn prometheus::core::Collector>; 13] = [
            Box::new(metrics.commands.clone()),
            Box::new(metrics.duration.clone()),
            Box::new(metrics.in_flight.clone()),
            Box::new(metrics.up.clone()),
            Box::new(metrics.replaced.clone()),
            Box::new(metrics.connect_failures.clone()),
            Box::new(metrics.subscriptions_lost.clone()),
            Box::new(metrics.reads.clone()),
            Box::new(metrics.current_as_of.clone()),
            Box::new(metrics.lag_bytes.clone()),
            Box::new(metrics.redirects.clone()),
            Box::new(metrics.script_runs.clone()),
            Box::new(metrics.script_loads.clone()),
        ];
        for collector in collectors {
            // The documented panic: one gateway has one registry and makes this once.
            registry.register(collector).expect("registered once");
        }
        metrics
    }

    /// The metrics of one replica, beside those of a server.
    pub(super) fn replica(&self, endpoint: &str, server: &str) -> ReplicaMetrics {
        let labels = &[endpoint, server];
        ReplicaMetrics {
            current_as_of: self.current_as_of.with_label_values(labels),
            lag_bytes: self.lag_bytes.with_label_values(labels),
        }
    }

    /// Where reads go, of a primary with these replicas.
    pub(super) fn reads(&self, endpoint: &str, primary: &str, replicas: &[&str]) -> Reads {
        let read = |server: &str, reason: &str| self.reads.with_label_values(&[endpoint, server, reason]);
        Reads {
            primary: PRIMARY_REASONS.map(|reason| read(primary, reason)),
            replicas: replicas
                .iter()
                .map(|server| REPLICA_REASONS.map(|reason| read(server, reason)))
                .collect(),
        }
    }

    /// The subscription connections that an endpoint has lost.
    pub(super) fn subscriptions_lost(&self, endpoint: &str) -> IntCounter {
        self.subscriptions_lost.with_label_values(&[endpoint])
    }

    /// What servers of a Cluster have not executed.
    pub(super) fn redirects(&self, endpoint: &str) -> Redirects {
        let count = |kind| self.redirects.with_label_values(&[endpoint, kind]);
        Redirects {
            moved: count("moved"),
            ask: count("ask"),
            try_again: count("try_again"),
        }
    }

    /// The metrics of one server of an endpoint.
    pub(super) fn server(&self, endpoint: &str, server: &str) -> ServerMetrics {
        let labels = &[endpoint, server];
        ServerMetrics {
            outcomes: OUTCOMES.map(|outcome| self.commands.with_label_values(&[endpoint, server, outcome])),
            duration: self.duration.with_label_values(labels),
            in_flight: self.in_flight.with_label_values(labels),
            up: self.up.with_label_values(labels),
            replaced: CAUSES.map(|cause| self.replaced.with_label_values(&[endpoint, server, cause])),
            connect_failures: self.connect_failures.with_label_values(labels),
            script_runs: self.script_runs.with_label_values(labels),
            script_loads: self.script_loads.with_label_values(labels),
        }
    }

    /// Says that servers of an endpoint are not known, under a name for all of them.
    pub(super) fn unknown(&self, endpoint: &str, servers: &str) {
        self.up.with_label_values(&[endpoint, servers]).set(0);
    }

    /// Lets go of what is said of a server that is not there any more: what it was last is no news, and would be told for ever.
    pub(super) fn forget(&self, endpoint: &str, server: &str) {
        let labels = &[endpoint, server];
        // Not all servers have all of them.
        drop(self.up.remove_label_values(labels));
        drop(self.in_flight.remove_label_values(labels));
        drop(self.lag_bytes.remove_label_values(labels));
        drop(self.current_as_of.remove_label_values(labels));
    }
}

/// How far a replica is.
#[derive(Debug)]
pub(super) struct ReplicaMetrics {
    current_as_of: Gauge,
    lag_bytes: IntGauge,
}

impl ReplicaMetrics {
    /// What a probe told: until when it has all that was written, in seconds since 1970, and the bytes that it lacks.
    pub(super) fn observe(&self, current_as_of: Option<f64>, lag_bytes: Option<u64>) {
        if let Some(seconds) = current_as_of {
            self.current_as_of.set(seconds);
        }
        if let Some(bytes) = lag_bytes {
            self.lag_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}

/// Where the reads of an endpoint with replicas went, and why.
#[derive(Debug)]
pub(super) struct Reads {
    primary: [IntCounter; PRIMARY_REASONS.len()],
    replicas: Vec<[IntCounter; REPLICA_REASONS.len()]>,
}

impl Reads {
    /// To the primary, since the replicas fell short.
    pub(super) fn short(&self, why: Shortfall) {
        self.primary[why as usize].inc();
    }

    /// To the primary, since nothing may be missed.
    pub(super) fn latest(&self) {
        self.primary[5].inc();
    }

    /// To the primary, since the replica that was asked failed or did not answer in time.
    pub(super) fn failed(&self) {
        self.primary[6].inc();
    }

    /// To a replica; `unlinked`: though it is cut off, since the primary is down.
    pub(super) fn replica(&self, n: usize, unlinked: bool) {
        self.replicas[n][usize::from(unlinked)].inc();
    }
}

/// What servers of a Cluster have not executed, since another one has the slot or will have it.
#[derive(Debug)]
pub(super) struct Redirects {
    pub(super) moved: IntCounter,
    pub(super) ask: IntCounter,
    pub(super) try_again: IntCounter,
}

/// The metrics of one server.
#[derive(Debug)]
pub(super) struct ServerMetrics {
    outcomes: [IntCounter; OUTCOMES.len()],
    duration: Histogram,
    pub(super) in_flight: IntGauge,
    pub(super) up: IntGauge,
    replaced: [IntCounter; CAUSES.len()],
    pub(super) connect_failures: IntCounter,
    pub(super) script_runs: IntCounter,
    pub(super) script_loads: IntCounter,
}

impl ServerMetrics {
    pub(super) fn observe<T>(&self, elapsed: Duration, result: &Result<T, Error>) {
        self.outcomes[outcome(result)].inc();
        self.duration.observe(elapsed.as_secs_f64());
    }

    pub(super) fn replaced(&self, cause: &str) {
        if let Some(n) = CAUSES.iter().position(|known| *known == cause) {
            self.replaced[n].inc();
        }
    }
}

/// Places among those that a gauge counts, such as the commands in flight: one atomic step to take them, one to give them back.
pub(super) struct Place<'a>(&'a prometheus::IntGauge, i64);

impl<'a> Place<'a> {
    pub(super) fn take(gauge: &'a prometheus::IntGauge, count: i64) -> Self {
        gauge.add(count);
        Place(gauge, count)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.sub(self.1);
    }
}

fn outcome<T>(result: &Result<T, Error>) -> usize {
    match result {
        Ok(_) => 0,
        Err(Error::Reply(_)) => 1,
        Err(Error::Unavailable) => 2,
        Err(Error::Overloaded) => 3,
        Err(Error::Timeout) => 4,
        Err(Error::Unknown) => 5,
        Err(Error::Protocol(_)) => 6,
    }
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    // Names and labels are constants of this file: they are valid.
    IntCounterVec::new(Opts::new(name, help), labels).expect("valid")
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    // Names and labels are constants of this file: they are valid.
    IntGaugeVec::new(Opts::new(name, help), labels).expect("valid")
}
