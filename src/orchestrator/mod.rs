//! The orchestrator (contract, section 9): keys of build managers, and watches on them, on the `orchestrator` endpoint.
//!
//! A call is parsed by `service` and carried out by `store`; an `event` is what managers tell each other. One subscription
//! connection serves all who watch here: the `hub` hands what is heard to their `queue`s, and `watch` is one stream, which knows
//! what it has told and makes up the difference. Keys that expire are known by their `dues` to `expiry`, which touches them in time
//! and gives each to one who watches, by a claim in `claims`; `sweep` finds what was missed.

mod claims;
mod desk;
mod dues;
mod event;
mod expiry;
mod forms;
mod hub;
mod metrics;
mod needs;
mod queue;
mod service;
mod store;
mod sweep;
mod watch;

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

pub use desk::Orchestrator;
pub use forms::FORMS;
pub use needs::needs;
pub use service::Service;

use crate::key;
use crate::redis::{Error, Reply};

/// The longest key, and the longest prefix, in bytes.
const MAX_KEY: usize = 1_024;

/// A key: not empty, no NUL, at most [`MAX_KEY`] bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key(Arc<str>);

impl Key {
    /// Checks a key as a caller gives it.
    fn parse(key: &str) -> Result<Self, key::Error> {
        key::check(key, MAX_KEY)?;
        Ok(Key(key.into()))
    }

    /// A key as it stands in Redis. None: no key of this pattern.
    fn read(key: &[u8]) -> Option<Self> {
        Key::parse(std::str::from_utf8(key).ok()?).ok()
    }

    fn as_str(&self) -> &str {
        &self.0
    }

    fn is_under(&self, prefix: &Prefix) -> bool {
        self.0.starts_with(&*prefix.0)
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Without the key.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// What keys begin with.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Prefix(Arc<str>);

impl Prefix {
    /// Checks a prefix as a caller gives it.
    fn parse(prefix: &str) -> Result<Self, key::Error> {
        key::check(prefix, MAX_KEY)?;
        Ok(Prefix(prefix.into()))
    }

    /// That of all keys.
    fn all() -> Self {
        Prefix("".into())
    }
}

/// Without the prefix.
impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prefix(…)")
    }
}

/// What names the claim of one client on one expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ClaimId(u64);

impl ClaimId {
    fn random() -> Self {
        ClaimId(rand::random())
    }

    fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(ClaimId)
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Whether what failed may succeed when it is tried again: memory may be there by then, too.
fn passes(error: &Error) -> bool {
    error.is_transient() || *error == Error::Reply(Reply::OutOfMemory)
}
