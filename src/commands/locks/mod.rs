//! `locks`: who holds which lock, and taking one away from a holder that is gone.

mod audit;
mod release;

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use clap::{Arg, ArgMatches, Command};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::pace::Pace;
use super::printable::printable;
use super::screen::{Cell, FAINT, Progress, Screen, Table};
use super::units;
use super::{Exit, Failure, Outcome};
use crate::config::{self, Config, EndpointName, Loaded};
use crate::locks::{Lock, Name, Operator};
use crate::redis::{Endpoint, Error, Member, Metrics, Part, State, Visit, command};

/// How many places of the keyspace one step looks at.
const PAGE: u64 = 500;

pub(super) fn grammar() -> Command {
    let help = "Exit code: 0 done, 1 nobody holds the lock, or another than the holder that was named, or it was left as it is, \
                64 wrong arguments or configuration, 69 Redis cannot be reached, or refuses, 75 a release was sent, and no answer says what became of it: look before you try again.";
    super::looking("locks", "List the locks that are held, show one, release one")
        .mut_arg("json", |json| json.global(true))
        .after_help(help)
        .subcommand_required(true)
        .subcommands([
            Command::new("list")
                .about("List all locks that are held")
                .arg(super::rate_arg()),
            Command::new("show").about("Show one lock").arg(name_arg()),
            release::grammar(),
        ])
}

fn name_arg() -> Arg {
    Arg::new("name")
        .value_name("NAME")
        .required(true)
        .value_parser(|name: &str| {
            Name::parse(name)
                .map(|_| name.to_owned())
                .map_err(|error| error.to_string())
        })
        .help("The lock's name, without what stands before it in Redis")
}

pub(super) async fn run(
    args: &ArgMatches,
    load: impl FnOnce() -> Result<Loaded, Failure>,
    screen: &mut Screen,
) -> Outcome {
    let desk = Desk::open(&load()?.config).await?;
    match args.subcommand() {
        Some(("list", args)) => list(args, &desk, screen).await,
        Some(("release", args)) => release::run(args, &desk, screen).await,
        Some((_, args)) => show(args, &desk, screen).await,
        // The grammar wants one.
        None => Ok(Exit::Misconfigured),
    }
}

/// Where locks are.
struct Desk {
    name: EndpointName,
    config: config::Endpoint,
    locks: Operator,
    /// A connection beside that of the endpoint, whose failures say why.
    redis: Visit,
}

impl Desk {
    async fn open(config: &Config) -> Result<Self, Failure> {
        let named = |name| Some((name, config.endpoints.get(name)?.clone()));
        let found = named(EndpointName::Locks).or_else(|| named(EndpointName::UserEvents));
        let Some((name, config)) = found else {
            let what = "locks are nowhere: configure endpoints.user_events, or endpoints.locks";
            return Err(Failure::Misconfigured(what.to_owned()));
        };
        let member = Member {
            server: config.server.clone(),
            part: Part::Primary,
            shard: 0,
        };
        let opened = Visit::open(&member, &config).await;
        let redis =
            opened.map_err(|why| Failure::Unreachable(format!("{} {}: {why}", name.as_str(), config.server)))?;
        let endpoint = Endpoint::open(name, &config, &Metrics::new(&Registry::new()));
        // It is known to be reachable, so this one is waited for: a call would not, for longer than a moment.
        let up = async { endpoint.state().wait_for(|state| *state == State::Up).await.is_ok() };
        if !timeout(config.connect_timeout, up).await.unwrap_or_default() {
            let why = format!("no connection within {:?}", config.connect_timeout);
            return Err(Failure::Unreachable(format!(
                "{} {}: {why}",
                name.as_str(),
                config.server
            )));
        }
        Ok(Desk {
            name,
            locks: Operator::new(endpoint),
            config,
            redis,
        })
    }

    fn failed(&self, error: &Error) -> Failure {
        Failure::Unreachable(format!("{} {}: {error}", self.name.as_str(), self.config.server))
    }

    async fn get(&self, name: &Name) -> Result<Option<Lock>, Failure> {
        self.locks.get(name).await.map_err(|error| self.failed(&error))
    }

    /// How many connections wait in `BLPOP`, for any lock: a gateway's is one for all who wait there. None: that may not be asked.
    async fn waiting(&self) -> Option<usize> {
        let clients = self.redis.ask(command::client_list()).await.ok()?;
        let clients = String::from_utf8_lossy(&clients).into_owned();
        // One that has waited before still names its last command.
        let waits = |line: &str| {
            let mut parts = line.split(' ').filter_map(|part| part.strip_prefix("flags="));
            line.contains(" cmd=blpop ") && parts.any(|flags| flags.contains('b'))
        };
        Some(clients.lines().filter(|line| waits(line)).count())
    }
}

