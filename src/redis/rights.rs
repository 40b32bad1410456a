//! What a user may do, tried out: after `MULTI` a server says of each command whether it would run it, and runs none before `EXEC`, which
//! is never sent.
//!
//! So what counts is what the server does, not how its rules are read; and no right to ask for rules is needed.

use bytes::Bytes;
use fred::types::Resp3Frame as Frame;
use futures_util::future::join_all;

use super::command::{self, Command, Repeatable};
use super::connection::CONNECTION_NAME;
use super::error::{Error, Reply};
use super::visit::Visit;
use crate::deadline::Deadline;

/// Commands that are on their way at once.
const AT_ONCE: usize = 32;

/// What stands for `*` in what a command is tried on.
const ANY: &str = "redis-gateway-doctor";

/// What a command is tried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// The server.
    Server,
    /// A key that matches this pattern.
    Key(&'a str),
    /// A channel that matches this pattern, or the pattern for `PSUBSCRIBE`.
    Channel(&'a str),
}

/// What came of trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// It would be run.
    Allowed,
    /// The user may not run the command.
    DeniedCommand,
    /// Not on this key.
    DeniedKey,
    /// Not on this channel.
    DeniedChannel,
    /// The server has no such command.
    Unknown,
}

impl Visit {
    /// Tries commands, by their names in ACL rules. None is run. [`Reply::Denied`]: the user may not run `MULTI`. The
    /// connection ends by it: what anybody asked on it would only be queued too.
    pub async fn attempt(self, commands: &[(&'static str, Subject<'_>)]) -> Result<Vec<Tried>, Error> {
        let limit = || Deadline::within(self.limit);
        self.connection.ask(command::multi(), limit()).await?;
        // What is between here and the server may not know transactions: nothing else is sent before one command was queued.
        let first = self.connection.reply(command::ping(), limit()).await?;
        if !queued(&first) && !matches!(first, Frame::SimpleError { .. }) {
            return Err(Error::Protocol("MULTI"));
        }
        let mut all = Vec::with_capacity(commands.len());
        for some in commands.chunks(AT_ONCE) {
            let replies = some.iter().map(|(name, subject)| async {
                let command = attempted(name, *subject);
                let name = command.name;
                read(name, &self.connection.reply(command, limit()).await?)
            });
            for tried in join_all(replies).await {
                all.push(tried?);
            }
        }
        Ok(all)
    }
}

fn queued(frame: &Frame) -> bool {
    matches!(frame, Frame::SimpleString { data, .. } if data == "QUEUED")
}

fn read(name: &'static str, frame: &Frame) -> Result<Tried, Error> {
    let Frame::SimpleError { data, .. } = frame else {
        let tried = queued(frame).then_some(Tried::Allowed);
        return tried.ok_or(Error::Protocol(name));
    };
    let text: &str = data;
    let code = text.split(' ').next().unwrap_or_default();
    match code {
        "NOPERM" if text.contains("channel") && !text.contains("to run the") => Ok(Tried::DeniedChannel),
        "NOPERM" if text.contains("key") && !text.contains("to run the") => Ok(Tried::DeniedKey),
        "NOPERM" => Ok(Tried::DeniedCommand),
        "ERR" if text.starts_with("ERR unknown") => Ok(Tried::Unknown),
        "ERR" => Err(Error::Reply(Reply::Other("ERR".to_owned()))),
        // Refused for another reason than who asks: a slot of another server, a replica, no memory.
        _ => Ok(Tried::Allowed),
    }
}

/// A command with as many arguments as it needs to be queued. It changes nothing, since it is not run.
fn attempted(name: &'static str, subject: Subject<'_>) -> Command<Repeatable, ()> {
    let (command, sub) = name
        .split_once('|')
        .map_or((name, None), |(name, sub)| (name, Some(sub)));
    let subject = match subject {
        Subject::Server => None,
        Subject::Channel(pattern) if name == "psubscribe" => Some(pattern.to_owned()),
        Subject::Key(pattern) | Subject::Channel(pattern) => Some(pattern.replace('*', ANY)),
    };
    let key = subject.as_deref();
    let (before, after): (&[&str], &[&str]) = match name {
        "evalsha" => (&["0000000000000000000000000000000000000000", "1"], &[]),
        "set" | "lpush" | "rpush" | "publish" => (&[], &[""]),
        "hset" | "hsetnx" => (&[], &["field", ""]),
        "hget" | "hmget" | "hdel" | "hexists" => (&[], &["field"]),
        "hincrby" => (&[], &["field", "1"]),
        "expire" | "pexpire" | "blpop" => (&[], &["1"]),
        "lrange" => (&[], &["0", "0"]),
        "scan" => (&["0"], &[]),
        "renamenx" => (&[], &[ANY]),
        "script|load" => (&["return 1"], &[]),
        "client|setname" => (&[CONNECTION_NAME], &[]),
        "client|tracking" => (&["on"], &[]),
        "config|get" => (&["notify-keyspace-events"], &[]),
        "config|set" => (&["notify-keyspace-events", ""], &[]),
        "info" => (&["replication"], &[]),
        _ => (&[], &[]),
    };
    let after = after.iter().map(|arg| match (name, key) {
        // Both of its keys.
        ("renamenx", Some(key)) => key,
        _ => *arg,
    });
    let words = sub.into_iter().chain(before.iter().copied()).chain(key).chain(after);
    let words = words.map(|word| Bytes::copy_from_slice(word.as_bytes()));
    Command::new(command, words.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &'static str) -> Frame {
        Frame::SimpleError {
            data: text.into(),
            attributes: None,
        }
    }

    #[test]
    fn refusals_of_old_and_new_servers_are_told_apart() {
        let cases = [
            (
                "NOPERM this user has no permissions to run the 'hkeys' command or its subcommand",
                Tried::DeniedCommand,
            ),
            (
                "NOPERM this user has no permissions to access one of the keys used as arguments",
                Tried::DeniedKey,
            ),
            (
                "NOPERM this user has no permissions to access one of the channels used as arguments",
                Tried::DeniedChannel,
            ),
            (
                "NOPERM User gw has no permissions to run the 'pubsub|channels' command",
                Tried::DeniedCommand,
            ),
            ("NOPERM No permissions to access a key", Tried::DeniedKey),
            ("NOPERM No permissions to access a channel", Tried::DeniedChannel),
            (
                "ERR unknown command `BLPOP`, with args beginning with: ",
                Tried::Unknown,
            ),
            ("MOVED 1 127.0.0.1:1", Tried::Allowed),
            ("READONLY You can't write against a read only replica.", Tried::Allowed),
        ];
        for (text, tried) in cases {
            assert_eq!(read("GET", &error(text)), Ok(tried), "{text}");
        }
        assert!(read("GET", &error("ERR wrong number of arguments for 'get' command")).is_err());
        // A command that was run is no attempt.
        let ran = Frame::SimpleString {
            data: "OK".into(),
            attributes: None,
        };
        assert_eq!(read("SET", &ran), Err(Error::Protocol("SET")));
    }
}
