//! Early refresh: a value that is about to end is loaded again by one caller, while the others go on reading it.
//!
//! Who is that one is left to chance, as `XFetch` has it (Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede
//! Prevention", 2015): each hit draws for itself, and the more likely the less is left beside the time of a load. Nobody has to
//! be told when to begin, and a key that is read rarely is rarely loaded for nothing. The lease makes it one of those who drew it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::leases::{Core, Found, Grant};
use super::metrics::Event;
use super::store::Times;
use crate::deadline::Deadline;
use crate::redis::Error;

/// How long a caller that has its value waits to hear whether it is to load it again.
const PATIENCE: Duration = Duration::from_millis(100);

/// Draws for the lease to load a value again that was read.
pub(super) async fn draw_for(
    core: &Arc<Core>,
    key: Bytes,
    value: Bytes,
    times: Times,
    lease: Duration,
    by: Deadline,
) -> Found {
    let early = draw(times.load, rand::random());
    if times.left > early {
        return Found::Value(value);
    }
    match ask(core, key, lease, early, by.capped(PATIENCE)).await {
        Some(grant) => {
            let (token, left) = grant.take(Event::RefreshGiven);
            Found::Refresh(value, token, left)
        }
        None => Found::Value(value),
    }
}

/// How long before its end a value is to be loaded again, by a number from 0 to below 1.
fn draw(load: Duration, random: f64) -> Duration {
    let early = load.as_secs_f64() * -(1.0 - random).ln();
    Duration::try_from_secs_f64(early).unwrap_or(Duration::MAX)
}

/// Asks for the lease. The value is there, whatever becomes of this.
async fn ask(core: &Arc<Core>, key: Bytes, lease: Duration, early: Duration, by: Deadline) -> Option<Grant> {
    let (tell, told) = oneshot::channel();
    let asking = core.clone();
    // To its end: if the caller goes away meanwhile, the lease is given up after it was given, not before.
    core.spawn(async move {
        let mut grant = Grant::new(&asking, &key, lease);
        let given = asking.store.refresh(&key, grant.token, lease, early, by).await;
        grant.settled = !matches!(given, Ok(true) | Err(Error::Unknown));
        if matches!(given, Ok(true)) {
            // Who is gone needs no lease.
            drop(tell.send(grant));
        }
    });
    told.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_is_left_the_more_draw_it() {
        let load = Duration::from_millis(500);
        assert_eq!(draw(load, 0.0), Duration::ZERO);
        let within = |left: Duration| {
            (0..1_000)
                .filter(|n| draw(load, f64::from(*n) / 1_000.0) >= left)
                .count()
        };
        // exp(-left / load) of them.
        for (left, share) in [(50, 905), (500, 368), (1_000, 136), (2_500, 7), (5_000, 0)] {
            let drawn = within(Duration::from_millis(left));
            assert!(drawn.abs_diff(share) <= 1, "{drawn} of 1,000 with {left} ms left");
        }
        assert_eq!(draw(Duration::ZERO, 0.999), Duration::ZERO);
        assert_eq!(draw(Duration::MAX, 0.999), Duration::MAX);
    }
}
