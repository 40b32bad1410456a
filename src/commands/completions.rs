//! `completions`: what a shell needs to complete the command line.

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use super::screen::Screen;
use super::{Exit, Outcome};

pub(super) fn grammar() -> Command {
    Command::new("completions")
        .about("Print completions of the command line for a shell")
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(value_parser!(Shell))
                .help("What to complete in"),
        )
}

pub(super) fn run(args: &ArgMatches, screen: &mut Screen) -> Outcome {
    let mut script = Vec::new();
    if let Some(shell) = args.get_one::<Shell>("shell") {
        clap_complete::generate(*shell, &mut super::grammar(), "redis-gateway", &mut script);
    }
    // For bash clap_complete looks for commands of a program with a hyphen under another name than it gives them.
    let script = String::from_utf8_lossy(&script).replace("redis__subcmd__gateway", "redis__gateway");
    screen.text(script)?;
    Ok(Exit::Fine)
}
