//! The content tracker (contract, section 7): whether a user whose permission was revoked may still read a repository, by the
//! times of two marks, on the primary of the `cache` endpoint.

mod forms;
mod needs;
mod scattered;
mod service;
mod store;

pub use forms::FORMS;
pub use needs::needs;
pub use service::Service;

use crate::key;

/// The longest namespace and the longest name of a repository, in bytes.
const MAX_PART: usize = 255;

/// A part of a repository's name, in the keys: not empty, no NUL, at most [`MAX_PART`] bytes.
struct Part(String);

impl Part {
    /// Checks a part as a caller gives it.
    fn parse(part: String) -> Result<Self, key::Error> {
        key::check(&part, MAX_PART)?;
        Ok(Part(part))
    }
}

/// A repository.
struct Repository {
    namespace: Part,
    name: Part,
}

/// A user's id, above 0.
#[derive(Clone, Copy)]
struct UserId(i64);

impl UserId {
    /// Checks an id as a caller gives it.
    fn parse(id: i64) -> Option<Self> {
        (id > 0).then_some(UserId(id))
    }
}
