//! Health (contract, section 10): each endpoint on its own, so that a failing cache does not take the locks out.
//!
//! What is served is the last thing known: asking for it never reaches Redis.

mod forms;
mod monitor;
mod needs;
mod store;

pub use forms::FORMS;
pub use monitor::{Followed, Monitor};
pub use needs::needs;
