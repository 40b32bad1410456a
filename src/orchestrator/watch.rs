//! One who watches: pulled by its caller, without a task of its own. Knows what it has told, so that it can make up the difference.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};

use super::desk::{Core, RETRY};
use super::event::{Event, Kind};
use super::hub::{Expiries, Watcher};
use super::queue::{Gap, Item, Next};
use super::store::is_beside;
use super::{ClaimId, Key, Prefix, passes};
use crate::deadline::{Deadline, jittered};
use crate::redis::{Error, Subscription};

/// Keys that one watch may know: so many names, and twice as many numbers, are kept of each.
const MAX_KEYS: usize = 100_000;

/// Keys that Redis looks at in one step, whose values are read together.
const STEP: u64 = 200;

/// What a client wants to watch.
pub(super) struct Opening {
    pub prefix: Prefix,
    /// Whether what is there is told first.
    pub snapshot: bool,
    pub expiries: Expiries,
    /// The client's name.
    pub client: Arc<str>,
}

/// What a watch tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// From here on nothing is missed without a gap.
    Confirmed(Arc<str>),
    /// A key that is there.
    Entry(Key, Bytes),
    /// All that was there has been told.
    Synced,
    Create(Key, Bytes),
    Set(Key, Bytes),
    /// The value that the key had, if it is known.
    Delete(Key, Option<Bytes>),
    /// A key has expired, with this value; another client is told so.
    Vanish(Key, Bytes),
    /// A key has expired: to be acknowledged if it has a claim.
    Expire(Key, Bytes, Option<ClaimId>),
    /// What comes next are differences.
    Gap(Gap),
    /// Nothing came for a while; whether Redis is away.
    Heartbeat {
        lost: bool,
    },
}

/// More keys are there than a watch may know. The last that it tells.
#[derive(Debug)]
pub(super) struct TooManyKeys;

/// A watch.
pub(super) struct Watch {
    place: Place,
    opening: Opening,
    phase: Phase,
    /// What is to be told next.
    ready: VecDeque<Told>,
    told: HashMap<Key, Known>,
    hasher: RandomState,
    /// Why the watch looks, until it has told that it does.
    gap: Option<Gap>,
    /// Whether the first look is over.
    synced: bool,
    /// The number of the look.
    round: u64,
    /// Whether Redis did not answer the last time.
    failing: bool,
    beat: Instant,
    _subscription: Subscription,
}

/// What is known of a key that was told.
struct Known {
    hash: u64,
    /// The look that has seen it.
    round: u64,
}

#[derive(Clone)]
enum Phase {
    /// Looks at what is there, from a cursor on.
    Look(u64),
    /// Waits for what was heard meanwhile; the number of the mark, once it is asked for.
    Settle(Option<u64>),
    /// Looks again at what was heard of.
    Again(Vec<Key>),
    /// Tells what is heard.
    Live,
}

/// A place in the hub, given back when it is dropped.
struct Place {
    id: u64,
    watcher: Arc<Watcher>,
    core: Arc<Core>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.core.hub.leave(self.id);
        for (id, key) in self.watcher.leave() {
            if !self.core.hub.leave_to_another(id) {
                self.core.give_back(key, id);
            }
        }
    }
}

impl Watch {
    /// Subscribes, and finds out what is there.
    pub(super) async fn open(core: Arc<Core>, opening: Opening, by: Deadline) -> Result<Self, Error> {
        let Opening {
            prefix,
            expiries,
            client,
            ..
        } = &opening;
        let watcher = Arc::new(Watcher::new(prefix.clone(), *expiries, client.clone()));
        watcher.queue.look();
        let subscription = core.store.hear(&core.subscriber, by).await?;
        let place = Place {
            id: core.hub.enter(watcher.clone()),
            watcher,
            core,
        };
        if opening.expiries != Expiries::None {
            place.core.hints.sweep();
            place.core.hints.owed.notify_one();
        }
        let confirmed = opening.snapshot.then(|| Told::Confirmed(opening.client.clone()));
        Ok(Watch {
            ready: confirmed.into_iter().collect(),
            beat: Instant::now() + jittered(place.core.config.heartbeat),
            place,
            opening,
            phase: Phase::Look(0),
            told: HashMap::new(),
            hasher: RandomState::new(),
            gap: None,
            synced: false,
            round: 1,
            failing: false,
            _subscription: subscription,
        })
    }

    /// What comes next. Nothing is lost if it is not waited for to the end.
    pub(super) async fn next(&mut self) -> Result<Told, TooManyKeys> {
        loop {
            if let Some(told) = self.ready.pop_front() {
                self.beat = Instant::now() + jittered(self.place.core.config.heartbeat);
                return Ok(told);
            }
            if self.told.len() > MAX_KEYS {
                return Err(TooManyKeys);
            }
            let beat = self.beat;
            if timeout_at(beat, self.step()).await.is_err() {
                self.beat = Instant::now() + jittered(self.place.core.config.heartbeat);
                // Who wants no snapshot has been told nothing yet.
                if self.synced || self.opening.snapshot {
                    let lost = self.failing || self.place.core.hub.is_lost();
                    return Ok(Told::Heartbeat { lost });
                }
            }
        }
    }

    /// An expiry is taken care of.
    pub(super) fn acknowledge(&self, id: ClaimId, key: Key) {
        self.place.core.acknowledge(key, id);
    }

