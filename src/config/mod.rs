//! Configuration: one struct a concern; every field says what too high and too low do.

mod address;
mod check;
mod cli;
mod draft;
mod endpoint;
mod form;
mod load;
mod problem;
mod quay;
mod resolve;
mod setting;
mod source;
mod table;
#[cfg(test)]
mod tests;
mod yaml;

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

pub use cli::command;
pub use form::duration;
pub use load::{Loaded, load};
pub use problem::{Place, Position, Problem, Problems};
pub use setting::Setting;
pub use table::table;

/// All that a gateway is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where callers connect.
    pub grpc: Grpc,
    /// Where operators look.
    pub admin: Admin,
    /// The Redis endpoints.
    pub endpoints: Endpoints,
    /// The private server that the endpoints are on; only if none was configured.
    pub embedded: Option<Embedded>,
    /// What the gateway takes on at once.
    pub limits: Limits,
    /// How builds' logs are kept and followed.
    pub build_logs: BuildLogs,
    /// How values of the cache are kept in the gateway's own memory.
    pub cache: Cache,
    /// How pulls are counted and flushed.
    pub pull_metrics: PullMetrics,
    /// How users' events are listened to.
    pub user_events: UserEvents,
    /// How keys of build managers are watched.
    pub orchestrator: Orchestrator,
    /// How the gateway ends.
    pub drain: Drain,
    /// Logs and traces.
    pub telemetry: Telemetry,
    /// The endpoints that must serve for the gateway to be ready. Default none: one Redis that fails would take the
    /// patterns on all others out with it.
    pub readiness: Vec<EndpointName>,
}

/// Where the gateway listens for calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `host:port`; port 0 takes any free one.
    Tcp(SocketAddr),
    /// `unix:/path`.
    Unix(PathBuf),
}

/// Where callers connect.
#[derive(Debug, Clone)]
pub struct Grpc {
    /// Default 127.0.0.1:50051.
    pub listen: Listen,
    /// The mode of a Unix socket: whoever may write to it may call. Default 0660, the owner and the group.
    pub socket_mode: u32,
    /// Age at which a TCP connection is ended, a tenth more or less, so that its caller finds gateways that were added. Too low
    /// costs connections and moves streams, too high leaves added gateways idle. None: never. Default 30 min.
    pub max_connection_age: Option<Duration>,
    /// For calls in flight to end then, before they are cut. Too low cuts calls that wait, too high keeps old connections for
    /// callers that do not end them. Default 1 h, the longest wait of a unary call.
    pub max_connection_age_grace: Duration,
}

/// Where operators look.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The status page at `/`, Prometheus' text at `/metrics`, `/livez`, `/readyz`. Default 127.0.0.1:9102.
    pub listen: SocketAddr,
}

/// One of the Redis endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointName {
    /// Build logs and health.
    BuildLogs,
    /// User events, and locks unless they have an endpoint of their own.
    UserEvents,
    /// Pull metrics and their flush.
    PullMetrics,
    /// Model cache and content tracker.
    Cache,
    /// Build orchestration.
    Orchestrator,
    /// Locks.
    Locks,
}

impl EndpointName {
    /// All of them.
    pub const ALL: [EndpointName; 6] = [
        EndpointName::BuildLogs,
        EndpointName::UserEvents,
        EndpointName::PullMetrics,
        EndpointName::Cache,
        EndpointName::Orchestrator,
        EndpointName::Locks,
    ];

    /// The name as it stands in configuration, metrics and errors.
    pub fn as_str(self) -> &'static str {
        match self {
            EndpointName::BuildLogs => "build_logs",
            EndpointName::UserEvents => "user_events",
            EndpointName::PullMetrics => "pull_metrics",
            EndpointName::Cache => "cache",
            EndpointName::Orchestrator => "orchestrator",
            EndpointName::Locks => "locks",
        }
    }
}

/// The endpoints, each configured on its own. What is missing is answered `NOT_CONFIGURED`.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    /// See [`EndpointName::BuildLogs`].
    pub build_logs: Option<Endpoint>,
    /// See [`EndpointName::UserEvents`].
    pub user_events: Option<Endpoint>,
    /// See [`EndpointName::PullMetrics`].
    pub pull_metrics: Option<Endpoint>,
    /// See [`EndpointName::Cache`].
    pub cache: Option<Endpoint>,
    /// See [`EndpointName::Orchestrator`].
    pub orchestrator: Option<Endpoint>,
    /// See [`EndpointName::Locks`].
    pub locks: Option<Endpoint>,
}

