//! What a setting is: a path, a form, a default, a line of help, and where its value goes.

use super::{
    EndpointName,
    draft::Draft,
    form::Form,
    problem::{Place, Problem},
};

/// The prefix of all environment variables that are ours.
pub(super) const ENV_PREFIX: &str = "REDIS_GATEWAY_";

/// One setting.
pub struct Setting {
    /// Such as `endpoints.build_logs.command_timeout`.
    pub path: String,
    /// What holds if nothing is given, as it would be written; `None` if that is nothing at all.
    pub default: Option<&'static str>,
    /// What it is for.
    pub help: &'static str,
    /// The form's name, such as `DURATION`.
    pub form: &'static str,
    /// What is right, such as `1ms to 5m`.
    pub want: String,
    /// Never shown, and no flag: a process' arguments can be read by others.
    pub secret: bool,
    /// Several values, separated by commas outside YAML.
    pub list: bool,
    set: Box<Set>,
}

type Set = dyn Fn(&mut Draft, &Given) -> Vec<Problem> + Send + Sync;

impl Setting {
    /// The flag, with its dashes.
    pub fn flag(&self) -> Option<String> {
        (!self.secret).then(|| format!("--{}", self.path.replace(['.', '_'], "-")))
    }

    /// The environment variable.
    pub fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", self.path.replace('.', "_").to_ascii_uppercase())
    }

    /// The endpoint that it belongs to.
    pub(super) fn endpoint(&self) -> Option<EndpointName> {
        let (name, _) = self.path.strip_prefix("endpoints.")?.split_once('.')?;
        EndpointName::ALL.into_iter().find(|endpoint| endpoint.as_str() == name)
    }

    /// Puts a value into the draft, or says what is wrong with it.
    pub(super) fn set(&self, draft: &mut Draft, given: &Given) -> Vec<Problem> {
        (self.set)(draft, given)
    }

    /// The value as it may be shown.
    pub(super) fn shown(&self, raw: &Raw) -> String {
        match raw {
            _ if self.secret => "***".into(),
            Raw::Text(text) => text.clone(),
            Raw::List(items) => items
                .iter()
                .map(|(text, _)| text.as_str())
                .collect::<Vec<_>>()
                .join(","),
        }
    }
}

/// A value as it was given, and where.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub place: Place,
    /// What it is called there; none where the place is a name.
    pub label: Option<String>,
    pub raw: Raw,
}

#[derive(Debug, Clone)]
pub(super) enum Raw {
    Text(String),
    List(Vec<(String, Place)>),
}

impl Given {
    /// Where one of several values stands.
    pub(super) fn item(&self, index: usize) -> &Place {
        match &self.raw {
            Raw::List(items) => items.get(index).map_or(&self.place, |(_, place)| place),
            Raw::Text(_) => &self.place,
        }
    }

    pub(super) fn problem(&self, place: &Place, what: &str) -> Problem {
        match &self.label {
            Some(label) => Problem::new(place, format!("{label}: {what}")),
            None => Problem::new(place, what),
        }
    }
}

/// A setting with one value. An empty default is none.
pub(super) fn one<F: Form + Send + Sync + 'static>(
    path: impl Into<String>,
    default: &'static str,
    form: F,
    help: &'static str,
    put: impl Fn(&mut Draft, F::Value) + Send + Sync + 'static,
) -> Setting {
    Setting {
        path: path.into(),
        default: (!default.is_empty()).then_some(default),
        help,
        form: form.name(),
        want: form.want(),
        secret: false,
        list: false,
        set: Box::new(move |draft, given| {
            let parsed = match &given.raw {
                Raw::Text(text) => form.parse(text),
                Raw::List(_) => Err(format!("is a list: write one value ({})", form.want())),
            };
            match parsed {
                Ok(value) => {
                    put(draft, value);
                    Vec::new()
                }
                Err(what) => vec![given.problem(&given.place, &what)],
            }
        }),
    }
}

/// A setting with several values.
pub(super) fn many<F: Form + Send + Sync + 'static>(
    path: impl Into<String>,
    default: &'static str,
    form: F,
    help: &'static str,
    put: impl Fn(&mut Draft, Vec<F::Value>) + Send + Sync + 'static,
) -> Setting {
    Setting {
        path: path.into(),
        default: (!default.is_empty()).then_some(default),
        help,
        form: form.name(),
        want: form.want(),
        secret: false,
        list: true,
        set: Box::new(move |draft, given| {
            let items: Vec<(&str, &Place)> = match &given.raw {
                Raw::Text(text) if text.is_empty() => Vec::new(),
                Raw::Text(text) => text.split(',').map(|item| (item.trim(), &given.place)).collect(),
                Raw::List(items) => items.iter().map(|(text, place)| (text.as_str(), place)).collect(),
            };
            let (mut values, mut problems) = (Vec::new(), Vec::new());
            for (text, place) in items {
                match form.parse(text) {
                    Ok(value) => values.push(value),
                    Err(what) => problems.push(given.problem(place, &what)),
                }
            }
            if problems.is_empty() {
                put(draft, values);
            }
            problems
        }),
    }
}

/// The same setting, as a secret.
pub(super) fn secret(setting: Setting) -> Setting {
    Setting {
        secret: true,
        ..setting
    }
}
