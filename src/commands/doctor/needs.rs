//! Which patterns are on which endpoint, and what they need there.

use crate::config::{Config, Endpoint, EndpointName};
use crate::needs::{Needs, Right, server};
use crate::{build_logs, cache, content_tracker, health, locks, orchestrator, pull_metrics, user_events};

/// The patterns on an endpoint.
pub(super) fn on(name: EndpointName, at: &Endpoint, config: &Config) -> Vec<Needs> {
    match name {
        EndpointName::BuildLogs => vec![build_logs::needs(), health::needs()],
        EndpointName::UserEvents if config.endpoints.locks.is_none() => vec![user_events::needs(), locks::needs()],
        EndpointName::UserEvents => vec![user_events::needs()],
        EndpointName::PullMetrics => vec![pull_metrics::needs()],
        EndpointName::Cache => vec![cache::needs(&config.cache), content_tracker::needs()],
        EndpointName::Orchestrator => vec![orchestrator::needs(&config.orchestrator, at.db)],
        EndpointName::Locks => vec![locks::needs()],
    }
}

/// What the endpoint itself needs, whatever is on it; on one of its replicas if `replica`.
pub(super) fn endpoint(at: &Endpoint, replica: bool) -> Vec<Right> {
    let mut rights = vec![
        server("ping"),
        server("client|setname").or("CLIENT LIST does not tell the gateway's connections from others"),
        server("client|id").or("each new connection leaves a denial in ACL LOG"),
    ];
    let from_replicas =
        at.cluster.as_ref().is_some_and(|cluster| cluster.read_from_replicas) || !at.replicas.is_empty();
    if from_replicas {
        rights.push(server("info").or("nothing is read from replicas"));
    }
    if at.cluster.is_some() {
        rights.push(server("cluster|slots cluster|info asking"));
    }
    if replica && at.cluster.is_some() {
        rights.push(server("readonly"));
    }
    rights
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::{self, Loaded};
    use crate::needs::On;

    /// Everything that can be needed: values in memory too.
    fn config() -> Config {
        let args = ["redis-gateway", "--endpoints-cache-host=h", "--cache-near-prefixes=a"];
        let matches = config::command().get_matches_from(args);
        let Loaded { config, .. } = config::load(&matches, Vec::new()).unwrap();
        config
    }

    fn read(path: &str) -> String {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    }

    fn of_all(needs: &[Needs]) -> BTreeSet<String> {
        let rights = needs
            .iter()
            .flat_map(|needs| needs.rights.iter().chain(&needs.rights_on_replicas));
        let mut all = BTreeSet::new();
        for right in rights {
            all.extend(right.commands.split(' ').map(|command| format!("+{command}")));
            all.extend(match &right.on {
                On::Server => None,
                On::Keys(pattern) => Some(format!("~{pattern}")),
                On::Channels(pattern) => Some(format!("&{pattern}")),
            });
        }
        all
    }

    /// The pages, the patterns on them and where their sources are.
    fn pages() -> Vec<(&'static str, Vec<Needs>, &'static [&'static str])> {
        let config = config();
        vec![
            (
                "build-logs",
                vec![build_logs::needs(), health::needs()],
                &["build_logs", "health"],
            ),
            ("cache", vec![cache::needs(&config.cache)], &["cache"]),
            ("content-tracker", vec![content_tracker::needs()], &["content_tracker"]),
            ("locks", vec![locks::needs()], &["locks"]),
            (
                "orchestrator",
                vec![orchestrator::needs(&config.orchestrator, 0)],
                &["orchestrator"],
            ),
            ("pull-metrics", vec![pull_metrics::needs()], &["pull_metrics"]),
            ("user-events", vec![user_events::needs()], &["user_events"]),
        ]
    }

    #[test]
    fn each_page_lists_the_rights_that_its_patterns_need() {
        for (page, needs, _) in pages() {
            let text = read(&format!("docs/{page}.md"));
            let section = text
                .split("\n## Rights\n")
                .nth(1)
                .unwrap_or_else(|| panic!("{page}: no section Rights"));
            let section = section.split("\n## ").next().unwrap();
            let listed = section.split('`').skip(1).step_by(2).flat_map(str::split_whitespace);
            let listed = listed
                .filter(|word| word.starts_with(['+', '~', '&']))
                .map(str::to_owned);
            assert_eq!(
                listed.collect::<BTreeSet<_>>(),
                of_all(&needs),
                "docs/{page}.md, left, and needs.rs, right"
            );
        }
    }

    /// Commands that scripts call, and those of `redis::command` that are named.
    fn used(folder: &str) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder)];
        while let Some(folder) = folders.pop() {
            for file in fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = fs::read_to_string(&path).unwrap();
                let after = |start: &str, end: char| -> Vec<String> {
                    let parts = text.split(start).skip(1);
                    parts
                        .filter_map(|part| Some(part.split_once(end)?.0.to_lowercase()))
                        .collect()
                };
                if path.extension().is_some_and(|kind| kind == "lua") {
                    used.extend([after("call('", '\''), after("call(\"", '"')].concat());
                } else {
                    let named = after("command::", '(').into_iter().filter(|name| name != "number");
                    used.extend(named.map(|name| name.replace('_', "|")));
                }
            }
        }
        used.retain(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '|'));
        used
    }

    #[test]
    fn each_command_that_a_pattern_sends_is_among_its_rights() {
        for (page, needs, folders) in pages() {
            let needed = of_all(&needs);
            let mut used: BTreeSet<String> = folders.iter().flat_map(|folder| used(folder)).collect();
            assert!(!used.is_empty(), "{page}");
            if page == "locks" {
                // For operators alone, who run `locks list`.
                used.remove("scan");
            }
            for command in used {
                assert!(
                    needed.contains(&format!("+{command}")),
                    "{page}: {command} is sent and not needed"
                );
            }
        }
    }
}
