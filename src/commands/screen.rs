//! What commands print: tables for people, with colour on a terminal that wants it, JSON for scripts.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::{self, Write as _};
use std::time::Duration;

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use clap::ArgMatches;
use indicatif::ProgressBar;
use serde_json::Value;

/// What is as it should be.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// What is not known, or may become a problem.
pub(super) const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
/// What is wrong.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
/// What matters less than the rest.
pub(super) const FAINT: Style = Style::new().dimmed();
/// What stands above.
pub(super) const TITLE: Style = Style::new().bold();

/// Standard output, in the form that was asked for. Colours leave it on a terminal alone, and not where `NO_COLOR` is set.
pub(super) struct Screen {
    json: bool,
    out: AutoStream<io::Stdout>,
}

impl Screen {
    /// As the command's `--json` says.
    pub(super) fn new(args: &ArgMatches) -> Self {
        let json = matches!(args.try_get_one::<bool>("json"), Ok(Some(true)));
        Screen {
            json,
            out: anstream::stdout(),
        }
    }

    /// Whether scripts read it.
    pub(super) fn json(&self) -> bool {
        self.json
    }

    /// Prints what a command found, in one of its two forms.
    pub(super) fn show(&mut self, json: impl FnOnce() -> Value, text: impl Display) -> io::Result<()> {
        if self.json {
            self.text(format_args!("{:#}\n", json()))
        } else {
            self.text(text)
        }
    }

    /// Prints a text whatever was asked for.
    pub(super) fn text(&mut self, text: impl Display) -> io::Result<()> {
        match write!(self.out, "{text}").and_then(|()| self.out.flush()) {
            // Who reads the first lines alone, as `head` does, has what they wanted; the exit code still says what was found.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            printed => printed,
        }
    }
}

/// A line on standard error, if anybody reads it: a command ends as it should where nobody does.
pub(super) fn aside(line: impl Display) {
    // `eprintln!` would panic.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Says on a terminal that something is going on, and `done` of `total` where that is known; nowhere else, since it goes to standard
/// error. Gone when dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new(what: impl Into<Cow<'static, str>>) -> Self {
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress(bar)
    }

    pub(super) fn say(&self, what: impl Into<Cow<'static, str>>) {
        self.0.set_message(what);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A piece of text in a table. What comes from elsewhere moves no cursor: control characters are shown as what they are.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    style: Style,
    right: bool,
}

impl Cell {
    pub(super) fn new(text: impl Display) -> Self {
        Cell {
            text: harmless(&text.to_string()).into_owned(),
            style: Style::new(),
            right: false,
        }
    }

    /// Stands at the right of its column, as numbers do.
    pub(super) fn right(mut self) -> Self {
        self.right = true;
        self
    }

    pub(super) fn style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }
}

impl<T: Display> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell::new(text)
    }
}

/// Rows under a head, in columns as wide as what is in them.
#[derive(Debug, Clone)]
pub(super) struct Table<const N: usize> {
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(head: [&str; N]) -> Self {
        Table {
            rows: vec![head.map(|title| Cell::new(title).style(TITLE))],
        }
    }

    pub(super) fn row(&mut self, cells: [Cell; N]) {
        self.rows.push(cells);
    }
}

impl<const N: usize> Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |cell: &Cell| cell.text.chars().count();
        let widest = |n: usize| self.rows.iter().map(|row| width(&row[n])).max().unwrap_or(0);
        let widths: [usize; N] = std::array::from_fn(widest);
        // The title of numbers stands above them.
        let right: [bool; N] = std::array::from_fn(|n| self.rows.iter().any(|row| row[n].right));
        for row in &self.rows {
            for (n, cell) in row.iter().enumerate() {
                let padding = widths[n] - width(cell);
                let (before, after) = if right[n] { (padding, 0) } else { (0, padding) };
                let (style, text) = (cell.style, &cell.text);
                write!(f, "{:before$}{style}{text}{style:#}", "")?;
                if n + 1 < N {
                    write!(f, "{:after$}  ", "")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A text whose control characters are shown, not obeyed.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        let show = |c: char| match c {
            c if c.is_control() => c.escape_default().to_string(),
            c => c.to_string(),
        };
        return text.chars().map(show).collect::<String>().into();
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_from_elsewhere_is_obeyed() {
        let mut table = Table::new(["NAME", "KEYS", "NOTE"]);
        table.row(["cache".into(), Cell::new(1_234).right(), "\u{1b}[2Jgone".into()]);
        table.row([Cell::new("ä").style(BAD), Cell::new(5).right(), "".into()]);
        let plain = anstream::adapter::strip_str(&table.to_string()).to_string();
        assert_eq!(plain, "NAME   KEYS  NOTE\ncache  1234  \\u{1b}[2Jgone\nä         5  \n");
    }
}
