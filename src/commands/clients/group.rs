//! Connections to one server, and those that are alike together.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::connection::{Class, Connection};
use crate::commands::places::Place;
use crate::commands::screen::{BAD, Cell, FAINT, TITLE, Table};
use crate::commands::units;
use crate::config::EndpointName;

/// A server, and who is connected to it.
pub(super) struct Server {
    address: String,
    names: String,
    endpoints: Vec<EndpointName>,
    replica: bool,
    /// What it is, and of which version.
    product: Option<(&'static str, String)>,
    connections: Vec<Connection>,
}

impl Server {
    pub(super) fn new(place: &Place, connections: Vec<Connection>) -> Self {
        Server {
            address: place.server.to_string(),
            names: place.names(),
            endpoints: place.endpoints.clone(),
            replica: place.replica,
            product: place.info.product().map(|(name, version)| (name, version.to_owned())),
            connections,
        }
    }

    pub(super) fn count(&self, class: Class) -> usize {
        self.connections
            .iter()
            .filter(|connection| connection.class == class)
            .count()
    }

    /// Whether its clients can tell which library they are. One of them is this command.
    fn tells_libraries(&self) -> bool {
        self.connections.iter().any(|connection| connection.library.is_some())
    }

    pub(super) fn json(&self) -> Value {
        let connection = |connection: &Connection| {
            let Connection {
                id,
                name,
                library,
                user,
                addr,
                db,
                age,
                idle,
                command,
                flags,
                resp,
                ..
            } = connection;
            json!({
                "id": id,
                "class": connection.class.as_str(),
                "name": some(name),
                "library": library.as_deref().and_then(some),
                "user": some(user),
                "address": addr,
                "db": db,
                "age_s": age,
                "idle_s": idle,
                "last_command": some(command),
                "flags": flags,
                "resp": resp,
                "subscriptions": connection.subscriptions,
                "patterns": connection.hints(&self.endpoints),
            })
        };
        json!({
            "server": self.address,
            "endpoints": self.endpoints.iter().map(|name| name.as_str()).collect::<Vec<_>>(),
            "replica": self.replica,
            "product": self.product.as_ref().map(|(name, _)| name),
            "version": self.product.as_ref().map(|(_, version)| version),
            "tells_libraries": self.tells_libraries(),
            "connections": self.connections.iter().map(connection).collect::<Vec<_>>(),
        })
    }
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// What connections have in common that stand in one row.
type Alike<'a> = (Class, &'a str, &'a str, &'a str, &'a str, u32);

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let product = match &self.product {
            Some((name, version)) => format!("{name} {version}"),
            None => "Redis of unknown version".to_owned(),
        };
        let role = if self.replica { ", a replica" } else { "" };
        writeln!(
            f,
            "{TITLE}{}{TITLE:#}, endpoints: {}, {product}{role}",
            self.address, self.names
        )?;
        let mut groups: BTreeMap<Alike, Vec<&Connection>> = BTreeMap::new();
        for one in &self.connections {
            let alike = (
                one.class,
                one.name.as_str(),
                one.library.as_deref().unwrap_or_default(),
                one.user.as_str(),
                one.host(),
                one.db,
            );
            groups.entry(alike).or_default().push(one);
        }
        let mut table = Table::new([
            "WHO",
            "NAME",
            "LIBRARY",
            "USER",
            "FROM",
            "DB",
            "COUNT",
            "OLDEST",
            "IDLE",
            "SUBSCRIBED",
            "LAST COMMANDS",
            "PATTERNS",
        ]);
        for ((class, name, library, user, host, db), all) in groups {
            let style = if class == Class::Direct { BAD } else { FAINT };
            let oldest = all.iter().map(|one| one.age).max().unwrap_or_default();
            let idle = all.iter().map(|one| one.idle).min().unwrap_or_default();
            let subscribed: u64 = all.iter().map(|one| one.subscriptions).sum();
            let commands = distinct(all.iter().map(|one| one.command.as_str()));
            let patterns = match class {
                Class::Direct => distinct(all.iter().flat_map(|one| one.hints(&self.endpoints))),
                _ => String::new(),
            };
            let seconds = |seconds| Cell::new(units::span(Duration::from_secs(seconds))).right();
            table.row([
                Cell::new(class.as_str()).style(style),
                name.into(),
                if library.is_empty() {
                    "unknown".into()
                } else {
                    library.into()
                },
                user.into(),
                host.into(),
                Cell::new(db).right(),
                Cell::new(all.len()).right(),
                seconds(oldest),
                seconds(idle),
                Cell::new(subscribed).right(),
                commands.into(),
                patterns.into(),
            ]);
        }
        write!(f, "{table}")?;
        if !self.tells_libraries() {
            writeln!(f, "note: before Redis 7.2 no client can tell which library it is")?;
        }
        Ok(())
    }
}

/// Each of them once, in their order.
fn distinct<'a>(all: impl Iterator<Item = &'a str>) -> String {
    let mut seen: Vec<&str> = Vec::new();
    for one in all.filter(|one| !one.is_empty()) {
        if !seen.contains(&one) {
            seen.push(one);
        }
    }
    seen.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server with one connection.
    fn server(product: Option<(&'static str, &str)>, line: &str) -> Server {
        Server {
            address: "10.0.0.1:6379".to_owned(),
            names: "cache".to_owned(),
            endpoints: vec![EndpointName::Cache],
            replica: false,
            product: product.map(|(name, version)| (name, version.to_owned())),
            connections: Connection::read(line, &[]).into_iter().collect(),
        }
    }

    #[test]
    fn a_server_is_called_what_it_is_and_its_connections_say_what_they_can_tell() {
        let valkey = server(Some(("Valkey", "8.0.1")), "id=1 addr=a:1 flags=N lib-name= lib-ver=");
        let (text, json) = (valkey.to_string(), valkey.json());
        assert!(text.contains(", Valkey 8.0.1\n") && !text.contains("note: "), "{text}");
        assert_eq!(
            (&json["product"], &json["version"]),
            (&json!("Valkey"), &json!("8.0.1"))
        );
        assert_eq!(
            (&json["tells_libraries"], &json["connections"][0]["library"]),
            (&json!(true), &Value::Null)
        );
        // One that may not be asked for its version.
        let unknown = server(None, "id=1 addr=a:1 flags=N lib-name=redis-py lib-ver=7.1.0");
        assert_eq!(unknown.json()["tells_libraries"], true);
        assert!(!unknown.to_string().contains("note: "), "{unknown}");
        let old = server(Some(("Redis", "7.0.15")), "id=1 addr=a:1 flags=N");
        assert_eq!(old.json()["tells_libraries"], false);
        assert!(old.to_string().contains("note: before Redis 7.2"), "{old}");
    }
}
