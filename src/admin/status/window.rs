//! What the last minutes came to.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::history::{History, Sample};
use super::tally::{Tally, float};

/// What is told of, in minutes; the greatest is [`super::history::SPAN`].
pub(super) const MINUTES: [u64; 3] = [1, 5, 15];

/// Outcomes of commands that Redis did not answer, or not in time.
pub(super) const FAILED_COMMANDS: &[&str] = &["unavailable", "overloaded", "timeout", "unknown", "protocol"];

/// The calls of a service, or the commands to a server, of some minutes.
#[derive(Debug, Serialize)]
pub(super) struct Window {
    /// How far back it is meant to go.
    pub(super) minutes: u64,
    /// How far back it goes: less in a young gateway, up to ten seconds more in others.
    pub(super) seconds: f64,
    pub(super) count: u64,
    pub(super) per_second: f64,
    pub(super) failed: u64,
    pub(super) failed_share: f64,
    pub(super) degraded: u64,
    pub(super) degraded_share: f64,
    pub(super) p50_ms: Option<f64>,
    pub(super) p90_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    /// All that ended, by code or outcome.
    pub(super) outcomes: BTreeMap<String, u64>,
    /// What ended otherwise than asked for, by the reason that callers read, or by outcome; failed or not.
    pub(super) failure_reasons: BTreeMap<String, u64>,
    /// Degraded answers by reason.
    pub(super) degraded_reasons: BTreeMap<String, u64>,
}

impl Window {
    fn of(minutes: u64, between: Duration, tally: Tally, faults: &[&str]) -> Self {
        let seconds = between.as_secs_f64();
        let (count, degraded) = (tally.ended(), tally.degraded.values().sum());
        let failed = faults.iter().filter_map(|fault| tally.failures.get(*fault)).sum();
        let share = |part| {
            if count == 0 {
                0.0
            } else {
                rounded(float(part) / float(count))
            }
        };
        let ms = |share| tally.quantile(share).map(|seconds| rounded(seconds * 1_000.0));
        Window {
            minutes,
            seconds: rounded(seconds),
            count,
            per_second: rate(count, between),
            failed,
            failed_share: share(failed),
            degraded,
            degraded_share: share(degraded),
            p50_ms: ms(0.5),
            p90_ms: ms(0.9),
            p99_ms: ms(0.99),
            outcomes: tally.outcomes,
            failure_reasons: tally.failures,
            degraded_reasons: tally.degraded,
        }
    }

    /// What ended otherwise than asked for, by reason, the most frequent first.
    pub(super) fn failures(&self) -> Vec<(&str, u64)> {
        // Calls whose callers went away have no reason.
        let left = self.outcomes.get_key_value("CANCELLED");
        most_frequent(left.into_iter().chain(&self.failure_reasons))
    }

    /// Degraded answers by reason, the most frequent first.
    pub(super) fn degraded(&self) -> Vec<(&str, u64)> {
        most_frequent(&self.degraded_reasons)
    }
}

fn most_frequent<'a>(counts: impl IntoIterator<Item = (&'a String, &'a u64)>) -> Vec<(&'a str, u64)> {
    let counts = counts.into_iter().map(|(name, count)| (name.as_str(), *count));
    let mut counts: Vec<_> = counts.collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}

/// The course of the last quarter of an hour, a value for each look.
#[derive(Debug, Default)]
pub(super) struct Trend {
    pub(super) per_second: Vec<Option<f64>>,
    pub(super) p99_ms: Vec<Option<f64>>,
}

/// The last minutes of what `of` finds, in [`MINUTES`].
pub(super) fn windows(
    now: &Sample,
    history: &History,
    faults: &[&str],
    of: impl Fn(&Sample) -> Option<Tally>,
) -> Vec<Window> {
    let tally = of(now).unwrap_or_default();
    let window = |minutes| {
        let (before, between) = history.before(now, Duration::from_mins(minutes)).unzip();
        let since = tally.since(before.and_then(&of).as_ref());
        Window::of(minutes, between.unwrap_or_default(), since, faults)
    };
    MINUTES.map(window).into()
}

/// The course of what `of` finds.
pub(super) fn trend(history: &History, of: impl Fn(&Sample) -> Option<Tally>) -> Trend {
    let mut trend = Trend::default();
    for (tally, between) in history.steps(of) {
        trend.per_second.push(Some(rate(tally.ended(), between)));
        trend.p99_ms.push(tally.quantile(0.99).map(|seconds| seconds * 1_000.0));
    }
    trend
}

fn rate(count: u64, between: Duration) -> f64 {
    // A gateway that has just started has seen no time pass.
    if between.is_zero() {
        return 0.0;
    }
    rounded(float(count) / between.as_secs_f64())
}

/// To a thousandth: what is told is measured no better.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
