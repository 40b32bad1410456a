//! Where values are kept: bounded by bytes, what is read least goes first.

use std::time::Duration;

use bytes::Bytes;
use prometheus::IntCounter;
use quick_cache::sync::{Cache, EntryAction};
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};
use tokio::time::Instant;

/// What an entry takes beside its key and its value: its places in the tables, which are never full, and two allocations. Measured.
const OVERHEAD: usize = 320;

/// The share of the memory that one part of it has: a longer value is not kept.
const PART: usize = 8 << 20;
/// The most parts, each with a lock of its own.
const MOST_PARTS: usize = 64;

/// What values are thought to be long, overhead included, to make room for the names of those that had to go.
const TYPICAL: usize = 1 << 10;

/// How long a value took to load.
#[derive(Debug, Clone, Copy)]
pub(in crate::cache) enum Load {
    /// Nobody has asked Redis when the value was read.
    Unasked,
    /// What Redis knows of it.
    Asked(Option<Duration>),
}

/// A value as it was read.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) value: Bytes,
    /// When Redis was asked for it.
    pub(super) asked: Instant,
    /// When its TTL is over, at the latest.
    pub(super) ends: Option<Instant>,
    pub(super) load: Load,
    /// In which time of tracking it was read.
    pub(super) epoch: u64,
    /// Whether Redis has told of that end. What it tells next is news.
    pub(super) end_told: bool,
}

impl Entry {
    /// Whether its TTL is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }
}

/// All values.
pub(super) struct Memory {
    cache: Cache<Bytes, Entry, Bytewise, DefaultHashBuilder, Evictions>,
}

impl Memory {
    pub(super) fn new(max_bytes: usize, evictions: IntCounter) -> Self {
        let options = OptionsBuilder::new()
            .shards((max_bytes / PART).clamp(1, MOST_PARTS))
            .estimated_items_capacity(max_bytes / TYPICAL)
            .weight_capacity(max_bytes as u64)
            // Both of the numbers that it needs are given.
            .build()
            .expect("complete");
        let hasher = DefaultHashBuilder::default();
        Memory {
            cache: Cache::with_options(options, Bytewise, hasher, Evictions(evictions)),
        }
    }

    pub(super) fn get(&self, key: &Bytes) -> Option<Entry> {
        self.cache.get(key)
    }

    /// Without being taken for a reader.
    pub(super) fn peek(&self, key: &Bytes) -> Option<Entry> {
        self.cache.peek(key)
    }

    /// Keeps an entry under `key`: both are to be copies, see [`copy`].
    pub(super) fn insert(&self, key: Bytes, entry: Entry) {
        // One that is too long would leave the one before it in its place.
        self.cache.remove(&key);
        self.cache.insert(key, entry);
    }

    /// Takes note that Redis has told of a change. The first that comes after an entry's end tells of that: it stays. Else it goes.
    pub(super) fn changed(&self, key: &Bytes) {
        // Most are of keys that are not kept.
        if self.cache.peek(key).is_none() {
            return;
        }
        let now = Instant::now();
        drop(self.cache.entry(key, None, |_, entry| {
            if entry.is_over(now) && !std::mem::replace(&mut entry.end_told, true) {
                EntryAction::Retain(())
            } else {
                EntryAction::Remove
            }
        }));
    }

    pub(super) fn remove(&self, key: &Bytes) -> bool {
        self.cache.remove(key).is_some()
    }

    pub(super) fn clear(&self) {
        self.cache.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.cache.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.cache.weight()
    }
}

/// A key and a value as one piece of memory: what came from Redis is part of a larger buffer.
pub(super) fn copy(key: &[u8], value: &[u8]) -> (Bytes, Bytes) {
    let mut value = Bytes::from([key, value].concat());
    (value.split_to(key.len()), value)
}

#[derive(Clone)]
struct Bytewise;

impl Weighter<Bytes, Entry> for Bytewise {
    fn weight(&self, key: &Bytes, entry: &Entry) -> u64 {
        weight(key.len() + entry.value.len())
    }
}

