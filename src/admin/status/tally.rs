//! What was counted, and what that comes to between two looks.

use std::collections::BTreeMap;

use prometheus::proto::Histogram;

/// The counts of one service or one Redis server: since the start, or between two looks.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// How many ended how, by code or outcome; only those that are more than none.
    pub(super) outcomes: BTreeMap<String, u64>,
    /// How many answers were degraded, by reason.
    pub(super) degraded: BTreeMap<String, u64>,
    /// How many ended otherwise than asked for, by the reason that callers read, or by outcome.
    pub(super) failures: BTreeMap<String, u64>,
    /// How many took at most so many seconds; the last bound is infinite.
    times: Vec<(f64, u64)>,
}

impl Tally {
    /// Counts what ended as `outcome`.
    pub(super) fn count(&mut self, outcome: &str, value: f64) {
        add(&mut self.outcomes, outcome, whole(value));
    }

    /// Counts degraded answers.
    pub(super) fn count_degraded(&mut self, reason: &str, value: f64) {
        add(&mut self.degraded, reason, whole(value));
    }

    /// Counts what ended otherwise than asked for.
    pub(super) fn count_failure(&mut self, reason: &str, value: f64) {
        add(&mut self.failures, reason, whole(value));
    }

    /// Counts how long it took.
    pub(super) fn time(&mut self, histogram: &Histogram) {
        let buckets = histogram.get_bucket().iter();
        let buckets = buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
        self.add_times(buckets.chain([(f64::INFINITY, histogram.get_sample_count())]));
    }

    /// Adds what was counted of another.
    pub(super) fn add(&mut self, other: &Tally) {
        for (outcome, count) in &other.outcomes {
            add(&mut self.outcomes, outcome, *count);
        }
        for (reason, count) in &other.degraded {
            add(&mut self.degraded, reason, *count);
        }
        for (reason, count) in &other.failures {
            add(&mut self.failures, reason, *count);
        }
        self.add_times(other.times.iter().copied());
    }

    /// What came after `before`.
    pub(super) fn since(&self, before: Option<&Tally>) -> Tally {
        let Some(before) = before else {
            return self.clone();
        };
        let less = |counts: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            let left = counts.iter().map(|(name, count)| {
                let count = count.saturating_sub(before.get(name).copied().unwrap_or_default());
                (name.clone(), count)
            });
            left.filter(|(_, count)| *count > 0).collect()
        };
        let times = self.times.iter().enumerate().map(|(n, (bound, count))| {
            let before = before.times.get(n).map_or(0, |(_, before)| *before);
            (*bound, count.saturating_sub(before))
        });
        Tally {
            outcomes: less(&self.outcomes, &before.outcomes),
            degraded: less(&self.degraded, &before.degraded),
            failures: less(&self.failures, &before.failures),
            times: times.collect(),
        }
    }

    /// All that ended.
    pub(super) fn ended(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// What ended in one of these ways.
    pub(super) fn ended_as(&self, outcomes: &[&str]) -> u64 {
        let counts = outcomes.iter().filter_map(|outcome| self.outcomes.get(*outcome));
        counts.sum()
    }

    /// The time in seconds that so great a share took at most, as Prometheus' `histogram_quantile` has it: evenly spread within a
    /// bucket, and never more than the greatest bound. None: nothing was timed.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let (_, total) = self.times.last().filter(|(_, total)| *total > 0)?;
        let rank = share * float(*total);
        let (mut lower, mut below) = (0.0, 0);
        for (upper, count) in &self.times {
            if float(*count) >= rank && *count > below {
                if upper.is_infinite() {
                    return Some(lower);
                }
                let within = (rank - float(below)) / float(count - below);
                return Some(lower + (upper - lower) * within);
            }
            (lower, below) = (*upper, *count);
        }
        None
    }

    fn add_times(&mut self, times: impl Iterator<Item = (f64, u64)>) {
        for (n, (bound, count)) in times.enumerate() {
            match self.times.get_mut(n) {
                Some((_, sum)) => *sum += count,
                None => self.times.push((bound, count)),
            }
        }
    }
}

fn add(counts: &mut BTreeMap<String, u64>, name: &str, count: u64) {
    if count > 0 {
        *counts.entry(name.to_owned()).or_default() += count;
    }
}

/// A count that came as a float.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what cannot be is the nearest that can: `as` saturates"
)]
pub(super) fn whole(value: f64) -> u64 {
    value as u64
}

/// A count to calculate with.
#[expect(
    clippy::cast_precision_loss,
    reason = "shares and rates need fewer digits than a float has"
)]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use prometheus::core::Collector as _;
    use prometheus::{Histogram, HistogramOpts};

    use super::*;

    fn timed(seconds: &[f64]) -> Tally {
        let opts = HistogramOpts::new("a", "A.").buckets(vec![0.1, 0.2, 0.4]);
        let histogram = Histogram::with_opts(opts).unwrap();
        for seconds in seconds {
            histogram.observe(*seconds);
        }
        let mut tally = Tally::default();
        tally.time(histogram.collect()[0].get_metric()[0].get_histogram());
        tally
    }

    fn near(value: Option<f64>, wanted: f64) {
        assert!((value.unwrap() - wanted).abs() < 1e-9, "{value:?} {wanted}");
    }

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let tally = timed(&[0.05, 0.05, 0.15, 0.3]);
        near(tally.quantile(0.5), 0.1);
        near(tally.quantile(0.25), 0.05);
        near(tally.quantile(0.75), 0.2);
        near(tally.quantile(0.99), 0.2 + 0.2 * 0.96);
        // Past the greatest bound nothing is known but that.
        near(timed(&[9.0]).quantile(0.5), 0.4);
        assert_eq!(timed(&[]).quantile(0.5), None);
        assert_eq!(Tally::default().quantile(0.5), None);
    }

    #[test]
    fn only_what_came_after_counts() {
        let (mut before, mut after) = (timed(&[0.05]), timed(&[0.05, 0.3]));
        before.count("OK", 1.0);
        after.count("OK", 1.0);
        after.count("UNAVAILABLE", 2.0);
        after.count_degraded("REDIS_TIMEOUT", 3.0);
        let since = after.since(Some(&before));
        assert_eq!((since.ended(), since.ended_as(&["UNAVAILABLE", "OK"])), (2, 2));
        assert_eq!(since.outcomes.len(), 1);
        assert_eq!(since.degraded["REDIS_TIMEOUT"], 3);
        near(since.quantile(0.5), 0.3);
        assert_eq!(after.since(None).ended(), 3);
        let mut both = before.clone();
        both.add(&since);
        assert_eq!(both.outcomes, after.outcomes);
        near(both.quantile(0.5), after.quantile(0.5).unwrap());
    }
}
