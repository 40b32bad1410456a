//! Commands of operators: each asks, prints what it found and ends. None serves calls, binds a port or sends traces.
//!
//! A command is one module: its part of the grammar, and what it does with the [`Screen`]. Those that look at Redis or at a
//! gateway are told by the same configuration as `serve` where to find it.

mod check;
mod clients;
mod completions;
mod doctor;
mod health;
mod inventory;
mod locks;
mod man;
mod pace;
mod places;
mod printable;
mod screen;
mod units;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser, value_parser};

use crate::config::{self, Config, Endpoint, EndpointName, Loaded, Problems};
use screen::Screen;

/// How a command ends, as a shell sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Fine = 0,
    /// It was looked at, and something is not as it should be; or serving failed.
    Found = 1,
    /// Arguments or configuration are wrong.
    Misconfigured = 64,
    /// What was asked cannot be reached, or refuses.
    Unreachable = 69,
    /// A change was sent, and no answer says what became of it.
    Unknown = 75,
    /// Ended by Ctrl-C, with what there was by then.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        // Each is at most 130.
        ExitCode::from(exit as u8)
    }
}

/// What stands under the help of commands that look at something.
const EXIT_CODES: &str = "Exit code: 0 all is well, 1 something is not, 64 wrong arguments or configuration, 69 what was \
                          asked cannot be reached, or refuses.";

/// Why a command cannot say what it was asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Misconfigured(String),
    #[error("{0}")]
    Unreachable(String),
    #[error(transparent)]
    Output(#[from] io::Error),
}

impl Failure {
    fn exit(&self) -> Exit {
        match self {
            Failure::Misconfigured(_) => Exit::Misconfigured,
            Failure::Unreachable(_) => Exit::Unreachable,
            Failure::Output(_) => Exit::Found,
        }
    }
}

/// What a command came to.
type Outcome = Result<Exit, Failure>;

/// The grammar of the whole command line.
pub fn grammar() -> Command {
    config::command().subcommands([
        check::grammar(),
        doctor::grammar(),
        health::grammar(),
        inventory::grammar(),
        clients::grammar(),
        locks::grammar(),
        completions::grammar(),
        man::grammar(),
    ])
}

/// Runs the command that `matches` of [`grammar`] name: any but `serve`.
pub fn run(matches: &ArgMatches, env: impl IntoIterator<Item = (OsString, OsString)>) -> Exit {
    let Some((name, args)) = matches.subcommand() else {
        return Exit::Fine;
    };
    // Not all need a configuration, so a wrong one is not in their way.
    let outcome = look(name, args, || config::load(matches, env), &mut Screen::new(args));
    outcome.unwrap_or_else(|failure| {
        screen::aside(&failure);
        failure.exit()
    })
}

fn look(
    name: &str,
    args: &ArgMatches,
    load: impl FnOnce() -> Result<Loaded, Problems>,
    screen: &mut Screen,
) -> Outcome {
    let command = async {
        if name == "check" {
            return check::run(load, screen);
        }
        let loaded = || load().map_err(|problems| Failure::Misconfigured(problems.to_string()));
        match name {
            "doctor" => doctor::run(args, loaded, screen).await,
            "health" => health::run(args, loaded, screen).await,
            "inventory" => inventory::run(args, loaded, screen).await,
            "clients" => clients::run(args, loaded, screen).await,
            "locks" => locks::run(args, loaded, screen).await,
            "completions" => completions::run(args, screen),
            // `man`: the grammar knows no other.
            _ => man::run(args, screen),
        }
    };
    // One thread: nothing here is worth a second one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(command);
    // Nobody waits for a name server that does not answer.
    runtime.shutdown_background();
    outcome
}

/// The beginning of a command's grammar: it looks at something, and says it in a table or as JSON.
fn looking(name: &'static str, about: &'static str) -> Command {
    Command::new(name).about(about).after_help(EXIT_CODES).arg(
        Arg::new("json")
            .long("json")
            .action(ArgAction::SetTrue)
            .help("Print one JSON document instead of a table"),
    )
}

/// `--endpoint NAME`, for a command that can look at one alone.
fn endpoint_arg() -> Arg {
    Arg::new("endpoint")
        .long("endpoint")
        .value_name("NAME")
        .value_parser(PossibleValuesParser::new(EndpointName::ALL.map(EndpointName::as_str)))
        .help("Look at this endpoint alone, instead of all that are configured")
}

/// The endpoint that [`endpoint_arg`] names, or all that are configured.
fn endpoints<'a>(args: &ArgMatches, config: &'a Config) -> Result<Vec<(EndpointName, &'a Endpoint)>, Failure> {
    let wanted = args.get_one::<String>("endpoint");
    let named = |name: &EndpointName| wanted.is_none_or(|wanted| wanted == name.as_str());
    let all = EndpointName::ALL.into_iter().filter(named);
    let found: Vec<_> = all
        .filter_map(|name| Some((name, config.endpoints.get(name)?)))
        .collect();
    match (wanted, &found[..]) {
        (Some(name), []) if name == EndpointName::Locks.as_str() && config.endpoints.user_events.is_some() => {
            let what = "locks have no endpoint of their own: they are on user_events, name that";
            Err(Failure::Misconfigured(format!("--endpoint: {what}")))
        }
        (Some(name), []) => Err(Failure::Misconfigured(format!(
            "--endpoint: {name} is not configured: configure endpoints.{name}, or name another"
        ))),
        _ => Ok(found),
    }
}

/// The endpoint that [`endpoint_arg`] names; none if it names none.
fn endpoint(args: &ArgMatches, config: &Config) -> Result<Option<EndpointName>, Failure> {
    let found = endpoints(args, config)?;
    let named = args.get_one::<String>("endpoint").and(found.first());
    Ok(named.map(|(name, _)| *name))
}

/// `--rate COUNT`, for a command that goes through all keys.
fn rate_arg() -> Arg {
    Arg::new("rate")
        .long("rate")
        .value_name("COUNT")
        .default_value("10000")
        .value_parser(value_parser!(u32).range(1..))
        .help("Look at so many keys a second at most; a KiB of values that is read counts as one")
}

/// The rate that [`rate_arg`] names.
fn rate(args: &ArgMatches) -> u32 {
    args.get_one("rate").copied().unwrap_or(1)
}
