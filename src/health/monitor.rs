//! Follows the endpoints and tells who asks: `grpc.health.v1` for services, a list of what is missing for readiness.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::store;
use crate::config::EndpointName;
use crate::redis::{Endpoint, State};

/// Between two checks of an endpoint that is written to. What a probe sees is known at once; this finds a server that
/// answers and cannot be written to.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The health service's name for "ready for traffic", beside the services' own names and "" for the process.
const READINESS: &str = "readiness";

/// The health service's name for whether Redis tells build managers of expirations. It says nothing of readiness: the gateway
/// finds them without.
const NOTIFICATIONS: &str = "keyspace-notifications";

/// An endpoint and the services that stand on it.
pub struct Followed {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Full names of its services, such as `redisgateway.v1.Cache`.
    pub services: Vec<&'static str>,
    /// Whether health is checked by writing, as the contract wants it of build logs.
    pub check_write: bool,
}

/// The health of all services. Its tasks end when it is dropped.
pub struct Monitor {
    telling: Telling,
    /// Of what may serve.
    names: Vec<&'static str>,
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// Where news goes.
#[derive(Clone)]
struct Telling {
    reporter: HealthReporter,
    /// The endpoints that readiness waits for.
    missing: Arc<watch::Sender<Vec<&'static str>>>,
    serving: IntGaugeVec,
    draining: IntGauge,
    required: Arc<[EndpointName]>,
}

impl Monitor {
    /// Follows endpoints. `services` are the full names of all services, of which those without an endpoint never serve;
    /// readiness waits for the endpoints named in `required`.
    ///
    /// # Panics
    /// If `registry` has a metric of that name already.
    pub async fn start(
        reporter: HealthReporter,
        services: Vec<&'static str>,
        followed: Vec<Followed>,
        required: &[EndpointName],
        registry: &Registry,
    ) -> Self {
        let help = "Whether a service that is configured serves, as grpc.health.v1 says too; `readiness` is whether the gateway is ready.";
        // Names and label are constants: they are valid, and one gateway has one registry and makes these once.
        let serving = IntGaugeVec::new(Opts::new("redis_gateway_serving", help), &["service"]).expect("valid");
        registry.register(Box::new(serving.clone())).expect("registered once");
        let help = "Whether the gateway is about to end, and has told so.";
        let draining = IntGauge::new("redis_gateway_draining", help).expect("valid");
        registry.register(Box::new(draining.clone())).expect("registered once");
        let missing = required.iter().map(|name| name.as_str()).collect();
        let telling = Telling {
            reporter,
            missing: Arc::new(watch::channel(missing).0),
            serving,
            draining,
            required: required.into(),
        };
        telling.serving("", true).await;
        telling.serving(READINESS, required.is_empty()).await;
        for name in services {
            // Not by the gauge, where nobody has configured the service: it would look as if it were down.
            telling
                .reporter
                .set_service_status(name, ServingStatus::NotServing)
                .await;
        }
        let names: Vec<_> = followed.iter().flat_map(|followed| followed.services.clone()).collect();
        for name in &names {
            telling.serving(name, false).await;
        }
        let follow = |followed| AbortOnDropHandle::new(tokio::spawn(follow(followed, telling.clone())));
        let mut tasks: Vec<_> = followed.into_iter().map(follow).collect();
        tasks.push(AbortOnDropHandle::new(tokio::spawn(follow_readiness(telling.clone()))));
        Monitor { telling, names, tasks }
    }

    /// Tells whether Redis tells of expirations, too.
    pub async fn follow_notifications(&mut self, mut notified: watch::Receiver<bool>) {
        self.names.push(NOTIFICATIONS);
        self.telling.serving(NOTIFICATIONS, false).await;
        let telling = self.telling.clone();
        self.tasks.push(AbortOnDropHandle::new(tokio::spawn(async move {
            while notified.changed().await.is_ok() {
                let serving = *notified.borrow_and_update();
                telling.serving(NOTIFICATIONS, serving).await;
            }
        })));
    }

    /// The names of the endpoints without which the gateway is not ready.
    pub fn missing(&self) -> watch::Receiver<Vec<&'static str>> {
        self.telling.missing.subscribe()
    }

