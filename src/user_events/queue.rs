//! What a listener has not taken yet: bounded, and honest about what did not fit.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// Items that may wait for one listener; then it loses its oldest.
const MAX_ITEMS: usize = 256;

/// Bytes of payloads that may wait for one listener, but for a single one that is longer. Listeners of one channel share them.
const MAX_BYTES: usize = 1 << 20;

/// What a listener is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// One of its events, by its place among those that it listens to.
    Event { event: usize, payload: Bytes },
    /// Events may be missing here.
    Gap(Gap),
}

/// Why events may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap {
    /// The listener was too slow for so many.
    SlowReader(u64),
    /// The connection to Redis was lost, and is there again.
    ConnectionLost,
    /// The gateway was too slow for so many messages, of any user.
    Overloaded(u64),
}

/// The queue of one listener, who alone takes from it.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Guards what waits.
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
    /// Of what was dropped; told before what waits.
    dropped: u64,
    /// A gap among what was dropped.
    lost: bool,
    missed: u64,
}

impl Queue {
    /// Adds an event. Answers how many others it has driven out.
    pub(super) fn event(&self, event: usize, payload: Bytes) -> u64 {
        let mut waiting = self.lock();
        let before = waiting.dropped;
        waiting.bytes += payload.len();
        waiting.items.push_back(Item::Event { event, payload });
        while waiting.items.len() > MAX_ITEMS || (waiting.bytes > MAX_BYTES && waiting.items.len() > 1) {
            waiting.drop_oldest();
        }
        let driven_out = waiting.dropped - before;
        drop(waiting);
        self.filled.notify_one();
        driven_out
    }

    /// Adds a gap, unless the same one is the last thing that waits.
    pub(super) fn gap(&self, gap: Gap) {
        let mut waiting = self.lock();
        match (waiting.items.back_mut(), gap) {
            (Some(Item::Gap(Gap::ConnectionLost)), Gap::ConnectionLost) => {}
            (Some(Item::Gap(Gap::Overloaded(before))), Gap::Overloaded(missed)) => *before += missed,
            _ => waiting.items.push_back(Item::Gap(gap)),
        }
        drop(waiting);
        self.filled.notify_one();
    }

    /// Forgets gaps: what they tell of came before the listener was promised anything.
    pub(super) fn forget_gaps(&self) {
        self.lock().items.retain(|item| matches!(item, Item::Event { .. }));
    }

    /// The next item, once there is one.
    pub(super) async fn next(&self) -> Item {
        loop {
            if let Some(item) = self.lock().take() {
                return item;
            }
            self.filled.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that is done under it can panic halfway.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take(&mut self) -> Option<Item> {
        let gap = match self {
            Waiting { dropped: 1.., .. } => Gap::SlowReader(std::mem::take(&mut self.dropped)),
            Waiting { lost: true, .. } => {
                self.lost = false;
                Gap::ConnectionLost
            }
            Waiting { missed: 1.., .. } => Gap::Overloaded(std::mem::take(&mut self.missed)),
            _ => {
                let item = self.items.pop_front()?;
                if let Item::Event { payload, .. } = &item {
                    self.bytes -= payload.len();
                }
                return Some(item);
            }
        };
        Some(Item::Gap(gap))
    }

    fn drop_oldest(&mut self) {
        match self.items.pop_front() {
            Some(Item::Event { payload, .. }) => {
                self.bytes -= payload.len();
                self.dropped += 1;
            }
            Some(Item::Gap(Gap::ConnectionLost)) => self.lost = true,
            Some(Item::Gap(Gap::Overloaded(missed))) => self.missed += missed,
            Some(Item::Gap(Gap::SlowReader(_))) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn event(n: usize) -> Item {
        Item::Event {
            event: n,
            payload: Bytes::from_static(b"1"),
        }
    }

    fn all(queue: &Queue) -> Vec<Item> {
        std::iter::from_fn(|| queue.next().now_or_never()).collect()
    }

    #[test]
    fn a_slow_reader_loses_its_oldest_and_is_told_how_many() {
        let queue = Queue::default();
        for n in 0..MAX_ITEMS {
            assert_eq!(queue.event(n, Bytes::from_static(b"1")), 0);
        }
        for n in 0..3 {
            assert_eq!(queue.event(MAX_ITEMS + n, Bytes::from_static(b"1")), 1);
        }
        let items = all(&queue);
        assert_eq!(items[0], Item::Gap(Gap::SlowReader(3)));
        assert_eq!(items[1..], (3..MAX_ITEMS + 3).map(event).collect::<Vec<_>>());
        assert_eq!(queue.event(0, Bytes::new()), 0);
        assert_eq!(all(&queue).len(), 1);
    }

    #[test]
    fn payloads_are_bounded_by_their_bytes_but_for_one() {
        let queue = Queue::default();
        let long = Bytes::from(vec![b'1'; MAX_BYTES * 2]);
        assert_eq!(queue.event(0, long.clone()), 0);
        assert_eq!(queue.event(1, Bytes::from_static(b"1")), 1);
        assert_eq!(queue.event(2, long), 1);
        assert_eq!(all(&queue)[0], Item::Gap(Gap::SlowReader(2)));
        assert_eq!(queue.lock().bytes, 0);
    }

    #[test]
    fn a_gap_is_told_once_where_it_was_and_never_dropped() {
        let queue = Queue::default();
        queue.event(0, Bytes::from_static(b"1"));
        for _ in 0..2 {
            queue.gap(Gap::ConnectionLost);
        }
        for missed in [2, 3] {
            queue.gap(Gap::Overloaded(missed));
        }
        queue.event(1, Bytes::from_static(b"1"));
        let gaps = [Gap::ConnectionLost, Gap::Overloaded(5)].map(Item::Gap);
        assert_eq!(all(&queue), [&[event(0)][..], &gaps, &[event(1)]].concat());

        for gap in [Gap::ConnectionLost, Gap::Overloaded(5)] {
            queue.gap(gap);
        }
        for n in 0..=MAX_ITEMS {
            queue.event(n, Bytes::from_static(b"1"));
        }
        let items = all(&queue);
        assert_eq!(items[0], Item::Gap(Gap::SlowReader(1)));
        assert_eq!(items[1..3], gaps);
        queue.gap(Gap::ConnectionLost);
        queue.event(7, Bytes::from_static(b"1"));
        queue.forget_gaps();
        assert_eq!(all(&queue), [event(7)]);
    }
}
