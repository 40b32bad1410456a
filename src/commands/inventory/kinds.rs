//! All kinds of keys, and where they belong.

use std::sync::LazyLock;

use crate::config::{Config, EndpointName};
use crate::forms::{Form, Wrong, wrong};
use crate::{build_logs, cache, content_tracker, health, locks, orchestrator, pull_metrics};

/// What gateways keep for themselves.
const OWN: &[u8] = b"redis-gateway:";
const OTHER: &str = "redis-gateway:{another}";
const UNKNOWN: &str = "unknown";

/// The orchestrator last: its names stand anywhere in a key.
static FORMS: LazyLock<Vec<&Form>> = LazyLock::new(|| {
    let all = [
        build_logs::FORMS,
        health::FORMS,
        content_tracker::FORMS,
        pull_metrics::FORMS,
        cache::FORMS,
        locks::FORMS,
        orchestrator::FORMS,
    ];
    all.into_iter().flatten().collect()
});

/// The names of all kinds, in their order; two more for keys that are of none.
pub(super) fn names() -> Vec<&'static str> {
    FORMS.iter().map(|form| form.name).chain([OTHER, UNKNOWN]).collect()
}

/// The kind of a key by its name: its place in [`names`], and what it should look like, if that is known.
pub(super) fn of(key: &[u8]) -> (usize, Option<&'static Form>) {
    match FORMS.iter().position(|form| (form.is)(key)) {
        Some(at) => (at, Some(FORMS[at])),
        None if key.starts_with(OWN) => (FORMS.len(), None),
        None => (FORMS.len() + 1, None),
    }
}

/// Where the keys of each endpoint belong.
pub(super) struct Homes {
    /// By the order of [`EndpointName::ALL`]: the endpoint, which is another one's for locks without one of their own, and where it
    /// is. None: it is not configured.
    homes: [Option<(EndpointName, String)>; EndpointName::ALL.len()],
}

impl Homes {
    pub(super) fn new(config: &Config) -> Self {
        let homes = EndpointName::ALL.map(|name| {
            let name = match name {
                EndpointName::Locks if config.endpoints.locks.is_none() => EndpointName::UserEvents,
                name => name,
            };
            let endpoint = config.endpoints.get(name)?;
            Some((
                name,
                format!("on {}: {}, db {}", name.as_str(), endpoint.server, endpoint.db),
            ))
        });
        Homes { homes }
    }

    fn of(&self, name: EndpointName) -> Option<&(EndpointName, String)> {
        let at = EndpointName::ALL.iter().position(|known| *known == name)?;
        self.homes[at].as_ref()
    }
}

/// What is wrong with where a key is: its endpoint is elsewhere, or its kind is one that this version does not know.
pub(super) fn misplaced(key: &[u8], form: Option<&Form>, here: &[EndpointName], homes: &Homes) -> Option<Wrong> {
    let Some(form) = form else {
        let right = "a form of this version's; DEL it, if no newer gateway is on this Redis";
        return key
            .starts_with(OWN)
            .then(|| wrong("is of no form that this version of the gateway knows", right));
    };
    let (name, place) = homes.of(form.home)?;
    (!here.contains(name)).then(|| wrong("is where its readers do not look", place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_its_kind() {
        let names = names();
        let digest = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
        let cases = [
            ("builds/7/logs", "builds/{id}/logs"),
            ("builds/7/status", "builds/{id}/status"),
            ("builds/7/other", UNKNOWN),
            ("_health", "_health"),
            (
                "pull_events:repo:7:tag:latest:sha256:ab",
                "pull_events:repo:{repository}:tag:{tag}:{digest}",
            ),
            (
                "pull_events:repo:7:digest:sha256:ab",
                "pull_events:repo:{repository}:digest:{digest}",
            ),
            (
                "pull_events:repo:7:digest:sha256:ab:processing:1:0123abcd",
                "pull_events:…:processing:{ms}:{8 hex digits}",
            ),
            ("pull_events:x", "pull_events:{another}"),
            ("repo_active_tags_gen__7", "repo_active_tags_gen__{…}"),
            ("repo_active_tags__7_None_50_1", "repo_active_tags__{…}"),
            ("upstream_token__org/lock/repo", "upstream_token__{…}"),
            ("lock:GLOBAL_PROM_STATS", "lock:{name}"),
            ("lock-signal:GLOBAL_PROM_STATS", "lock-signal:{name}"),
            ("building/7", "[prefix]building/{id}"),
            ("quay/lock/7", "[prefix]lock/{id}"),
            ("quay/lock/7/expiring", "{key}/expiring"),
            ("cancel/7/expired", "{key}/expired"),
            ("rebuilding/7", UNKNOWN),
            ("redis-gateway:v1:cache:lease:{k}", "redis-gateway:v1:cache:lease…{key}"),
            (
                "redis-gateway:v1:cache:load_ms-value-with-braces-tags:{k}",
                "redis-gateway:v1:cache:load_ms…{key}",
            ),
            ("redis-gateway:v1:locks:token", "redis-gateway:v1:locks:token"),
            (
                "redis-gateway:v1:locks:holding:lock/x",
                "redis-gateway:v1:locks:holding:{name}",
            ),
            (
                "redis-gateway:v1:orchestrator:claims",
                "redis-gateway:v1:orchestrator:claims",
            ),
            (
                "redis-gateway:v1:orchestrator:expired:building/7",
                "redis-gateway:v1:orchestrator:expired:{key}",
            ),
            ("redis-gateway:v2:x", OTHER),
            ("anything", UNKNOWN),
        ];
        for (key, name) in cases {
            assert_eq!(names[of(key.as_bytes()).0], name, "{key}");
        }
        let key = format!("security_report__{digest}");
        assert_eq!(names[of(key.as_bytes()).0], "security_report__{…}");
    }

    #[test]
    fn keys_belong_where_their_readers_look() {
        let config =
            Config::from_yaml("endpoints: {user_events: {host: a}, pull_metrics: {host: b}, build_logs: {host: c}}")
                .unwrap();
        let homes = Homes::new(&config);
        let judge = |key: &str, here: &[EndpointName]| {
            let (_, form) = of(key.as_bytes());
            misplaced(key.as_bytes(), form, here, &homes).map(|wrong| wrong.right)
        };
        assert_eq!(judge("lock:x", &[EndpointName::UserEvents]), None);
        assert_eq!(
            judge("lock:x", &[EndpointName::BuildLogs]).unwrap(),
            "on user_events: a:6379, db 0"
        );
        assert_eq!(judge("pull_events:x", &[]).unwrap(), "on pull_metrics: b:6379, db 1");
        // No cache is configured, so nobody knows where its keys belong.
        assert_eq!(judge("repo_blob__x", &[EndpointName::BuildLogs]), None);
        assert!(judge("redis-gateway:v2:x", &EndpointName::ALL).is_some());
        assert_eq!(judge("anything", &[]), None);
    }
}
