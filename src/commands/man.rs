//! `man`: manual pages, from the same grammar as the help.

use clap::{Arg, ArgMatches, Command};
use clap_mangen::Man;

use super::screen::Screen;
use super::{Exit, Outcome};

pub(super) fn grammar() -> Command {
    Command::new("man").about("Print the manual page, in roff").arg(
        Arg::new("command")
            .value_name("COMMAND")
            .num_args(0..)
            .help("The page of this command, such as `locks release`, instead of the whole program's"),
    )
}

pub(super) fn run(args: &ArgMatches, screen: &mut Screen) -> Outcome {
    let whole = super::grammar();
    let (mut page, mut title) = (&whole, whole.get_name().to_owned());
    for name in args.get_many::<String>("command").into_iter().flatten() {
        let Some(command) = page.find_subcommand(name) else {
            let known: Vec<&str> = page.get_subcommands().map(Command::get_name).collect();
            let known = known.join(", ");
            return Err(super::Failure::Misconfigured(format!(
                "no command {name:?}: name one of {known}"
            )));
        };
        page = command;
        title = format!("{title}-{name}");
    }
    let page = page.clone().name(title).version(env!("CARGO_PKG_VERSION"));
    let mut roff = Vec::new();
    Man::new(page).render(&mut roff)?;
    screen.text(String::from_utf8_lossy(&roff))?;
    Ok(Exit::Fine)
}
