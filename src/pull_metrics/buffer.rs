//! Pulls that wait in memory until Redis takes them, because their callers chose not to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::metrics::{BufferEnd, Metrics};
use super::store::{self, Store};
use super::{Pull, Target, Timestamp};
use crate::deadline::Deadline;
use crate::redis::{Error, Reply, State};

/// Writes under way at once: a buffer that filled up in an outage must not crowd out who waits for Redis.
const WRITES: usize = 64;

/// Keys that are taken to be written before it is looked again whether Redis serves.
const ROUND: usize = 512;

/// How long after writes that failed the next are tried.
const RETRY: Duration = Duration::from_millis(250);

/// How long a pull waits for others of its key at least, also where callers who wait do not.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// What an entry takes beside its texts, roughly: its places in the map, lengths and counters.
const ENTRY_BYTES: usize = 256;

/// There is no room for another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// The pulls that wait. Its writer lives as long as it does.
pub(super) struct Buffer {
    shared: Arc<Shared>,
    _writer: AbortOnDropHandle<()>,
}

struct Shared {
    store: Arc<Store>,
    /// The most bytes that may wait; pulls of a key that waits already are always taken.
    room: usize,
    pause: Duration,
    /// Guards what waits.
    waiting: Mutex<Waiting>,
    /// There is something to write.
    filled: Notify,
    /// Whether nothing waits or is being written.
    empty: watch::Sender<bool>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Waiting {
    keys: HashMap<Bytes, Pulls>,
    bytes: usize,
    /// Why the last write failed, if it did.
    trouble: Option<Error>,
}

/// Pulls of one key.
struct Pulls {
    target: Target,
    count: u64,
    last: Timestamp,
}

impl Buffer {
    /// A buffer of `room` bytes. Pulls of a key are collected for `pause` before they are written as one.
    pub(super) fn new(store: Arc<Store>, room: usize, pause: Duration, metrics: Arc<Metrics>) -> Self {
        metrics.buffer_limit.set(i64::try_from(room).unwrap_or(i64::MAX));
        let shared = Arc::new(Shared {
            store,
            room,
            pause: pause.max(MIN_PAUSE),
            waiting: Mutex::default(),
            filled: Notify::new(),
            empty: watch::channel(true).0,
            metrics,
        });
        Buffer {
            _writer: AbortOnDropHandle::new(tokio::spawn(write(shared.clone()))),
            shared,
        }
    }

    /// Takes a pull on, to be written as soon as Redis takes it. Answers why Redis does not take any now, if it does not.
    pub(super) fn take(&self, pull: Pull) -> Result<Option<Error>, Full> {
        let Pull { target, timestamp } = pull;
        let pulls = Pulls {
            target,
            count: 1,
            last: timestamp,
        };
        if self.shared.put(store::key(&pulls.target), pulls, true).is_err() {
            self.shared.metrics.buffer_ended(BufferEnd::Full, 1);
            return Err(Full);
        }
        self.shared.metrics.buffered.inc();
        self.shared.filled.notify_one();
        if *self.shared.store.state().borrow() != State::Up {
            return Ok(Some(Error::Unavailable));
        }
        let waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(waiting.trouble.clone())
    }

    /// Waits until all is written, at most until `by`. What is lost then is counted and said.
    pub(super) async fn drain(&self, by: Instant) {
        let mut empty = self.shared.empty.subscribe();
        // The sender lives in `self.shared`.
        if timeout_at(by, empty.wait_for(|empty| *empty)).await.is_err() {
            let pulls = self.shared.metrics.buffer_pulls.get();
            self.shared.metrics.buffer_ended(BufferEnd::Lost, pulls.unsigned_abs());
            tracing::error!(
                pulls,
                "buffered pulls were lost: redis did not take them before the end of the drain"
            );
        }
    }
}

impl Shared {
    /// Puts pulls among those that wait; `new` ones only if there is room.
    fn put(&self, key: Bytes, pulls: Pulls, new: bool) -> Result<(), Full> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting { keys, bytes, .. } = &mut *waiting;
        let count = pulls.count;
        match keys.entry(key) {
            Entry::Occupied(mut there) => {
                let there = there.get_mut();
                there.count += count;
                if new {
                    there.last = pulls.last;
                }
            }
            Entry::Vacant(vacant) => {
                let size = size(vacant.key());
                if new && *bytes + size > self.room {
                    return Err(Full);
                }
                *bytes += size;
                vacant.insert(pulls);
            }
        }
        if new {
            self.metrics.buffer_pulls.add(count.cast_signed());
        }
        self.metrics.buffer_bytes.set(i64::try_from(*bytes).unwrap_or(i64::MAX));
        // Under the lock, so that the writer does not call empty what was just filled.
        self.empty.send_replace(false);
        Ok(())
    }

    /// Takes some of what waits. Its bytes stay taken until it is written, so that an outage cannot grow what is held.
    fn take_some(&self) -> Vec<(Bytes, Pulls)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<Bytes> = waiting.keys.keys().take(ROUND).cloned().collect();
        keys.iter().filter_map(|key| waiting.keys.remove_entry(key)).collect()
    }

    /// Gives back the bytes of keys that were taken to be written, and are written or wait again.
    fn release(&self, bytes: usize) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.bytes -= bytes;
        self.metrics
            .buffer_bytes
            .set(i64::try_from(waiting.bytes).unwrap_or(i64::MAX));
        if waiting.keys.is_empty() {
            self.empty.send_replace(true);
        }
    }

    /// Writes pulls of one key; those that Redis did not take wait again.
    async fn write(&self, key: Bytes, pulls: Pulls) -> Result<(), Error> {
        self.metrics.writes.inc();
        let by = Deadline::within(self.store.timeout());
        let added = self.store.add(&pulls.target, pulls.count, &pulls.last, by).await;
        let count = pulls.count;
        let end = match &added {
            Ok(_) => BufferEnd::Written,
            Err(error) if error.leaves_doubt() => BufferEnd::Unknown,
            Err(Error::Reply(Reply::WrongType | Reply::Other(_))) => BufferEnd::Refused,
            Err(error) => {
                self.waiting.lock().unwrap_or_else(PoisonError::into_inner).trouble = Some(error.clone());
                // There is always room for what was there before.
                let _ = self.put(key, pulls, false);
                return added.map(drop);
            }
        };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).trouble = None;
        if let Err(error) = &added {
            tracing::warn!(%error, count, "buffered pulls could not be written, or may not have been");
        }
        self.metrics.buffer_pulls.sub(count.cast_signed());
        self.metrics.buffer_ended(end, count);
        Ok(())
    }
}

/// Writes what waits, for as long as the buffer lives.
async fn write(shared: Arc<Shared>) {
    loop {
        shared.filled.notified().await;
        sleep(shared.pause).await;
        loop {
            // The endpoint outlives its store.
            let _ = shared.store.state().wait_for(|state| *state == State::Up).await;
            let taken = shared.take_some();
            if taken.is_empty() {
                break;
            }
            let bytes = taken.iter().map(|(key, _)| size(key)).sum();
            let writes = stream::iter(taken)
                .map(|(key, pulls)| shared.write(key, pulls))
                .buffer_unordered(WRITES);
            let failed = writes
                .fold(false, async |failed, written| failed | written.is_err())
                .await;
            shared.release(bytes);
            if failed {
                sleep(RETRY).await;
            }
        }
    }
}

/// What a key takes in the buffer: its name stands there twice, in one piece and in parts.
fn size(key: &Bytes) -> usize {
    2 * key.len() + ENTRY_BYTES
}
