//! One line of `CLIENT LIST`.

use std::collections::HashMap;

use crate::config::EndpointName;
use crate::redis::CONNECTION_NAME;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Class {
    /// Whoever is none of the others: a service, an operator, a monitor.
    Direct,
    Gateway,
    /// A replica, or the primary of one.
    Replication,
    /// A Redis Sentinel, which watches over the server.
    Sentinel,
    /// This command.
    Itself,
}

impl Class {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Class::Direct => "direct",
            Class::Gateway => "gateway",
            Class::Replication => "replication",
            Class::Sentinel => "sentinel",
            Class::Itself => "this command",
        }
    }
}

/// A connection, as the server sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) id: i64,
    pub(super) class: Class,
    /// Empty: it gave none.
    pub(super) name: String,
    /// Name and version; empty: it did not tell. None: the server is too old to be told.
    pub(super) library: Option<String>,
    pub(super) user: String,
    /// Host and port; a socket's path.
    pub(super) addr: String,
    pub(super) db: u32,
    /// Seconds since it was made, and since its last command.
    pub(super) age: u64,
    pub(super) idle: u64,
    /// Empty: none yet.
    pub(super) command: String,
    pub(super) flags: String,
    /// Version of the protocol, from Redis 7.0 on.
    pub(super) resp: Option<u32>,
    /// Channels, patterns and shards' channels that it is subscribed to.
    pub(super) subscriptions: u64,
}

impl Connection {
    /// Reads a line. `own` are the ids of the connections of who asks.
    pub(super) fn read(line: &str, own: &[i64]) -> Option<Self> {
        let fields: HashMap<&str, &str> = line.split(' ').filter_map(|field| field.split_once('=')).collect();
        let text = |name: &str| fields.get(name).copied().unwrap_or_default();
        let number = |name: &str| text(name).parse::<u64>().unwrap_or_default();
        let id: i64 = text("id").parse().ok()?;
        let flags = text("flags");
        let class = if own.contains(&id) {
            Class::Itself
        } else if flags.contains(['S', 'M']) {
            Class::Replication
        } else if text("name") == CONNECTION_NAME {
            Class::Gateway
        } else if sentinel(text("name")) {
            Class::Sentinel
        } else {
            Class::Direct
        };
        let command = match text("cmd") {
            "NULL" => "",
            command => command,
        };
        Some(Connection {
            id,
            class,
            name: text("name").to_owned(),
            library: fields
                .get("lib-name")
                .map(|name| format!("{name} {}", text("lib-ver")).trim().to_owned()),
            user: text("user").to_owned(),
            addr: text("addr").to_owned(),
            db: u32::try_from(number("db")).unwrap_or(u32::MAX),
            age: number("age"),
            idle: number("idle"),
            command: command.to_owned(),
            flags: flags.to_owned(),
            resp: text("resp").parse().ok(),
            subscriptions: number("sub") + number("psub") + number("ssub"),
        })
    }

    /// The address without its port, which says nothing.
    pub(super) fn host(&self) -> &str {
        match self.addr.rsplit_once(':') {
            Some((host, "0")) => host,
            Some((host, _)) => host.trim_start_matches('[').trim_end_matches(']'),
            None => &self.addr,
        }
    }

    /// The patterns that its last command is of, of those whose endpoints are on this server. A hint: many commands are of many
    /// patterns, and none tells of the ones before it.
    pub(super) fn hints(&self, here: &[EndpointName]) -> Vec<&'static str> {
        let known = COMMANDS.iter().find(|(command, _)| *command == self.command);
        let Some((_, patterns)) = known else { return Vec::new() };
        let on = |endpoint: &EndpointName| {
            here.contains(endpoint) || (*endpoint == EndpointName::UserEvents && here.contains(&EndpointName::Locks))
        };
        let mut hints = Vec::new();
        for (name, endpoint) in patterns.iter().copied() {
            if on(&endpoint) && !hints.contains(&name) {
                hints.push(name);
            }
        }
        hints
    }
}

