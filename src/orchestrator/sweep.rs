//! Finds what was missed: expirations that nobody told of, and expiries that nobody has acknowledged.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::desk::{Core, RETRY};
use super::expiry::take_owed;
use super::passes;
use super::store::is_beside;
use crate::deadline::jittered;
use crate::redis::{Error, Reply, Subscription};

/// Keys that Redis looks at in one step.
const STEP: u64 = 1_000;

/// A key that has expired lives for so long at most.
const DAY: Duration = Duration::from_hours(24);

/// Between two looks for expiries that nobody has acknowledged.
const OWED: Duration = Duration::from_secs(1);

/// Looks at all keys: at the start, when something was missed, and from time to time.
pub(super) async fn look(core: Arc<Core>) {
    let _subscriptions = [
        hear(&core, What::Events).await,
        hear(&core, What::Claims).await,
        hear(&core, What::Dues).await,
    ];
    loop {
        notifications(&core).await;
        let wait = match look_once(&core).await {
            Ok(()) => jittered(core.config.look_interval),
            Err(error) => {
                if !passes(&error) {
                    tracing::warn!(%error, "keys that expire cannot be looked for");
                }
                RETRY
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = core.hints.all.notified() => {}
        }
    }
}

/// What is heard of keys.
enum What {
    Events,
    Claims,
    Dues,
}

/// Subscribes as soon as Redis lets it. None: it does not.
async fn hear(core: &Core, what: What) -> Option<Subscription> {
    loop {
        let subscribed = match what {
            What::Events => core.store.hear(&core.subscriber, core.store.soon()).await,
            What::Claims => core.claims.hear_claims(&core.subscriber).await,
            What::Dues => core.claims.hear_dues(&core.subscriber).await,
        };
        match subscribed {
            Ok(subscription) => return Some(subscription),
            Err(Error::Reply(Reply::Denied(command))) => {
                tracing::warn!(
                    command,
                    "expirations are found by looking alone: the acl denies a subscription"
                );
                return None;
            }
            Err(_) => sleep(RETRY).await,
        }
    }
}

/// Sees to it that Redis tells of expirations, unless it is told not to.
async fn notifications(core: &Core) {
    if core.config.skip_keyspace_event_setup {
        return;
    }
    let taken = core.claims.set_up_notifications().await;
    let before = core.metrics.notifications.get();
    if let Ok(taken) = taken {
        core.metrics.notifications.set(taken.into());
    } else if matches!(&taken, Err(error) if !passes(error)) {
        core.metrics.notifications.set(0);
    }
    core.notified.send_replace(core.metrics.notifications.get() == 1);
    if let (-1 | 1, 0) = (before, core.metrics.notifications.get()) {
        tracing::warn!(
            "redis does not let notify-keyspace-events be set: expirations are followed by the gateway alone, and build managers \
             without it may hear of none"
        );
    }
}

async fn look_once(core: &Core) -> Result<(), Error> {
    let mut cursor = 0;
    loop {
        let (next, keys) = core.store.scan_expiring(cursor, STEP, core.store.soon()).await?;
        core.hints.look_at(keys).await;
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    for prefix in core.hub.expiring_prefixes() {
        loop {
            let (next, mut keys) = core.store.scan(&prefix, cursor, STEP, core.store.soon()).await?;
            keys.retain(|key| !is_beside(key));
            let lives = join_all(keys.iter().map(|key| core.claims.lives(key))).await;
            let mut over = Vec::new();
            for (key, lives) in keys.into_iter().zip(lives) {
                if lives?.is_some_and(|left| left <= DAY) {
                    over.push(key);
                }
            }
            core.hints.look_at(over).await;
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
    }
    core.metrics.looks.inc();
    Ok(())
}

/// Looks for expiries that nobody has acknowledged.
pub(super) async fn owed(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = sleep(jittered(OWED)) => {}
            () = core.hints.owed.notified() => {}
        }
        core.hub.forget_untold();
        if let Err(error) = take_owed(&core).await {
            tracing::debug!(%error, "expiries that nobody has acknowledged cannot be looked for");
        }
    }
}
