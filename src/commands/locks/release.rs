//! `locks release`: takes a lock away from its holder, and wakes who waits for it.

use std::io::{self, IsTerminal as _, Write as _};

use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;
use tokio::task::spawn_blocking;

use super::Desk;
use super::audit::Audit;
use crate::commands::printable::printable;
use crate::commands::screen::Screen;
use crate::commands::{Exit, Failure, Outcome, units};
use crate::locks::{Holder, Lock};

pub(super) fn grammar() -> Command {
    let help = "Whoever waits for the lock is woken; a holder through a gateway hears that its lock is lost. A holder that is at \
                work all the same is not stopped by this. Before and after, a line of JSON on standard error says who did it and \
                why. It is sent once: when it is not answered, `locks show` says what became of it.";
    Command::new("release")
        .about("Take a lock from the holder that is named, and from nobody else")
        .after_help(help)
        .args([
            super::name_arg(),
            Arg::new("holder")
                .long("holder")
                .value_name("ID")
                .required(true)
                .value_parser(|id: &str| {
                    Holder::parse(id)
                        .map(|_| id.to_owned())
                        .map_err(|error| error.to_string())
                })
                .help("Who holds it, as `locks show` says: whoever has got it since keeps it"),
            Arg::new("reason")
                .long("reason")
                .value_name("TEXT")
                .required(true)
                .value_parser(NonEmptyStringValueParser::new())
                .help("Why, for those who ask later"),
            Arg::new("yes")
                .long("yes")
                .action(ArgAction::SetTrue)
                .help("Do not ask; needed where there is no terminal to ask on"),
        ])
}

pub(super) async fn run(args: &ArgMatches, desk: &Desk, screen: &mut Screen) -> Outcome {
    let name = super::name(args)?;
    let shown = args.get_one::<String>("name").map_or("", String::as_str);
    let holder = args.get_one::<String>("holder").map_or("", String::as_str);
    let sure = args.get_flag("yes");
    if !sure && !io::stdin().is_terminal() {
        let what = "there is no terminal to ask on: say --yes";
        return Err(Failure::Misconfigured(what.to_owned()));
    }
    let said = |outcome: &str, exit: Exit, screen: &mut Screen| {
        let json = || json!({"name": shown, "outcome": outcome});
        screen.show(json, format!("{}: {outcome}\n", printable(shown.as_bytes())))?;
        Ok(exit)
    };
    let Some(lock) = desk.get(&name).await? else {
        return said("nobody holds it", Exit::Found, screen);
    };
    if lock.holder != holder {
        return said("another holds it", Exit::Found, screen);
    }
    if !sure && !asked(shown, &lock).await? {
        return said("left as it is", Exit::Found, screen);
    }
    let reason = args.get_one::<String>("reason").map_or("", String::as_str);
    let holder = Holder::parse(holder).map_err(|error| Failure::Misconfigured(format!("--holder: {error}")))?;
    let audit = Audit::new(desk, shown, &lock, reason);
    audit.say("begins");
    // By its holder, so that who has got it since keeps it.
    match desk.locks.release(&name, &holder).await {
        Ok(true) => {
            audit.say("released");
            said("released", Exit::Fine, screen)
        }
        Ok(false) => {
            audit.say("not released: the holder does not hold it any more");
            said("its holder does not hold it any more", Exit::Found, screen)
        }
        Err(error) if error.leaves_doubt() => {
            audit.say("unknown: sent, and no answer says what became of it");
            said(
                "sent, and no answer says what became of it: it may be released or not",
                Exit::Unknown,
                screen,
            )
        }
        Err(error) => {
            audit.say(&format!("not released: {error}"));
            Err(desk.failed(&error))
        }
    }
}

/// Whether a person says yes. They may think about it for long, on a thread of their own: meanwhile the connection is probed, and made
/// anew if it is lost.
async fn asked(name: &str, lock: &Lock) -> io::Result<bool> {
    let (name, holder) = (printable(name.as_bytes()), printable(lock.holder.as_bytes()));
    let left = units::left(lock.left);
    write!(
        io::stderr(),
        "{name} is held by {holder}, ends in: {left}. Release it? [y/N] "
    )?;
    let line = spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    Ok(matches!(line.await??.trim(), "y" | "Y" | "yes"))
}
