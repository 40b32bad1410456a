//! Who listens to which channel, and the one connection that serves them all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio_util::task::AbortOnDropHandle;

use super::metrics::Metrics;
use super::queue::{Gap, Queue};
use super::store::is_event;
use crate::redis::{Event, Subscriber};

/// The listeners of a gateway. Its task lives as long as it does.
pub(super) struct Hub {
    subscriber: Subscriber,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    /// Guards who listens. Held to find and fill queues, never across a wait.
    listening: Mutex<Listening>,
    /// Whether the connection is lost just now.
    lost: AtomicBool,
    metrics: Metrics,
}

#[derive(Default)]
struct Listening {
    next: u64,
    listeners: HashMap<u64, Arc<Queue>>,
    channels: HashMap<Bytes, Vec<Ear>>,
}

/// One who listens to a channel.
struct Ear {
    listener: u64,
    /// The place of the event among those that it listens to.
    event: usize,
    queue: Arc<Queue>,
}

impl Hub {
    pub(super) fn new(subscriber: Subscriber, metrics: Metrics) -> Arc<Self> {
        let shared = Arc::new(Shared {
            listening: Mutex::default(),
            lost: AtomicBool::new(false),
            metrics,
        });
        let events = subscriber.events();
        Arc::new(Hub {
            subscriber,
            _task: AbortOnDropHandle::new(tokio::spawn(hear(shared.clone(), events))),
            shared,
        })
    }

    /// The subscriptions.
    pub(super) fn subscriber(&self) -> &Subscriber {
        &self.subscriber
    }

    /// Whether the connection is lost just now.
    pub(super) fn is_lost(&self) -> bool {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Fills `queue` with what is heard on `channels`, until [`Hub::leave`] is told the number that this answers.
    pub(super) fn enter(&self, channels: &[Bytes], queue: &Arc<Queue>) -> u64 {
        let mut listening = self.shared.lock();
        let listener = listening.next;
        listening.next += 1;
        listening.listeners.insert(listener, queue.clone());
        for (event, channel) in channels.iter().enumerate() {
            let ear = Ear {
                listener,
                event,
                queue: queue.clone(),
            };
            listening.channels.entry(channel.clone()).or_default().push(ear);
        }
        self.shared.count(&listening);
        listener
    }

    /// Ends what [`Hub::enter`] began.
    pub(super) fn leave(&self, listener: u64, channels: &[Bytes]) {
        let mut listening = self.shared.lock();
        listening.listeners.remove(&listener);
        for channel in channels {
            if let Some(ears) = listening.channels.get_mut(channel) {
                ears.retain(|ear| ear.listener != listener);
                if ears.is_empty() {
                    listening.channels.remove(channel);
                }
            }
        }
        self.shared.count(&listening);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Listening> {
        // Nothing that is done under it can panic halfway.
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, listening: &Listening) {
        let number = |n| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.listeners.set(number(listening.listeners.len()));
        self.metrics.channels.set(number(listening.channels.len()));
    }

    fn event(&self, channel: &Bytes, payload: &Bytes) {
        // Once for all who listen.
        if !is_event(payload) {
            return;
        }
        let listening = self.lock();
        let (mut delivered, mut dropped) = (0, 0);
        for ear in listening.channels.get(channel).into_iter().flatten() {
            dropped += ear.queue.event(ear.event, payload.clone());
            delivered += 1;
        }
        self.metrics.delivered.inc_by(delivered);
        self.metrics.dropped.inc_by(dropped);
    }

    fn gap(&self, gap: Gap) {
        for queue in self.lock().listeners.values() {
            queue.gap(gap);
            match gap {
                Gap::Overloaded(_) => self.metrics.overloaded.inc(),
                _ => self.metrics.lost.inc(),
            }
        }
    }
}

/// Hands out what is heard, for as long as the hub lives.
async fn hear(shared: Arc<Shared>, mut events: broadcast::Receiver<Event>) {
    loop {
        match events.recv().await {
            Ok(Event::Message { channel, payload }) => shared.event(&channel, &payload),
            Ok(Event::Lost) => shared.lost.store(true, Ordering::Relaxed),
            Ok(Event::Reconnected) => {
                shared.lost.store(false, Ordering::Relaxed);
                shared.gap(Gap::ConnectionLost);
            }
            Ok(Event::Dropped(missed)) | Err(broadcast::error::RecvError::Lagged(missed)) => {
                shared.gap(Gap::Overloaded(missed));
            }
            // Nobody here asks for one.
            Ok(Event::Mark(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}
