//! Times that were promised, held against a machine that has other things to do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// Watches how late this machine wakes a thread that does nothing but sleep: a promise of so many milliseconds can be kept no
/// better than that.
pub(crate) struct MachineLag {
    worst_us: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl MachineLag {
    /// Watches until dropped.
    pub(crate) fn watch() -> Self {
        let lag = MachineLag {
            worst_us: Arc::default(),
            stop: Arc::default(),
        };
        let (worst_us, stop) = (lag.worst_us.clone(), lag.stop.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "the thread does nothing else: its lateness is what is measured"
        )]
        thread::spawn(move || {
            let nap = Duration::from_millis(2);
            while !stop.load(Relaxed) {
                let due = Instant::now() + nap;
                thread::sleep(nap);
                let late = Instant::now().saturating_duration_since(due);
                worst_us.fetch_max(u64::try_from(late.as_micros()).unwrap_or(u64::MAX), Relaxed);
            }
        });
        lag
    }

    /// The worst so far.
    pub(crate) fn worst(&self) -> Duration {
        Duration::from_micros(self.worst_us.load(Relaxed))
    }

    /// Panics if `what` took longer than `limit` and what the machine itself may have added: its worst, for each of the three
    /// threads that a call goes through.
    pub(crate) fn assert_within(&self, what: &str, took: Duration, limit: Duration) {
        let lag = self.worst();
        assert!(
            took <= limit + 3 * lag,
            "{what}: {took:?} instead of {limit:?} (the machine itself was late by {lag:?})"
        );
    }
}

impl Drop for MachineLag {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}
