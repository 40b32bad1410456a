//! One who listens: pulled by its caller, without a task of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::time::timeout;

use super::hub::Hub;
use super::queue::{Item, Queue};
use super::store;
use crate::deadline::{Deadline, jittered};
use crate::redis::{Error, Subscription};

/// A listener to some events of a user.
pub(super) struct Listener {
    place: Place,
    events: Vec<String>,
    heartbeat: Duration,
    _subscriptions: Vec<Subscription>,
}

/// A place in the hub, given back when it is dropped.
struct Place {
    hub: Arc<Hub>,
    listener: u64,
    channels: Vec<Bytes>,
    queue: Arc<Queue>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hub.leave(self.listener, &self.channels);
    }
}

/// What a listener is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Something was heard, or may be missing.
    Item(Item),
    /// Nothing came for a while; whether the connection is lost.
    Heartbeat { lost: bool },
}

impl Listener {
    /// Listens to `events` of a user, each named once: from when this answers on, nothing is missed without a gap.
    pub(super) async fn open(
        hub: &Arc<Hub>,
        username: &str,
        events: Vec<String>,
        heartbeat: Duration,
        by: Deadline,
    ) -> Result<Self, Error> {
        let channels: Vec<Bytes> = events.iter().map(|event| store::channel(username, event)).collect();
        let queue = Arc::new(Queue::default());
        // Before Redis confirms, so that nothing is missed from then on.
        let listener = hub.enter(&channels, &queue);
        let place = Place {
            hub: hub.clone(),
            listener,
            channels,
            queue,
        };
        let subscribe = |channel: &Bytes| hub.subscriber().subscribe(channel.clone(), by);
        let subscriptions = try_join_all(place.channels.iter().map(subscribe)).await?;
        place.queue.forget_gaps();
        Ok(Listener {
            place,
            events,
            heartbeat,
            _subscriptions: subscriptions,
        })
    }

    /// What comes next. Waits until there is something, at most for the time of a heartbeat.
    pub(super) async fn next(&mut self) -> Told {
        let beat = jittered(self.heartbeat);
        timeout(beat, self.place.queue.next()).await.map_or_else(
            |_| Told::Heartbeat {
                lost: self.place.hub.is_lost(),
            },
            Told::Item,
        )
    }

    /// The event at a place among those listened to.
    pub(super) fn event(&self, place: usize) -> &str {
        self.events.get(place).map_or("", String::as_str)
    }
}
