//! Redis, by endpoint: the only place that names the client library.
//!
//! An [`Endpoint`] runs a [`Command`], a pipeline or a pinned [`Script`] by a deadline. Under it, a `Link` to each server
//! makes a `Connection`, probes it, and replaces it when it dies; the library's own reconnecting, repeating and timing out is
//! switched off, since it repeats what must not be repeated and misses what is dead.

mod backoff;
mod beside;
mod blocking;
mod cluster;
pub mod command;
mod connection;
mod endpoint;
mod error;
mod event;
mod info;
mod library;
mod link;
mod metrics;
mod position;
mod pubsub;
mod replication;
mod reply;
mod rights;
mod script;
mod shard;
mod slot;
mod span;
mod state;
mod tls;
mod tracking;
mod visit;

pub use beside::Beside;
pub use blocking::Blocking;
pub use command::{Command, Existing, Once, Repeatable};
pub use connection::CONNECTION_NAME;
pub use endpoint::{Endpoint, Fresh};
pub use error::{Error, Redirect, Reply};
pub use event::Event;
pub use info::Info;
pub use metrics::Metrics;
pub use position::{Freshness, Position};
pub use pubsub::{Subscriber, Subscription};
pub use reply::FromReply;
pub use rights::{Subject, Tried};
pub use script::Script;
pub(crate) use script::script;
pub use slot::slot;
pub use state::{Seen, State};
pub use tracking::{Heard, Tracking};
pub use visit::{Member, Part, Unreached, Visit, members};
