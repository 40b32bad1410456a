//! `inventory`: what stands in each Redis, by kinds of keys, and what of it is not as it should be. It reads, and changes nothing.

mod kinds;
mod report;
mod walk;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::kinds::Homes;
use self::report::{End, Report};
use self::walk::Terms;
use super::pace::Pace;
use super::places::{self, Look, Missed};
use super::screen::{self, Progress, Screen};
use super::{Exit, Failure, Outcome};
use crate::config::Loaded;

pub(super) fn grammar() -> Command {
    let help = "Exit code: 0 all is as it should be, 1 something is not, 64 wrong arguments or configuration, 69 something could \
                not be looked at, 130 interrupted. Ctrl-C ends it with what it has found by then.";
    super::looking(
        "inventory",
        "Count what stands in each Redis, by kinds of keys, and find what is not as it should be",
    )
    .after_help(help)
    .arg(super::endpoint_arg())
    .args([
        super::rate_arg(),
        Arg::new("max-findings")
            .long("max-findings")
            .value_name("COUNT")
            .default_value("100")
            .value_parser(value_parser!(u32))
            .help("List so many findings of each database; all are counted"),
        Arg::new("touch")
            .long("touch")
            .action(ArgAction::SetTrue)
            .help("Read values also where that makes them look used to a Redis that evicts what is not"),
    ])
}

pub(super) async fn run(
    args: &ArgMatches,
    load: impl FnOnce() -> Result<Loaded, Failure>,
    screen: &mut Screen,
) -> Outcome {
    let config = load()?.config;
    let wanted = super::endpoint(args, &config)?;
    let (places, missed) = places::find(&config, wanted, Look::Databases).await;
    let terms = Terms {
        homes: &Homes::new(&config),
        orphan_age: config.pull_metrics.orphan_age,
        room: args.get_one("max-findings").map_or(0, |count: &u32| *count as usize),
        touch: args.get_flag("touch"),
    };
    let (stop, _waiting) = on_ctrl_c();
    let pace = Pace::new(super::rate(args));
    let mut reports = Vec::new();
    for place in &places {
        if stop.is_cancelled() {
            break;
        }
        let what = format!("{}: {}", place.names(), place.server);
        let progress = Progress::new(what.clone());
        let tell = |looked, total| progress.say(format!("{what}: {looked} of {total} keys"));
        reports.push(walk::walk(place, &terms, &pace, &stop, tell).await);
    }
    let json = || {
        json!({
            "databases": reports.iter().map(Report::json).collect::<Vec<_>>(),
            "unreachable": missed.iter().map(Missed::json).collect::<Vec<_>>(),
        })
    };
    let texts: Vec<String> = reports.iter().map(ToString::to_string).collect();
    screen.show(json, texts.join("\n"))?;
    for missed in &missed {
        screen::aside(missed);
    }
    let mut whole = missed.is_empty();
    for report in &reports {
        if let End::Failed(why) = &report.end {
            screen::aside(format_args!("{}, db {}: {why}", report.server, report.db));
        }
        whole &= report.denied == 0 && !matches!(report.end, End::Failed(_));
    }
    Ok(if !whole {
        Exit::Unreachable
    } else if stop.is_cancelled() {
        Exit::Interrupted
    } else if reports.iter().any(|report| report.wrong() > 0) {
        Exit::Found
    } else {
        Exit::Fine
    })
}

/// Cancelled by Ctrl-C.
fn on_ctrl_c() -> (CancellationToken, AbortOnDropHandle<()>) {
    let stop = CancellationToken::new();
    let told = stop.clone();
    let task = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            told.cancel();
        }
    });
    (stop, AbortOnDropHandle::new(task))
}
