//! Who watches which keys, and what of what is heard is whose.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{broadcast, oneshot};
use tokio::time::Instant;

use super::claims::{Expiry, Heard};
use super::desk::Core;
use super::event::{self, Event, Kind};
use super::metrics::Metrics;
use super::queue::{Gap, Item, Queue};
use super::{ClaimId, Key, Prefix};
use crate::redis;

/// Expiries that one watch may have and not have acknowledged; more wait in Redis for it, or for others.
const MAX_HELD: usize = 256;

/// Which expiries a watch is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiries {
    None,
    /// Those that no other watch is given.
    One,
    All,
}

/// One who watches.
pub(super) struct Watcher {
    pub prefix: Prefix,
    pub expiries: Expiries,
    /// The client's name.
    pub client: Arc<str>,
    pub queue: Queue,
    /// Guards what it is given and has not acknowledged. None: it is gone.
    held: Mutex<Option<HashMap<ClaimId, Held>>>,
}

struct Held {
    key: Key,
    until: Instant,
    /// Whether it is given back when this watch ends, rather than another stream of its client.
    own: bool,
}

/// To whom an expiry goes.
pub(super) enum Taker {
    /// To one watch, for which a claim is reserved.
    One(Arc<Watcher>, ClaimId),
    /// To all that ask for all; somebody else may ask for one.
    All(ClaimId),
    /// Those who ask for one have too many.
    Busy,
}

/// A claim that gateways have not been told of yet.
struct Claiming {
    /// For whom.
    watcher: Arc<Watcher>,
    /// Who waits for it to be told. None: the watch has it already.
    tell: Option<oneshot::Sender<()>>,
    /// When its lease is over: what has not been told by then will not be.
    until: Instant,
}

/// The watches of a gateway.
pub(super) struct Hub {
    /// Guards who watches.
    watchers: Mutex<Watchers>,
    /// Guards the claims under way.
    claiming: Mutex<HashMap<ClaimId, Claiming>>,
    /// Guards the claims that are being ended.
    acknowledged: Mutex<HashMap<ClaimId, Key>>,
    lost: AtomicBool,
    marks: AtomicU64,
    metrics: Metrics,
}

#[derive(Default)]
struct Watchers {
    next: u64,
    all: BTreeMap<u64, Arc<Watcher>>,
}

impl Watcher {
    pub(super) fn new(prefix: Prefix, expiries: Expiries, client: Arc<str>) -> Self {
        Watcher {
            prefix,
            expiries,
            client,
            queue: Queue::default(),
            held: Mutex::new(Some(HashMap::new())),
        }
    }

    /// Lets go of a claim. The key, if it was held.
    pub(super) fn let_go(&self, id: ClaimId) -> Option<Key> {
        lock(&self.held).as_mut()?.remove(&id).map(|held| held.key)
    }

    /// Lets go of all claims, for ever: those that are to be given back.
    pub(super) fn leave(&self) -> Vec<(ClaimId, Key)> {
        let held = lock(&self.held).take();
        let own = held.into_iter().flatten().filter(|(_, held)| held.own);
        own.map(|(id, held)| (id, held.key)).collect()
    }

    fn make_own(&self, id: ClaimId) -> bool {
        let mut held = lock(&self.held);
        let claim = held.as_mut().and_then(|held| held.get_mut(&id));
        claim.map(|claim| claim.own = true).is_some()
    }

    /// Whether the watch is there still.
    pub(super) fn is_there(&self) -> bool {
        lock(&self.held).is_some()
    }

    fn held(&self) -> Option<usize> {
        let now = Instant::now();
        let mut held = lock(&self.held);
        let held = held.as_mut()?;
        // Those whose lease is over are somebody else's.
        held.retain(|_, held| held.until > now);
        Some(held.values().filter(|held| held.own).count())
    }

    fn hold(&self, id: ClaimId, key: Key, until: Instant, own: bool) -> bool {
        let claim = Held { key, until, own };
        lock(&self.held)
            .as_mut()
            .is_some_and(|held| held.insert(id, claim).is_none())
    }

    fn holds(&self, key: &Key) -> bool {
        let now = Instant::now();
        let held = lock(&self.held);
        let mut all = held.iter().flat_map(HashMap::values);
        all.any(|held| held.key == *key && held.until > now)
    }
}

impl Hub {
    pub(super) fn new(metrics: Metrics) -> Self {
        Hub {
            watchers: Mutex::default(),
            claiming: Mutex::default(),
            acknowledged: Mutex::default(),
            lost: AtomicBool::new(false),
            marks: AtomicU64::new(0),
            metrics,
        }
    }

