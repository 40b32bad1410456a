//! User events in Redis: channels and commands.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::deadline::Deadline;
use crate::json;
use crate::redis::{Endpoint, Error, Subscriber, command};

/// The channel of a user's event. Names are taken as they are: who names a user `a/events/b` is heard by those who do too.
pub(super) fn channel(username: &str, event_id: &str) -> Bytes {
    format!("user/{username}/events/{event_id}").into()
}

/// Whether a payload is an event: JSON, and not one of the values that Python takes for false. The reference leaves out all else.
pub(super) fn is_event(payload: &[u8]) -> bool {
    json::normalize(payload).is_ok_and(|json| !json::is_empty_value(&json))
}

/// The events on one endpoint.
pub(super) struct Store {
    endpoint: Arc<Endpoint>,
}

impl Store {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Store { endpoint }
    }

    /// The limit of one command.
    pub(super) fn timeout(&self) -> Duration {
        self.endpoint.command_timeout()
    }

    /// `PUBLISH channel payload`: how many subscribers got it.
    pub(super) async fn publish(&self, channel: Bytes, payload: Bytes, by: Deadline) -> Result<i64, Error> {
        self.endpoint.primary(command::publish(channel, payload), by).await
    }

    /// A connection for subscriptions.
    pub(super) fn subscriber(&self) -> Subscriber {
        self.endpoint.subscriber()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_those_of_the_recording() {
        assert_eq!(channel("devtable", "docker-cli"), "user/devtable/events/docker-cli");
        assert_eq!(channel("a/b*é", "x y"), "user/a/b*é/events/x y");
    }

    #[test]
    fn what_the_reference_leaves_out_is_no_event() {
        for event in [
            r#"{"action": "login"}"#,
            "[1]",
            "\"text\"",
            " [0] ",
            "1",
            "true",
            "-1.5",
        ] {
            assert!(is_event(event.as_bytes()), "{event}");
        }
        for other in [
            "",
            "{not json",
            "{}",
            " [ ] ",
            "0",
            "0.0",
            "-0",
            "\"\"",
            "null",
            "false",
            "\u{feff}1",
        ] {
            assert!(!is_event(other.as_bytes()), "{other}");
        }
    }
}
