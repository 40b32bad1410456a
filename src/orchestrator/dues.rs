//! When keys expire, as far as is known, soonest first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use tokio::time::Instant;

use super::Key;

/// Keys whose expiration is known. Of more than these, those that are found later are found again by the next look at all keys.
const MAX_DUES: usize = 100_000;

/// The keys, and when each is due.
#[derive(Debug, Default)]
pub(super) struct Dues {
    at: HashMap<Key, Instant>,
    /// With entries that are not what `at` says any more.
    order: BinaryHeap<Reverse<(Instant, Key)>>,
}

impl Dues {
    /// Takes note of when a key is due, instead of what was known of it.
    pub(super) fn insert(&mut self, key: Key, at: Instant) {
        if self.at.len() >= MAX_DUES && !self.at.contains_key(&key) {
            return;
        }
        if self.order.len() > 2 * self.at.len() + 16 {
            let standing = self.at.iter().map(|(key, at)| Reverse((*at, key.clone())));
            self.order = standing.collect();
        }
        self.at.insert(key.clone(), at);
        self.order.push(Reverse((at, key)));
    }

    /// Forgets a key.
    pub(super) fn forget(&mut self, key: &Key) {
        self.at.remove(key);
    }

    /// How many keys are known.
    pub(super) fn len(&self) -> usize {
        self.at.len()
    }

    /// When the next one is due.
    pub(super) fn next(&mut self) -> Option<Instant> {
        while let Some(Reverse((at, key))) = self.order.peek() {
            if self.at.get(key) == Some(at) {
                return Some(*at);
            }
            self.order.pop();
        }
        None
    }

    /// A key that is due by `now`; it is known no more.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Key> {
        self.next().filter(|at| *at <= now)?;
        let Reverse((_, key)) = self.order.pop()?;
        self.at.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(n: usize) -> Key {
        Key::parse(&format!("k{n}")).unwrap()
    }

    #[test]
    fn the_soonest_comes_first_and_what_changed_counts() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut dues = Dues::default();
        assert_eq!(dues.next(), None);
        for (n, seconds) in [(1, 10), (2, 20), (3, 30)] {
            dues.insert(key(n), at(seconds));
        }
        // A heartbeat, and a key that is gone.
        dues.insert(key(1), at(40));
        dues.forget(&key(2));
        assert_eq!(dues.next(), Some(at(30)));
        assert_eq!(dues.pop(at(29)), None);
        assert_eq!(dues.pop(at(50)), Some(key(3)));
        assert_eq!(dues.pop(at(50)), Some(key(1)));
        assert_eq!((dues.pop(at(50)), dues.len()), (None, 0));
    }

    #[test]
    fn heartbeats_do_not_pile_up_and_keys_are_bounded() {
        let start = Instant::now();
        let mut dues = Dues::default();
        for n in 0..10_000 {
            dues.insert(key(n % 10), start + Duration::from_millis(n as u64));
        }
        assert!(dues.order.len() <= 40, "{}", dues.order.len());
        for n in 0..=MAX_DUES {
            dues.insert(key(n), start);
        }
        assert_eq!(dues.len(), MAX_DUES);
    }
}
