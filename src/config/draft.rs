//! The configuration while it is put together: what may still contradict itself.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{
    Admin, BuildLogs, Cache, Config, Drain, EndpointName, Endpoints, Grpc, Limits, Listen, LogFormat, Orchestrator,
    PullMetrics, Server, Telemetry, UserEvents,
};

#[derive(Debug)]
pub(super) struct Draft {
    /// All but the endpoints, readiness and the embedded server.
    pub config: Config,
    pub endpoints: BTreeMap<EndpointName, EndpointDraft>,
    pub readiness: Vec<Ready>,
    pub data_dir: Option<PathBuf>,
    pub server: Option<PathBuf>,
}

/// What readiness can be made to depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    All,
    None,
    Endpoint(EndpointName),
}

#[derive(Debug, Default)]
pub(super) struct EndpointDraft {
    pub host: Option<String>,
    pub port: u16,
    pub socket: Option<PathBuf>,
    pub cluster: Vec<Server>,
    pub read_from_replicas: bool,
    pub db: u8,
    pub username: Option<String>,
    pub password: Option<String>,
    pub password_file: Option<PathBuf>,
    pub replicas: Vec<Server>,
    pub max_staleness: Duration,
    pub tls: bool,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub insecure: bool,
    pub connect_timeout: Duration,
    pub command_timeout: Duration,
    pub max_in_flight: usize,
    pub probe_interval: Duration,
    pub probe_timeout: Duration,
    pub reconnect_max_delay: Duration,
}

impl Draft {
    /// Empty: each value is put in by the table, from its default on.
    pub(super) fn new() -> Self {
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            config: Config {
                grpc: Grpc {
                    listen: Listen::Tcp(nowhere),
                    socket_mode: 0,
                    max_connection_age: None,
                    max_connection_age_grace: Duration::ZERO,
                },
                admin: Admin { listen: nowhere },
                endpoints: Endpoints::default(),
                embedded: None,
                limits: Limits {
                    max_calls: 0,
                    max_streams: 0,
                    max_request_bytes: 0,
                    max_value_bytes: 0,
                    max_answer_bytes: 0,
                },
                build_logs: BuildLogs {
                    poll_interval: Duration::ZERO,
                    heartbeat: Duration::ZERO,
                    ttl_from_first_append: false,
                },
                cache: Cache {
                    near_prefixes: Vec::new(),
                    near_max_bytes: 0,
                    near_max_stale: Duration::ZERO,
                },
                pull_metrics: PullMetrics {
                    coalesce_window: Duration::ZERO,
                    buffer_bytes: 0,
                    orphan_age: Duration::ZERO,
                },
                user_events: UserEvents {
                    heartbeat: Duration::ZERO,
                },
                orchestrator: Orchestrator {
                    channel_prefix: String::new(),
                    skip_keyspace_event_setup: false,
                    look_interval: Duration::ZERO,
                    ack_timeout: Duration::ZERO,
                    heartbeat: Duration::ZERO,
                },
                drain: Drain {
                    delay: Duration::ZERO,
                    timeout: Duration::ZERO,
                },
                telemetry: Telemetry {
                    log_format: LogFormat::Text,
                    log_level: String::new(),
                    otlp_endpoint: None,
                    sample_ratio: 0.0,
                },
                readiness: Vec::new(),
            },
            endpoints: BTreeMap::new(),
            readiness: Vec::new(),
            data_dir: None,
            server: None,
        }
    }

    pub(super) fn endpoint(&mut self, name: EndpointName) -> &mut EndpointDraft {
        self.endpoints.entry(name).or_default()
    }
}