/// The name that an argument holds, which was checked when it was read.
fn name(args: &ArgMatches) -> Result<Name, Failure> {
    let name = args.get_one::<String>("name").map_or("", String::as_str);
    Name::parse(name).map_err(|error| Failure::Misconfigured(format!("NAME: {error}")))
}

async fn list(args: &ArgMatches, desk: &Desk, screen: &mut Screen) -> Outcome {
    let pace = Pace::new(super::rate(args));
    let mut held = BTreeMap::new();
    let progress = Progress::new("looking for locks");
    let mut cursor = 0;
    loop {
        let (next, names) = desk
            .locks
            .names(cursor, PAGE)
            .await
            .map_err(|error| desk.failed(&error))?;
        pace.spend(PAGE).await;
        for name in names {
            let lock = match std::str::from_utf8(&name).ok().and_then(|name| Name::parse(name).ok()) {
                None => Err("no name of a lock".to_owned()),
                Some(name) => match desk.locks.get(&name).await {
                    Ok(None) => continue,
                    Ok(Some(lock)) => Ok(lock),
                    Err(Error::Reply(reply)) => Err(reply.to_string()),
                    Err(error) => return Err(desk.failed(&error)),
                },
            };
            pace.spend(1).await;
            // SCAN may come upon a key twice.
            held.insert(name, lock);
        }
        progress.say(format!("looking for locks: {} so far", held.len()));
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    drop(progress);
    let json = || {
        let one = |(name, lock): (&Bytes, &Result<Lock, String>)| {
            // Whole, so that `show` and `release` can take it.
            let name = std::str::from_utf8(name).map_or_else(|_| printable(name), str::to_owned);
            match lock {
                Ok(lock) => lock_json(&name, lock),
                Err(why) => json!({"name": name, "error": why}),
            }
        };
        json!({"endpoint": desk.name.as_str(), "locks": held.iter().map(one).collect::<Vec<_>>()})
    };
    let mut table = Table::new(["NAME", "HOLDER", "ENDS IN", "TOKEN", "ACQUIRED"]);
    for (name, lock) in &held {
        let name = printable(name);
        match lock {
            Ok(lock) => table.row(row(&name, lock)),
            Err(why) => table.row([
                name.into(),
                Cell::new(why).style(FAINT),
                "".into(),
                "".into(),
                "".into(),
            ]),
        }
    }
    let text = if held.is_empty() {
        "no lock is held\n".to_owned()
    } else {
        table.to_string()
    };
    screen.show(json, text)?;
    Ok(Exit::Fine)
}

async fn show(args: &ArgMatches, desk: &Desk, screen: &mut Screen) -> Outcome {
    let wanted = name(args)?;
    let shown = args.get_one::<String>("name").map_or("", String::as_str);
    let lock = desk.get(&wanted).await?;
    let waiting = desk.waiting().await;
    let json = || {
        let mut json = lock
            .as_ref()
            .map_or_else(|| json!({"name": shown, "held": false}), |lock| lock_json(shown, lock));
        json["waiting_for_any_lock"] = json!(waiting);
        json
    };
    let waiting = waiting.map_or_else(|| "unknown".to_owned(), |waiting| waiting.to_string());
    let mut table = Table::new(["NAME", "HOLDER", "ENDS IN", "TOKEN", "ACQUIRED"]);
    let text = match &lock {
        Some(lock) => {
            table.row(row(shown, lock));
            table.to_string()
        }
        None => format!("nobody holds {}\n", printable(shown.as_bytes())),
    };
    screen.show(
        json,
        format!("{text}connections that wait for any lock on this server: {waiting}\n"),
    )?;
    Ok(if lock.is_some() { Exit::Fine } else { Exit::Found })
}

fn row(name: &str, lock: &Lock) -> [Cell; 5] {
    let (token, acquired) = match lock.handed_out {
        Some((token, at)) => (token.to_string(), time(at)),
        None => ("none: by no gateway".to_owned(), String::new()),
    };
    [
        name.into(),
        printable(lock.holder.as_bytes()).into(),
        Cell::new(units::left(lock.left)).right(),
        token.into(),
        acquired.into(),
    ]
}

fn lock_json(name: &str, lock: &Lock) -> Value {
    json!({
        "name": name,
        "held": true,
        "holder": lock.holder,
        "ttl_ms": lock.left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        "by_gateway": lock.handed_out.is_some(),
        "fencing_token": lock.handed_out.map(|(token, _)| token),
        "acquired_at": lock.handed_out.map(|(_, at)| time(at)),
    })
}

/// Milliseconds since 1970 as RFC 3339 has them.
fn time(millis: i64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or_default());
    prost_types::Timestamp::from(at).to_string()
}