impl Endpoints {
    /// The endpoint of that name, if it is configured.
    pub fn get(&self, name: EndpointName) -> Option<&Endpoint> {
        match name {
            EndpointName::BuildLogs => self.build_logs.as_ref(),
            EndpointName::UserEvents => self.user_events.as_ref(),
            EndpointName::PullMetrics => self.pull_metrics.as_ref(),
            EndpointName::Cache => self.cache.as_ref(),
            EndpointName::Orchestrator => self.orchestrator.as_ref(),
            EndpointName::Locks => self.locks.as_ref(),
        }
    }

    fn slot(&mut self, name: EndpointName) -> &mut Option<Endpoint> {
        match name {
            EndpointName::BuildLogs => &mut self.build_logs,
            EndpointName::UserEvents => &mut self.user_events,
            EndpointName::PullMetrics => &mut self.pull_metrics,
            EndpointName::Cache => &mut self.cache,
            EndpointName::Orchestrator => &mut self.orchestrator,
            EndpointName::Locks => &mut self.locks,
        }
    }
}

/// A private Redis server, for a first try, for development, for one small machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedded {
    /// Absolute path of the folder with its data, its socket and its log; nobody else may read it.
    pub data_dir: PathBuf,
    /// The server's binary. None: `redis-server`, else `valkey-server`, from PATH.
    pub server: Option<PathBuf>,
}

impl Embedded {
    /// The socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        self.data_dir.join("redis.sock")
    }
}

/// One Redis server's address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Server {
    /// Host name or address, and port.
    Tcp {
        /// Host name or address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// A Redis endpoint: a primary, replicas if there are any, or a Cluster, and how to talk to them.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The primary; on a Cluster one of the servers that it is found by.
    pub server: Server,
    /// The Cluster, if it is one. The cache's endpoint alone can be.
    pub cluster: Option<Cluster>,
    /// Replicas of that primary, for reads that may be stale.
    pub replicas: Vec<Server>,
    /// The age up to which reads from replicas are accepted unless the caller says otherwise: nothing that was written longer
    /// ago is missed. Below twice `probe_interval`, most reads go to the primary; too high returns what is long overwritten.
    pub max_staleness: Duration,
    /// Database number. Default 0; 1 for pull metrics.
    pub db: u8,
    /// User name of an ACL user.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Password>,
    /// TLS, if the servers want it.
    pub tls: Option<Tls>,
    /// For a connection to stand, TLS and login included. Too low fails on a busy network, too high delays the news of a
    /// server that is gone.
    pub connect_timeout: Duration,
    /// For one command, unless the caller's deadline is sooner; also the deadline of calls that bring none.
    pub command_timeout: Duration,
    /// Commands in flight to one server. Too low refuses calls in a burst; too high keeps memory for calls that a silent
    /// server will never answer.
    pub max_in_flight: usize,
    /// Between two probes of a connection. Too high delays the notice of a dead one; too low costs Redis a PING each time.
    pub probe_interval: Duration,
    /// For the answer to a probe; two that are missed replace the connection. Too low replaces the connection to a server
    /// that forks or rewrites.
    pub probe_timeout: Duration,
    /// The longest wait between two attempts to connect, jitter aside. Too high delays the return of a server; too low
    /// hammers one that is struggling.
    pub reconnect_max_delay: Duration,
}

/// A Redis Cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Servers that it is found by: any of them names all. Too few, and it is not found while these are down.
    pub servers: Vec<Server>,
    /// Read from replicas what may be stale. Costs each server a connection and an `INFO` with each probe.
    pub read_from_replicas: bool,
}

/// A password, in the configuration or in a file that is read again for each new connection.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// The password itself.
    Inline(String),
    /// A file that holds it; one trailing newline is cut off.
    File(PathBuf),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Password::Inline(_) => f.write_str("***"),
            Password::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// TLS towards Redis.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM file of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate chain; with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the client key; with `cert_file`.
    pub key_file: Option<PathBuf>,
    /// Do not check the server's certificate (`verify: none`): anyone on the way can read and change what is sent.
    pub insecure: bool,
}

