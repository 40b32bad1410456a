//! What can become of a command, sorted by what it says about the data.

use super::slot::Address;

/// Why a command has no result.
///
/// [`Error::leaves_doubt`] says after which of them a change may stand in Redis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Redis answered with an error: nothing was changed.
    #[error("redis refused: {0}")]
    Reply(Reply),
    /// Nothing was executed, or nothing that changes data: the server cannot be reached, the connection was lost, or the
    /// breaker is open.
    #[error("redis is unavailable")]
    Unavailable,
    /// Not sent: too many commands are in flight to this server.
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

impl Error {
    /// Whether a change that failed so may stand: it was sent, and no answer says what became of it.
    pub fn leaves_doubt(&self) -> bool {
        matches!(self, Error::Unknown | Error::Protocol(_))
    }

    /// Whether what failed may succeed when it is tried again, where that is safe: a change may stand after [`Error::Unknown`].
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Error::Unavailable
                | Error::Overloaded
                | Error::Timeout
                | Error::Unknown
                | Error::Reply(Reply::NotServing(_) | Reply::Elsewhere(_) | Reply::NoScript)
        )
    }
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
    /// Read-only replica, loading, a primary that is away, a cluster that is down: passes by itself. The error's code.
    #[error("not serving: {0}")]
    NotServing(&'static str),
    /// Another server of the cluster has the key: the endpoint asks there.
    #[error("another server has the key")]
    Elsewhere(Redirect),
    /// The server does not know the script; it is loaded and sent again.
    #[error("no such script")]
    NoScript,
    /// Anything else, by the error's code alone (the text may hold keys or values).
    #[error("{0}")]
    Other(String),
}

/// Where a server of a cluster sends who asks for a key that it does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// For this one command, since the slot is on the move; else for good.
    pub(super) ask: bool,
    pub(super) to: Address,
}

impl Redirect {
    /// Reads `MOVED slot host:port` and `ASK slot host:port`.
    fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (code, address) = (words.next()?, words.nth(1)?);
        let (host, port) = address.rsplit_once(':')?;
        Some(Redirect {
            ask: code == "ASK",
            to: Address::new(host, port.parse().ok()?),
        })
    }
}

/// Codes of errors that pass by themselves, as Redis 6.2 to 7 and Valkey name them.
const NOT_SERVING: &[&str] = &[
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "BUSY",
    "MISCONF",
    "NOREPLICAS",
    "UNBLOCKED",
];

impl Reply {
    /// Sorts an error reply to `command` by its text, which is not kept.
    pub(super) fn classify(command: &'static str, text: &str) -> Self {
        // Redis 6.2 wraps an error inside a script in one of its own.
        let text = match text.strip_prefix("ERR Error running script") {
            Some(rest) => rest
                .split_whitespace()
                .position(|word| word == "WRONGTYPE" || word == "OOM" || word == "READONLY")
                .and_then(|n| rest.split_whitespace().nth(n))
                .unwrap_or(text),
            None => text,
        };
        let code = text.split(' ').next().unwrap_or_default();
        match code {
            "WRONGTYPE" => Reply::WrongType,
            "OOM" => Reply::OutOfMemory,
            "NOPERM" | "NOAUTH" | "WRONGPASS" => Reply::Denied(command),
            "NOSCRIPT" => Reply::NoScript,
            "MOVED" | "ASK" => Redirect::read(text).map_or(Reply::NotServing("MOVED"), Reply::Elsewhere),
            // How Redis 7.0 and later tell of a command denied inside a script.
            _ if text.contains("can't run this command") || text.contains("ACL failure in script") => {
                Reply::Denied(command)
            }
            _ => match NOT_SERVING.iter().find(|known| **known == code) {
                Some(known) => Reply::NotServing(known),
                None if code.is_empty() || code.bytes().any(|b| !b.is_ascii_uppercase()) => {
                    Reply::Other("ERR".to_owned())
                }
                None => Reply::Other(code.to_owned()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_sorted_by_code_and_lose_their_text() {
        let elsewhere = |ask, host| {
            Reply::Elsewhere(Redirect {
                ask,
                to: Address::new(host, 6381),
            })
        };
        let cases = [
            ("WRONGTYPE Operation against a key", Reply::WrongType),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                Reply::OutOfMemory,
            ),
            ("NOPERM this user has no permissions", Reply::Denied("GET")),
            (
                "READONLY You can't write against a read only replica.",
                Reply::NotServing("READONLY"),
            ),
            (
                "LOADING Redis is loading the dataset in memory",
                Reply::NotServing("LOADING"),
            ),
            ("NOSCRIPT No matching script.", Reply::NoScript),
            ("MOVED 3999 127.0.0.1:6381", elsewhere(false, "127.0.0.1")),
            ("ASK 3999 ::1:6381", elsewhere(true, "::1")),
            ("MOVED 3999 :6381", elsewhere(false, "")),
            ("MOVED", Reply::NotServing("MOVED")),
            ("ERR value is not an integer: secret", Reply::Other("ERR".to_owned())),
            ("secret text without a code", Reply::Other("ERR".to_owned())),
            (
                "ERR Error running script (call to f_ab): @user_script:1: WRONGTYPE Operation against",
                Reply::WrongType,
            ),
            (
                "ERR The user executing the script can't run this command or subcommand script: ab",
                Reply::Denied("GET"),
            ),
        ];
        for (text, reply) in cases {
            assert_eq!(Reply::classify("GET", text), reply, "{text}");
        }
    }
}
