//! The page itself, out of `page.html`, which escapes all that it is given.

use askama::Template;

use super::format;
use super::history::{INTERVAL, SPAN};
use super::problem::Severity;
use super::report::{Connections, Readiness, Report};
use super::window::{Trend, Window};

/// How many values a chart has.
const WIDTH: usize = 90;

// A change of one is a change of the other.
const _: () = assert!(SPAN.as_secs() / INTERVAL.as_secs() == WIDTH as u64);

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    report: &'a Report,
    /// What comes first, in a few words.
    headline: &'static str,
    level: &'static str,
    /// The colour of the icon, as a URL has it.
    icon: &'static str,
}

/// The page as HTML.
pub(super) fn render(report: &Report) -> askama::Result<String> {
    let worst = report.problems.first().map(|problem| problem.severity);
    let (headline, level, icon) = match (report.state, worst) {
        (Readiness::Draining, _) => ("Draining", "warning", "%23c98500"),
        (Readiness::NotReady, _) => ("Not ready", "critical", "%23d13438"),
        (Readiness::Ready, Some(Severity::Critical)) => ("Serving, with failures", "critical", "%23d13438"),
        (Readiness::Ready, Some(Severity::Warning)) => ("Serving, with less", "warning", "%23c98500"),
        (Readiness::Ready, None) => ("All is well", "ok", "%2312805c"),
    };
    Page {
        report,
        headline,
        level,
        icon,
    }
    .render()
}

impl Window {
    /// What did not end well, and how often.
    fn told(&self) -> String {
        let list = |counts: Vec<(&str, u64)>| {
            let counts = counts
                .iter()
                .map(|(name, count)| format!("{name} {}", format::count(count)));
            counts.collect::<Vec<_>>().join(", ")
        };
        match (list(self.failures()), list(self.degraded())) {
            (failures, degraded) if degraded.is_empty() => failures,
            (failures, degraded) if failures.is_empty() => format!("degraded: {degraded}"),
            (failures, degraded) => format!("{failures}; degraded: {degraded}"),
        }
    }
}

impl Connections {
    /// What those are for that commands do not share, and how many.
    fn beside(&self) -> String {
        let kinds = [
            ("subscriptions", self.subscriptions),
            ("blocking", self.blocking),
            ("tracking", self.tracking),
        ];
        let kinds = kinds.iter().filter(|(_, count)| *count > 0);
        let told = kinds.map(|(what, count)| format!("{what} {}", format::count(count)));
        told.collect::<Vec<_>>().join(", ")
    }
}

impl Trend {
    fn highest_rate(&self) -> String {
        format!("{} a second", format::number(&format::highest(&self.per_second)))
    }

    fn highest_p99(&self) -> String {
        format::ms(&Some(format::highest(&self.p99_ms)))
    }
}
