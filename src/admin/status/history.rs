//! The metrics as they were, for what is told of the last minutes.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use prometheus::proto::{Metric, MetricFamily};

use super::tally::Tally;

/// Between two looks.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// The longest time that is told of.
pub(super) const SPAN: Duration = Duration::from_mins(15);

/// How many looks are kept, so that one is as old as [`SPAN`]: about 1 MB. The oldest goes.
const KEPT: usize = 92;

/// The names of counters of a flush.
const FLUSH: [(&str, &str); 3] = [
    ("redis_gateway_pull_metrics_claims_total", "event"),
    ("redis_gateway_pull_metrics_claimed_keys_total", "kind"),
    ("redis_gateway_pull_metrics_lost_keys_total", ""),
];

/// Methods whose calls wait for as long as their callers want, for a lock or a lease: how long they take says nothing about how fast
/// calls are. Those that the alert `RedisGatewayCallsSlow` passes over.
pub(super) const WAITING: [&str; 2] = ["Acquire", "GetOrLease"];

/// One look at the counters.
#[derive(Debug)]
pub(super) struct Sample {
    at: Instant,
    /// By the service's short name.
    pub(super) services: BTreeMap<String, Tally>,
    /// By endpoint and server.
    pub(super) servers: BTreeMap<(String, String), Tally>,
    /// Claims by event, keys by kind, and keys that were lost under no name.
    pub(super) flush: Tally,
}

impl Sample {
    /// Reads them.
    pub(super) fn read(families: &[MetricFamily]) -> Self {
        let mut sample = Sample {
            at: Instant::now(),
            services: BTreeMap::new(),
            servers: BTreeMap::new(),
            flush: Tally::default(),
        };
        for family in families {
            let flush = FLUSH.iter().find(|(name, _)| *name == family.name());
            for metric in family.get_metric() {
                let counted = metric.get_counter().get_value();
                match family.name() {
                    "redis_gateway_rpc_requests_total" => sample.service(metric).count(label(metric, "code"), counted),
                    "redis_gateway_rpc_degraded_total" => {
                        sample.service(metric).count_degraded(label(metric, "reason"), counted);
                    }
                    "redis_gateway_rpc_failures_total" => {
                        sample.service(metric).count_failure(label(metric, "reason"), counted);
                    }
                    "redis_gateway_rpc_duration_seconds" if !WAITING.contains(&label(metric, "method")) => {
                        sample.service(metric).time(metric.get_histogram());
                    }
                    "redis_gateway_redis_commands_total" => {
                        let outcome = label(metric, "outcome");
                        sample.server(metric).count(outcome, counted);
                        if outcome != "ok" {
                            sample.server(metric).count_failure(outcome, counted);
                        }
                    }
                    "redis_gateway_redis_command_duration_seconds" => {
                        sample.server(metric).time(metric.get_histogram());
                    }
                    _ => {
                        if let Some((_, name)) = flush {
                            sample.flush.count(label(metric, name), counted);
                        }
                    }
                }
            }
        }
        sample
    }

    fn service(&mut self, metric: &Metric) -> &mut Tally {
        self.services.entry(label(metric, "service").to_owned()).or_default()
    }

    fn server(&mut self, metric: &Metric) -> &mut Tally {
        let server = (label(metric, "endpoint").to_owned(), label(metric, "server").to_owned());
        self.servers.entry(server).or_default()
    }
}

/// A label's value; empty without one.
pub(super) fn label<'a>(metric: &'a Metric, name: &str) -> &'a str {
    let mut labels = metric.get_label().iter();
    labels
        .find(|label| label.name() == name)
        .map_or("", |label| label.value())
}

/// The latest looks, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Sample>);

impl History {
    /// Keeps another look.
    pub(super) fn keep(&mut self, sample: Sample) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// The latest look that is at least so much older than `now`, or else the oldest, and the time in between.
    pub(super) fn before(&self, now: &Sample, age: Duration) -> Option<(&Sample, Duration)> {
        let aged = |sample: &&Sample| now.at.saturating_duration_since(sample.at) >= age;
        let sample = self.0.iter().rev().find(aged).or_else(|| self.0.front())?;
        Some((sample, now.at.saturating_duration_since(sample.at)))
    }

    /// What was counted between one look and the next, of what `of` finds, and the time in between.
    pub(super) fn steps(&self, of: impl Fn(&Sample) -> Option<Tally>) -> Vec<(Tally, Duration)> {
        let mut looks = self.0.iter().map(|sample| (sample.at, of(sample)));
        let Some((mut at, mut before)) = looks.next() else {
            return Vec::new();
        };
        let step = |(next, after): (Instant, Option<Tally>)| {
            let between = next.saturating_duration_since(std::mem::replace(&mut at, next));
            let tally = after.as_ref().map(|tally| tally.since(before.as_ref()));
            before = after;
            (tally.unwrap_or_default(), between)
        };
        looks.map(step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(start: Instant, seconds: u64) -> Sample {
        let mut sample = Sample::read(&[]);
        sample.at = start + Duration::from_secs(seconds);
        sample
    }

    #[test]
    fn windows_reach_as_far_as_the_looks() {
        let start = Instant::now();
        let now = sample(start, 10_000);
        let mut history = History::default();
        let age = |history: &History, age| {
            let before = history.before(&now, Duration::from_secs(age));
            before.map(|(_, between)| between.as_secs())
        };
        assert_eq!(age(&history, 60), None);
        history.keep(sample(start, 9_995));
        assert_eq!(age(&history, 60), Some(5));

        let mut history = History::default();
        for look in 0..1_000 {
            history.keep(sample(start, look * INTERVAL.as_secs()));
        }
        assert_eq!((age(&history, 60), age(&history, 65)), (Some(60), Some(70)));
        assert_eq!(age(&history, SPAN.as_secs()), Some(900));
        // Bounded.
        assert_eq!(age(&history, 100_000), Some(920));
        assert_eq!(history.steps(|_| None).len(), KEPT - 1);
    }
}
