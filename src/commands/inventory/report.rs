//! What was found in one database.

use std::fmt;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::walk::MAX_READ;
use crate::commands::printable::printable;
use crate::commands::screen::{BAD, Cell, DOUBTFUL, FAINT, GOOD, TITLE, Table};
use crate::commands::units;
use crate::forms::{Left, Wrong};

/// How many names of keys of unknown kinds are shown.
const EXAMPLES: usize = 5;

/// What was found in one database.
pub(super) struct Report {
    /// Who is on it. Empty: nobody that is configured.
    pub(super) endpoints: Vec<&'static str>,
    pub(super) server: String,
    pub(super) db: u8,
    /// As the server calls itself. None: it may not be asked.
    pub(super) role: Option<String>,
    /// Keys that were looked at.
    pub(super) looked: u64,
    /// Keys that may not be looked at.
    pub(super) denied: u64,
    /// Keys that were looked at, whose size could not be asked for.
    pub(super) unsized_keys: u64,
    /// The `maxmemory-policy` on whose account no value was read.
    pub(super) heeded: Option<String>,
    /// Keys that there were at the start.
    pub(super) total: u64,
    /// One for each kind, in the order of kinds.
    pub(super) rows: Vec<Row>,
    pub(super) findings: Vec<Finding>,
    /// Findings beyond those.
    pub(super) more: u64,
    /// Names of some keys that are of no known kind.
    pub(super) unknown: Vec<String>,
    pub(super) end: End,
}

/// How a walk ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Whole,
    Interrupted,
    Failed(String),
}

/// What there is of one kind.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) keys: u64,
    /// Of those whose size could be asked for.
    pub(super) bytes: u64,
    pub(super) endless: u64,
    pub(super) shortest: Option<Duration>,
    pub(super) longest: Option<Duration>,
    /// Keys with findings.
    pub(super) wrong: u64,
    /// Keys whose values were not read though they should have been.
    pub(super) unread: u64,
}

impl Row {
    pub(super) fn new(name: &'static str) -> Self {
        Row {
            name,
            keys: 0,
            bytes: 0,
            endless: 0,
            shortest: None,
            longest: None,
            wrong: 0,
            unread: 0,
        }
    }

    pub(super) fn add(&mut self, left: Left, bytes: u64) {
        self.keys += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        match left {
            Left::For(left) => {
                self.shortest = Some(self.shortest.map_or(left, |known| known.min(left)));
                self.longest = Some(self.longest.map_or(left, |known| known.max(left)));
            }
            _ => self.endless += 1,
        }
    }

    fn json(&self) -> Json {
        let seconds = |left: Option<Duration>| left.map(|left| left.as_secs_f64());
        json!({
            "kind": self.name,
            "keys": self.keys,
            "bytes": self.bytes,
            "without_ttl": self.endless,
            "shortest_ttl_s": seconds(self.shortest),
            "longest_ttl_s": seconds(self.longest),
            "wrong": self.wrong,
            "unread": self.unread,
        })
    }
}

/// A key that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) key: String,
    pub(super) kind: &'static str,
    pub(super) wrong: Wrong,
}

impl Report {
    /// Takes what is wrong with a key, as far as there is room for it.
    pub(super) fn found(&mut self, key: &[u8], kind: &'static str, wrong: Vec<Wrong>, room: usize) {
        for wrong in wrong {
            if self.findings.len() < room {
                let key = printable(key);
                self.findings.push(Finding { key, kind, wrong });
            } else {
                self.more += 1;
            }
        }
    }

    /// Takes the name of a key of no known kind, if it is one of the first.
    pub(super) fn unknown(&mut self, key: &[u8]) {
        if self.unknown.len() < EXAMPLES {
            self.unknown.push(printable(key));
        }
    }

    /// How many things are wrong.
    pub(super) fn wrong(&self) -> u64 {
        self.findings.len() as u64 + self.more
    }

