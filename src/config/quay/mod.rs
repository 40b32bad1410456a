//! Endpoints from Quay's own `config.yaml`, in all forms of the contract, section "Endpoints".
//!
//! Quay's file is Quay's: what does not concern Redis is not looked at.

mod build_manager;
mod cache;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{
    problem::{Place, Problem},
    setting::{Given, Raw},
    source::Found,
    table::setting,
    yaml::{self, Data, Entry, Node, Twice},
};

/// What was found in Quay's file.
#[derive(Default)]
pub(super) struct Understood {
    pub found: Vec<Found>,
    pub problems: Vec<Problem>,
    pub notes: Vec<Problem>,
}

/// Reads Quay's file.
pub(super) fn read(name: &str, text: &str) -> Understood {
    let mut out = Understood::default();
    match yaml::parse(&Arc::from(name), text, Twice::Last) {
        Err((at, what)) => out.problems.push(Problem::new(&Place::Quay(at), what)),
        Ok(root) => {
            if !matches!(root.data, Data::Map(_)) {
                out.problem(&root, "", &format!("is {}: name Quay's config.yaml", root.kind()));
            }
            out.pattern(&root, "BUILDLOGS_REDIS", "build_logs");
            out.pattern(&root, "USER_EVENTS_REDIS", "user_events");
            out.pattern(&root, "PULL_METRICS_REDIS", "pull_metrics");
            out.cache(&root);
            out.build_manager(&root);
        }
    }
    out
}

impl Understood {
    /// `{key}` with redis-py's connection arguments, or the older `{key}_HOSTNAME`, which counts if the first is not
    /// there or empty.
    fn pattern(&mut self, root: &Node, key: &str, endpoint: &str) {
        let old = format!("{key}_HOSTNAME");
        let (node, key) = match root.get(key) {
            Some(node) if !matches!(&node.data, Data::Map(entries) if entries.is_empty()) => {
                self.arguments(node, key, endpoint);
                (node, key)
            }
            _ => {
                let Some(host) = root.get(&old) else { return };
                self.give(host, &old, endpoint, "host");
                (host, old.as_str())
            }
        };
        if endpoint == "pull_metrics" && node.get("db").is_none() {
            let what = "has no db: Quay writes db 0 and flushes db 1, the gateway uses db 1 for both";
            self.note(node, key, what);
        }
    }

    /// Connection arguments of redis-py.
    fn arguments(&mut self, node: &Node, label: &str, endpoint: &str) {
        if !matches!(node.data, Data::Map(_)) {
            return self.problem(
                node,
                label,
                &format!("is {}: write a mapping of host, port, password, …", node.kind()),
            );
        }
        let tls = self.flag(node, "ssl", label);
        for entry in node.entries() {
            let label = format!("{label}.{}", entry.key);
            if entry.key.starts_with("ssl_") && tls != Some(true) {
                self.note(
                    &entry.value,
                    &label,
                    "does nothing without ssl: true, for Quay and for the gateway",
                );
                continue;
            }
            match entry.key.as_str() {
                "host" | "port" | "username" => self.give(&entry.value, &label, endpoint, &entry.key),
                "db" => self.give(&entry.value, &label, endpoint, "db"),
                "password" => self.password(&entry.value, &label, endpoint),
                "unix_socket_path" => self.give(&entry.value, &label, endpoint, "socket"),
                "ssl" => self.tls_enabled(&entry.value, &label, endpoint, tls),
                "ssl_certfile" => self.give(&entry.value, &label, endpoint, "tls.cert_file"),
                "ssl_keyfile" => self.give(&entry.value, &label, endpoint, "tls.key_file"),
                "ssl_ca_certs" => self.give(&entry.value, &label, endpoint, "tls.ca_file"),
                "ssl_cert_reqs" => self.verify(entry, &label, endpoint),
                "ssl_check_hostname" if self.flag(node, "ssl_check_hostname", &label) == Some(false) => {
                    self.note(
                        &entry.value,
                        &label,
                        "is not followed: the gateway checks the host's name too",
                    );
                }
                "ssl_check_hostname" => {}
                _ => self.note(
                    &entry.value,
                    &label,
                    "is a connection argument that the gateway does not need: ignored",
                ),
            }
        }
    }

