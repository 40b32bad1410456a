//! The only place that knows all parts. No logic: it makes them, joins them, and ends them in order.

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::OptionFuture;
use prometheus::Registry;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::{Routes, RoutesBuilder};

use crate::build_logs::Logs;
use crate::cache::{self, Cache};
use crate::config::{Config, EndpointName, Listen};
use crate::connections::{Listener, Server};
use crate::health::{Followed, Monitor};
use crate::locks::{self, Locks};
use crate::orchestrator::{self, Orchestrator};
use crate::proto::build_logs_server::{BuildLogsServer, SERVICE_NAME as BUILD_LOGS};
use crate::proto::cache_server::{CacheServer, SERVICE_NAME as CACHE};
use crate::proto::content_tracker_server::{ContentTrackerServer, SERVICE_NAME as CONTENT_TRACKER};
use crate::proto::locks_server::{LocksServer, SERVICE_NAME as LOCKS};
use crate::proto::orchestrator_server::{OrchestratorServer, SERVICE_NAME as ORCHESTRATOR};
use crate::proto::pull_metrics_server::{PullMetricsServer, SERVICE_NAME as PULL_METRICS};
use crate::proto::user_events_server::{SERVICE_NAME as USER_EVENTS, UserEventsServer};
use crate::pull_metrics::{self, Pulls};
use crate::redis::Endpoint;
use crate::user_events::{self, Events};
use crate::{admin, build_logs, content_tracker, layer, proto, redis};

/// What a unary call gets that brings no deadline, where its pattern has no endpoint: it is refused at once anyway. And a check of health.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// For answers of the admin server that are under way at the end.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a gateway could not serve, or not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reflection could not be made from the descriptors.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Where a gateway listens: bound before it runs, so that a port that is taken is told at once and tests can ask for any.
pub struct Listeners {
    grpc: Listener,
    admin: TcpListener,
}

impl Listeners {
    /// Binds what the configuration names. A Unix socket that nobody listens on any more is replaced.
    pub async fn bind(config: &Config) -> io::Result<Self> {
        let named = |what: &dyn std::fmt::Display, e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"));
        let grpc = match &config.grpc.listen {
            Listen::Tcp(addr) => Listener::Tcp(TcpListener::bind(addr).await.map_err(|e| named(addr, e))?),
            Listen::Unix(path) => {
                remove_stale(path).await.map_err(|e| named(&path.display(), e))?;
                let listener = UnixListener::bind(path).map_err(|e| named(&path.display(), e))?;
                // Until then nobody but the owner can connect, as files are made by default.
                let mode = Permissions::from_mode(config.grpc.socket_mode);
                tokio::fs::set_permissions(path, mode)
                    .await
                    .map_err(|e| named(&path.display(), e))?;
                Listener::Unix(listener, path.clone())
            }
        };
        let admin = config.admin.listen;
        Ok(Listeners {
            grpc,
            admin: TcpListener::bind(admin).await.map_err(|e| named(&admin, e))?,
        })
    }

    /// Where gRPC listens, unless on a Unix socket.
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        self.grpc.addr()
    }

    /// Where the admin server listens.
    pub fn admin_addr(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }
}

