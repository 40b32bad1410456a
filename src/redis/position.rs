//! Points in what a primary writes, and what servers say of where they are.

use std::fmt;
use std::time::Duration;

use super::info::Info;

/// The length of a replication id.
const ID: usize = 40;

/// A point in what a primary writes: its replication id, and the bytes that it has written under it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Position {
    id: [u8; ID],
    offset: u64,
}

impl Position {
    /// One that no server reaches.
    pub const NEVER: Position = Position {
        id: [b'0'; ID],
        offset: u64::MAX,
    };

    /// Reads a position as it was written. None: no gateway wrote this.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, offset) = text.split_once('-')?;
        let position = Position {
            id: id.as_bytes().try_into().ok()?,
            offset: offset.parse().ok()?,
        };
        // Neither other signs in the id, nor other forms of the number.
        (position.id.iter().all(u8::is_ascii_alphanumeric) && position.to_string() == text).then_some(position)
    }

    /// Where all is there that was written up to this and up to `other`: no server, if they are of two primaries.
    #[must_use]
    pub fn or_later(self, other: Position) -> Position {
        let later = Position {
            offset: self.offset.max(other.offset),
            ..self
        };
        if self.id == other.id { later } else { Position::NEVER }
    }

    /// Whether who is at `other` has all that was written up to here. Nobody knows under another id.
    pub(super) fn is_reached_at(&self, other: &Position) -> bool {
        self.id == other.id && self.offset <= other.offset
    }

    /// Bytes that who is at `other` lacks of what was written up to here; None under another id.
    pub(super) fn bytes_before(&self, other: &Position) -> Option<u64> {
        (self.id == other.id).then(|| self.offset.saturating_sub(other.offset))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", String::from_utf8_lossy(&self.id), self.offset)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How new a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing that was written before may be missed: only the primary will do.
    Latest,
    /// A replica will do.
    Replica {
        /// Nothing may be missed that was written longer ago; None: than the endpoint's `max_staleness`.
        within: Option<Duration>,
        /// Nothing may be missed that was written up to here.
        after: Option<Position>,
    },
}

/// What a server says of its replication.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) position: Position,
    pub(super) primary: bool,
    /// Whether a replica gets what its primary writes now.
    pub(super) linked: bool,
}

impl Said {
    /// Where it is, if it is a primary.
    pub(super) fn of_primary(self) -> Option<Position> {
        self.primary.then_some(self.position)
    }

    /// Reads the answer to `INFO replication`.
    pub(super) fn read(info: &Info) -> Option<Self> {
        let primary = info.get("role")? == "master";
        let linked = primary || info.get("master_link_status")? == "up";
        let offset = if primary {
            "master_repl_offset"
        } else {
            "slave_repl_offset"
        };
        let position = Position {
            id: info.get("master_replid")?.as_bytes().try_into().ok()?,
            // A replica that never was linked says -1.
            offset: info.get(offset)?.parse::<i64>().ok()?.try_into().unwrap_or_default(),
        };
        Some(Said {
            position,
            primary,
            linked,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(id: u8, offset: u64) -> Position {
        Position { id: [id; ID], offset }
    }

    #[test]
    fn positions_are_read_as_they_are_written() {
        for position in [position(b'f', 0), position(b'0', u64::MAX), Position::NEVER] {
            assert_eq!(Position::parse(&position.to_string()), Some(position));
        }
        let id = "a".repeat(ID);
        let bad = [
            "",
            "-",
            "x-1",
            &id,
            &format!("{id}-"),
            &format!("{id}-+1"),
            &format!("{id}-01"),
            &format!("{id}--1"),
        ];
        for bad in bad {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
        let foreign = format!("{}\u{e9}-1", "a".repeat(ID - 2));
        assert_eq!(Position::parse(&foreign), None);
    }

    #[test]
    fn no_server_has_come_as_far_as_two_primaries() {
        let (a, b) = (position(b'a', 1), position(b'b', 3));
        assert_eq!(a.or_later(position(b'a', 2)), position(b'a', 2));
        assert_eq!(position(b'a', 2).or_later(a), position(b'a', 2));
        assert_eq!(a.or_later(b), Position::NEVER);
        assert_eq!(a.or_later(b).or_later(b), Position::NEVER);
    }

    #[test]
    fn a_server_is_read_by_its_role() {
        let id = "b".repeat(ID);
        let primary = format!("# Replication\r\nrole:master\r\nmaster_replid:{id}\r\nmaster_repl_offset:7\r\n");
        let replica = format!(
            "role:slave\r\nmaster_link_status:down\r\nslave_repl_offset:-1\r\nmaster_replid:{id}\r\nmaster_repl_offset:7\r\n"
        );
        let said = |offset, primary, linked| {
            Some(Said {
                position: position(b'b', offset),
                primary,
                linked,
            })
        };
        let read = |text: String| Said::read(&Info(text.into()));
        assert_eq!(read(primary), said(7, true, true));
        assert_eq!(read(replica.clone()), said(0, false, false));
        let linked = replica.replace("down", "up").replace("-1", "5");
        assert_eq!(read(linked), said(5, false, true));
        assert_eq!(read("role:master\r\n".to_owned()), None);
    }
}
