//! All sources put together: each value checked, the highest layer's taken.

use std::{collections::BTreeMap, env, ffi::OsString, fs, sync::Arc};

use clap::ArgMatches;

use super::{
    Config,
    draft::Draft,
    problem::{Place, Problem, Problems},
    quay, resolve,
    setting::{Given, Setting},
    source::{self, CONFIG, Found, QUAY_CONFIG},
    table::table,
};

/// A configuration that holds together, and what to know about it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What may not be meant; the gateway runs all the same.
    pub warnings: Vec<Problem>,
    pub(super) rows: Vec<Row>,
}

/// One setting as it was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub path: String,
    pub value: String,
    pub place: Place,
}

/// Puts the configuration together from arguments, the environment and the files that these name.
///
/// `matches` are those of [`super::command`]. The error holds all problems, not only the first.
pub fn load(matches: &ArgMatches, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Loaded, Problems> {
    let env: Vec<(OsString, OsString)> = env.into_iter().collect();
    let (mut found, mut problems, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    // In ascending precedence: what comes later counts.
    let quay = named_file(matches, &env, QUAY_CONFIG, &mut problems);
    if let Some((place, name, text)) = &quay {
        let before = found.len();
        let mut understood = quay::read(name, text);
        found.append(&mut understood.found);
        warnings.append(&mut understood.notes);
        if understood.problems.is_empty() && found.len() == before {
            problems.push(Problem::new(
                place,
                "names no Redis; leave it out for the embedded server",
            ));
        }
        problems.append(&mut understood.problems);
    }
    if let Some((_, name, text)) = named_file(matches, &env, CONFIG, &mut problems) {
        source::file(&name, &text, &mut found, &mut problems);
    }
    source::environment(&env, &mut found, &mut problems);
    source::flags(matches, &mut found);
    finish(found, &env, problems, warnings)
}

impl Config {
    /// The configuration that a file with this text gives, without flags and environment.
    pub fn from_yaml(text: &str) -> Result<Self, Problems> {
        let (mut found, mut problems) = (Vec::new(), Vec::new());
        source::file("text", text, &mut found, &mut problems);
        // Where the embedded server's data would go.
        let home = env::vars_os().filter(|(name, _)| name == "HOME" || name == "XDG_DATA_HOME");
        finish(found, &home.collect::<Vec<_>>(), problems, Vec::new()).map(|loaded| loaded.config)
    }
}

/// What has been given, by path, each the highest layer's.
pub(super) type Chosen = BTreeMap<&'static str, (&'static Setting, Given)>;

fn finish(
    found: Vec<Found>,
    env: &[(OsString, OsString)],
    mut problems: Vec<Problem>,
    mut warnings: Vec<Problem>,
) -> Result<Loaded, Problems> {
    let mut draft = Draft::new();
    for setting in table() {
        if let Some(default) = setting.default {
            problems.extend(setting.set(
                &mut draft,
                &source::text(Place::Default, Some(setting.path.clone()), default),
            ));
        }
    }
    let mut chosen = Chosen::new();
    for (setting, given) in found {
        problems.extend(setting.set(&mut draft, &given));
        // One that is wrong is given all the same: it must not be called missing as well.
        chosen.insert(&setting.path, (setting, given));
    }
    let (config, rows) = resolve::resolve(draft, chosen, env, &mut problems, &mut warnings);
    if problems.is_empty() {
        Ok(Loaded { config, warnings, rows })
    } else {
        Err(Problems(problems))
    }
}

/// The file that a flag, or else a variable, names: where it was named, its name and its text.
fn named_file(
    matches: &ArgMatches,
    env: &[(OsString, OsString)],
    (variable, flag): (&str, &str),
    problems: &mut Vec<Problem>,
) -> Option<(Place, Arc<str>, String)> {
    let (place, path) = if let Some(path) = matches.get_one::<String>(flag) {
        (Place::Flag(format!("--{flag}")), path.clone())
    } else {
        let (_, path) = env.iter().find(|(name, value)| name == variable && !value.is_empty())?;
        // What is not UTF-8 is told with the other variables.
        (Place::Env(variable.to_owned()), path.to_str()?.to_owned())
    };
    match fs::read_to_string(&path) {
        Ok(text) => Some((place, Arc::from(path), text)),
        Err(e) => {
            problems.push(Problem::new(&place, format!("{path:?} cannot be read: {e}")));
            None
        }
    }
}
