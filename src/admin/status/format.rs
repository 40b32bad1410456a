//! Numbers and times as people read them.
#![expect(
    clippy::trivially_copy_pass_by_ref,
    clippy::ref_option,
    reason = "the page passes references to all that it shows"
)]

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::utc;
use crate::redis::State;

/// A day; before that the hour alone says when.
const DAY: Duration = Duration::from_hours(24);

/// `12:31:05 UTC`, with the date if it is another day's.
pub(super) fn clock(time: &SystemTime, now: &SystemTime) -> String {
    let text = utc(*time);
    // `2026-01-31T12:31:05Z`: all in ASCII.
    let (date, hour) = (text.get(..10).unwrap_or_default(), text.get(11..19).unwrap_or(&text));
    if now.duration_since(*time).unwrap_or_default() < DAY {
        format!("{hour} UTC")
    } else {
        format!("{date} {hour} UTC")
    }
}

/// How long ago, by its two greatest units: `3 h 12 min`.
pub(super) fn ago(time: &SystemTime, now: &SystemTime) -> String {
    let seconds = now.duration_since(*time).unwrap_or_default().as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// `0.4`, `12`, `1,234`.
pub(super) fn number(value: &f64) -> String {
    let value = *value;
    if value > 0.0 && value < 0.05 {
        return "< 0.1".to_owned();
    }
    if value > 0.0 && value < 9.95 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count.
pub(super) fn count(value: &u64) -> String {
    let whole = super::tally::float(*value);
    if *value < 10 { value.to_string() } else { number(&whole) }
}

/// `0 %`, `0.4 %`, `37 %`; what is not none never reads as none.
pub(super) fn percent(share: &f64) -> String {
    let percent = share * 100.0;
    if *share <= 0.0 {
        "0 %".to_owned()
    } else if percent < 0.1 {
        "< 0.1 %".to_owned()
    } else if percent < 9.95 {
        format!("{percent:.1} %")
    } else {
        format!("{percent:.0} %")
    }
}

/// `0.31 ms`, `12 ms`, `1.2 s`; a dash for what was not timed.
pub(super) fn ms(value: &Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(ms) if *ms < 9.95 => format!("{ms:.2} ms"),
        Some(ms) if *ms < 999.5 => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.1} s", ms / 1_000.0),
    }
}

/// The kind of a figure that should be none.
pub(super) fn bad(share: &f64) -> &'static str {
    if *share > 0.0 { "bad" } else { "none" }
}

/// What a state is called.
pub(super) fn state(state: &State) -> &'static str {
    match state {
        State::Up => "up",
        State::Connecting => "connecting",
        State::Down => "down",
    }
}

/// `12 B`, `3.4 MiB`.
pub(super) fn bytes(value: &u64) -> String {
    let mut size = super::tally::float(*value);
    let mut units = ["B", "KiB", "MiB", "GiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while size >= 1_024.0 {
        let Some(next) = units.next() else { break };
        (size, unit) = (size / 1_024.0, next);
    }
    format!("{} {unit}", number(&size))
}

/// The lines of a small chart, 100 wide and 24 high: one for each stretch without gaps. Zero is at the bottom, `highest` at the top.
pub(super) fn lines(values: &[Option<f64>], width: usize) -> Vec<String> {
    let values = &values[values.len().saturating_sub(width)..];
    let highest = highest(values).max(f64::MIN_POSITIVE);
    let float = |n: usize| super::tally::float(n as u64);
    let step = 100.0 / float(width.max(2) - 1);
    // What is young begins at the right.
    let first = width.saturating_sub(values.len());
    let mut lines = vec![String::new()];
    for (n, value) in values.iter().enumerate() {
        let (Some(value), Some(line)) = (value, lines.last_mut()) else {
            lines.push(String::new());
            continue;
        };
        let (x, y) = (float(first + n) * step, 23.0 - 22.0 * (value / highest));
        // Into memory: it cannot fail.
        let _ = write!(line, "{x:.1},{y:.1} ");
    }
    // A value without neighbours is a short line.
    for line in &mut lines {
        if let Some((x, y)) = line
            .trim_end()
            .split_once(',')
            .filter(|_| line.trim_end().matches(' ').count() == 0)
        {
            let end = x.parse().unwrap_or(0.0) + step / 2.0;
            *line = format!("{x},{y} {end:.1},{y}");
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// The greatest value.
pub(super) fn highest(values: &[Option<f64>]) -> f64 {
    values.iter().flatten().fold(0.0, |highest, value| highest.max(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        let numbers = [0.0, 0.04, 1.25, 9.96, 12.4, 1_234.0, 1_234_567.0].map(|n| number(&n));
        assert_eq!(numbers, ["0", "< 0.1", "1.2", "10", "12", "1,234", "1,234,567"]);
        assert_eq!([0, 3, 10, 1_000].map(|n| count(&n)), ["0", "3", "10", "1,000"]);
        assert_eq!(
            [0.0, 0.000_1, 0.004, 0.37, 1.0].map(|n| percent(&n)),
            ["0 %", "< 0.1 %", "0.4 %", "37 %", "100 %"]
        );
        let times = [None, Some(0.312), Some(12.3), Some(10_000.0)];
        assert_eq!(times.map(|time| ms(&time)), ["–", "0.31 ms", "12 ms", "10.0 s"]);
        assert_eq!([0, 2_048, 5 << 20].map(|n| bytes(&n)), ["0 B", "2.0 KiB", "5.0 MiB"]);
    }

    #[test]
    fn times_are_told_by_what_matters() {
        let start = SystemTime::UNIX_EPOCH;
        let after = |seconds| start + Duration::from_secs(seconds);
        let spans = [5, 65, 3_700, 90_000].map(|seconds| ago(&start, &after(seconds)));
        assert_eq!(spans, ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!(clock(&start, &after(3_600)), "00:00:00 UTC");
        assert_eq!(clock(&start, &after(90_000)), "1970-01-01 00:00:00 UTC");
        // A clock that was set back.
        assert_eq!(ago(&after(5), &start), "0 s");
    }

    #[test]
    fn lines_have_gaps_where_nothing_was() {
        let lines = lines(&[Some(0.0), Some(2.0), None, Some(1.0)], 5);
        assert_eq!(lines, ["25.0,23.0 50.0,1.0 ", "100.0,12.0 112.5,12.0"]);
        assert!(super::lines(&[None], 5).is_empty());
        assert_eq!(super::lines(&[Some(0.0), Some(0.0)], 2), ["0.0,23.0 100.0,23.0 "]);
    }
}
