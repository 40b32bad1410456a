//! The wait between two attempts to connect.

use std::time::Duration;

use rand::Rng as _;

/// The wait before the second attempt to connect; it doubles up to the endpoint's `reconnect_max_delay`.
const RECONNECT_MIN_DELAY: Duration = Duration::from_millis(20);

/// Nothing before the first attempt, then doubling up to `max`, with a jitter of half so that gateways do not march in step.
pub(super) fn delay(failures: u32, max: Duration) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let full = RECONNECT_MIN_DELAY
        .saturating_mul(1_u32 << (failures - 1).min(16))
        .min(max);
    full.mul_f64(rand::rng().random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempt_is_made_at_once_and_later_ones_wait_up_to_the_maximum() {
        let max = Duration::from_millis(500);
        assert_eq!(delay(0, max), Duration::ZERO);
        assert!(delay(1, max) >= RECONNECT_MIN_DELAY / 2);
        for failures in [6, 40, u32::MAX] {
            let delay = delay(failures, max);
            assert!(delay <= max && delay >= max / 2, "{delay:?}");
        }
    }
}
