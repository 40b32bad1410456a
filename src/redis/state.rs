//! What callers may expect of a server, and since when.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::config::Server;

/// What callers may expect of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Connected and answering.
    Up,
    /// Being connected, for at most a moment: calls wait.
    Connecting,
    /// Not there: calls are refused at once. This is the open breaker; only the task that connects tries the server.
    Down,
}

/// A server as it is seen now, for operators.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What it is called in metrics, such as `primary` or `replica-0`.
    pub label: String,
    /// The server.
    pub server: Server,
    /// What callers may expect of it.
    pub state: State,
    /// Since when.
    pub since: SystemTime,
}

/// The state of a server, with its latest change.
pub(super) struct Course {
    state: watch::Sender<State>,
    since: ArcSwap<SystemTime>,
}

impl Course {
    /// Begins with [`State::Connecting`].
    pub(super) fn begin() -> Self {
        Course {
            state: watch::channel(State::Connecting).0,
            since: ArcSwap::from_pointee(SystemTime::now()),
        }
    }

    /// The next state; nothing if it is the same.
    pub(super) fn enter(&self, state: State) {
        self.state.send_if_modified(|current| {
            let changed = *current != state;
            if changed {
                self.since.store(Arc::new(SystemTime::now()));
                *current = state;
            }
            changed
        });
    }

    /// The state now.
    pub(super) fn now(&self) -> State {
        *self.state.borrow()
    }

    /// Since when it is what it is.
    pub(super) fn since(&self) -> SystemTime {
        **self.since.load()
    }

    /// The state, and its changes.
    pub(super) fn follow(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}
