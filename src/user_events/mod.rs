//! User events (contract, section 2): what a user's own sessions are told, by channels on the `user_events` endpoint.
//!
//! One subscription connection serves all listeners of a gateway: the `hub` hands each message to those who listen, whose `queue`
//! keeps what they have not taken yet.

mod events;
mod hub;
mod listener;
mod metrics;
mod needs;
mod queue;
mod service;
mod store;

pub use events::Events;
pub use needs::needs;
pub use service::Service;

/// The longest user name, and the longest event id, in bytes.
const MAX_PART: usize = 255;