    /// Whether the subscription connection is lost just now.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// A number for a mark, larger than all before.
    pub(super) fn next_mark(&self) -> u64 {
        self.marks.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Fills the watcher's queue with what is heard, until [`Hub::leave`] is told the number that this answers.
    pub(super) fn enter(&self, watcher: Arc<Watcher>) -> u64 {
        let mut watchers = lock(&self.watchers);
        let id = watchers.next;
        watchers.next += 1;
        watchers.all.insert(id, watcher);
        self.metrics.watches.inc();
        id
    }

    /// Ends what [`Hub::enter`] began.
    pub(super) fn leave(&self, id: u64) {
        if lock(&self.watchers).all.remove(&id).is_some() {
            self.metrics.watches.dec();
        }
    }

    /// The prefixes under which expiries are asked for.
    pub(super) fn expiring_prefixes(&self) -> HashSet<Prefix> {
        let watchers = lock(&self.watchers);
        let asking = watchers.all.values().filter(|one| one.expiries != Expiries::None);
        asking.map(|one| one.prefix.clone()).collect()
    }

    /// Who asks for one.
    pub(super) fn asking_for_one(&self) -> Vec<Arc<Watcher>> {
        let watchers = lock(&self.watchers);
        let asking = watchers.all.values().filter(|one| one.expiries == Expiries::One);
        asking.cloned().collect()
    }

    /// To whom the expiry of a key goes, if anyone here asks for it: to the one that has the fewest, among those of `client` if it is
    /// that one's alone.
    pub(super) fn taker(&self, key: &Key, client: Option<&str>, until: Instant) -> Option<Taker> {
        let watchers: Vec<Arc<Watcher>> = {
            let watchers = lock(&self.watchers);
            let asking = |one: &&Arc<Watcher>| {
                one.expiries != Expiries::None
                    && key.is_under(&one.prefix)
                    && client.is_none_or(|client| *one.client == *client)
            };
            watchers.all.values().filter(asking).cloned().collect()
        };
        let ones = watchers.iter().filter(|one| one.expiries == Expiries::One);
        let counted = ones.filter_map(|one| Some((one.held()?, one)));
        match counted.min_by_key(|(held, _)| *held) {
            Some((MAX_HELD.., _)) => Some(Taker::Busy),
            Some((_, one)) => {
                let id = ClaimId::random();
                let held = one.hold(id, key.clone(), until, true);
                Some(if held { Taker::One(one.clone(), id) } else { Taker::Busy })
            }
            None => (!watchers.is_empty()).then(|| Taker::All(ClaimId::random())),
        }
    }

    /// Leaves the claim of a watch that ends to another one of its client that was told too. False: there is none.
    pub(super) fn leave_to_another(&self, id: ClaimId) -> bool {
        lock(&self.watchers).all.values().any(|one| one.make_own(id))
    }

    /// Whether a watch here has the expiry of a key, or has just acknowledged it.
    pub(super) fn holds(&self, key: &Key) -> bool {
        lock(&self.watchers).all.values().any(|one| one.holds(key))
            || lock(&self.acknowledged).values().any(|one| one == key)
    }

    /// A claim is about to be made: what gateways are told of it may come before its answer. Told when it has come.
    pub(super) fn claiming(&self, id: ClaimId, watcher: Arc<Watcher>, until: Instant) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        let tell = Some(tell);
        lock(&self.claiming).insert(id, Claiming { watcher, tell, until });
        told
    }

    /// Takes note that a claim is acknowledged, by whichever stream of its client. Until it has [`Hub::ended`] in Redis too, it
    /// must not be given again, though its stream may be gone.
    pub(super) fn acknowledge(&self, id: ClaimId, key: Key) {
        lock(&self.acknowledged).insert(id, key);
        for watcher in lock(&self.watchers).all.values() {
            watcher.let_go(id);
        }
    }

    /// An acknowledged claim has ended in Redis, or its lease has.
    pub(super) fn ended(&self, id: ClaimId) {
        lock(&self.acknowledged).remove(&id);
    }

