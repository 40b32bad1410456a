//! What was given in the gateway's file, in the environment and by flags, still as text.

use std::{collections::BTreeSet, ffi::OsString, sync::Arc};

use clap::ArgMatches;

use super::{
    problem::{Place, Problem, nearest, suggest},
    setting::{ENV_PREFIX, Given, Raw, Setting},
    table::{setting, table},
    yaml::{self, Data, Node, Twice},
};

/// A value and the setting that it is for.
pub(super) type Found = (&'static Setting, Given);

/// Reads the gateway's file.
pub(super) fn file(name: &str, text: &str, found: &mut Vec<Found>, problems: &mut Vec<Problem>) {
    match yaml::parse(&Arc::from(name), text, Twice::Error) {
        Ok(root) => section("", &root, found, problems),
        Err((at, what)) => problems.push(Problem::new(&Place::File(at), what)),
    }
}

/// Reads the variables that start with the gateway's prefix. An empty one counts as not set.
pub(super) fn environment(env: &[(OsString, OsString)], found: &mut Vec<Found>, problems: &mut Vec<Problem>) {
    for (name, value) in env {
        let Some(name) = name.to_str().filter(|name| name.starts_with(ENV_PREFIX)) else {
            continue;
        };
        let place = Place::Env(name.to_owned());
        let Some(value) = value.to_str() else {
            problems.push(Problem::new(&place, "is not UTF-8"));
            continue;
        };
        if value.is_empty() || [CONFIG.0, QUAY_CONFIG.0].contains(&name) {
            continue;
        }
        match table().iter().find(|setting| setting.env() == name) {
            Some(setting) => found.push((setting, text(place, None, value))),
            None if service_link(name, value) => {}
            None => {
                let known: Vec<String> = table().iter().map(Setting::env).collect();
                let known = known.iter().map(String::as_str).chain([CONFIG.0, QUAY_CONFIG.0]);
                // All have the prefix in common: it makes nobody nearer.
                let known = known.filter_map(|name| name.strip_prefix(ENV_PREFIX));
                let advice = match nearest(&name[ENV_PREFIX.len()..], known) {
                    Some(near) => format!("did you mean \"{ENV_PREFIX}{near}\"?"),
                    None => "`redis-gateway --help` lists the settings".into(),
                };
                problems.push(Problem::new(&place, format!("unknown setting; {advice}")));
            }
        }
    }
}

/// Reads the flags.
pub(super) fn flags(matches: &ArgMatches, found: &mut Vec<Found>) {
    for setting in table() {
        // Only what has a flag may be asked for.
        if let Some(flag) = setting.flag()
            && let Some(value) = matches.get_one::<String>(&setting.path)
        {
            found.push((setting, text(Place::Flag(flag), None, value)));
        }
    }
}

/// The gateway's own file, by variable and by flag.
pub(super) const CONFIG: (&str, &str) = ("REDIS_GATEWAY_CONFIG", "config");
/// Quay's file, by variable and by flag.
pub(super) const QUAY_CONFIG: (&str, &str) = ("REDIS_GATEWAY_QUAY_CONFIG", "quay-config");

pub(super) fn text(place: Place, label: Option<String>, text: impl Into<String>) -> Given {
    Given {
        place,
        label,
        raw: Raw::Text(text.into()),
    }
}

/// Kubernetes puts the address of each service into each container. If a service's name starts with `redis-gateway`,
/// such as the gateway's own, those variables carry our prefix.
fn service_link(name: &str, value: &str) -> bool {
    let protocols = ["tcp", "udp", "sctp"];
    let is_port = |port: &str| {
        let (number, rest) = port.split_once('_').unwrap_or((port, ""));
        number.parse::<u16>().is_ok() && protocols.iter().any(|p| rest.to_ascii_lowercase().starts_with(p))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && protocols.iter().any(|p| value.starts_with(&format!("{p}://"))))
        || name
            .match_indices("_PORT_")
            .any(|(at, found)| is_port(&name[at + found.len()..]))
}

fn section(path: &str, node: &Node, found: &mut Vec<Found>, problems: &mut Vec<Problem>) {
    let entries = match &node.data {
        Data::Null => return,
        Data::Map(entries) => entries,
        _ => {
            let label = if path.is_empty() {
                String::new()
            } else {
                format!("{path}: ")
            };
            let known: Vec<_> = children(path).into_iter().collect();
            let what = format!("{label}is {}: write a mapping of {}", node.kind(), known.join(", "));
            problems.push(Problem::new(&Place::File(node.at.clone()), what));
            return;
        }
    };
    for entry in entries.iter() {
        let child = if path.is_empty() {
            entry.key.clone()
        } else {
            format!("{path}.{}", entry.key)
        };
        if let Some(setting) = setting(&child) {
            value(setting, &entry.value, found, problems);
        } else if children(path).contains(entry.key.as_str()) {
            section(&child, &entry.value, found, problems);
        } else {
            let what = format!("{child}: unknown setting; {}", suggest(&entry.key, children(path)));
            problems.push(Problem::new(&Place::File(entry.at.clone()), what));
        }
    }
}

fn value(setting: &'static Setting, node: &Node, found: &mut Vec<Found>, problems: &mut Vec<Problem>) {
    let place = Place::File(node.at.clone());
    let wrong = |node: &Node| {
        let what = format!(
            "{}: is {}: write one value ({})",
            setting.path,
            node.kind(),
            setting.want
        );
        Problem::new(&Place::File(node.at.clone()), what)
    };
    let raw = match &node.data {
        // Null is what templates write for what is not set.
        Data::Null => return,
        Data::Scalar { text, .. } => Raw::Text(text.clone()),
        Data::Map(_) => return problems.push(wrong(node)),
        Data::List(items) => {
            let mut texts = Vec::new();
            for item in items.iter() {
                match &item.data {
                    Data::Scalar { text, .. } => texts.push((text.clone(), Place::File(item.at.clone()))),
                    _ => return problems.push(wrong(item)),
                }
            }
            Raw::List(texts)
        }
    };
    let label = Some(setting.path.clone());
    found.push((setting, Given { place, label, raw }));
}

/// The names that can stand under a path.
fn children(path: &str) -> BTreeSet<&'static str> {
    table()
        .iter()
        .filter_map(|setting| match path {
            "" => Some(setting.path.as_str()),
            _ => setting.path.strip_prefix(path)?.strip_prefix('.'),
        })
        .map(|rest| rest.split_once('.').map_or(rest, |(name, _)| name))
        .collect()
}
