//! Connections beside those that commands share: what is counted of them, for operators.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The connections that stand now beside those that commands share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beside {
    /// For subscriptions.
    pub subscriptions: u64,
    /// For commands that block.
    pub blocking: u64,
    /// For news of changed keys.
    pub tracking: u64,
}

/// The same, as they are counted.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) subscriptions: Count,
    pub(super) blocking: Count,
    pub(super) tracking: Count,
}

impl Counts {
    pub(super) fn now(&self) -> Beside {
        Beside {
            subscriptions: self.subscriptions.now(),
            blocking: self.blocking.now(),
            tracking: self.tracking.now(),
        }
    }
}

/// How many there are of one kind.
#[derive(Clone, Default)]
pub(super) struct Count(Arc<AtomicU64>);

impl Count {
    /// Counts one for as long as what is given back lives.
    pub(super) fn one(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.0.clone())
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of those that are counted.
pub(super) struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
