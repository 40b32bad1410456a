//! `DATA_MODEL_CACHE_CONFIG`.

use std::sync::Arc;

use super::Understood;
use crate::config::{
    problem::{Place, suggest},
    setting::Raw,
    yaml::{Data, Node},
};

impl Understood {
    /// The `redis` engine, with a replica or without, and `rediscluster`. Engines without Redis leave the endpoint unconfigured.
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
                return self.cluster(node, &format!("{KEY}.redis_config"));
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

    /// A Cluster: connection arguments, and the servers that it is found by.
    fn cluster(&mut self, node: &Node, label: &str) {
        let config = node.get("redis_config");
        let Some((config, nodes)) = config.and_then(|config| Some((config, config.get("startup_nodes")?))) else {
            let what = "names no servers: write startup_nodes, a list of mappings of host and port";
            return self.problem(config.unwrap_or(node), label, what);
        };
        let mut addresses = Vec::new();
        for at in nodes.items() {
            match address(at) {
                Some(address) => addresses.push((address, Place::Quay(at.at.clone()))),
                None => self.problem(
                    at,
                    &format!("{label}.startup_nodes"),
                    "is no server: write a mapping of host and port",
                ),
            }
        }
        if addresses.is_empty() {
            self.problem(
                nodes,
                &format!("{label}.startup_nodes"),
                "names no server: write a list of mappings of host and port",
            );
        }
        self.set_raw(
            nodes,
            &format!("{label}.startup_nodes"),
            "endpoints.cache.cluster",
            Raw::List(addresses),
        );
        let read = ["read_from_replicas", "readonly_mode"]
            .into_iter()
            .find(|key| config.get(key).is_some());
        if let Some((key, value)) = read.and_then(|key| Some((key, config.get(key)?)))
            && let Some(read) = self.flag(config, key, label)
        {
            self.push(
                value,
                &format!("{label}.{key}"),
                "cache",
                "read_from_replicas",
                read.to_string(),
            );
        }
        let own = ["startup_nodes", "read_from_replicas", "readonly_mode"];
        let arguments = config
            .entries()
            .iter()
            .filter(|entry| !own.contains(&entry.key.as_str()));
        let arguments = Node {
            data: Data::Map(Arc::new(arguments.cloned().collect())),
            ..config.clone()
        };
        self.arguments(&arguments, label, "cache");
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
        let Some(address) = address(replica) else {
            return self.problem(host, label, "is no server: write one value as host, and one as port");
        };
        self.push(host, label, "cache", "replicas", address);
    }
}

/// The address in a mapping of `host` and `port`.
fn address(node: &Node) -> Option<String> {
    let text = |key: &str| match &node.get(key)?.data {
        Data::Scalar { text, .. } => Some(text.clone()),
        _ => None,
    };
    let name = text("host")?;
    let port = if node.get("port").is_some() {
        text("port")?
    } else {
        "6379".into()
    };
    let host = if name.contains(':') { format!("[{name}]") } else { name };
    Some(format!("{host}:{port}"))
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
