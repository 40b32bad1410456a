//! What a server says of itself, as far as it may be asked.

use std::time::Duration;

use serde_json::{Value, json};

use super::finding::Finding;
use crate::commands::units;
use crate::config::Endpoint;
use crate::redis::{Error, Info, Reply, Visit, command};

/// What a server says, or why it does not.
pub(super) type Told<T> = Result<T, Untold>;

/// Why a server does not say something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Untold {
    /// The user may not ask.
    Denied,
    /// The server has no such command, or nothing of that name.
    Unknown,
}

impl Untold {
    /// `what` is not seen, since `command` is not answered, which needs `rules`.
    pub(super) fn finding(
        self,
        check: &'static str,
        what: &str,
        command: &str,
        config: &Endpoint,
        rules: &str,
    ) -> Finding {
        match self {
            Untold::Denied => {
                let fix = format!("ACL SETUSER {} {rules}", config.user());
                Finding::unseen(check, format!("{what}: {command} is denied"), fix)
            }
            Untold::Unknown => {
                let what = format!("{what}: the server has no {command} for that");
                let fix = "see where the server is managed; if it is yours, take rename-command out of redis.conf";
                Finding::unseen(check, what, fix)
            }
        }
    }
}

/// Tells what is not said from what fails.
pub(super) fn told<T>(answer: Result<T, Error>) -> Result<Told<T>, Error> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(Error::Reply(Reply::Denied(_))) => Ok(Err(Untold::Denied)),
        Err(Error::Reply(Reply::Other(_))) => Ok(Err(Untold::Unknown)),
        Err(error) => Err(error),
    }
}

/// What one server says of itself.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) info: Told<Info>,
    /// Parameters, by `CONFIG GET`.
    pub(super) notify: Told<String>,
    pub(super) save: Told<String>,
    pub(super) buffers: Told<String>,
    /// How long it took to get what its primary had; none if it has none, or that is not known.
    pub(super) lag: Option<Duration>,
}

impl Facts {
    pub(super) async fn ask(redis: &Visit) -> Result<Self, Error> {
        Ok(Facts {
            info: told(redis.ask(command::info("default")).await)?,
            notify: parameter(redis, "notify-keyspace-events").await?,
            save: parameter(redis, "save").await?,
            buffers: parameter(redis, "client-output-buffer-limit").await?,
            lag: None,
        })
    }

    /// A value of `INFO`.
    pub(super) fn info(&self, name: &str) -> Option<&str> {
        self.info.as_ref().ok()?.get(name)
    }

    /// What it is, and of which version.
    pub(super) fn product(&self) -> Option<(&'static str, &str)> {
        self.info.as_ref().ok()?.product()
    }

    /// Databases that hold keys.
    pub(super) fn databases(&self) -> Vec<u8> {
        let fields = self.info.iter().flat_map(Info::fields);
        fields
            .filter(|(_, value)| value.starts_with("keys="))
            .filter_map(|(name, _)| name.strip_prefix("db")?.parse().ok())
            .collect()
    }

    /// Whether it keeps an append-only file.
    fn append_only(&self) -> Option<bool> {
        self.info("aof_enabled").map(|enabled| enabled == "1")
    }

    /// For a table: product and version, `maxmemory-policy`, what it keeps on disk, of which keys it notifies, its lag.
    pub(super) fn row(&self) -> [String; 5] {
        let unknown = || "unknown".to_owned();
        let kept = [
            (self.append_only(), "aof"),
            (self.save.as_ref().ok().map(|save| !save.is_empty()), "saves"),
        ];
        let names: Vec<&str> = kept
            .iter()
            .filter(|(kept, _)| *kept == Some(true))
            .map(|(_, name)| *name)
            .collect();
        let disk = if !names.is_empty() {
            names.join(", ")
        } else if kept.iter().all(|(kept, _)| kept.is_some()) {
            "nothing".to_owned()
        } else {
            unknown()
        };
        [
            self.product()
                .map_or_else(unknown, |(name, version)| format!("{name} {version}")),
            self.info("maxmemory_policy").map_or_else(unknown, str::to_owned),
            disk,
            match self.notify.as_deref() {
                Ok("") => "nothing".to_owned(),
                Ok(flags) => flags.to_owned(),
                Err(_) => unknown(),
            },
            self.lag.map(units::span).unwrap_or_default(),
        ]
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "product": self.product().map(|(name, _)| name),
            "role": self.info("role"),
            "maxmemory": self.info("maxmemory").and_then(|most| most.parse::<u64>().ok()),
            "maxmemory_policy": self.info("maxmemory_policy"),
            "append_only": self.append_only(),
            "save": self.save.as_deref().ok(),
            "notify_keyspace_events": self.notify.as_deref().ok(),
            "lag_ms": self.lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
        })
    }
}

async fn parameter(redis: &Visit, name: &'static str) -> Result<Told<String>, Error> {
    let found = told(redis.ask(command::config_get(name)).await)?;
    Ok(found.and_then(|found| {
        let value = found.get(1).ok_or(Untold::Unknown)?;
        Ok(String::from_utf8_lossy(value).into_owned())
    }))
}
