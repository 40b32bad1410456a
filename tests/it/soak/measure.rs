//! What the runs measure by.

use std::{fmt, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the machine's monotonic clock, which processes share.
pub(super) type At = i64;

pub(super) fn now() -> At {
    let at = clock_gettime(ClockId::Monotonic);
    at.tv_sec * 1_000_000_000 + at.tv_nsec
}

pub(super) fn nanos(duration: Duration) -> At {
    At::try_from(duration.as_nanos()).unwrap()
}

/// None for what lies before.
pub(super) fn duration(nanos: At) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// Times, by how many are no longer.
pub(super) struct Quantiles {
    sorted: Vec<Duration>,
}

impl Quantiles {
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Quantiles { sorted: times }
    }

    pub(super) fn percent(&self, percent: usize) -> Duration {
        let last = self.sorted.len().saturating_sub(1);
        self.sorted.get(last * percent / 100).copied().unwrap_or_default()
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, p99, most] = [50, 99, 100].map(|percent| self.percent(percent));
        write!(
            f,
            "{} times: median {median:.1?}, p99 {p99:.1?}, at most {most:.1?}",
            self.sorted.len()
        )
    }
}
