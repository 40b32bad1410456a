//! The forms that values take, each from text: YAML scalars, flags and environment variables alike.

use std::{ops::RangeInclusive, time::Duration};

use super::problem::suggest;
use crate::telemetry;

/// A form that a value takes.
pub(super) trait Form {
    /// What the text becomes.
    type Value;
    /// The form's name in help, as in `<DURATION>`.
    fn name(&self) -> &'static str;
    /// What is right, for help and documentation.
    fn want(&self) -> String;
    /// Reads the text; the error says what is wrong with it and what would be right.
    fn parse(&self, text: &str) -> Result<Self::Value, String>;
}

/// A length of time: a whole number and one of `ms`, `s`, `m`, `h`.
pub(super) struct Span(pub RangeInclusive<Duration>);

impl Form for Span {
    type Value = Duration;

    fn name(&self) -> &'static str {
        "DURATION"
    }

    fn want(&self) -> String {
        format!("{} to {}", show(*self.0.start()), show(*self.0.end()))
    }

    fn parse(&self, text: &str) -> Result<Duration, String> {
        let (number, unit) = split_unit(text);
        let per_unit = match unit {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        let (Ok(number), Some(per_unit)) = (number.parse::<u64>(), per_unit) else {
            return Err(format!(
                "{text:?} is no duration: write a whole number and a unit, such as 250ms, 2s or 5m"
            ));
        };
        let value = Duration::from_millis(number.saturating_mul(per_unit));
        in_range(&self.0, value, text, &self.want())
    }
}

/// Reads a limit of a command, in the form that durations have everywhere.
pub fn duration(text: &str) -> Result<Duration, String> {
    Span(Duration::from_millis(1)..=Duration::from_mins(5)).parse(text)
}

/// A whole number.
pub(super) struct Whole<T>(pub RangeInclusive<T>);

impl<T: TryFrom<u64> + PartialOrd + Copy + std::fmt::Display> Form for Whole<T> {
    type Value = T;

    fn name(&self) -> &'static str {
        "NUMBER"
    }

    fn want(&self) -> String {
        format!("{} to {}", self.0.start(), self.0.end())
    }

    fn parse(&self, text: &str) -> Result<T, String> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("{text:?} is no whole number: {}", self.want()));
        }
        // What is too big for the type is out of its range as well.
        match text.parse::<u64>().ok().and_then(|n| T::try_from(n).ok()) {
            Some(value) => in_range(&self.0, value, text, &self.want()),
            None => Err(format!("{text} is out of range: {}", self.want())),
        }
    }
}

/// An amount of memory: a whole number and one of `B`, `KiB`, `MiB`, `GiB`.
pub(super) struct Bytes(pub RangeInclusive<usize>);

impl Form for Bytes {
    type Value = usize;

    fn name(&self) -> &'static str {
        "BYTES"
    }

    fn want(&self) -> String {
        let show = |bytes: usize| match bytes {
            b if b >= 1 << 30 && b % (1 << 30) == 0 => format!("{}GiB", b >> 30),
            b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{}MiB", b >> 20),
            b if b >= 1 << 10 && b % (1 << 10) == 0 => format!("{}KiB", b >> 10),
            b => format!("{b}B"),
        };
        format!("{} to {}", show(*self.0.start()), show(*self.0.end()))
    }

    fn parse(&self, text: &str) -> Result<usize, String> {
        let (number, unit) = split_unit(text);
        let per_unit = match unit {
            "B" => Some(1),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            _ => None,
        };
        let (Ok(number), Some(per_unit)) = (number.parse::<usize>(), per_unit) else {
            return Err(format!(
                "{text:?} is no size: write a whole number and a unit, such as 512KiB or 4MiB"
            ));
        };
        in_range(&self.0, number.saturating_mul(per_unit), text, &self.want())
    }
}

/// `true` or `false`.
pub(super) struct Bool;

impl Form for Bool {
    type Value = bool;

    fn name(&self) -> &'static str {
        "BOOL"
    }

    fn want(&self) -> String {
        "true, false".into()
    }

    fn parse(&self, text: &str) -> Result<bool, String> {
        text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
    }
}

/// A share, such as 0.01.
pub(super) struct Ratio(pub RangeInclusive<f64>);

impl Form for Ratio {
    type Value = f64;

    fn name(&self) -> &'static str {
        "RATIO"
    }

    fn want(&self) -> String {
        format!("{} to {}", self.0.start(), self.0.end())
    }

    fn parse(&self, text: &str) -> Result<f64, String> {
        let value = text
            .parse()
            .map_err(|_| format!("{text:?} is no number: {}", self.want()))?;
        in_range(&self.0, value, text, &self.want())
    }
}

/// Text on one line.
pub(super) struct Text;

impl Form for Text {
    type Value = String;

    fn name(&self) -> &'static str {
        "TEXT"
    }

    fn want(&self) -> String {
        "text".into()
    }

    // Never quotes the text: it may be a password.
    fn parse(&self, text: &str) -> Result<String, String> {
        if text.is_empty() {
            return Err("is empty: leave it out, or give it a value".into());
        }
        if text.contains(char::is_control) {
            return Err("holds a control character, such as a line break: take it out".into());
        }
        Ok(text.to_owned())
    }
}

/// What names begin with; the empty text is what all begin with.
pub(super) struct Beginning;

impl Form for Beginning {
    type Value = String;

    fn name(&self) -> &'static str {
        "TEXT"
    }

    fn want(&self) -> String {
        Text.want()
    }

    fn parse(&self, text: &str) -> Result<String, String> {
        if text.is_empty() {
            return Ok(String::new());
        }
        Text.parse(text)
    }
}

/// One of a few words.
pub(super) struct Choice<T: 'static>(pub &'static [(&'static str, T)]);

impl<T: Copy> Form for Choice<T> {
    type Value = T;

    fn name(&self) -> &'static str {
        "WORD"
    }

    fn want(&self) -> String {
        self.0.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ")
    }

    fn parse(&self, text: &str) -> Result<T, String> {
        let words = || self.0.iter().map(|(word, _)| *word);
        let found = self.0.iter().find(|(word, _)| *word == text);
        found
            .map(|(_, value)| *value)
            .ok_or_else(|| format!("{text:?} is not known here; {}", suggest(text, words())))
    }
}

/// A filter for log lines.
pub(super) struct LogFilter;

impl Form for LogFilter {
    type Value = String;

    fn name(&self) -> &'static str {
        "FILTER"
    }

    fn want(&self) -> String {
        "level, or target=level, several separated by commas".into()
    }

    fn parse(&self, text: &str) -> Result<String, String> {
        match telemetry::log_filter(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(e) => Err(e.to_string()),
        }
    }
}

/// The length as it would be written.
fn show(span: Duration) -> String {
    match span.as_millis() {
        0 => "0s".into(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn in_range<T: PartialOrd>(range: &RangeInclusive<T>, value: T, text: &str, want: &str) -> Result<T, String> {
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(format!("{text} is out of range: {want}"))
    }
}
