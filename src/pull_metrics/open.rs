//! The claims that this gateway made or extended, until they end here or their leases run out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntGauge;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::claim_store::ClaimId;

/// Open claims, counted when they are asked for, since a lease runs out by itself. Each has a key in Redis at least, which bounds them.
#[derive(Debug, Clone)]
pub(super) struct OpenClaims {
    gauge: IntGauge,
    /// When each lease runs out. Never held across an await.
    ends: Arc<Mutex<HashMap<ClaimId, Instant>>>,
}

impl OpenClaims {
    /// None yet, to be shown by `gauge`.
    pub(super) fn new(gauge: IntGauge) -> Self {
        OpenClaims {
            gauge,
            ends: Arc::default(),
        }
    }

    /// The claim is open for `lease` from now on.
    pub(super) fn keep(&self, id: &ClaimId, lease: Duration) {
        self.with(|ends| ends.insert(id.clone(), Instant::now() + lease));
    }

    /// The claim is not open any more.
    pub(super) fn end(&self, id: &ClaimId) {
        self.with(|ends| ends.remove(id));
    }

    fn with<T>(&self, change: impl FnOnce(&mut HashMap<ClaimId, Instant>) -> T) -> T {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        ends.retain(|_, end| *end > now);
        change(&mut ends)
    }
}

impl Collector for OpenClaims {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let open = self.with(|ends| ends.len());
        self.gauge.set(i64::try_from(open).unwrap_or(i64::MAX));
        self.gauge.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_open_until_it_ends_or_its_lease_does() {
        let open = OpenClaims::new(IntGauge::new("open", "Open.").unwrap());
        let count = || open.collect()[0].get_metric()[0].get_gauge().get_value();
        let (one, two) = (ClaimId::random(), ClaimId::random());
        open.keep(&one, Duration::from_mins(10));
        open.keep(&two, Duration::ZERO);
        assert!((count() - 1.0).abs() < 0.1);
        open.keep(&two, Duration::from_mins(10));
        assert!((count() - 2.0).abs() < 0.1);
        open.end(&one);
        open.end(&one);
        assert!((count() - 1.0).abs() < 0.1);
    }
}