/// Serves until `shutdown`, then drains: readiness off, streams told to go elsewhere, calls in flight ended, then out.
pub async fn run(config: Config, listeners: Listeners, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let registry = Registry::new();
    let metrics = redis::Metrics::new(&registry);
    let open = |name| {
        config
            .endpoints
            .get(name)
            .map(|endpoint| Endpoint::open(name, endpoint, &metrics))
    };
    let endpoints = EndpointName::ALL.map(open);
    let endpoint_of = |name: EndpointName| endpoints.iter().flatten().find(|e| e.name() == name).cloned();
    let locks_at = endpoint_of(EndpointName::Locks).or_else(|| endpoint_of(EndpointName::UserEvents));

    let (reporter, health_server) = tonic_health::server::health_reporter();
    let locks_stand_on = locks_at.as_ref().map(|at| at.name());
    let followed = followed(&endpoints, locks_stand_on);
    let stands = followed.iter().map(stand).collect();
    let names = vec![
        BUILD_LOGS,
        CACHE,
        CONTENT_TRACKER,
        LOCKS,
        ORCHESTRATOR,
        PULL_METRICS,
        USER_EVENTS,
    ];
    let mut health = Monitor::start(reporter, names, followed, &config.readiness, &registry).await;

    let draining = CancellationToken::new();
    let (running, mut services) = patterns(&config, &endpoint_of, locks_at, &draining, &registry);
    if let Some(notified) = running.orchestrator.as_ref().and_then(|keys| keys.notified()) {
        health.follow_notifications(notified).await;
    }
    services
        .add_service(health_server.accept_compressed(CompressionEncoding::Gzip))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);

    let timeout = |pattern| {
        let stands_on = match pattern {
            "locks" => locks_stand_on,
            other => endpoint_name(other),
        };
        stands_on
            .and_then(&endpoint_of)
            .map_or(DEFAULT_TIMEOUT, |endpoint| endpoint.command_timeout())
    };
    let stack = layer::stack(&config.limits, &config.telemetry, timeout, draining.clone(), &registry);
    let cut = CancellationToken::new();
    let server = Server::new(services.routes(), stack, &config.grpc, draining.clone(), cut.clone());
    let stop = CancellationToken::new();
    let missing = health.missing();
    let watched = admin::Watched {
        registry,
        unready: Box::new(move || missing.borrow().clone()),
        stands,
    };
    let admin = tokio::spawn(admin::serve(listeners.admin, watched, stop.clone()));
    let mut grpc = tokio::spawn(server.run(listeners.grpc));
    shutdown.await;

    tracing::info!("draining");
    health.shut_down().await;
    tokio::time::sleep(config.drain.delay).await;
    draining.cancel();
    let deadline = Instant::now() + config.drain.timeout;
    if tokio::time::timeout_at(deadline, &mut grpc).await.is_err() {
        tracing::warn!(
            timeout = ?config.drain.timeout,
            "connections were still open at the end of the drain: they are cut, with the calls in flight on them"
        );
        cut.cancel();
        // Nothing more to wait for than that each is dropped.
        drop(grpc.await);
    }
    running.settled(deadline).await;
    settle(&endpoints, deadline).await;
    stop.cancel();
    // Who still reads metrics then is cut by the end of the process.
    drop(tokio::time::timeout(ADMIN_TIMEOUT, admin).await);
    tracing::info!("drained");
    Ok(())
}

/// The patterns that keep something going which must come to its end.
struct Running {
    cache: Option<Arc<Cache>>,
    locks: Option<Arc<Locks>>,
    orchestrator: Option<Arc<Orchestrator>>,
    pulls: Option<Arc<Pulls>>,
}

impl Running {
    /// For the end of the gateway, when no more calls come in.
    async fn settled(&self, by: Instant) {
        tokio::join!(
            OptionFuture::from(self.cache.as_ref().map(|cache| cache.settled(by))),
            OptionFuture::from(self.locks.as_ref().map(|locks| locks.settled(by))),
            OptionFuture::from(self.orchestrator.as_ref().map(|keys| keys.settled(by))),
            OptionFuture::from(self.pulls.as_ref().map(|pulls| pulls.settled(by))),
        );
    }
}

