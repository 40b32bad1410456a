//! What can become of a command, sorted by what it says about the data.

/// Why a command has no result.
///
/// [`Error::Unknown`] is the only one after which a change may stand in Redis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Redis answered with an error: nothing was changed.
    #[error("redis refused: {0}")]
    Reply(Reply),
    /// Not executed: the server cannot be reached, or the breaker is open.
    #[error("redis is unavailable")]
    Unavailable,
    /// Not sent: too many commands are in flight to this endpoint.
    #[error("too many commands in flight")]
    Overloaded,
    /// No answer in time, and nothing was changed.
    #[error("no answer from redis in time")]
    Timeout,
    /// A change was sent and not answered: it may or may not stand.
    #[error("sent, outcome unknown")]
    Unknown,
    /// The answer has another form than the command's: a server that speaks another dialect.
    #[error("unexpected reply to {0}")]
    Protocol(&'static str),
}

/// An error reply of the server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reply {
    /// The key holds another type.
    #[error("the key holds another type")]
    WrongType,
    /// No memory left for the change.
    #[error("out of memory")]
    OutOfMemory,
    /// The gateway's user may not run this command, or not on this key.
    #[error("not permitted to run {0}")]
    Denied(&'static str),
    /// Read-only replica, loading, a primary that is away, a cluster that is down: passes by itself.
    #[error("not serving: {0}")]
    NotServing(&'static str),
    /// Anything else, by the error's code alone (the text may hold keys or values).
    #[error("{0}")]
    Other(String),
}
