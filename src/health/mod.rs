//! Health (contract, section 10): each endpoint on its own, so that a failing cache does not take the locks out.
//!
//! What is served is the last thing known: asking for it never reaches Redis.

mod monitor;
mod store;

pub use monitor::{Followed, Monitor};