/// All patterns, each on its endpoint, and their services.
fn patterns(
    config: &Config,
    endpoint_of: &impl Fn(EndpointName) -> Option<Arc<Endpoint>>,
    locks_at: Option<Arc<Endpoint>>,
    draining: &CancellationToken,
    registry: &Registry,
) -> (Running, RoutesBuilder) {
    let logs = endpoint_of(EndpointName::BuildLogs).map(|at| Logs::open(at, &config.build_logs, registry));
    let cache = endpoint_of(EndpointName::Cache).map(|at| Cache::open(at, &config.cache, draining.clone(), registry));
    let content_tracker = content_tracker::Service::new(endpoint_of(EndpointName::Cache));
    let locks = locks_at.map(|at| Locks::open(at, draining.clone(), registry));
    let orchestrator =
        endpoint_of(EndpointName::Orchestrator).map(|at| Orchestrator::open(at, &config.orchestrator, registry));
    let pulls = endpoint_of(EndpointName::PullMetrics).map(|at| Pulls::open(at, &config.pull_metrics, registry));
    let events = endpoint_of(EndpointName::UserEvents).map(|at| Events::open(at, &config.user_events, registry));
    // A channel that compresses does so for all services.
    macro_rules! served {
        ($server:expr) => {
            $server
                .max_decoding_message_size(config.limits.max_request_bytes)
                .accept_compressed(CompressionEncoding::Gzip)
        };
    }
    let cache_rpcs = cache::Service::new(cache.clone(), &config.limits);
    let keys = orchestrator::Service::new(orchestrator.clone());
    let pull_metrics = pull_metrics::Service::new(pulls.clone());
    let mut services = Routes::builder();
    services
        .add_service(served!(BuildLogsServer::new(build_logs::Service::new(logs))))
        .add_service(served!(CacheServer::new(cache_rpcs)))
        .add_service(served!(ContentTrackerServer::new(content_tracker)))
        .add_service(served!(LocksServer::new(locks::Service::new(locks.clone()))))
        .add_service(served!(OrchestratorServer::new(keys)))
        .add_service(served!(PullMetricsServer::new(pull_metrics)))
        .add_service(served!(UserEventsServer::new(user_events::Service::new(events))));
    let running = Running {
        cache,
        locks,
        orchestrator,
        pulls,
    };
    (running, services)
}

/// Waits for changes whose callers are gone: each runs to its end, never later than its endpoint's command timeout.
async fn settle(endpoints: &[Option<Arc<Endpoint>>], deadline: Instant) {
    for endpoint in endpoints.iter().flatten() {
        if tokio::time::timeout_at(deadline, endpoint.settled()).await.is_err() {
            let endpoint = endpoint.name().as_str();
            tracing::warn!(endpoint, "changes were still in flight at the end of the drain");
        }
    }
}

/// The endpoint that a pattern stands on.
fn endpoint_name(pattern: &str) -> Option<EndpointName> {
    let named = match pattern {
        "content_tracker" => "cache",
        own => own,
    };
    EndpointName::ALL.into_iter().find(|name| name.as_str() == named)
}

/// The services of each endpoint.
fn followed(endpoints: &[Option<Arc<Endpoint>>], locks_stand_on: Option<EndpointName>) -> Vec<Followed> {
    let followed = |endpoint: &Arc<Endpoint>| {
        let mut services = match endpoint.name() {
            EndpointName::BuildLogs => vec![BUILD_LOGS],
            EndpointName::Cache => vec![CACHE, CONTENT_TRACKER],
            EndpointName::Orchestrator => vec![ORCHESTRATOR],
            EndpointName::PullMetrics => vec![PULL_METRICS],
            EndpointName::UserEvents => vec![USER_EVENTS],
            EndpointName::Locks => Vec::new(),
        };
        if locks_stand_on == Some(endpoint.name()) {
            services.push(LOCKS);
        }
        Followed {
            endpoint: endpoint.clone(),
            services,
            check_write: endpoint.name() == EndpointName::BuildLogs,
        }
    };
    endpoints.iter().flatten().map(followed).collect()
}

fn stand(followed: &Followed) -> admin::Stand {
    admin::Stand {
        endpoint: followed.endpoint.clone(),
        services: followed.services.clone(),
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Removes a socket that nobody listens on; one that is listened on stays, and binding it fails.
async fn remove_stale(path: &Path) -> io::Result<()> {
    match tokio::fs::metadata(path).await {
        Ok(file) if file.file_type().is_socket() && refuses(path).await => tokio::fs::remove_file(path).await,
        _ => Ok(()),
    }
}

/// Other errors are those of a socket that is listened on, such as by a gateway that has no room, or of one that just went.
async fn refuses(path: &Path) -> bool {
    let connected = tokio::net::UnixStream::connect(path).await;
    connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::METHODS;

    /// A call without a deadline gets the timeout of its endpoint, whatever the pattern is called.
    #[test]
    fn each_pattern_stands_on_an_endpoint() {
        for method in METHODS {
            assert!(endpoint_name(method.pattern).is_some(), "{}", method.pattern);
        }
        assert_eq!(endpoint_name("content_tracker"), Some(EndpointName::Cache));
    }
}