/// Whether a Sentinel is called so: by the first eight digits of its id, and what the connection is for.
fn sentinel(name: &str) -> bool {
    let id = name
        .strip_prefix("sentinel-")
        .and_then(|rest| rest.strip_suffix("-cmd").or(rest.strip_suffix("-pubsub")));
    id.is_some_and(|id| id.len() == 8 && id.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// A pattern, and where it is.
type Pattern = (&'static str, EndpointName);

const BUILD_LOGS: Pattern = ("build logs", EndpointName::BuildLogs);
const HEALTH: Pattern = ("health", EndpointName::BuildLogs);
const EVENTS: Pattern = ("user events", EndpointName::UserEvents);
const LOCKS: Pattern = ("locks", EndpointName::UserEvents);
const PULLS: Pattern = ("pull metrics", EndpointName::PullMetrics);
const FLUSH: Pattern = ("flush", EndpointName::PullMetrics);
const CACHE: Pattern = ("cache", EndpointName::Cache);
const TRACKER: Pattern = ("content tracker", EndpointName::Cache);
const ORCHESTRATOR: Pattern = ("orchestrator", EndpointName::Orchestrator);

/// Which patterns of the reference send which commands.
const COMMANDS: &[(&str, &[Pattern])] = &[
    ("rpush", &[BUILD_LOGS]),
    ("llen", &[BUILD_LOGS]),
    ("lrange", &[BUILD_LOGS]),
    ("expire", &[BUILD_LOGS, ORCHESTRATOR]),
    ("get", &[BUILD_LOGS, HEALTH, CACHE, TRACKER, LOCKS, ORCHESTRATOR]),
    ("set", &[BUILD_LOGS, HEALTH, CACHE, TRACKER, LOCKS, ORCHESTRATOR]),
    ("del", &[BUILD_LOGS, FLUSH, CACHE, ORCHESTRATOR]),
    ("publish", &[EVENTS, ORCHESTRATOR]),
    ("subscribe", &[EVENTS, ORCHESTRATOR]),
    ("unsubscribe", &[EVENTS, ORCHESTRATOR]),
    ("psubscribe", &[ORCHESTRATOR]),
    ("eval", &[LOCKS, PULLS]),
    ("evalsha", &[LOCKS, PULLS]),
    ("script|load", &[LOCKS, PULLS]),
    ("blpop", &[LOCKS]),
    ("hgetall", &[PULLS, FLUSH]),
    ("rename", &[FLUSH]),
    ("scan", &[FLUSH, ORCHESTRATOR]),
    ("time", &[TRACKER]),
    ("exec", &[TRACKER]),
    ("exists", &[ORCHESTRATOR]),
    ("ttl", &[ORCHESTRATOR]),
    ("config|set", &[ORCHESTRATOR]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_old_and_new_servers_are_read() {
        let old = "id=7 addr=10.0.0.1:5000 laddr=10.0.0.9:6379 fd=8 name= age=61 idle=3 flags=N db=1 sub=0 psub=2 ssub=1 multi=-1 \
                   argv-mem=10 cmd=client|list user=default redir=-1 resp=2";
        let read = Connection::read(old, &[8]).unwrap();
        assert_eq!(
            (
                read.id,
                read.class,
                read.host(),
                read.db,
                read.age,
                read.idle,
                read.subscriptions
            ),
            (7, Class::Direct, "10.0.0.1", 1, 61, 3, 3)
        );
        assert_eq!(
            (read.library.as_deref(), read.resp, read.name.as_str()),
            (None, Some(2), "")
        );
        assert_eq!(Connection::read(old, &[8, 7]).unwrap().class, Class::Itself);

        let new =
            "id=9 addr=[::1]:5000 name=redis-gateway flags=N cmd=NULL user=gw resp=3 lib-name=redis-py lib-ver=7.1.0";
        let read = Connection::read(new, &[7]).unwrap();
        assert_eq!(
            (read.class, read.host(), read.library.as_deref(), read.command.as_str()),
            (Class::Gateway, "::1", Some("redis-py 7.1.0"), "")
        );
        let untold = Connection::read("id=1 addr=a:1 flags=N lib-name= lib-ver=", &[]).unwrap();
        assert_eq!(untold.library.as_deref(), Some(""));
        let socket = Connection::read("id=1 addr=/run/redis.sock:0 flags=U", &[]).unwrap();
        assert_eq!(socket.host(), "/run/redis.sock");
        let replica = Connection::read("id=1 addr=1.1.1.1:1 flags=S name=redis-gateway", &[]).unwrap();
        assert_eq!(replica.class, Class::Replication);
        assert_eq!(Connection::read("nonsense", &[]), None);
        let named = |name: &str| {
            Connection::read(&format!("id=1 addr=a:1 name={name}"), &[])
                .unwrap()
                .class
        };
        assert_eq!(named("sentinel-0123abcd-pubsub"), Class::Sentinel);
        assert_eq!(named("sentinel-0123abcd-mine"), Class::Direct);
    }

    #[test]
    fn a_command_hints_at_what_is_on_its_server() {
        let hints = |command: &str, here: &[EndpointName]| {
            let line = format!("id=1 addr=a:1 flags=N cmd={command}");
            Connection::read(&line, &[]).unwrap().hints(here)
        };
        assert_eq!(hints("blpop", &[EndpointName::UserEvents]), ["locks"]);
        assert_eq!(hints("blpop", &[EndpointName::Locks]), ["locks"]);
        assert_eq!(hints("set", &[EndpointName::Cache]), ["cache", "content tracker"]);
        assert_eq!(hints("eval", &[EndpointName::PullMetrics]), ["pull metrics"]);
        assert_eq!(hints("ping", &EndpointName::ALL), [""; 0]);
    }
}
