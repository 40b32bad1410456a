//! `man`: manual pages, from the same grammar as the help.

use std::io::Write as _;

use clap::{Arg, ArgMatches, Command};
use clap_mangen::Man;

use super::{Exit, Outcome};

pub(super) fn grammar() -> Command {
    Command::new("man").about("Print the manual page, in roff").arg(
        Arg::new("command")
            .value_name("COMMAND")
            .help("The page of this command, instead of the whole program's"),
    )
}

pub(super) fn run(args: &ArgMatches) -> Outcome {
    let whole = super::grammar();
    let page = match args.get_one::<String>("command") {
        None => whole,
        Some(name) => {
            let Some(command) = whole.find_subcommand(name) else {
                let known: Vec<&str> = whole.get_subcommands().map(Command::get_name).collect();
                let known = known.join(", ");
                return Err(super::Failure::Misconfigured(format!(
                    "no command {name:?}: name one of {known}"
                )));
            };
            let title = format!("{}-{name}", whole.get_name());
            command.clone().name(title).version(env!("CARGO_PKG_VERSION"))
        }
    };
    let mut roff = Vec::new();
    Man::new(page).render(&mut roff)?;
    std::io::stdout().write_all(&roff)?;
    Ok(Exit::Fine)
}
