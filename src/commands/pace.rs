//! So much a second and no more, by a clock of its own.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What was not used is not made up for: after a server was slow, it is not asked for more.
pub(super) struct Pace {
    each: Duration,
    due: Instant,
}

impl Pace {
    /// `rate` a second.
    pub(super) fn new(rate: u32) -> Self {
        Pace {
            each: Duration::from_secs(1) / rate.max(1),
            due: Instant::now(),
        }
    }

    /// Takes `count` of it: waits until so many could have been taken since the last time.
    pub(super) async fn spend(&mut self, count: u64) {
        let length = self.each.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        self.due = (self.due + length).max(Instant::now());
        sleep_until(self.due).await;
    }
}
