//! The point in time by which a call must be answered.

use std::time::Duration;

use tokio::time::Instant;

/// A point in time. Every wait of the gateway ends at one, whatever Redis or its client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline at `at`.
    pub fn at(at: Instant) -> Self {
        Deadline(at)
    }

    /// The deadline `timeout` from now.
    pub fn within(timeout: Duration) -> Self {
        Deadline(Instant::now() + timeout)
    }

    /// The earlier of this deadline and `timeout` from now.
    #[must_use]
    pub fn capped(self, timeout: Duration) -> Self {
        self.min(Deadline::within(timeout))
    }

    /// The point in time.
    pub fn instant(self) -> Instant {
        self.0
    }
}
