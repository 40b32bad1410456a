//! Configurations for tests: the defaults, on ports and addresses of the test's own.

use std::{net::SocketAddr, time::Duration};

use redis_gateway::config::{
    Admin, BuildLogs, Cache, Config, Drain, Endpoint, Endpoints, Grpc, Limits, Listen, LogFormat, Orchestrator,
    PullMetrics, Server, Telemetry, UserEvents,
};

/// A gateway on free ports of loopback, without endpoints.
pub(crate) fn config() -> Config {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    Config {
        grpc: Grpc {
            listen: Listen::Tcp(any_port),
            socket_mode: 0o660,
            max_connection_age: Some(Duration::from_mins(30)),
            max_connection_age_grace: Duration::from_hours(1),
        },
        admin: Admin { listen: any_port },
        endpoints: Endpoints::default(),
        embedded: None,
        limits: Limits {
            max_calls: 10_000,
            max_streams: 20_000,
            max_request_bytes: 4 << 20,
            max_value_bytes: 3 << 20,
            max_answer_bytes: 4 << 20,
        },
        build_logs: BuildLogs {
            poll_interval: Duration::from_millis(250),
            heartbeat: Duration::from_secs(15),
            ttl_from_first_append: false,
        },
        cache: Cache {
            near_prefixes: Vec::new(),
            near_max_bytes: 64 << 20,
            near_max_stale: Duration::from_mins(10),
        },
        pull_metrics: PullMetrics {
            coalesce_window: Duration::from_millis(5),
            buffer_bytes: 16 << 20,
            orphan_age: Duration::from_mins(15),
        },
        user_events: UserEvents {
            heartbeat: Duration::from_secs(5),
        },
        orchestrator: Orchestrator {
            channel_prefix: String::new(),
            skip_keyspace_event_setup: false,
            look_interval: Duration::from_secs(30),
            ack_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(15),
        },
        drain: Drain {
            delay: Duration::ZERO,
            timeout: Duration::from_secs(20),
        },
        telemetry: Telemetry {
            log_format: LogFormat::Text,
            log_level: "info".into(),
            otlp_endpoint: None,
            sample_ratio: 0.0,
        },
        readiness: Vec::new(),
    }
}

/// An endpoint with the default limits, at the TCP address `addr`.
pub(crate) fn at(addr: SocketAddr) -> Endpoint {
    endpoint(Server::Tcp {
        host: addr.ip().to_string(),
        port: addr.port(),
    })
}

/// An endpoint with the default limits.
pub(crate) fn endpoint(server: Server) -> Endpoint {
    Endpoint {
        server,
        cluster: None,
        replicas: Vec::new(),
        max_staleness: Duration::from_secs(5),
        db: 0,
        username: None,
        password: None,
        tls: None,
        connect_timeout: Duration::from_secs(1),
        command_timeout: Duration::from_secs(2),
        max_in_flight: 10_000,
        probe_interval: Duration::from_millis(250),
        probe_timeout: Duration::from_millis(300),
        reconnect_max_delay: Duration::from_millis(500),
    }
}