    /// Gives an expiry to the watch that it was claimed for, unless it has it: as gateways are told of it, or, if that takes too
    /// long, before. False: the watch is not there any more.
    pub(super) fn give(&self, id: ClaimId, key: &Key, value: &Bytes, told: bool) -> bool {
        let mut all = lock(&self.claiming);
        let Some(claiming) = all.get_mut(&id) else {
            return true;
        };
        let (watcher, tell) = (claiming.watcher.clone(), claiming.tell.take());
        if told {
            all.remove(&id);
        }
        drop(all);
        let Some(tell) = tell else { return true };
        let _ = tell.send(());
        watcher.queue.push(Item::Expired {
            key: key.clone(),
            value: value.clone(),
            claim: Some(id),
        });
        watcher.is_there()
    }

    /// Forgets claims that gateways were told of while the connection was lost.
    pub(super) fn forget_untold(&self) {
        let now = Instant::now();
        lock(&self.claiming).retain(|_, claiming| claiming.tell.is_some() || claiming.until > now);
    }

    /// Forgets a claim that was not made, as far as is known. False: what gateways are told of it has come.
    pub(super) fn unclaimed(&self, id: ClaimId) -> bool {
        lock(&self.claiming).remove(&id).is_some()
    }

    fn event(&self, event: &Event) {
        self.tell(&event.key, |_| Some(Item::Event(event.clone())));
    }

    /// Tells all but the watch that a key was claimed for.
    fn claimed(&self, expiry: &Expiry, until: Instant) {
        let Expiry { id, key, value, client } = expiry;
        let own = lock(&self.claiming).get(id).map(|claiming| claiming.watcher.clone());
        let expired = |claim| {
            Some(Item::Expired {
                key: key.clone(),
                value: value.clone(),
                claim,
            })
        };
        self.tell(key, |one| match (one.expiries, &own) {
            (Expiries::All, _) => expired(None),
            (_, Some(own)) if std::ptr::eq(one, &raw const **own) => None,
            // Unless the one that it was claimed for has gone meanwhile, and gives it back.
            (Expiries::One, own) if *one.client == **client && own.as_ref().is_none_or(|own| own.is_there()) => {
                one.hold(*id, key.clone(), until, false);
                expired(Some(*id))
            }
            // It stays.
            _ if value.is_empty() => None,
            _ => Some(Item::Vanished(key.clone(), value.clone())),
        });
    }

    fn tell(&self, key: &Key, item: impl Fn(&Watcher) -> Option<Item>) {
        let watchers = lock(&self.watchers);
        for watcher in watchers.all.values().filter(|one| key.is_under(&one.prefix)) {
            if let Some(item) = item(watcher)
                && !watcher.queue.push(item)
            {
                self.metrics.gap(Gap::SlowReader);
            }
        }
    }

    fn missed(&self, gap: Gap) {
        for watcher in lock(&self.watchers).all.values() {
            watcher.queue.missed(gap);
            self.metrics.gap(gap);
        }
    }

    fn mark(&self, number: u64) {
        for watcher in lock(&self.watchers).all.values() {
            watcher.queue.mark(number);
        }
    }
}

/// Hands out what is heard, for as long as the gateway runs.
pub(super) async fn hear(core: Arc<Core>, mut events: broadcast::Receiver<redis::Event>) {
    loop {
        match events.recv().await {
            Ok(redis::Event::Message { channel, payload }) => message(&core, &channel, &payload),
            Ok(redis::Event::Lost) => core.hub.lost.store(true, Ordering::Relaxed),
            Ok(redis::Event::Reconnected) => {
                core.hub.lost.store(false, Ordering::Relaxed);
                core.hub.missed(Gap::ConnectionLost);
                core.hints.sweep();
            }
            Ok(redis::Event::Dropped(_)) | Err(broadcast::error::RecvError::Lagged(_)) => {
                core.hub.missed(Gap::Overloaded);
                core.hints.sweep();
            }
            Ok(redis::Event::Mark(number)) => core.hub.mark(number),
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn message(core: &Arc<Core>, channel: &Bytes, payload: &Bytes) {
    if channel == core.store.channel() {
        if let Some(event) = event::load(payload) {
            core.hub.event(&event);
            if event.kind != Kind::Delete {
                core.hints.look(event.key);
            }
        }
        return;
    }
    match core.claims.read(channel, payload) {
        Some(Heard::Due(key)) => core.hints.over(key),
        Some(Heard::Claimed(expiry)) => {
            core.hub.claimed(&expiry, Instant::now() + core.claims.lease);
            if expiry.client.is_empty() {
                // Taken for those who ask for all: owed to one who asks here.
                core.hints.owed.notify_one();
            }
            if !core.hub.give(expiry.id, &expiry.key, &expiry.value, true) {
                core.give_back(expiry.key, expiry.id);
            }
        }
        None => {}
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under it can panic halfway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
