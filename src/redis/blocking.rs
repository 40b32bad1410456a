//! Commands that block, on a connection of their own, so that nothing waits behind them.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::beside::Count;
use super::command;
use super::connection::{Connection, Role};
use super::error::Error;
use crate::config;
use crate::deadline::Deadline;

/// The longest that one `BLPOP` is armed: how long a dead connection may go unnoticed.
const SLICE: Duration = Duration::from_secs(1);

/// Left for the answer before the deadline: given up while it is on its way, an element would be lost with it. Redis looks
/// for waits that ran out ten times a second.
const MARGIN: Duration = Duration::from_millis(150);

/// One blocking wait at a time, on one connection.
///
/// A wait that is given up must not stay armed in Redis, where it would eat the next wake-up: its connection is closed then,
/// which Redis notices at once.
pub struct Blocking {
    config: config::Endpoint,
    count: Count,
    connection: Option<Connection>,
}

impl Blocking {
    pub(super) fn new(config: config::Endpoint, count: Count) -> Self {
        Blocking {
            config,
            count,
            connection: None,
        }
    }

    /// `BLPOP key …` in slices, until an element came or `deadline` is near, at most 150 ms (none then). The element is gone
    /// from its list once this answers; dropped before, it takes none with it unless one is on its way at that moment.
    pub async fn pop(&mut self, keys: &[Bytes], deadline: Deadline) -> Result<Option<(Bytes, Bytes)>, Error> {
        loop {
            let left = deadline.instant().saturating_duration_since(Instant::now());
            let wait = left.saturating_sub(MARGIN);
            // Redis takes a timeout of 0 for "without end", and counts in milliseconds.
            if wait < Duration::from_millis(1) {
                return Ok(None);
            }
            let slice = wait.min(SLICE);
            // Taken out while the wait is armed, and put back once it is not: dropping this future closes it.
            let connection = match self.connection.take().filter(|connection| !connection.has_ended()) {
                Some(connection) => connection,
                None => self.connect(deadline).await?,
            };
            let due = deadline.capped(slice + self.config.probe_timeout);
            let popped = connection.ask(command::blpop(keys, slice.as_secs_f64()), due).await;
            match popped {
                Ok(popped) => {
                    self.connection = Some(connection);
                    if popped.is_some() {
                        return Ok(popped);
                    }
                }
                Err(error @ Error::Reply(_)) => {
                    self.connection = Some(connection);
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn connect(&self, deadline: Deadline) -> Result<Connection, Error> {
        let open = Connection::open(&self.config.server, &self.config, Role::Commands);
        match tokio::time::timeout_at(deadline.instant(), open).await {
            Ok(Ok(connection)) => Ok(connection.counted(&self.count)),
            Ok(Err(_)) => Err(Error::Unavailable),
            Err(_) => Err(Error::Timeout),
        }
    }
}