    async fn step(&mut self) {
        if matches!(self.phase, Phase::Live) {
            match self.place.watcher.queue.next().await {
                Next::Item(item) => self.item(item),
                Next::Missed(gap) => self.look(Some(gap)),
            }
            return;
        }
        // An expiry must not wait for Redis to be looked at, but for the confirmation.
        if self.synced || self.opening.snapshot {
            for item in self.place.watcher.queue.expiries() {
                self.item(item);
            }
        }
        if !self.ready.is_empty() {
            return;
        }
        let looked = match self.phase.clone() {
            Phase::Look(cursor) => self.look_on(cursor).await,
            Phase::Settle(mark) => {
                self.settle(mark).await;
                Ok(())
            }
            Phase::Again(keys) => self.look_again(keys).await,
            Phase::Live => Ok(()),
        };
        let failed = std::mem::replace(&mut self.failing, looked.is_err());
        if let Err(error) = looked {
            if !failed && !passes(&error) {
                tracing::warn!(%error, "a watch cannot look at what is there");
            }
            sleep(RETRY).await;
        }
    }

    fn look(&mut self, gap: Option<Gap>) {
        self.place.watcher.queue.look();
        self.gap = gap.filter(|_| self.synced);
        self.round += 1;
        self.phase = Phase::Look(0);
    }

    /// Looks at one page of what is there.
    async fn look_on(&mut self, cursor: u64) -> Result<(), Error> {
        let store = &self.place.core.store;
        let (next, mut keys) = store.scan(&self.opening.prefix, cursor, STEP, store.soon()).await?;
        keys.retain(|key| !is_beside(key));
        let values = store.values(&keys, store.soon()).await?;
        for (key, value) in keys.into_iter().zip(values) {
            // One that went meanwhile is heard of.
            if let Some(value) = value {
                self.differs(key, Some(value), !self.synced);
            }
        }
        if next == 0 {
            let round = self.round;
            let gone = self.told.iter().filter(|(_, known)| known.round < round);
            for key in gone.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
                self.differs(key, None, false);
            }
        }
        self.phase = if next == 0 {
            Phase::Settle(None)
        } else {
            Phase::Look(next)
        };
        Ok(())
    }

    /// Waits for what was heard of while it was looked at. Nothing: the look is over.
    async fn settle(&mut self, mark: Option<u64>) {
        let number = mark.unwrap_or_else(|| self.place.core.hub.next_mark());
        if mark.is_none() {
            self.place.core.subscriber.mark(number).await;
            self.phase = Phase::Settle(Some(number));
        }
        match self.place.watcher.queue.settle(number).await {
            Err(gap) => self.look(Some(gap)),
            Ok(keys) if keys.is_empty() => {
                self.phase = Phase::Live;
                self.gap = None;
                if !self.synced {
                    self.synced = true;
                    let confirmed = Told::Confirmed(self.opening.client.clone());
                    self.ready.extend((!self.opening.snapshot).then_some(confirmed));
                    self.ready.push_back(Told::Synced);
                }
            }
            Ok(keys) => self.phase = Phase::Again(keys),
        }
    }

    /// Looks again at keys that were heard of.
    async fn look_again(&mut self, keys: Vec<Key>) -> Result<(), Error> {
        let store = &self.place.core.store;
        let values = store.values(&keys, store.soon()).await?;
        for (key, value) in keys.into_iter().zip(values) {
            self.differs(key, value, false);
        }
        self.phase = Phase::Settle(None);
        Ok(())
    }

    /// Takes note of what stands in Redis, and tells it if it is something else than was told.
    fn differs(&mut self, key: Key, value: Option<Bytes>, entry: bool) {
        let told = match value {
            Some(value) => {
                let known = Known {
                    hash: self.hasher.hash_one(&value),
                    round: self.round,
                };
                let hash = known.hash;
                match self.told.insert(key.clone(), known) {
                    Some(before) if before.hash == hash => return,
                    None if entry => Told::Entry(key, value),
                    None => Told::Create(key, value),
                    Some(_) => Told::Set(key, value),
                }
            }
            None if self.told.remove(&key).is_some() => Told::Delete(key, None),
            None => return,
        };
        if self.synced || self.opening.snapshot {
            self.ready.extend(self.gap.take().map(Told::Gap));
            self.ready.push_back(told);
        }
    }

    fn item(&mut self, item: Item) {
        match item {
            Item::Event(Event { kind, key, value }) => {
                if kind == Kind::Delete {
                    self.told.remove(&key);
                } else {
                    let known = Known {
                        hash: self.hasher.hash_one(&value),
                        round: self.round,
                    };
                    self.told.insert(key.clone(), known);
                }
                self.ready.push_back(match kind {
                    Kind::Create => Told::Create(key, value),
                    Kind::Set => Told::Set(key, value),
                    Kind::Delete => Told::Delete(key, Some(value)),
                });
            }
            Item::Expired { key, value, claim } => {
                // One without a value stays.
                if !value.is_empty() {
                    self.told.remove(&key);
                }
                self.ready.push_back(Told::Expire(key, value, claim));
            }
            Item::Vanished(key, value) => {
                if self.told.remove(&key).is_some() {
                    self.ready.push_back(Told::Vanish(key, value));
                }
            }
        }
    }
}
