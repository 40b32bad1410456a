//! `BUILD_MANAGER`.

use super::Understood;
use crate::config::yaml::{Data, Node};

impl Understood {
    /// A pair of a name and settings, of which those with `REDIS_` under `ORCHESTRATOR` count.
    pub(super) fn build_manager(&mut self, root: &Node) {
        const KEY: &str = "BUILD_MANAGER";
        let Some(node) = root.get(KEY) else { return };
        let settings = match &node.data {
            Data::List(items) if items.len() == 2 && matches!(items[1].data, Data::Map(_)) => items[1].clone(),
            _ => {
                return self.problem(
                    node,
                    KEY,
                    "is no pair of a name and a mapping, such as [ephemeral, {ORCHESTRATOR: …}]",
                );
            }
        };
        let Some(orchestrator) = settings.get("ORCHESTRATOR") else {
            return;
        };
        let label = format!("{KEY}.ORCHESTRATOR");
        if !matches!(orchestrator.data, Data::Map(_)) {
            return self.problem(
                orchestrator,
                &label,
                &format!("is {}: write a mapping of REDIS_HOST, …", orchestrator.kind()),
            );
        }
        if !orchestrator
            .entries()
            .iter()
            .any(|entry| entry.key.starts_with("REDIS_"))
        {
            return self.note(orchestrator, &label, "names no Redis: ignored");
        }
        let tls = self.flag(orchestrator, "REDIS_SSL", &label);
        for entry in orchestrator.entries() {
            let label = format!("{label}.{}", entry.key);
            let tls_file = matches!(entry.key.as_str(), "REDIS_CERT_AND_KEY" | "REDIS_CA_CERT");
            if tls_file && tls != Some(true) {
                self.note(
                    &entry.value,
                    &label,
                    "does nothing without REDIS_SSL: true, for Quay and for the gateway",
                );
                continue;
            }
            match entry.key.as_str() {
                "REDIS_HOST" => self.give(&entry.value, &label, "orchestrator", "host"),
                "REDIS_PORT" => self.give(&entry.value, &label, "orchestrator", "port"),
                "REDIS_PASSWORD" => self.password(&entry.value, &label, "orchestrator"),
                "REDIS_DB" => self.give(&entry.value, &label, "orchestrator", "db"),
                "REDIS_SSL" => self.tls_enabled(&entry.value, &label, "orchestrator", tls),
                "REDIS_CA_CERT" => self.give(&entry.value, &label, "orchestrator", "tls.ca_file"),
                "REDIS_CERT_AND_KEY" => self.cert_and_key(&entry.value, &label),
                "REDIS_SKIP_KEYSPACE_EVENT_SETUP" => {
                    if let Some(skip) = self.flag(orchestrator, &entry.key, &label) {
                        let path = "orchestrator.skip_keyspace_event_setup";
                        self.set(&entry.value, &label, path, skip.to_string());
                    }
                }
                _ => self.note(&entry.value, &label, "is not known to the gateway: ignored"),
            }
        }
        if let Some(prefix) = settings.get("ORCHESTRATOR_PREFIX") {
            let label = format!("{KEY}.ORCHESTRATOR_PREFIX");
            match &prefix.data {
                Data::Null => {}
                Data::Scalar { text, .. } => self.set(prefix, &label, "orchestrator.channel_prefix", text.clone()),
                _ => self.problem(prefix, &label, &format!("is {}: write one value", prefix.kind())),
            }
        }
    }

    fn cert_and_key(&mut self, node: &Node, label: &str) {
        match &node.data {
            Data::Null => {}
            Data::List(items) if items.len() == 2 => {
                self.give(&items[0], label, "orchestrator", "tls.cert_file");
                self.give(&items[1], label, "orchestrator", "tls.key_file");
            }
            _ => self.problem(node, label, "is no pair: write [certificate file, key file]"),
        }
    }
}
