//! What is found, and what to change.

use std::fmt;

use anstyle::Style;
use serde_json::{Value, json};

use super::super::screen::{BAD, DOUBTFUL, FAINT, harmless};
use super::facts::Facts;
use crate::config::Server;
use crate::redis::{Error, Part, Reply};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Calls fail, or a promise is broken.
    Error,
    /// Something is worse than it need be, or breaks one day.
    Warning,
    /// It could not be looked at.
    Unseen,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Unseen => "unseen",
        }
    }

    pub(super) fn style(self) -> Style {
        match self {
            Level::Error => BAD,
            Level::Warning => DOUBTFUL,
            Level::Unseen => FAINT,
        }
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// What was looked at, the same in all versions.
    pub(super) check: &'static str,
    pub(super) what: String,
    /// What to change.
    pub(super) fix: String,
}

impl Finding {
    fn new(level: Level, check: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding {
            level,
            check,
            what: what.into(),
            fix: fix.into(),
        }
    }

    pub(super) fn error(check: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Level::Error, check, what, fix)
    }

    pub(super) fn warning(check: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Level::Warning, check, what, fix)
    }

    pub(super) fn unseen(check: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Level::Unseen, check, what, fix)
    }
}

/// What one server of an endpoint came to.
pub(super) struct Report {
    pub(super) endpoint: &'static str,
    /// None: a Cluster, of which no server answers.
    pub(super) server: Option<Server>,
    pub(super) part: Part,
    /// What it says of itself; none if it cannot be asked.
    pub(super) facts: Option<Facts>,
    /// Why it cannot be reached.
    pub(super) unreachable: Option<String>,
    pub(super) findings: Vec<Finding>,
}

impl Report {
    /// Takes in what came of asking the server for more.
    pub(super) fn take(&mut self, found: Result<Option<Finding>, Error>) {
        match found {
            Ok(finding) => self.findings.extend(finding),
            Err(Error::Reply(Reply::NotServing(code))) => {
                let fix = "wait until it serves, then ask again";
                let what = format!("does not serve: {code}");
                self.findings.push(Finding::error("serving", what, fix));
            }
            Err(error) => self.unreachable = Some(format!("it answered at first, and then: {error}")),
        }
        self.findings.sort_by_key(|finding| finding.level);
    }

    pub(super) fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    pub(super) fn part(&self) -> &'static str {
        match self.part {
            Part::Primary => "primary",
            Part::Replica => "replica",
        }
    }

    pub(super) fn server(&self) -> String {
        self.server
            .as_ref()
            .map_or_else(|| "(cluster)".to_owned(), ToString::to_string)
    }

    /// In a few words, and how bad that is.
    pub(super) fn sum(&self) -> (String, Option<Level>) {
        if self.unreachable.is_some() {
            return ("unreachable".to_owned(), Some(Level::Error));
        }
        let counted = [Level::Error, Level::Warning, Level::Unseen].map(|level| (level, self.count(level)));
        let counted: Vec<_> = counted.into_iter().filter(|(_, count)| *count > 0).collect();
        let words = counted.iter().map(|(level, count)| match (level, count) {
            (Level::Unseen, count) => format!("{count} unseen"),
            (level, 1) => format!("1 {}", level.as_str()),
            (level, count) => format!("{count} {}s", level.as_str()),
        });
        let words: Vec<String> = words.collect();
        match counted.first() {
            None => ("fine".to_owned(), None),
            Some((level, _)) => (words.join(", "), Some(*level)),
        }
    }

    pub(super) fn json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "level": finding.level.as_str(),
                "check": finding.check,
                "what": finding.what,
                "fix": finding.fix,
            })
        };
        json!({
            "endpoint": self.endpoint,
            "server": self.server.as_ref().map(ToString::to_string),
            "part": self.part(),
            "version": self.facts.as_ref().and_then(Facts::product).map_or("", |(_, version)| version),
            "facts": self.facts.as_ref().map(Facts::json),
            "unreachable": self.unreachable,
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    }
}

/// The findings, each with what to change.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = self.server();
        for finding in &self.findings {
            let (style, level) = (finding.level.style(), finding.level.as_str());
            let (endpoint, server) = (self.endpoint, harmless(&server));
            writeln!(
                f,
                "{style}{level:7}{style:#}  {endpoint} {server}: {}",
                harmless(&finding.what)
            )?;
            writeln!(f, "         fix: {}", harmless(&finding.fix))?;
        }
        Ok(())
    }
}
