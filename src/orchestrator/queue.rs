//! What a watch has not taken yet: bounded. What did not fit is found by looking.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::event::Event;
use super::{ClaimId, Key};

/// Items that may wait for one watch, expiries that it must acknowledge aside: those are bounded by whoever gives them. At the bound
/// all others are dropped, and the watch looks at what has become of its keys.
const MAX_ITEMS: usize = 1_024;
/// The same for the bytes of their values, but for a single one that is longer.
const MAX_BYTES: usize = 1 << 20;
/// Keys that are heard of while a watch looks. At the bound it looks again from the beginning.
const MAX_HEARD: usize = 16_384;

/// What a watch is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// A manager has told of a key.
    Event(Event),
    /// A key has expired, and is given to this watch: by a claim if nobody else is told.
    Expired {
        key: Key,
        value: Bytes,
        claim: Option<ClaimId>,
    },
    /// A key has expired, with this value, and is given to another client.
    Vanished(Key, Bytes),
}

/// Why a watch must look for what it has missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap {
    /// It was slower than what it is told.
    SlowReader,
    /// The connection to Redis was lost, and is there again.
    ConnectionLost,
    /// The gateway was slower than Redis.
    Overloaded,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Item(Item),
    /// Something was missed.
    Missed(Gap),
}

/// The queue of one watch, which alone takes from it.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Guards what waits.
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<Item>,
    /// Of the items that are bounded.
    count: usize,
    bytes: usize,
    /// While the watch looks: the keys that were heard of meanwhile.
    heard: Option<HashSet<Key>>,
    missed: Option<Gap>,
    mark: u64,
}

impl Queue {
    /// Adds an item. Answers false if it did not fit: something is missed now that was not before.
    pub(super) fn push(&self, item: Item) -> bool {
        let fits = self.lock().push(item);
        self.filled.notify_one();
        fits
    }

    /// Tells that something was missed.
    pub(super) fn missed(&self, gap: Gap) {
        self.lock().miss(gap);
        self.filled.notify_one();
    }

    /// Tells that all that was published before a mark has come in.
    pub(super) fn mark(&self, number: u64) {
        let mut waiting = self.lock();
        waiting.mark = waiting.mark.max(number);
        drop(waiting);
        self.filled.notify_one();
    }

    /// From now on keys that are heard of are only remembered, since they are being looked at.
    pub(super) fn look(&self) {
        let mut waiting = self.lock();
        waiting.missed = None;
        waiting.keep_expiries();
        waiting.heard = Some(HashSet::new());
    }

    /// What comes next, once there is something.
    pub(super) async fn next(&self) -> Next {
        self.when(Waiting::next).await
    }

    /// While the watch looks: the keys heard of before mark `number`, once that has come; none of them ends the look. Missed, if
    /// it has to look again from the beginning.
    pub(super) async fn settle(&self, number: u64) -> Result<Vec<Key>, Gap> {
        self.when(|waiting| waiting.settle(number)).await
    }

    /// The expiries that wait.
    pub(super) fn expiries(&self) -> Vec<Item> {
        let mut waiting = self.lock();
        let is_expiry = |item: &Item| matches!(item, Item::Expired { .. });
        let (expiries, others) = waiting.items.drain(..).partition(is_expiry);
        waiting.items = others;
        waiting.count();
        expiries.into()
    }

