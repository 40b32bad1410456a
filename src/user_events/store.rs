//! User events in Redis: channels and commands.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::metrics::Published;
use crate::deadline::Deadline;
use crate::json;
use crate::redis::command::{self, Command, Once};
use crate::redis::{Endpoint, Error, Subscriber};

/// The channel of a user's event. Names are taken as they are: who names a user `a/events/b` is heard by those who do too.
pub(super) fn channel(username: &str, event_id: &str) -> Bytes {
    format!("user/{username}/events/{event_id}").into()
}

/// An event on its way.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) channel: Bytes,
    /// JSON in the form of Python's `json.dumps`.
    pub(super) payload: Bytes,
}

/// Whether a payload is an event: JSON, and not one of the values that Python takes for false. The reference leaves out all else.
pub(super) fn is_event(payload: &[u8]) -> bool {
    json::normalize(payload).is_ok_and(|json| !json::is_empty_value(&json))
}

/// Events of one batch that are in flight at once: batches must not crowd out each other, nor who publishes a single one.
const AT_ONCE: usize = 128;

/// The events on one endpoint.
pub(super) struct Store {
    endpoint: Arc<Endpoint>,
    published: Published,
}

impl Store {
    pub(super) fn new(endpoint: Arc<Endpoint>, published: Published) -> Self {
        Store { endpoint, published }
    }

    /// The limit of one command.
    pub(super) fn timeout(&self) -> Duration {
        self.endpoint.command_timeout()
    }

    /// `PUBLISH channel payload`: how many subscribers got it.
    pub(super) async fn publish(&self, event: Event, by: Deadline) -> Result<i64, Error> {
        let result = self.endpoint.primary(publish(event), by).await;
        self.published.count(&result);
        result
    }

    /// A `PUBLISH` for each event, in their order, in pipelines of so many at a time: how many subscribers got each. Where Redis is
    /// away for one pipeline, or does not say what became of it, none comes after it, so that who sends again what was not published
    /// keeps the order.
    pub(super) async fn publish_all(&self, events: Vec<Event>, by: Deadline) -> Vec<Result<i64, Error>> {
        let mut results = Vec::with_capacity(events.len());
        let mut events = events.into_iter().map(publish).peekable();
        while events.peek().is_some() {
            let away = match results.last() {
                Some(Err(away @ (Error::Unavailable | Error::Timeout | Error::Overloaded))) => Some(away.clone()),
                // What comes after it was not sent, which is known.
                Some(Err(Error::Unknown)) => Some(Error::Unavailable),
                _ => None,
            };
            let told: Vec<_> = match away {
                Some(away) => events.by_ref().map(|_| Err(away.clone())).collect(),
                None => self.endpoint.batch(events.by_ref().take(AT_ONCE).collect(), by).await,
            };
            for result in &told {
                self.published.count(result);
            }
            results.extend(told);
        }
        results
    }

    /// A connection for subscriptions.
    pub(super) fn subscriber(&self) -> Subscriber {
        self.endpoint.subscriber()
    }
}

fn publish(event: Event) -> Command<Once, i64> {
    command::publish(event.channel, event.payload)
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
