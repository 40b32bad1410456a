//! Which builds are followed here, and by whom.

use std::array;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::BuildId;
use super::feed::Feed;
use super::metrics::Metrics;
use super::store::Store;

/// Builds are spread over so many maps, so that no append waits for a lock that all others take.
const SHARDS: usize = 64;

/// The feeds of the builds that are followed here: one each, from the first tail to the last.
pub(super) struct Hub {
    store: Arc<Store>,
    interval: Duration,
    metrics: Arc<Metrics>,
    shards: [Shard; SHARDS],
    hasher: RandomState,
}

#[derive(Default)]
struct Shard {
    /// The number of feeds, to be read without the lock.
    len: AtomicUsize,
    /// Never held across an await.
    feeds: Mutex<HashMap<BuildId, Followed>>,
}

struct Followed {
    feed: Arc<Feed>,
    followers: usize,
}

impl Hub {
    /// Feeds look at their logs each `interval`.
    pub(super) fn new(store: Arc<Store>, interval: Duration, metrics: Metrics) -> Arc<Self> {
        Arc::new(Hub {
            store,
            interval,
            metrics: Arc::new(metrics),
            shards: array::from_fn(|_| Shard::default()),
            hasher: RandomState::new(),
        })
    }

    /// Takes part in following a build.
    pub(super) fn follow(self: &Arc<Self>, build: &BuildId) -> Follower {
        let shard = self.shard(build);
        let mut feeds = shard.lock();
        let followed = feeds.entry(build.clone()).or_insert_with(|| {
            shard.len.fetch_add(1, Ordering::Release);
            self.metrics.followed.inc();
            let (store, metrics) = (self.store.clone(), self.metrics.clone());
            Followed {
                feed: Arc::new(Feed::open(store, build.clone(), self.interval, metrics)),
                followers: 0,
            }
        });
        followed.followers += 1;
        self.metrics.tails.inc();
        Follower {
            feed: followed.feed.clone(),
            build: build.clone(),
            hub: self.clone(),
        }
    }

    /// Something was appended: whoever follows the build looks at once. Next to nothing if nobody does.
    pub(super) fn wake(&self, build: &BuildId) {
        let shard = self.shard(build);
        if shard.len.load(Ordering::Acquire) > 0
            && let Some(followed) = shard.lock().get(build)
        {
            followed.feed.wake();
        }
    }

    fn shard(&self, build: &BuildId) -> &Shard {
        let hash = self.hasher.hash_one(build);
        // The remainder is below SHARDS.
        &self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or(0)]
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, HashMap<BuildId, Followed>> {
        // Nothing that is done under it can panic halfway.
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who follows a build. The last one that is dropped ends its feed.
pub(super) struct Follower {
    feed: Arc<Feed>,
    build: BuildId,
    hub: Arc<Hub>,
}

impl Follower {
    /// The build.
    pub(super) fn build(&self) -> &BuildId {
        &self.build
    }

    /// Its feed.
    pub(super) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// What is counted.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.hub.metrics
    }

    /// Where its log is kept.
    pub(super) fn store(&self) -> &Store {
        &self.hub.store
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.hub.metrics.tails.dec();
        let shard = self.hub.shard(&self.build);
        let mut feeds = shard.lock();
        if let Some(followed) = feeds.get_mut(&self.build) {
            followed.followers -= 1;
            if followed.followers == 0 {
                feeds.remove(&self.build);
                shard.len.fetch_sub(1, Ordering::Release);
                self.hub.metrics.followed.dec();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build_logs::testing;

    impl Hub {
        fn len(&self) -> usize {
            self.shards.iter().map(|shard| shard.lock().len()).sum()
        }
    }

    #[tokio::test]
    async fn the_last_follower_ends_the_feed() {
        let metrics = Metrics::new(&prometheus::Registry::new());
        let hub = Hub::new(Arc::new(testing::unreachable()), Duration::from_millis(250), metrics);
        let counted = || (hub.metrics.tails.get(), hub.metrics.followed.get());
        let builds: Vec<BuildId> = (0..200).map(|n| BuildId(format!("b{n}").into())).collect();
        let followers: Vec<Follower> = builds.iter().map(|build| hub.follow(build)).collect();
        let more: Vec<Follower> = builds.iter().map(|build| hub.follow(build)).collect();
        assert_eq!((hub.len(), counted()), (builds.len(), (400, 200)));
        assert!(Arc::ptr_eq(&followers[7].feed, &more[7].feed));
        let feed = Arc::downgrade(&followers[7].feed);
        drop(followers);
        assert_eq!((hub.len(), counted()), (builds.len(), (200, 200)));
        hub.wake(&builds[7]);
        drop(more);
        assert_eq!((hub.len(), counted()), (0, (0, 0)));
        assert!(feed.upgrade().is_none());
        assert!(hub.shards.iter().all(|shard| shard.len.load(Ordering::Acquire) == 0));
        hub.wake(&builds[7]);
    }
}
