//! The point in time by which a call must be answered.

use std::time::Duration;

use rand::Rng as _;
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

/// Within a fifth of `length`, so that what began together does not go on in step.
pub fn jittered(length: Duration) -> Duration {
    length.mul_f64(rand::rng().random_range(0.8..1.2))
}