    /// As redis-py has it: null is none; optional is the same as required for a client.
    fn verify(&mut self, entry: &Entry, label: &str, endpoint: &str) {
        let verify = match &entry.value.data {
            Data::Null => "none",
            Data::Scalar { text, .. } if text == "none" => "none",
            Data::Scalar { text, .. } if text == "required" || text == "optional" => "full",
            _ => return self.problem(&entry.value, label, "is not known: write none, optional or required"),
        };
        self.push(&entry.value, label, endpoint, "tls.verify", verify.into());
    }

    fn tls_enabled(&mut self, node: &Node, label: &str, endpoint: &str, tls: Option<bool>) {
        if let Some(tls) = tls {
            self.push(node, label, endpoint, "tls.enabled", tls.to_string());
        }
    }

    /// A boolean as Python's YAML reads it. In quotes it would be text, which Python takes for true whatever it says.
    fn flag(&mut self, node: &Node, key: &str, label: &str) -> Option<bool> {
        let value = node.get(key)?;
        if let Data::Scalar { text, plain: true } = &value.data {
            match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" => return Some(true),
                "false" | "no" | "off" => return Some(false),
                _ => {}
            }
        }
        let label = if label.ends_with(key) {
            label.to_owned()
        } else {
            format!("{label}.{key}")
        };
        self.problem(value, &label, "is no boolean: write true or false, without quotes");
        None
    }

    /// Python reads a password without quotes that looks like a number as that number, and loses zeros in front.
    fn password(&mut self, node: &Node, label: &str, endpoint: &str) {
        if let Data::Scalar { text, plain: true } = &node.data {
            let start = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
            // Integers, floats, dates, and times in base 60.
            let digits = text.bytes().all(|b| b.is_ascii_digit() || b"_.:+-".contains(&b));
            let number =
                start && (digits || text.starts_with("0x") || text.starts_with("0b") || text.parse::<f64>().is_ok());
            let canonical = text.parse::<u64>().is_ok_and(|n| n.to_string() == *text);
            let word = ["true", "false", "yes", "no", "on", "off"].contains(&text.to_ascii_lowercase().as_str());
            if word || (number && !canonical) {
                return self.problem(
                    node,
                    label,
                    "may be read as something else than text by Quay: write it in quotes",
                );
            }
        }
        self.give(node, label, endpoint, "password");
    }

    fn give(&mut self, node: &Node, label: &str, endpoint: &str, leaf: &str) {
        match &node.data {
            Data::Null => {}
            Data::Scalar { text, .. } if text.is_empty() && leaf == "password" => {}
            Data::Scalar { text, .. } => self.push(node, label, endpoint, leaf, text.clone()),
            _ => self.problem(node, label, &format!("is {}: write one value", node.kind())),
        }
    }

    fn push(&mut self, node: &Node, label: &str, endpoint: &str, leaf: &str, text: String) {
        self.set(node, label, &format!("endpoints.{endpoint}.{leaf}"), text);
    }

    fn set(&mut self, node: &Node, label: &str, path: &str, text: String) {
        self.set_raw(node, label, path, Raw::Text(text));
    }

    fn set_raw(&mut self, node: &Node, label: &str, path: &str, raw: Raw) {
        if let Some(setting) = setting(path) {
            let given = Given {
                place: Place::Quay(node.at.clone()),
                label: Some(label.to_owned()),
                raw,
            };
            self.found.push((setting, given));
        }
    }

    fn problem(&mut self, node: &Node, label: &str, what: &str) {
        self.problems.push(at(node, label, what));
    }

    fn note(&mut self, node: &Node, label: &str, what: &str) {
        self.notes.push(at(node, label, what));
    }
}

fn at(node: &Node, label: &str, what: &str) -> Problem {
    let what = if label.is_empty() {
        what.to_owned()
    } else {
        format!("{label}: {what}")
    };
    Problem::new(&Place::Quay(node.at.clone()), what)
}
