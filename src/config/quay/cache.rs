//! `DATA_MODEL_CACHE_CONFIG`.

use super::Understood;
use crate::config::{
    problem::suggest,
    yaml::{Data, Node},
};

impl Understood {
    /// The `redis` engine, with a replica or without. Engines without Redis leave the endpoint unconfigured.
    pub(super) fn cache(&mut self, root: &Node) {
        const KEY: &str = "DATA_MODEL_CACHE_CONFIG";
        const ENGINES: [&str; 5] = ["redis", "rediscluster", "noop", "inmemory", "memcached"];
        let Some(node) = root.get(KEY) else { return };
        if !matches!(node.data, Data::Map(_)) {
            return self.problem(
                node,
                KEY,
                &format!("is {}: write a mapping with engine and redis_config", node.kind()),
            );
        }
        let Some(engine) = node.get("engine") else { return };
        let label = format!("{KEY}.engine");
        match &engine.data {
            Data::Scalar { text, .. } if text == "redis" => {}
            Data::Scalar { text, .. } if text == "rediscluster" => {
                let what = "rediscluster is not served by this release: only one Redis, or a primary with replicas";
                return self.problem(engine, &label, what);
            }
            Data::Scalar { text, .. } if ENGINES.contains(&text.as_str()) => return,
            Data::Scalar { text, .. } => {
                return self.problem(
                    engine,
                    &label,
                    &format!("{text:?} is no engine; {}", suggest(text, ENGINES)),
                );
            }
            _ => {
                return self.problem(
                    engine,
                    &label,
                    &format!("is {}: write one of {}", engine.kind(), ENGINES.join(", ")),
                );
            }
        }
        let label = format!("{KEY}.redis_config");
        let Some(primary) = node.get("redis_config").and_then(|config| config.get("primary")) else {
            let at = node.get("redis_config").unwrap_or(node);
            return self.problem(
                at,
                &label,
                "names no primary: write a mapping of host, port, password, … under primary",
            );
        };
        self.arguments(primary, &format!("{label}.primary"), "cache");
        if let Some(replica) = node.get("redis_config").and_then(|config| config.get("replica")) {
            self.replica(primary, replica, &format!("{label}.replica"));
        }
    }

    /// A replica is reached as its primary is: only host and port may differ.
    fn replica(&mut self, primary: &Node, replica: &Node, label: &str) {
        let Some(host) = replica.get("host") else {
            return self.problem(replica, label, "names no host: write a mapping of host, port, …");
        };
        let keys = replica
            .entries()
            .iter()
            .chain(primary.entries())
            .map(|entry| entry.key.as_str());
        let mut differ: Vec<&str> = keys
            .filter(|key| SHARED.contains(key))
            .filter(|key| differs(primary, replica, key))
            .collect();
        differ.sort_unstable();
        differ.dedup();
        for key in differ {
            let at = replica.get(key).unwrap_or(replica);
            let what = "differs from the primary's: the gateway reaches both in the same way, except for host and port";
            self.problem(at, &format!("{label}.{key}"), what);
        }
        let port = match replica.get("port").map(|port| &port.data) {
            None => "6379",
            Some(Data::Scalar { text, .. }) => text,
            Some(_) => return self.problem(replica, &format!("{label}.port"), "is no port: write a number"),
        };
        let Data::Scalar { text: name, .. } = &host.data else {
            return self.problem(
                host,
                &format!("{label}.host"),
                &format!("is {}: write one value", host.kind()),
            );
        };
        let address = if name.contains(':') {
            format!("[{name}]:{port}")
        } else {
            format!("{name}:{port}")
        };
        self.push(host, label, "cache", "replicas", address);
    }
}

/// What a replica has in common with its primary.
const SHARED: [&str; 8] = [
    "db",
    "username",
    "password",
    "ssl",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_ca_certs",
    "ssl_cert_reqs",
];

fn differs(primary: &Node, replica: &Node, key: &str) -> bool {
    let text = |node: &Node| match node.get(key).map(|value| &value.data) {
        Some(Data::Scalar { text, .. }) => Some(text.clone()),
        _ => None,
    };
    text(primary) != text(replica)
}
