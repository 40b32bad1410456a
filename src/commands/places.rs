//! The servers behind the endpoints, each once: endpoints may be on one server, under several names.

use std::fmt;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::config::{self, Config, EndpointName, Server};
use crate::redis::{
    Command, Error, FromReply, Info, Member, Part, Repeatable, Reply, Unreached, Visit, command, members,
};

/// A server, or one of its databases.
pub(super) struct Place {
    /// The first name that it was found by.
    pub(super) server: Server,
    /// None: it does not matter.
    pub(super) db: Option<u8>,
    /// Who is on it. Empty: nobody that is configured.
    pub(super) endpoints: Vec<EndpointName>,
    /// For whom it is looked at: who is on it, and who may have left something there.
    concerned: Vec<EndpointName>,
    /// Whether it was found as a replica.
    pub(super) replica: bool,
    /// Connections to it, one for each user that its endpoints log in as.
    users: Vec<(String, Visit)>,
    /// The numbers of this command's connections to it.
    pub(super) own: Vec<i64>,
    /// `INFO server`; empty if that may not be asked.
    pub(super) info: Info,
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
    /// Whether it is the same, for whatever reason.
    fn is(&self, other: &Missed) -> bool {
        self.endpoint == other.endpoint && self.server == other.server
    }

    pub(super) fn json(&self) -> Value {
        let server = self.server.as_ref().map(ToString::to_string);
        json!({"endpoint": self.endpoint.as_str(), "server": server, "why": self.why})
    }
}

impl Place {
    /// The endpoints on it, as text.
    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.endpoints.iter().map(|name| name.as_str()).collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        }
    }

    /// Asks as one user after the other, until one may ask that.
    pub(super) async fn ask<T: FromReply>(&self, command: Command<Repeatable, T>) -> Result<T, Error> {
        let mut answer = Err(Error::Unavailable);
        for (_, redis) in &self.users {
            answer = redis.ask(command.clone()).await;
            if !matches!(answer, Err(Error::Reply(Reply::Denied(_)))) {
                break;
            }
        }
        answer
    }

    /// Sees to it that what is read from now on does not count as used. Whether that could be done.
    pub(super) async fn touch_nothing(&self) -> bool {
        let told = self
            .users
            .iter()
            .map(|(_, redis)| redis.ask(command::client_no_touch()));
        join_all(told).await.iter().all(Result::is_ok)
    }

    /// Whether it is the same, whatever the two are called.
    fn is(&self, other: &Place) -> bool {
        let same = match (self.info.get("run_id"), other.info.get("run_id")) {
            (Some(run), Some(other)) => run == other,
            _ => self.server == other.server,
        };
        same && self.db == other.db
    }

    /// Takes in the same place, as it was found for somebody else.
    fn join(&mut self, other: Place) {
        self.endpoints.extend(other.endpoints);
        self.concerned.extend(other.concerned);
        self.own.extend(other.own);
        for (user, redis) in other.users {
            if self.users.iter().all(|(known, _)| *known != user) {
                self.users.push((user, redis));
            }
        }
        if self.info.get("run_id").is_none() {
            self.info = other.info;
        }
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

/// Connects to all servers of all endpoints, to each once as each user. Answers with those that concern `wanted`, or with all.
///
/// The others are connected to all the same: who else is on a server decides what is right there, and servers alone know which
/// of their names are one's.
pub(super) async fn find(config: &Config, wanted: Option<EndpointName>, look: Look) -> (Vec<Place>, Vec<Missed>) {
    let mut names = EndpointName::ALL;
    // The user of the one that is wanted is asked first.
    names.sort_by_key(|name| wanted.is_some_and(|wanted| wanted != *name));
    let mut visits = Vec::new();
    for name in names {
        let Some(endpoint) = config.endpoints.get(name) else {
            continue;
        };
        visits.push((name, endpoint.clone()));
        // Producers of pulls that were not told the database write to the first one.
        if look == Look::Databases && name == EndpointName::PullMetrics && endpoint.db != 0 {
            let first = config::Endpoint {
                db: 0,
                ..endpoint.clone()
            };
            visits.push((name, first));
        }
    }
    let found = visits.iter().map(|(name, endpoint)| {
        let here = config.endpoints.get(*name).is_some_and(|own| own.db == endpoint.db);
        look_at(*name, endpoint, here, look)
    });
    let mut places: Vec<Place> = Vec::new();
    let mut missed: Vec<Missed> = Vec::new();
    for found in join_all(found).await.into_iter().flatten() {
        match found {
            // One that was looked at for two of its databases is missed once.
            Err(gone) if missed.iter().any(|known| known.is(&gone)) => {}
            Err(gone) => missed.push(gone),
            Ok(place) => match places.iter_mut().find(|known| known.is(&place)) {
                Some(known) => known.join(place),
                None => places.push(place),
            },
        }
    }
    places.retain(|place| wanted.is_none_or(|wanted| place.concerned.contains(&wanted)));
    missed.retain(|missed| wanted.is_none_or(|wanted| missed.endpoint == wanted));
    (places, missed)
}

/// The servers of one endpoint, or, where it is not `here`, of a database that concerns it.
async fn look_at(
    name: EndpointName,
    endpoint: &config::Endpoint,
    here: bool,
    look: Look,
) -> Vec<Result<Place, Missed>> {
    let missed = |server: Option<&Server>, why: Unreached| {
        Err(Missed {
            endpoint: name,
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
        // Where no user may ask, a server under two names is seen as two.
        let info = redis.ask(command::info("server")).await.unwrap_or_default();
        Ok(Place {
            server: member.server.clone(),
            db: (look == Look::Databases).then_some(endpoint.db),
            endpoints: here.then_some(name).into_iter().collect(),
            concerned: vec![name],
            replica: member.part == Part::Replica,
            users: vec![(endpoint.user().to_owned(), redis)],
            own: own.into_iter().collect(),
            info,
        })
    }))
    .await
}
