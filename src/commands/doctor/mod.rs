//! `doctor`: looks at each Redis as the gateway would find it, and says what to change. It changes no data
//! and no setting: what it leaves is a script that does nothing in the script cache, and denials in `ACL LOG`.

mod elsewhere;
mod exam;
mod facts;
mod finding;
mod lag;
mod needs;
mod rights;
mod server;
mod unreached;

use clap::{ArgMatches, Command};
use futures_util::future::join_all;
use serde_json::json;

use self::facts::Facts;
use self::finding::{Level, Report};
use super::screen::{self, Cell, GOOD, Progress, Screen, Table};
use super::{Exit, Failure, Outcome};
use crate::config::Loaded;

pub(super) fn grammar() -> Command {
    let help = "Exit code: 0 no errors, 1 errors, 64 wrong arguments or configuration, 69 a server could not be reached. Rights are \
                tried after MULTI, and EXEC is never sent: nothing is run, but what is denied stands in the server's ACL LOG.";
    super::looking(
        "doctor",
        "Look at each Redis as the gateway would find it, and say what to change",
    )
    .after_help(help)
    .arg(super::endpoint_arg())
}

pub(super) async fn run(
    args: &ArgMatches,
    load: impl FnOnce() -> Result<Loaded, Failure>,
    screen: &mut Screen,
) -> Outcome {
    let config = load()?.config;
    let endpoints = super::endpoints(args, &config)?;
    let progress = Progress::new("looking");
    let exams = endpoints.iter().map(|(name, at)| exam::endpoint(*name, at, &config));
    let reports: Vec<Report> = join_all(exams).await.into_iter().flatten().collect();
    drop(progress);

    let count = |level| reports.iter().map(|report| report.count(level)).sum::<usize>();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    let json = || {
        json!({
            "errors": errors,
            "warnings": warnings,
            "unseen": count(Level::Unseen),
            "servers": reports.iter().map(Report::json).collect::<Vec<_>>(),
        })
    };
    let mut table = Table::new([
        "ENDPOINT", "SERVER", "PART", "VERSION", "POLICY", "DISK", "NOTIFIES", "LAG", "FOUND",
    ]);
    for report in &reports {
        let (sum, level) = report.sum();
        let [version, policy, disk, notifies, lag] = report.facts.as_ref().map(Facts::row).unwrap_or_default();
        table.row([
            report.endpoint.into(),
            report.server().into(),
            report.part().into(),
            version.into(),
            policy.into(),
            disk.into(),
            notifies.into(),
            Cell::new(lag).right(),
            Cell::new(sum).style(level.map_or(GOOD, Level::style)),
        ]);
    }
    let found: String = reports.iter().map(ToString::to_string).collect();
    let gap = if found.is_empty() { "" } else { "\n" };
    screen.show(json, format!("{table}{gap}{found}"))?;
    let mut reached = true;
    for report in &reports {
        if let Some(why) = &report.unreachable {
            reached = false;
            screen::aside(format_args!("{} {}: {why}", report.endpoint, report.server()));
        }
    }
    Ok(match (reached, errors) {
        (false, _) => Exit::Unreachable,
        (true, 0) => Exit::Fine,
        (true, _) => Exit::Found,
    })
}