    /// What was not looked at, and why.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let unread: u64 = self.rows.iter().map(|row| row.unread).sum();
        if let Some(policy) = &self.heeded {
            notes.push(format!(
                "values were not read: without CLIENT NO-TOUCH (Redis 7.2, and `+client|no-touch`) that makes them look used to \
                 maxmemory-policy {policy}; --touch reads them"
            ));
        } else if unread > 0 {
            notes.push(format!(
                "{unread} values were not read: larger than {MAX_READ} bytes, or not permitted"
            ));
        }
        if self.denied > 0 {
            notes.push(format!("{} keys were not looked at: not permitted", self.denied));
        }
        if self.unsized_keys > 0 {
            let count = self.unsized_keys;
            notes.push(format!(
                "bytes of {count} keys are missing: MEMORY USAGE is not permitted, or failed"
            ));
        }
        notes
    }

    pub(super) fn json(&self) -> Json {
        let finding = |finding: &Finding| {
            json!({
                "key": finding.key,
                "kind": finding.kind,
                "what": finding.wrong.what,
                "right": finding.wrong.right,
            })
        };
        json!({
            "endpoints": self.endpoints,
            "server": self.server,
            "db": self.db,
            "role": self.role,
            "keys": self.looked,
            "keys_at_start": self.total,
            "keys_denied": self.denied,
            "ended": match &self.end {
                End::Whole => "whole",
                End::Interrupted => "interrupted",
                End::Failed(_) => "failed",
            },
            "error": match &self.end {
                End::Failed(why) => Some(why),
                _ => None,
            },
            "kinds": self.rows.iter().filter(|row| row.keys > 0).map(Row::json).collect::<Vec<_>>(),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
            "findings_left_out": self.more,
            "unknown_keys": self.unknown,
            "notes": self.notes(),
        })
    }
}

/// For people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { server, db, .. } = self;
        let endpoints = match &self.endpoints[..] {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        let role = self.role.as_deref().unwrap_or("unknown");
        writeln!(
            f,
            "{TITLE}{server}, db {db}{TITLE:#}, role: {role}, endpoints: {endpoints}"
        )?;
        let mut kinds = Table::new(["KIND", "COUNT", "MEMORY", "NO TTL", "SHORTEST", "LONGEST", "WRONG"]);
        let span = |left: Option<Duration>| Cell::new(left.map(units::span).unwrap_or_default()).right();
        for row in self.rows.iter().filter(|row| row.keys > 0) {
            let style = if row.wrong > 0 { BAD } else { FAINT };
            kinds.row([
                row.name.into(),
                Cell::new(row.keys).right(),
                Cell::new(units::bytes(row.bytes)).right(),
                Cell::new(row.endless).right(),
                span(row.shortest),
                span(row.longest),
                Cell::new(row.wrong).right().style(style),
            ]);
        }
        write!(f, "{kinds}")?;
        if !self.unknown.is_empty() {
            writeln!(f, "of no known kind: {}", self.unknown.join(" "))?;
        }
        for note in self.notes() {
            writeln!(f, "{DOUBTFUL}note{DOUBTFUL:#}: {note}")?;
        }
        let Report { looked, total, .. } = self;
        match &self.end {
            End::Whole => writeln!(f, "{looked} keys")?,
            End::Interrupted => writeln!(
                f,
                "{DOUBTFUL}interrupted{DOUBTFUL:#} after {looked} of about {total} keys"
            )?,
            End::Failed(why) => writeln!(f, "{BAD}failed{BAD:#} after {looked} of about {total} keys: {why}")?,
        }
        if self.wrong() == 0 {
            return writeln!(f, "{GOOD}nothing was found that is not as it should be{GOOD:#}");
        }
        let mut findings = Table::new(["KEY", "WHAT IS WRONG", "WHAT WOULD BE RIGHT"]);
        for finding in &self.findings {
            let Wrong { what, right } = &finding.wrong;
            findings.row([Cell::new(&finding.key), what.into(), right.into()]);
        }
        write!(f, "{findings}")?;
        match self.more {
            0 => writeln!(f, "{} findings", self.wrong()),
            more => writeln!(
                f,
                "{} findings, {more} of them not listed: --max-findings",
                self.wrong()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_know_shortest_and_longest() {
        let mut row = Row::new("kind");
        for left in [
            Left::Endless,
            Left::For(Duration::from_secs(2)),
            Left::For(Duration::from_secs(9)),
        ] {
            row.add(left, 10);
        }
        let json = row.json();
        assert_eq!((&json["keys"], &json["without_ttl"]), (&json!(3), &json!(1)));
        assert_eq!(
            (&json["shortest_ttl_s"], &json["longest_ttl_s"]),
            (&json!(2.0), &json!(9.0))
        );
    }

    #[test]
    fn findings_past_the_room_are_counted() {
        let mut report = super::super::walk::empty(vec!["cache"], "here".into(), 0, &[]);
        for n in 0..5_u8 {
            report.found(&[n], "kind", vec![crate::forms::wrong("what", "right")], 2);
        }
        assert_eq!((report.findings.len(), report.more, report.wrong()), (2, 3, 5));
    }
}
