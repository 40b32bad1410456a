//! `check`: the configuration as it is understood, or all that is wrong with it. It asks nobody.

use clap::Command;

use super::screen::Screen;
use super::{Exit, Failure, Outcome};
use crate::config::{Loaded, Problems};

pub(super) fn grammar() -> Command {
    super::looking(
        "check",
        "Print the configuration as it is understood, without secrets, and warnings",
    )
    .after_help("Exit code: 0 it is valid, 64 it is not, or the arguments are wrong.")
}

pub(super) fn run(load: impl FnOnce() -> Result<Loaded, Problems>, screen: &mut Screen) -> Outcome {
    match load() {
        Ok(loaded) => {
            screen.show(|| loaded.json(), &loaded)?;
            Ok(Exit::Fine)
        }
        Err(problems) if screen.json() => {
            screen.show(|| problems.json(), "")?;
            Ok(Exit::Misconfigured)
        }
        Err(problems) => Err(Failure::Misconfigured(problems.to_string())),
    }
}
