//! All that the page says, and `/status.json` too.

use std::time::SystemTime;

use prometheus::proto::MetricFamily;
use serde::{Serialize, Serializer};

use super::format;
use super::history::{History, SPAN, Sample};
use super::open::{Gauges, Open};
use super::problem::{self, Problem};
use super::tally::{Tally, whole};
use super::window::{FAILED_COMMANDS, Trend, Window, rounded, trend, windows};
use super::{Stand, Watched, utc};
use crate::layer::METHODS;
use crate::redis::{Seen, State};
use crate::status::FAULTS;

/// The gateway at one moment.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) state: Readiness,
    /// What readiness waits for.
    pub(super) not_ready: Vec<&'static str>,
    /// What is wrong, the worst first.
    pub(super) problems: Vec<Problem>,
    pub(super) version: &'static str,
    #[serde(serialize_with = "time")]
    pub(super) time: SystemTime,
    #[serde(serialize_with = "time")]
    pub(super) started: SystemTime,
    pub(super) uptime_seconds: u64,
    /// All calls.
    pub(super) calls: Vec<Window>,
    #[serde(skip)]
    pub(super) trend: Trend,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) services: Vec<Service>,
    pub(super) open: Open,
}

/// What is expected of the gateway, as `/readyz` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Readiness {
    Ready,
    NotReady,
    Draining,
}

/// One configured Redis.
#[derive(Debug, Serialize)]
pub(super) struct Endpoint {
    pub(super) name: &'static str,
    /// Of the primary, or the best of all primaries of a Cluster. `down` is the open breaker.
    #[serde(serialize_with = "state")]
    pub(super) state: State,
    pub(super) database: u8,
    /// The services that stand on it.
    pub(super) services: Vec<&'static str>,
    pub(super) servers: Vec<Server>,
    pub(super) connections: Connections,
}

/// The connections of an endpoint, by what they are for.
#[derive(Debug, Serialize)]
pub(super) struct Connections {
    /// One to each server that is up.
    pub(super) commands: u64,
    pub(super) subscriptions: u64,
    pub(super) blocking: u64,
    pub(super) tracking: u64,
}

/// One server of an endpoint.
#[derive(Debug, Serialize)]
pub(super) struct Server {
    /// As metrics name it.
    pub(super) name: String,
    pub(super) address: String,
    #[serde(serialize_with = "state")]
    pub(super) state: State,
    #[serde(serialize_with = "time")]
    pub(super) since: SystemTime,
    pub(super) in_flight: u64,
    /// As many as may be.
    pub(super) max_in_flight: u64,
    /// How old what a replica has may be. None: no replica, or never known.
    pub(super) lag_seconds: Option<f64>,
    pub(super) lag_bytes: Option<u64>,
    pub(super) commands: Vec<Window>,
    #[serde(skip)]
    pub(super) trend: Trend,
}

/// One service of the API.
#[derive(Debug, Serialize)]
pub(super) struct Service {
    pub(super) name: &'static str,
    /// The endpoint that it stands on. None: none is configured, so its calls are refused.
    pub(super) endpoint: Option<&'static str>,
    /// As `grpc.health.v1` says it.
    pub(super) serving: bool,
    pub(super) calls: Vec<Window>,
    #[serde(skip)]
    pub(super) trend: Trend,
}

impl Report {
    /// By what `watched` says now, the metrics as they are now, and as they were.
    pub(super) fn new(watched: &Watched, started: SystemTime, families: &[MetricFamily], history: &History) -> Self {
        let now = Sample::read(families);
        let gauges = Gauges(families);
        let not_ready = (watched.unready)();
        let state = match not_ready.as_slice() {
            [] => Readiness::Ready,
            ["draining"] => Readiness::Draining,
            _ => Readiness::NotReady,
        };
        let before = history.before(&now, SPAN).map(|(before, _)| before);
        let time = SystemTime::now();
        let endpoints: Vec<Endpoint> = watched
            .stands
            .iter()
            .map(|stand| endpoint(stand, &now, history, &gauges, time))
            .collect();
        let all = |sample: &Sample| {
            let mut all = Tally::default();
            api()
                .filter_map(|name| sample.services.get(name))
                .for_each(|tally| all.add(tally));
            Some(all)
        };
        let mut report = Report {
            state,
            not_ready,
            problems: Vec::new(),
            version: env!("CARGO_PKG_VERSION"),
            time,
            started,
            uptime_seconds: time.duration_since(started).unwrap_or_default().as_secs(),
            calls: windows(&now, history, &FAULTS, all),
            trend: trend(history, all),
            services: api()
                .map(|name| service(name, &endpoints, &now, history, &gauges))
                .collect(),
            endpoints,
            open: Open::read(&gauges, &now, before),
        };
        report.problems = problem::find(&report);
        report
    }
}

/// The services of the API, each once.
fn api() -> impl Iterator<Item = &'static str> {
    let names = METHODS.iter().map(|method| method.service);
    let mut last = None;
    // The table has the methods of a service together.
    names.filter(move |name| last.replace(*name) != Some(*name))
}

fn service(
    name: &'static str,
    endpoints: &[Endpoint],
    now: &Sample,
    history: &History,
    gauges: &Gauges<'_>,
) -> Service {
    let of = |sample: &Sample| sample.services.get(name).cloned();
    let endpoint = endpoints.iter().find(|endpoint| endpoint.services.contains(&name));
    Service {
        name,
        endpoint: endpoint.map(|endpoint| endpoint.name),
        serving: gauges.value("redis_gateway_serving", &[("service", name)]) == Some(1.0),
        calls: windows(now, history, &FAULTS, of),
        trend: trend(history, of),
    }
}

fn endpoint(stand: &Stand, now: &Sample, history: &History, gauges: &Gauges<'_>, time: SystemTime) -> Endpoint {
    let name = stand.endpoint.name().as_str();
    let server = |seen: Seen| {
        let key = (name.to_owned(), seen.label.clone());
        let of = |sample: &Sample| sample.servers.get(&key).cloned();
        let gauge = |gauge| {
            gauges.value(
                &format!("redis_gateway_redis_{gauge}"),
                &[("endpoint", name), ("server", &seen.label)],
            )
        };
        // 0: never known.
        let current = gauge("replica_current_timestamp_seconds").filter(|current| *current > 0.0);
        let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Server {
            address: seen.server.to_string(),
            state: seen.state,
            since: seen.since,
            in_flight: gauge("in_flight").map_or(0, whole),
            max_in_flight: stand.endpoint.max_in_flight() as u64,
            lag_seconds: current.map(|current| rounded((since_1970.as_secs_f64() - current).max(0.0))),
            lag_bytes: current.and_then(|_| gauge("replica_lag_bytes")).map(whole),
            commands: windows(now, history, FAILED_COMMANDS, of),
            trend: trend(history, of),
            name: seen.label,
        }
    };
    let servers: Vec<Server> = stand.endpoint.servers().into_iter().map(server).collect();
    let beside = stand.endpoint.beside();
    Endpoint {
        name,
        connections: Connections {
            commands: servers.iter().filter(|server| server.state == State::Up).count() as u64,
            subscriptions: beside.subscriptions,
            blocking: beside.blocking,
            tracking: beside.tracking,
        },
        state: *stand.endpoint.state().borrow(),
        database: stand.endpoint.db(),
        services: stand
            .services
            .iter()
            .map(|full| full.rsplit('.').next().unwrap_or(full))
            .collect(),
        servers,
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn state<S: Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(format::state(state))
}

fn time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&utc(*time))
}
