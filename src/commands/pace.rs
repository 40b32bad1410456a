//! So much a second and no more, by a clock of its own.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What was not used is not made up for: after a server was slow, it is not asked for more.
pub(super) struct Pace {
    each: Duration,
    due: Cell<Instant>,
}

impl Pace {
    /// `rate` a second.
    pub(super) fn new(rate: u32) -> Self {
        Pace {
            each: Duration::from_secs(1) / rate.max(1),
            due: Cell::new(Instant::now()),
        }
    }

    /// Takes `count` of it: waits until so many could have been taken since the last time. Those who wait at once do so one after the
    /// other.
    pub(super) async fn spend(&self, count: u64) {
        let length = self.each.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        let now = Instant::now();
        let due = (self.due.get() + length).max(now);
        self.due.set(due);
        // A timer takes a millisecond at least, which is more than most of what is paid for here.
        if due > now {
            sleep_until(due).await;
        }
    }
}
