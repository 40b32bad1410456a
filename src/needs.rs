//! What a pattern needs of its Redis. Each pattern names its own in `needs.rs`, beside its store; its page in `docs/` says the same.

/// What one pattern needs, beside what each endpoint does.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// The pattern, as people call it.
    pub pattern: &'static str,
    /// What its user must be allowed to do.
    pub rights: Vec<Right>,
    /// The same on replicas, for what is read from them.
    pub rights_on_replicas: Vec<Right>,
    /// What goes wrong where keys are evicted.
    pub evicted: Option<Loss>,
    /// What is lost by a restart without persistence.
    pub restarted: Option<&'static str>,
    /// The notifications of keys that it wants.
    pub notified: Option<Notified>,
    /// Whether one connection hears for many, so that Redis must not cut it off for being behind a little.
    pub listens: bool,
}

/// Commands that the user must be allowed to run on something.
#[derive(Debug, Clone)]
pub struct Right {
    /// Their names as ACL rules have them, such as `get config|set`.
    pub commands: &'static str,
    /// On what.
    pub on: On,
    /// What happens without, where that is not that calls fail.
    pub without: Option<&'static str>,
}

/// What commands are run on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum On {
    /// The server.
    Server,
    /// Keys by the pattern of an ACL rule.
    Keys(String),
    /// Channels by the pattern of an ACL rule. A `PSUBSCRIBE` must name one that stands in a rule, to the letter.
    Channels(String),
}

/// What goes wrong where something is lost.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// What goes wrong.
    pub what: &'static str,
    /// Whether a promise is broken by it.
    pub grave: bool,
}

/// Notifications of keys.
#[derive(Debug, Clone, Copy)]
pub struct Notified {
    /// Which flags are missing, given those that are there.
    pub missing: fn(&str) -> &'static str,
    /// Whether the gateway adds them by itself, where it may.
    pub set_up: bool,
    /// What happens without.
    pub without: &'static str,
}

/// Commands on the server.
pub fn server(commands: &'static str) -> Right {
    Right {
        commands,
        on: On::Server,
        without: None,
    }
}

/// Commands on keys.
pub fn keys(pattern: impl Into<String>, commands: &'static str) -> Right {
    Right {
        on: On::Keys(pattern.into()),
        ..server(commands)
    }
}

/// Commands on channels.
pub fn channels(pattern: impl Into<String>, commands: &'static str) -> Right {
    Right {
        on: On::Channels(pattern.into()),
        ..server(commands)
    }
}

impl Right {
    /// The same, where calls do without it.
    #[must_use]
    pub fn or(self, without: &'static str) -> Self {
        Right {
            without: Some(without),
            ..self
        }
    }
}
