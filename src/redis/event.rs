//! What a subscriber hears.

use bytes::Bytes;
use fred::types::{KeyspaceEvent, Message, Value};

/// What a subscriber hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The connection was lost; it is made again by itself.
    Lost,
    /// Something was published.
    Message {
        /// The channel's name.
        channel: Bytes,
        /// The payload.
        payload: Bytes,
    },
    /// The connection was lost and the channels are subscribed to again: what was published in between is missing.
    Reconnected,
    /// The gateway was too slow for the connection: so many messages are missing.
    Dropped(u64),
    /// What was published before [`Subscriber::mark`](super::Subscriber::mark) was asked for this number has been told. Never comes if the connection is
    /// lost before.
    Mark(u64),
}

impl Event {
    /// Of a message; none of what Redis never publishes, since it publishes strings alone.
    pub(super) fn of(message: Message) -> Option<Self> {
        let payload = match message.value {
            Value::Bytes(bytes) => bytes,
            Value::String(text) => text.into_inner(),
            _ => return None,
        };
        let channel = Bytes::copy_from_slice(message.channel.as_bytes());
        Some(Event::Message { channel, payload })
    }

    /// Of a notification, put together again as Redis sent it: the library has taken it apart.
    pub(super) fn of_key(event: KeyspaceEvent) -> Self {
        let mut channel = format!("__keyspace@{}__:", event.db).into_bytes();
        channel.extend_from_slice(event.key.as_bytes());
        Event::Message {
            channel: channel.into(),
            payload: event.operation.into(),
        }
    }
}
