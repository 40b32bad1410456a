//! Locks (contract, section 8): a string with its holder's id for each lock, a list that wakes who waits for it, on the `locks`
//! endpoint or on that of user events.
//!
//! A call is parsed by `service`, and carried out by `store` for `desk`, which has all that the pattern keeps going. Who waits
//! stands in `waiters`, where one blocking connection listens to the signals of all locks that are waited for; `acquiring` is one
//! who asks and waits, and gives up what nobody takes. `hold` is a stream that keeps a lock, by a task in `keeper`.

mod acquiring;
mod desk;
mod forms;
mod hold;
mod keeper;
mod metrics;
mod needs;
mod operator;
mod service;
mod store;
mod waiters;

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use desk::Locks;
pub use forms::FORMS;
pub use needs::needs;
pub use operator::{Lock, Operator};
pub use service::Service;

use crate::key;

/// The longest name of a lock, in bytes.
const MAX_NAME: usize = 1_024;
/// The longest id of a holder, in bytes: others than gateways may make them as they like.
const MAX_HOLDER: usize = 255;
/// The digits of base64, in their order.
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A lock's name: not empty, no NUL, at most [`MAX_NAME`] bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Checks a name as a caller gives it.
    pub fn parse(name: &str) -> Result<Self, key::Error> {
        key::check(name, MAX_NAME)?;
        Ok(Name(name.into()))
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Without the name: it is part of a key.
impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Name(…)")
    }
}

/// A holder's id.
#[derive(Clone, PartialEq, Eq)]
pub struct Holder(Arc<str>);

impl Holder {
    /// An id that nobody else has: base64 of 18 random bytes, as python-redis-lock makes it.
    fn random() -> Self {
        let digits: String = rand::random::<[u8; 18]>()
            .chunks(3)
            .flat_map(|three| {
                let bits = three.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
                [18, 12, 6, 0].map(|at| char::from(BASE64[bits >> at & 63]))
            })
            .collect();
        Holder(digits.into())
    }

    /// Checks the id of one who is to hold a lock: it has the form that all holders' ids have.
    fn parse_new(id: &str) -> Option<Self> {
        (id.len() == 24 && id.bytes().all(|digit| BASE64.contains(&digit))).then(|| Holder(id.into()))
    }

    /// Checks the id of one who holds a lock.
    pub fn parse(id: &str) -> Result<Self, key::Error> {
        key::check(id, MAX_HOLDER)?;
        Ok(Holder(id.into()))
    }
}

/// Whoever has it may release the lock.
impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Holder(…)")
    }
}

/// What asks for a lock in a holder's name: a call or a stream. The one that got it, or took it up, may give it up, until its holder
/// asks for it again: one whose caller is gone cannot release what the same holder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session(u64);

impl Session {
    fn random() -> Self {
        Session(rand::random())
    }
}

/// A time to live in whole seconds, as the protocol counts; 0: without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ttl(u64);

impl Ttl {
    /// At least so many milliseconds.
    fn of_millis(millis: u64) -> Self {
        Ttl(millis.div_ceil(1_000))
    }

    fn length(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

/// A fencing token, larger than that of every acquisition before. 0: the holder came by no gateway.
type Token = i64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_ids_have_the_form_of_python_redis_lock() {
        let ids: Vec<Holder> = (0..100).map(|_| Holder::random()).collect();
        for id in &ids {
            assert_eq!(Holder::parse_new(&id.0).as_ref(), Some(id), "{}", id.0);
        }
        assert!(ids.iter().any(|id| *id != ids[0]));
        let used: std::collections::HashSet<u8> = ids.iter().flat_map(|id| id.0.bytes()).collect();
        assert_eq!(used.len(), 64, "all digits are used");
        for bad in [
            "",
            "x",
            &"A".repeat(23),
            &"A".repeat(25),
            &"-".repeat(24),
            &"é".repeat(12),
        ] {
            assert_eq!(Holder::parse_new(bad), None, "{bad}");
        }
    }

    #[test]
    fn lives_are_rounded_up_to_seconds() {
        let seconds = |millis| Ttl::of_millis(millis).0;
        assert_eq!([0, 1, 999, 1_000, 1_001].map(seconds), [0, 1, 1, 1, 2]);
    }
}