    /// Says `NOT_SERVING` for everything, for good: the gateway is about to end.
    pub async fn shut_down(&mut self) {
        for task in std::mem::take(&mut self.tasks) {
            task.abort();
            // One that is at work has its last word before what follows.
            drop(task.await);
        }
        self.telling.draining.set(1);
        self.telling.missing.send_replace(vec!["draining"]);
        for name in self.names.iter().copied().chain(["", READINESS]) {
            self.telling.serving(name, false).await;
        }
    }
}

impl Telling {
    async fn serving(&self, service: &str, serving: bool) {
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        if !service.is_empty() {
            let name = service.rsplit('.').next().unwrap_or(service);
            self.serving.with_label_values(&[name]).set(serving.into());
        }
        self.reporter.set_service_status(service, status).await;
    }

    fn endpoint(&self, name: EndpointName, serving: bool) {
        if !self.required.contains(&name) {
            return;
        }
        self.missing.send_modify(|missing| {
            missing.retain(|known| *known != name.as_str());
            if !serving {
                missing.push(name.as_str());
            }
        });
    }
}

/// Tells of readiness, and nobody else does, so that what was seen last is what was told last.
async fn follow_readiness(telling: Telling) {
    let mut missing = telling.missing.subscribe();
    missing.mark_changed();
    while missing.changed().await.is_ok() {
        let ready = missing.borrow_and_update().is_empty();
        telling.serving(READINESS, ready).await;
    }
}

async fn follow(followed: Followed, telling: Telling) {
    let Followed {
        endpoint,
        services,
        check_write,
    } = followed;
    let name = endpoint.name().as_str();
    let mut state = endpoint.state();
    let mut known = None;
    // Nobody knows of one that is away: what it says when it is back is news.
    let mut writable = true;
    loop {
        let seen = *state.borrow_and_update();
        let serving = match seen {
            State::Up if check_write => {
                let checked = store::check_write(&endpoint).await;
                if let (Err(error), true) = (&checked, writable) {
                    tracing::warn!(endpoint = name, %error, "cannot be written to");
                }
                writable = checked.is_ok();
                Some(writable)
            }
            State::Up => Some(true),
            State::Down => {
                writable = true;
                Some(false)
            }
            // For a moment only: what was known still holds.
            State::Connecting => known,
        };
        if let Some(serving) = serving.filter(|_| serving != known) {
            known = Some(serving);
            tracing::info!(endpoint = name, serving, "health changed");
            for service in &services {
                telling.serving(service, serving).await;
            }
            telling.endpoint(endpoint.name(), serving);
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(CHECK_INTERVAL), if check_write && seen == State::Up => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::redis::Metrics;

    #[tokio::test]
    async fn what_is_configured_is_told_of_and_the_drain() {
        let config = Config::from_yaml("endpoints: {cache: {host: nowhere.invalid}}").unwrap();
        let registry = Registry::new();
        let endpoint = config.endpoints.cache.unwrap();
        let followed = Followed {
            endpoint: Endpoint::open(EndpointName::Cache, &endpoint, &Metrics::new(&registry)),
            services: vec!["redisgateway.v1.Cache"],
            check_write: false,
        };
        let services = vec!["redisgateway.v1.Cache", "redisgateway.v1.Locks"];
        let (reporter, _service) = tonic_health::server::health_reporter();
        let mut monitor = Monitor::start(reporter, services, vec![followed], &[], &registry).await;
        let told = || {
            let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather());
            let text = text.unwrap();
            let told = text
                .lines()
                .filter(|line| line.starts_with("redis_gateway_serving") || line.starts_with("redis_gateway_draining"));
            told.map(|line| line.replace("redis_gateway_", "")).collect::<Vec<_>>()
        };
        let serving = |name, serving| format!("serving{{service=\"{name}\"}} {serving}");
        assert_eq!(
            told(),
            ["draining 0".to_owned(), serving("Cache", 0), serving("readiness", 1)]
        );
        monitor.shut_down().await;
        assert_eq!(
            told(),
            ["draining 1".to_owned(), serving("Cache", 0), serving("readiness", 0)]
        );
    }
}
