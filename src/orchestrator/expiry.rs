//! Keys that expire: touched in time, so that Redis tells all, and given to one who watches.
//!
//! Redis tells of an expiration when it comes upon the key, which may be long after it was due. Asking for what is left of it makes
//! it do so, and is also how the due time becomes known. Where somebody here asks for the key, it is claimed in the same step, so
//! that a manager that is told finds it taken.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{OptionFuture, join_all};
use tokio::time::{Instant, sleep_until, timeout};

use super::claims::Claimed;
use super::desk::{Core, Look, RETRY};
use super::dues::Dues;
use super::hub::Taker;
use super::queue::Item;
use super::{ClaimId, Key, passes};

/// Keys that are touched in one pipeline.
const AT_ONCE: usize = 256;

/// How long what gateways are told of a claim may take after its answer. It has the right place between other events.
const TOLD: Duration = Duration::from_millis(100);

/// Past the time that Redis names in whole milliseconds.
const AFTER: Duration = Duration::from_millis(1);

/// Follows the expirations of all keys that are known.
pub(super) async fn follow(core: Arc<Core>) {
    let mut dues = Dues::default();
    loop {
        let next = dues.next();
        let Look {
            over: mut due,
            mut keys,
        } = tokio::select! {
            look = core.hints.next() => look,
            Some(()) = OptionFuture::from(next.map(sleep_until)) => Look::default(),
        };
        let now = Instant::now();
        due.extend(std::iter::from_fn(|| dues.pop(now)));
        for key in due {
            dues.forget(&key);
            match over(&core, &key) {
                Over::Asked => {}
                // Who watches elsewhere is to hear of it.
                Over::Nobody => drop(keys.insert(key)),
                Over::Later(again) => dues.insert(key, again),
            }
        }
        let keys: Vec<Key> = keys.into_iter().collect();
        for some in keys.chunks(AT_ONCE) {
            let left = join_all(some.iter().map(|key| core.claims.touch(key))).await;
            for (key, left) in some.iter().zip(left) {
                match left {
                    Ok(Some(left)) => dues.insert(key.clone(), Instant::now() + left + AFTER),
                    Ok(None) => {
                        dues.forget(key);
                        if let Over::Later(again) = over(&core, key) {
                            dues.insert(key.clone(), again);
                        }
                    }
                    Err(error) if passes(&error) => dues.insert(key.clone(), Instant::now() + RETRY),
                    Err(error) => tracing::debug!(%error, "the expiration of a key cannot be read"),
                }
            }
        }
        core.metrics.dues.set(i64::try_from(dues.len()).unwrap_or(i64::MAX));
    }
}

/// What became of a key that may have expired.
enum Over {
    /// It is being claimed.
    Asked,
    /// Nobody here asks for it.
    Nobody,
    /// Those who do have too many.
    Later(Instant),
}

/// A key has no expiration, or it is over: if anyone here asks for it, it is claimed.
fn over(core: &Arc<Core>, key: &Key) -> Over {
    let until = Instant::now() + core.claims.lease;
    let Some(taker) = core.hub.taker(key, None, until) else {
        return Over::Nobody;
    };
    match taker {
        Taker::Busy => return Over::Later(Instant::now() + RETRY),
        Taker::All(id) => core.spawn(claim_for_all(core.clone(), key.clone(), id)),
        Taker::One(watcher, id) => {
            let (core, key) = (core.clone(), key.clone());
            core.clone().spawn(async move {
                let told = core.hub.claiming(id, watcher.clone(), until);
                match core.claims.claim(&key, id, Some(&watcher.client)).await {
                    Ok(Claimed::Won(value)) => {
                        core.metrics.claimed.inc();
                        if !core.hub.is_lost() {
                            drop(timeout(TOLD, told).await);
                        }
                        if !core.hub.give(id, &key, &value, false) {
                            core.give_back(key, id);
                        }
                    }
                    Ok(lost) => {
                        core.hub.unclaimed(id);
                        watcher.let_go(id);
                        // Set again meanwhile.
                        if lost == Claimed::NotDue {
                            core.hints.look(key);
                        }
                    }
                    Err(error) => {
                        if core.hub.unclaimed(id) {
                            watcher.let_go(id);
                            failed(&core, &key, &error);
                        }
                    }
                }
            });
        }
    }
    Over::Asked
}

async fn claim_for_all(core: Arc<Core>, key: Key, id: ClaimId) {
    match core.claims.claim(&key, id, None).await {
        Ok(Claimed::Won(_)) => core.metrics.claimed.inc(),
        Ok(Claimed::None) => {}
        Ok(Claimed::NotDue) => core.hints.look(key),
        Err(error) => failed(&core, &key, &error),
    }
}

/// Whether the claim stands is not known: if so, it comes up as one that is owed.
fn failed(core: &Core, key: &Key, error: &crate::redis::Error) {
    if passes(error) {
        core.hints.look(key.clone());
    } else {
        tracing::debug!(%error, "a key that has expired cannot be claimed");
    }
}

/// Takes over what nobody has acknowledged, for those here who ask.
pub(super) async fn take_owed(core: &Arc<Core>) -> Result<(), crate::redis::Error> {
    let asking = core.hub.asking_for_one();
    let mut prefixes: Vec<_> = core.hub.expiring_prefixes().into_iter().collect();
    prefixes.sort();
    if prefixes.is_empty() {
        return Ok(());
    }
    let clients: Vec<Arc<str>> = asking.iter().map(|one| one.client.clone()).collect();
    for (key, client) in core.claims.owed(&prefixes, &clients).await? {
        if core.hub.holds(&key) {
            continue;
        }
        let until = Instant::now() + core.claims.lease;
        let Some(Taker::One(watcher, id)) = core.hub.taker(&key, client.as_deref(), until) else {
            continue;
        };
        match core.claims.take(&key, id, &watcher.client).await {
            Ok(Some(value)) => {
                core.metrics.given_again.inc();
                watcher.queue.push(Item::Expired {
                    key: key.clone(),
                    value,
                    claim: Some(id),
                });
                if !watcher.is_there() {
                    core.give_back(key, id);
                }
            }
            Ok(None) => drop(watcher.let_go(id)),
            Err(error) => {
                watcher.let_go(id);
                return Err(error);
            }
        }
    }
    Ok(())
}