    async fn when<T>(&self, mut ready: impl FnMut(&mut Waiting) -> Option<T>) -> T {
        loop {
            if let Some(found) = ready(&mut self.lock()) {
                return found;
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
    fn push(&mut self, item: Item) -> bool {
        let key = match &item {
            Item::Event(event) => Some(&event.key),
            Item::Vanished(key, _) => Some(key),
            Item::Expired { .. } => None,
        };
        match (key, &mut self.heard) {
            // It is found by looking.
            (Some(_), _) if self.missed.is_some() => return true,
            (Some(key), Some(heard)) => {
                heard.insert(key.clone());
                if heard.len() <= MAX_HEARD {
                    return true;
                }
                self.miss(Gap::Overloaded);
                return false;
            }
            _ => {}
        }
        self.count += usize::from(!is_owed(&item));
        self.bytes += size(&item);
        self.items.push_back(item);
        if self.count > MAX_ITEMS || (self.bytes > MAX_BYTES && self.count > 1) {
            self.miss(Gap::SlowReader);
            return false;
        }
        true
    }

    fn miss(&mut self, gap: Gap) {
        self.missed.get_or_insert(gap);
        self.heard = None;
        self.items.retain(is_owed);
        self.count();
    }

    fn keep_expiries(&mut self) {
        self.items.retain(|item| matches!(item, Item::Expired { .. }));
        self.count();
    }

    fn count(&mut self) {
        self.count = self.items.iter().filter(|item| !is_owed(item)).count();
        self.bytes = self.items.iter().map(size).sum();
    }

    fn next(&mut self) -> Option<Next> {
        if let Some(item) = self.items.pop_front() {
            self.count -= usize::from(!is_owed(&item));
            self.bytes -= size(&item);
            return Some(Next::Item(item));
        }
        self.missed.map(Next::Missed)
    }

    fn settle(&mut self, number: u64) -> Option<Result<Vec<Key>, Gap>> {
        if let Some(gap) = self.missed {
            return Some(Err(gap));
        }
        if self.mark < number {
            return None;
        }
        let heard: Vec<Key> = self.heard.take().into_iter().flatten().collect();
        if !heard.is_empty() {
            self.heard = Some(HashSet::new());
        }
        Some(Ok(heard))
    }
}

/// Whether nobody else is told of an item.
fn is_owed(item: &Item) -> bool {
    matches!(item, Item::Expired { claim: Some(_), .. })
}

fn size(item: &Item) -> usize {
    match item {
        Item::Event(Event { value, .. }) | Item::Expired { value, claim: None, .. } | Item::Vanished(_, value) => {
            value.len()
        }
        Item::Expired { claim: Some(_), .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::super::event::Kind;
    use super::*;

    fn key(n: usize) -> Key {
        Key::parse(&format!("k{n}")).unwrap()
    }

    fn event(n: usize, value: &'static str) -> Item {
        Item::Event(Event {
            kind: Kind::Set,
            key: key(n),
            value: Bytes::from_static(value.as_bytes()),
        })
    }

    fn expired(n: usize) -> Item {
        Item::Expired {
            key: key(n),
            value: Bytes::new(),
            claim: Some(ClaimId(7)),
        }
    }

    fn all(queue: &Queue) -> Vec<Next> {
        // A gap stays until the watch looks.
        let mut found: Vec<Next> = Vec::new();
        while let Some(next) = queue.next().now_or_never() {
            let last = matches!(next, Next::Missed(_));
            found.push(next);
            if last {
                break;
            }
        }
        found
    }

    #[test]
    fn a_slow_reader_keeps_its_expiries_and_looks_for_the_rest() {
        let queue = Queue::default();
        assert!(queue.push(expired(1)));
        for n in 0..MAX_ITEMS {
            assert!(queue.push(event(n, "")));
        }
        assert!(!queue.push(event(0, "")));
        assert!(queue.push(event(0, "")), "told once");
        queue.missed(Gap::ConnectionLost);
        assert_eq!(all(&queue), [Next::Item(expired(1)), Next::Missed(Gap::SlowReader)]);
        queue.look();
        assert_eq!(all(&queue), []);
    }

    #[test]
    fn values_are_bounded_by_their_bytes_but_for_one() {
        let long: &'static str = Box::leak("v".repeat(MAX_BYTES + 1).into_boxed_str());
        let queue = Queue::default();
        assert!(queue.push(event(1, long)));
        assert!(!queue.push(event(2, "v")));
        assert_eq!(all(&queue), [Next::Missed(Gap::SlowReader)]);
    }

    #[test]
    fn what_is_heard_while_looking_is_looked_at_after_the_mark() {
        let queue = Queue::default();
        assert!(queue.push(event(0, "")));
        queue.look();
        assert!(
            queue.push(event(1, "")) && queue.push(event(1, "")) && queue.push(Item::Vanished(key(2), Bytes::new()))
        );
        assert!(queue.push(expired(3)));
        assert_eq!(queue.settle(5).now_or_never(), None);
        queue.mark(5);
        queue.mark(4);
        let mut heard = queue.settle(5).now_or_never().unwrap().unwrap();
        heard.sort();
        assert_eq!(heard, [key(1), key(2)]);
        assert_eq!(queue.expiries(), [expired(3)]);
        assert!(queue.push(event(4, "")));
        assert_eq!(queue.settle(5).now_or_never().unwrap(), Ok(vec![key(4)]));
        assert_eq!(queue.settle(5).now_or_never().unwrap(), Ok(vec![]));
        assert!(queue.push(event(5, "")));
        assert_eq!(all(&queue), [Next::Item(event(5, ""))], "told again as it is heard");
    }

    #[test]
    fn a_look_that_is_cut_begins_again() {
        let queue = Queue::default();
        queue.look();
        queue.missed(Gap::ConnectionLost);
        assert_eq!(queue.settle(1).now_or_never().unwrap(), Err(Gap::ConnectionLost));
        queue.look();
        for n in 0..=MAX_HEARD {
            queue.push(event(n, ""));
        }
        assert_eq!(queue.settle(1).now_or_never().unwrap(), Err(Gap::Overloaded));
    }
}
