//! The servers behind the endpoints, each once: endpoints may be on one server, under several names.

use std::collections::btree_map::{BTreeMap, Entry};
use std::fmt;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::config::{self, Config, EndpointName, Server};
use crate::redis::{Member, Part, Unreached, Visit, command, members};

/// A server, or one of its databases.
pub(super) struct Place {
    /// The first name that it was found by.
    pub(super) server: Server,
    /// None: it does not matter.
    pub(super) db: Option<u8>,
    /// Who is on it. Empty: nobody that is configured.
    pub(super) endpoints: Vec<EndpointName>,
    /// Whether it was found as a replica.
    pub(super) replica: bool,
    pub(super) redis: Visit,
    /// The numbers of this command's connections to it.
    pub(super) own: Vec<i64>,
    /// Lines of `INFO server`; empty if that may not be asked.
    pub(super) info: String,
}

/// Something that could not be reached.
pub(super) struct Missed {
    pub(super) endpoint: EndpointName,
    /// None: a Cluster, of which no server answers.
    pub(super) server: Option<Server>,
    pub(super) why: String,
}

/// As messages name it: `build_logs 10.0.0.1:6379: …`.
impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.endpoint.as_str())?;
        if let Some(server) = &self.server {
            write!(f, " {server}")?;
        }
        write!(f, ": {}", self.why)
    }
}

impl Missed {
    pub(super) fn json(&self) -> Value {
        let server = self.server.as_ref().map(ToString::to_string);
        json!({"endpoint": self.endpoint.as_str(), "server": server, "why": self.why})
    }
}

impl Place {
    /// Whether an endpoint is on it that was asked for. What nobody is on is looked at for pull metrics.
    pub(super) fn is_of(&self, wanted: Option<EndpointName>) -> bool {
        let here = |name: EndpointName| match &self.endpoints[..] {
            [] => name == EndpointName::PullMetrics,
            here => here.contains(&name),
        };
        wanted.is_none_or(here)
    }

    /// The endpoints on it, as text.
    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.endpoints.iter().map(|name| name.as_str()).collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        }
    }

    /// A value of `INFO server`.
    pub(super) fn info(&self, name: &str) -> Option<&str> {
        self.info
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    }

    /// What tells servers apart, whatever they are called.
    fn identity(&self) -> (String, Option<u8>) {
        let run = self
            .info("run_id")
            .map_or_else(|| self.server.to_string(), str::to_owned);
        (run, self.db)
    }
}

/// Where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The databases of primaries: where keys are.
    Databases,
    /// Whole servers, replicas too: where clients are.
    Servers,
}

/// Connects to all servers of all endpoints, and to each once.
pub(super) async fn find(config: &Config, look: Look) -> (Vec<Place>, Vec<Missed>) {
    let mut asked: Vec<(Option<EndpointName>, config::Endpoint)> = Vec::new();
    for name in EndpointName::ALL {
        let Some(endpoint) = config.endpoints.get(name) else {
            continue;
        };
        asked.push((Some(name), endpoint.clone()));
        // Producers of pulls that were not told the database write to the first one.
        if look == Look::Databases && name == EndpointName::PullMetrics && endpoint.db != 0 {
            let first = config::Endpoint {
                db: 0,
                ..endpoint.clone()
            };
            asked.push((None, first));
        }
    }
    let found = join_all(asked.iter().map(|(name, endpoint)| look_at(*name, endpoint, look))).await;
    let mut places: BTreeMap<(String, Option<u8>), Place> = BTreeMap::new();
    let mut order = Vec::new();
    let mut missed = Vec::new();
    for found in found.into_iter().flatten() {
        match found {
            Err(gone) => missed.push(gone),
            Ok(place) => match places.entry(place.identity()) {
                Entry::Occupied(mut known) => {
                    known.get_mut().endpoints.extend(&place.endpoints);
                    known.get_mut().own.extend(&place.own);
                }
                Entry::Vacant(free) => {
                    order.push(free.key().clone());
                    free.insert(place);
                }
            },
        }
    }
    let places = order.iter().filter_map(|identity| places.remove(identity));
    (places.collect(), missed)
}

/// The servers of one endpoint. `name` is none for a database that is looked at beside it.
async fn look_at(name: Option<EndpointName>, endpoint: &config::Endpoint, look: Look) -> Vec<Result<Place, Missed>> {
    let missed = |server: Option<&Server>, why: Unreached| {
        Err(Missed {
            endpoint: name.unwrap_or(EndpointName::PullMetrics),
            server: server.cloned(),
            why: why.to_string(),
        })
    };
    let members = match members(endpoint).await {
        Ok(members) => members,
        Err(why) => return vec![missed(None, why)],
    };
    let wanted = |member: &&Member| look == Look::Servers || member.part == Part::Primary;
    join_all(members.iter().filter(wanted).map(|member| async move {
        let redis = match Visit::open(member, endpoint).await {
            Ok(redis) => redis,
            Err(why) => return missed(Some(&member.server), why),
        };
        let own = redis.ask(command::client_id()).await;
        // A user without the right to ask sees servers under two names as two.
        let info = redis.ask(command::info("server")).await.unwrap_or_default();
        Ok(Place {
            server: member.server.clone(),
            db: (look == Look::Databases).then_some(endpoint.db),
            endpoints: name.into_iter().collect(),
            replica: member.part == Part::Replica,
            redis,
            own: own.into_iter().collect(),
            info: String::from_utf8_lossy(&info).into_owned(),
        })
    }))
    .await
}
