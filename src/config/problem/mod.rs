//! What is wrong with a configuration, and where.

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

/// Where a value comes from, in ascending precedence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The gateway's own default.
    Default,
    /// The private server that runs when no endpoint is configured.
    Embedded,
    /// Quay's `config.yaml`.
    Quay(Position),
    /// The gateway's file.
    File(Position),
    /// An environment variable, by its name.
    Env(String),
    /// A flag, with its dashes.
    Flag(String),
}

impl Place {
    /// What is given in a higher layer takes the place of what is given in a lower one.
    pub(super) fn layer(&self) -> u8 {
        match self {
            Place::Default | Place::Embedded => 0,
            Place::Quay(_) => 1,
            Place::File(_) => 2,
            Place::Env(_) => 3,
            Place::Flag(_) => 4,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Default => f.write_str("default"),
            Place::Embedded => f.write_str("embedded"),
            Place::Quay(position) => write!(f, "quay {position}"),
            Place::File(position) => position.fmt(f),
            Place::Env(name) => write!(f, "env {name}"),
            Place::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A position in a file; lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The file as the user named it.
    pub file: Arc<str>,
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One thing that is wrong, or, as a warning, worth a second thought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, and what would be right. Holds no secret.
    pub what: String,
}

impl Problem {
    pub(super) fn new(place: &Place, what: impl Into<String>) -> Self {
        Self {
            place: place.clone(),
            what: what.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// All that is wrong with a configuration, one problem a line.
#[derive(Debug, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        match self.0.len() {
            1 => f.write_str("1 problem in the configuration"),
            n => write!(f, "{n} problems in the configuration"),
        }
    }
}

/// The word that is near enough to have been meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Below this two words share little more than their length.
    const NEAR: f64 = 0.6;
    known
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(word, candidate), candidate))
        .filter(|(nearness, _)| *nearness >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `did you mean "x"?`, or else which words there are.
pub(super) fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("known here: {}", known.join(", ")),
    }
}
