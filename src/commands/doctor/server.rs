//! What is not right with a server for the patterns on it, by what it says of itself.

use super::facts::{Facts, Untold};
use super::finding::Finding;
use crate::config::{Endpoint, Server};
use crate::needs::Needs;
use crate::redis::Part;

/// The oldest version of Redis that will do.
const OLDEST: (u64, u64) = (6, 2);

/// What Redis allows a subscriber to be behind by itself: `hard` bytes at once, `soft` bytes for a minute.
const PUBSUB: (u64, u64) = (32 << 20, 8 << 20);

/// One server, its endpoint and the patterns on it.
pub(super) struct Look<'a> {
    pub(super) endpoint: &'static str,
    pub(super) config: &'a Endpoint,
    pub(super) part: Part,
    pub(super) needs: &'a [Needs],
    pub(super) facts: &'a Facts,
}

impl Look<'_> {
    pub(super) fn judge(&self) -> Vec<Finding> {
        let mut found = self.unseen();
        found.extend(self.version());
        found.extend(self.role());
        found.extend(self.cluster());
        found.extend(self.persistence());
        if self.part == Part::Primary {
            found.extend(self.eviction());
            found.extend(self.buffers());
        }
        found
    }

    /// What would be judged if it were told.
    fn unseen(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Err(why) = &self.facts.info {
            let what = "version, role, eviction, persistence, databases and replication";
            found.push(why.finding("info", what, "INFO", self.config, "+info"));
        }
        let wanted = |wants: fn(&Needs) -> bool| self.part == Part::Primary && self.needs.iter().any(wants);
        let parameters = [
            (
                &self.facts.save,
                "when it saves",
                wanted(|needs| needs.restarted.is_some()),
            ),
            (
                &self.facts.buffers,
                "how far a subscriber may be behind",
                wanted(|needs| needs.listens),
            ),
            (
                &self.facts.notify,
                "of which keys it notifies",
                wanted(|needs| needs.notified.is_some()),
            ),
        ];
        for why in [Untold::Denied, Untold::Unknown] {
            let here = parameters
                .iter()
                .filter(|(told, _, wanted)| *wanted && **told == Err(why));
            let unseen: Vec<&str> = here.map(|(_, what, _)| *what).collect();
            if !unseen.is_empty() {
                found.push(why.finding("config", &unseen.join(", "), "CONFIG GET", self.config, "+config|get"));
            }
        }
        found
    }

    fn version(&self) -> Option<Finding> {
        let version = self.facts.info("redis_version")?;
        let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
        let known = (numbers.next()?, numbers.next().unwrap_or(0));
        (known < OLDEST).then(|| {
            let fix = format!("upgrade it to Redis {}.{} or newer, or to Valkey", OLDEST.0, OLDEST.1);
            Finding::error("version", format!("is Redis {version}"), fix)
        })
    }

    fn role(&self) -> Option<Finding> {
        let setting = format!("endpoints.{}", self.endpoint);
        if self.facts.info("redis_mode") == Some("sentinel") {
            let fix = format!("set {setting} to the primary: SENTINEL MASTERS, asked there, tells where it is");
            return Some(Finding::error("role", "is a Sentinel", fix));
        }
        match (self.part, self.facts.info("role")?) {
            (Part::Primary, "slave") => {
                let primary = Server::Tcp {
                    host: self.facts.info("master_host")?.to_owned(),
                    port: self.facts.info("master_port")?.parse().ok()?,
                };
                let what = format!("is a replica of {primary}: it refuses each change");
                let fix = match &primary {
                    Server::Tcp { host, port } => format!("set {setting}.host to {host} and {setting}.port to {port}"),
                    Server::Unix(path) => format!("set {setting}.socket to {}", path.display()),
                };
                Some(Finding::error("role", what, fix))
            }
            (Part::Replica, "master") => {
                let fix = match &self.config.server {
                    Server::Tcp { host, port } => {
                        format!("there: REPLICAOF {host} {port}; or take it out of {setting}.replicas")
                    }
                    Server::Unix(_) => format!("there: REPLICAOF, or take it out of {setting}.replicas"),
                };
                Some(Finding::error(
                    "role",
                    "follows no primary, and nothing is read from it",
                    fix,
                ))
            }
            _ => None,
        }
    }

    fn cluster(&self) -> Option<Finding> {
        let setting = format!("endpoints.{}", self.endpoint);
        let fix = match (self.facts.info("cluster_enabled")?, &self.config.cluster, self.endpoint) {
            ("1", None, "cache") => format!("set {setting}.cluster in place of host"),
            ("1", None, _) => format!("set {setting} to a server of its own"),
            _ => return None,
        };
        Some(Finding::error(
            "cluster",
            "is part of a Cluster: most keys are elsewhere",
            fix,
        ))
    }

    fn eviction(&self) -> Vec<Finding> {
        let policy = self.facts.info("maxmemory_policy").unwrap_or("noeviction");
        let limited = self.facts.info("maxmemory").is_some_and(|most| most != "0");
        if policy == "noeviction" {
            return Vec::new();
        }
        let losses = self
            .needs
            .iter()
            .filter_map(|needs| Some((needs.pattern, needs.evicted?)));
        let found = losses.filter(|(_, loss)| loss.grave || limited).map(|(pattern, loss)| {
            let what = format!("{pattern}: maxmemory-policy is {policy}");
            let alone = "CONFIG SET maxmemory-policy noeviction";
            let fix = if self.endpoint == "cache" {
                format!("room enough for maxmemory never to be reached, or {alone}")
            } else {
                format!("{alone}; a cache wants a Redis of its own")
            };
            match (loss.grave, limited) {
                (true, true) => Finding::error("eviction", format!("{what}: at maxmemory {}", loss.what), fix),
                (true, false) => {
                    let what = format!("{what}: once maxmemory is set, {}", loss.what);
                    Finding::warning("eviction", what, fix)
                }
                (false, _) => Finding::warning("eviction", format!("{what}: at maxmemory {}", loss.what), fix),
            }
        });
        found.collect()
    }

    fn persistence(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        for (field, what) in [
            ("rdb_last_bgsave_status", "its last save failed"),
            ("aof_last_write_status", "its last write of the append-only file failed"),
        ] {
            if self.facts.info(field) == Some("err") {
                let what = format!("{what}: it may refuse each change until one succeeds");
                found.push(Finding::error(
                    "persistence",
                    what,
                    "see its log: room on its disk, rights to its folder",
                ));
            }
        }
        let append_only = self.facts.info("aof_enabled");
        if self.part == Part::Primary && append_only == Some("0") && self.facts.save.as_deref() == Ok("") {
            let lost: Vec<&str> = self.needs.iter().filter_map(|needs| needs.restarted).collect();
            if !lost.is_empty() {
                let what = format!("keeps nothing on disk: a restart loses {}", lost.join(", "));
                found.push(Finding::warning("persistence", what, "CONFIG SET appendonly yes"));
            }
        }
        found
    }

    fn buffers(&self) -> Option<Finding> {
        let listening: Vec<&str> = self
            .needs
            .iter()
            .filter(|needs| needs.listens)
            .map(|needs| needs.pattern)
            .collect();
        let words: Vec<&str> = self.facts.buffers.as_deref().ok()?.split(' ').collect();
        let at = words.iter().position(|word| *word == "pubsub")?;
        let number = |n: usize| words.get(at + n)?.parse::<u64>().ok();
        // 0 is no limit.
        let less = |limit: u64, than: u64| limit != 0 && limit < than;
        let small = less(number(1)?, PUBSUB.0) || less(number(2)?, PUBSUB.1);
        (small && !listening.is_empty()).then(|| {
            let what = format!(
                "{}: client-output-buffer-limit is small, pubsub {} {} {}: one connection hears for all who listen, and is cut off \
                 for being behind by that",
                listening.join(", "),
                number(1).unwrap_or(0),
                number(2).unwrap_or(0),
                number(3).unwrap_or(0),
            );
            let fix = format!("CONFIG SET client-output-buffer-limit \"pubsub {} {} 60\"", PUBSUB.0, PUBSUB.1);
            Finding::warning("output_buffer", what, fix)
        })
    }

    /// Whether notifications of keys are as the patterns want them. `may_set`: the user may set them.
    pub(super) fn notifications(&self, may_set: bool) -> Vec<Finding> {
        let Ok(flags) = self.facts.notify.as_deref() else {
            return Vec::new();
        };
        let wanting = self
            .needs
            .iter()
            .filter_map(|needs| Some((needs.pattern, needs.notified?)));
        let lacking = wanting.filter_map(|(pattern, notified)| {
            let missing = (notified.missing)(flags);
            if missing.is_empty() || (notified.set_up && may_set) {
                return None;
            }
            let what = format!(
                "{pattern}: notify-keyspace-events is {flags:?}, without {missing}: {}",
                notified.without
            );
            let fix = format!("CONFIG SET notify-keyspace-events {flags}{missing}");
            Some(Finding::warning("notifications", what, fix))
        });
        lacking.collect()
    }

    /// Whether they are there already, so that nobody needs to set them.
    pub(super) fn is_notified(&self) -> bool {
        let flags = self.facts.notify.as_deref();
        let all = |flags: &str| {
            self.needs
                .iter()
                .filter_map(|needs| needs.notified)
                .all(|n| (n.missing)(flags).is_empty())
        };
        flags.is_ok_and(all)
    }
}
