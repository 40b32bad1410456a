//! What runs around every RPC, once, outside of all patterns.

mod call;
mod method;

pub use call::{Call, Caller, Degraded};
pub use method::{METHODS, Method};