/// What the gateway takes on at once.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Unary calls in flight; more are refused, the cache's first and locks' last. Default 10,000.
    pub max_calls: usize,
    /// Open streams; more are refused. Default 20,000.
    pub max_streams: usize,
    /// Bytes of one request, once it is unpacked; a larger one is refused. Default 4 MiB.
    pub max_request_bytes: usize,
    /// Bytes of one value that is stored in the cache; never more than fit into an answer. Too low refuses what callers want to
    /// cache, too high lets a value take memory many times over, here and in Redis. Default 3 MiB.
    pub max_value_bytes: usize,
    /// Bytes of one answer of the cache. Too low leaves out much of a large batch, too high is refused by clients that were not told
    /// to take more than their 4 MiB. Default 4 MiB.
    pub max_answer_bytes: usize,
}

/// How builds' logs are kept and followed.
#[derive(Debug, Clone)]
pub struct BuildLogs {
    /// Between two looks at a log that is followed; appends through this gateway are seen at once. Too low costs Redis a
    /// command each time for each log that is followed, too high delays entries appended by others. Default 250 ms.
    pub poll_interval: Duration,
    /// Silence after which a follower hears a heartbeat, jitter aside. Default 15 s.
    pub heartbeat: Duration,
    /// Give the list its TTL with the first append too; the reference's first append leaves it without. Default false.
    pub ttl_from_first_append: bool,
}

/// How values of the cache are kept in the gateway's own memory.
#[derive(Debug, Clone)]
pub struct Cache {
    /// Beginnings of the keys whose values are kept; none begins with another. Each costs Redis a look at each key that is changed,
    /// and each change of such a key a message. Default none: nothing is kept.
    pub near_prefixes: Vec<String>,
    /// Memory for them. Too low keeps what is seldom read from what is read often, too high is memory that others lack. Default
    /// 64 MiB.
    pub near_max_bytes: usize,
    /// How long past its end a value is kept for callers that allow stale ones. Too high fills the memory with what nobody wants.
    /// Default 10 min.
    pub near_max_stale: Duration,
}

/// How pulls are counted and flushed.
#[derive(Debug, Clone)]
pub struct PullMetrics {
    /// How long a pull waits for others of its key, to become one Redis call with them. Too high makes callers wait, too low
    /// costs Redis a command for nearly each pull of a popular tag. Zero: none waits. Default 5 ms.
    pub coalesce_window: Duration,
    /// Memory for pulls that are buffered until Redis takes them. Too low refuses pulls in an outage, too high loses more of
    /// them if the gateway is killed. Default 16 MiB.
    pub buffer_bytes: usize,
    /// Age from which on a claimed key that no gateway knows of is claimed again. Too low takes what a flush worker without the
    /// gateway is still at, too high delays what one left behind. Default 15 min.
    pub orphan_age: Duration,
}

/// How users' events are listened to.
#[derive(Debug, Clone)]
pub struct UserEvents {
    /// Silence after which a listener hears a heartbeat, jitter aside. Default 5 s.
    pub heartbeat: Duration,
}

/// How keys of build managers are watched.
#[derive(Debug, Clone)]
pub struct Orchestrator {
    /// What stands before the name of the channel, `orchestrator_events`; build managers without the gateway must be told the same.
    /// Default empty.
    pub channel_prefix: String,
    /// Leave `notify-keyspace-events` of the server as it is. Default false.
    pub skip_keyspace_event_setup: bool,
    /// Between two looks at all keys for expirations that nobody told of. Too low costs Redis a walk through its keys each time, too
    /// high delays what was missed. Default 30 s.
    pub look_interval: Duration,
    /// For a client to acknowledge an expiry; then another one is given it. Too low gives it to two, too high delays it when a client
    /// dies. Default 30 s.
    pub ack_timeout: Duration,
    /// Silence after which a watch hears a heartbeat, jitter aside. Default 15 s.
    pub heartbeat: Duration,
}

/// How the gateway ends.
#[derive(Debug, Clone)]
pub struct Drain {
    /// Between readiness off and the end of streams, for load balancers to notice. Default 0 s.
    pub delay: Duration,
    /// For calls in flight to end; then they are cut. Default 20 s.
    pub timeout: Duration,
}

/// Logs and traces.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Default text.
    pub log_format: LogFormat,
    /// A `tracing` filter such as `info` or `redis_gateway=debug`. Default `info`.
    pub log_level: String,
    /// OTLP over gRPC, such as `http://localhost:4317`. None: no traces.
    pub otlp_endpoint: Option<String>,
    /// Share of the calls without a sampled caller's context that are traced, 0 to 1. Default 0.01.
    pub sample_ratio: f64,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
