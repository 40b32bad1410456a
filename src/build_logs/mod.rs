//! Build logs (contract, section 1): a list of entries and a status for each build, on the `build_logs` endpoint.
//!
//! A call is parsed by `service`, carried out by `store`, and, if it follows a log, served by `tail`: one `feed` for each build
//! that is followed here, kept in the `hub`, looks at the list for all tails of that build. What a look means is decided by
//! `known`, what a tail does about it by `position`; neither asks or waits for anything.

mod entry;
mod feed;
mod forms;
mod hub;
mod known;
mod logs;
mod metrics;
mod needs;
mod position;
mod recent;
mod service;
mod store;
mod tail;
#[cfg(test)]
mod testing;

use std::fmt;
use std::sync::Arc;

pub use forms::FORMS;
pub use logs::Logs;
pub use needs::needs;
pub use service::Service;

use crate::key;

/// The longest build id, in bytes.
const MAX_BUILD_ID: usize = 1_024;

/// A build's id: not empty, no NUL, at most [`MAX_BUILD_ID`] bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
struct BuildId(Arc<str>);

impl BuildId {
    /// Checks an id as a caller gives it.
    fn parse(id: &str) -> Result<Self, key::Error> {
        key::check(id, MAX_BUILD_ID)?;
        Ok(BuildId(id.into()))
    }

    fn as_str(&self) -> &str {
        &self.0
    }
}

/// Without the id: it is part of a key.
impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BuildId(…)")
    }
}

#[cfg(test)]
mod tests;
