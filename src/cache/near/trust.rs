//! Until when all changes are known, now and in earlier times of tracking.

use std::time::Duration;

use tokio::time::Instant;

/// Earlier times of tracking that are remembered. What was kept in those before them counts as no younger than its reading.
const MOST_ENDED: usize = 16;

/// What tracking has told of itself. An epoch is a time in which nothing was missed.
#[derive(Debug, Clone, Default)]
pub(super) struct Trust {
    /// The latest, and until when all is known, if it goes on.
    epoch: u64,
    as_of: Option<Instant>,
    /// Those that have ended, the latest last, and until when all was known.
    ended: Vec<(u64, Instant)>,
}

impl Trust {
    /// The epoch that goes on.
    pub(super) fn standing(&self) -> Option<u64> {
        self.as_of.map(|_| self.epoch)
    }

    /// Until when all changes are known of what was read in `epoch`; None once it has ended.
    pub(super) fn as_of(&self, epoch: u64) -> Option<Instant> {
        self.as_of.filter(|_| self.epoch == epoch)
    }

    /// Until when all changes were known of what was read in `epoch`, whether or not it has ended.
    pub(super) fn known_until(&self, epoch: u64) -> Option<Instant> {
        let ended = || self.ended.iter().find(|(ended, _)| *ended == epoch);
        self.as_of(epoch).or_else(|| ended().map(|(_, known)| *known))
    }

    /// An epoch begins.
    pub(super) fn begun(&self, at: Instant) -> Self {
        Trust {
            epoch: self.epoch + 1,
            as_of: Some(at),
            ended: self.ended.clone(),
        }
    }

    /// It goes on.
    pub(super) fn known(&self, at: Instant) -> Self {
        Trust {
            as_of: Some(at),
            ..self.clone()
        }
    }

    /// It ends. Those are forgotten that ended longer ago than `max_stale`.
    pub(super) fn lost(&self, max_stale: Duration) -> Self {
        let mut ended: Vec<_> = self
            .ended
            .iter()
            .copied()
            .filter(|(_, known)| known.elapsed() <= max_stale)
            .collect();
        ended.extend(self.as_of.map(|known| (self.epoch, known)));
        let surplus = ended.len().saturating_sub(MOST_ENDED);
        ended.drain(..surplus);
        Trust {
            epoch: self.epoch,
            as_of: None,
            ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_in_an_epoch_that_has_ended_is_known_until_its_end() {
        let (now, max_stale) = (Instant::now(), Duration::from_hours(1));
        let trust = Trust::default().begun(now);
        let epoch = trust.standing().unwrap();
        let later = now + Duration::from_secs(1);
        let trust = trust.known(later);
        assert_eq!(trust.as_of(epoch), Some(later));
        let trust = trust.lost(max_stale);
        assert_eq!((trust.standing(), trust.as_of(epoch)), (None, None));
        assert_eq!(trust.known_until(epoch), Some(later));
        let trust = trust.begun(later);
        assert_eq!(trust.as_of(epoch), None);
        assert_eq!(trust.known_until(epoch), Some(later));
        assert_ne!(trust.standing(), Some(epoch));
    }

    #[test]
    fn only_so_many_are_remembered() {
        let mut trust = Trust::default();
        for _ in 0..100 {
            trust = trust.begun(Instant::now()).lost(Duration::from_hours(1));
            assert!(trust.ended.len() <= MOST_ENDED);
        }
        assert!(trust.known_until(100).is_some() && trust.known_until(1).is_none());
        assert!(trust.begun(Instant::now()).lost(Duration::ZERO).ended.len() <= 1);
    }
}