/// What an entry of so many bytes takes. Allocators have four sizes for each power of two.
fn weight(bytes: usize) -> u64 {
    let step = (bytes.next_power_of_two() / 8).max(16);
    (bytes.next_multiple_of(step) + OVERHEAD) as u64
}

/// Counts what had to go.
#[derive(Clone)]
struct Evictions(IntCounter);

impl Lifecycle<Bytes, Entry> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Bytes, _: Entry) {
        self.0.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(length: usize) -> Entry {
        Entry {
            value: Bytes::from(vec![b'v'; length]),
            asked: Instant::now(),
            ends: None,
            load: Load::Unasked,
            epoch: 0,
            end_told: false,
        }
    }

    #[test]
    fn keys_values_and_overhead_never_weigh_more_than_the_bound() {
        let evictions = IntCounter::new("evictions", "evictions").unwrap();
        let memory = Memory::new(1 << 20, evictions.clone());
        for n in 0..20_000 {
            memory.insert(Bytes::from(format!("key{n}")), entry(n % 2_000));
            assert!(memory.bytes() <= 1 << 20);
        }
        assert_eq!(memory.len() as u64 + evictions.get(), 20_000);
        assert!(memory.bytes() > 900 << 10, "most of it is used");
        let kept = memory
            .cache
            .iter()
            .map(|(key, entry)| weight(key.len() + entry.value.len()));
        assert_eq!(kept.sum::<u64>(), memory.bytes());
        assert_eq!(
            [0, 1, 200, 8_193].map(weight),
            [0, 16, 224, 10_240].map(|bytes| bytes + OVERHEAD as u64)
        );
    }

    #[test]
    fn value_that_is_too_long_leaves_nothing_in_its_place() {
        let memory = Memory::new(1 << 20, IntCounter::new("evictions", "evictions").unwrap());
        let key = Bytes::from("key");
        memory.insert(key.clone(), entry(7));
        assert_eq!(memory.get(&key).unwrap().value.len(), 7);
        memory.insert(key.clone(), entry(2 << 20));
        assert!(memory.get(&key).is_none());
        assert_eq!((memory.len(), memory.bytes()), (0, 0));
    }

    #[test]
    fn what_is_kept_is_a_copy() {
        let memory = Memory::new(1 << 20, IntCounter::new("evictions", "evictions").unwrap());
        let buffer = Bytes::from(vec![b'v'; 4_096]);
        let (key, value) = copy(&buffer.slice(..3), &buffer.slice(..16));
        memory.insert(key.clone(), Entry { value, ..entry(0) });
        assert!(buffer.is_unique(), "the buffer is pinned");
        // Handed out without an allocation: the same bytes.
        let [one, two] = [(); 2].map(|()| memory.get(&key).unwrap().value);
        assert_eq!(one.as_ptr(), two.as_ptr());
    }

    #[test]
    fn what_has_ended_stays_at_the_first_news_and_goes_at_the_next() {
        let evictions = IntCounter::new("evictions", "evictions").unwrap();
        let memory = Memory::new(1 << 20, evictions.clone());
        let ended = Entry {
            ends: Some(Instant::now()),
            ..entry(7)
        };
        memory.insert(Bytes::from("key"), ended);
        memory.insert(Bytes::from("other"), entry(7));
        // As news names keys: by a piece of a larger buffer.
        let buffer = Bytes::from(b"key, other, none".to_vec());
        for part in [0..3, 5..10, 12..16] {
            memory.changed(&buffer.slice(part));
        }
        assert_eq!(memory.get(&Bytes::from("key")).unwrap().value.len(), 7);
        assert!(buffer.is_unique(), "the buffer is pinned");
        assert_eq!((memory.len(), evictions.get()), (1, 0), "nothing had to make room");
        memory.changed(&buffer.slice(..3));
        assert_eq!((memory.len(), memory.bytes(), evictions.get()), (0, 0, 0));
    }
}
