//! The table of all settings: flags, environment variables, help, documentation and checks come from it.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use super::{
    EndpointName, LogFormat,
    address::{
        AnyPath, FileMode, Host, ListenAddress, NodeAddress, ReadableFile, ServerAddress, Socket, TcpAddress, Url,
    },
    draft::{Draft, EndpointDraft, Ready},
    form::{Beginning, Bool, Bytes, Choice, Form, LogFilter, Ratio, Span, Text, Whole},
    setting::{Setting, many, one, secret},
};

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

const READY: &[(&str, Ready)] = &[
    ("all", Ready::All),
    ("none", Ready::None),
    ("build_logs", Ready::Endpoint(EndpointName::BuildLogs)),
    ("user_events", Ready::Endpoint(EndpointName::UserEvents)),
    ("pull_metrics", Ready::Endpoint(EndpointName::PullMetrics)),
    ("cache", Ready::Endpoint(EndpointName::Cache)),
    ("orchestrator", Ready::Endpoint(EndpointName::Orchestrator)),
    ("locks", Ready::Endpoint(EndpointName::Locks)),
];

/// All settings, in the order of help and documentation.
pub fn table() -> &'static [Setting] {
    static TABLE: LazyLock<Vec<Setting>> = LazyLock::new(|| {
        let mut table = gateway();
        for name in EndpointName::ALL {
            table.extend(endpoint(name));
        }
        table
    });
    &TABLE
}

/// The setting at a path.
pub(super) fn setting(path: &str) -> Option<&'static Setting> {
    static BY_PATH: LazyLock<BTreeMap<&str, &Setting>> =
        LazyLock::new(|| table().iter().map(|setting| (setting.path.as_str(), setting)).collect());
    BY_PATH.get(path).copied()
}

/// All but the endpoints.
#[rustfmt::skip]
fn gateway() -> Vec<Setting> {
    vec![
        one("grpc.listen", "127.0.0.1:50051", ListenAddress, "where callers connect",
            |d, v| d.config.grpc.listen = v),
        one("grpc.socket_mode", "0660", FileMode, "mode of a Unix socket: whoever may write to it may call",
            |d, v| d.config.grpc.socket_mode = v),
        one("grpc.max_connection_age", "30m", Span(Duration::ZERO..=24 * HOUR),
            "age, a tenth more or less, at which a TCP connection ends, so that callers find added gateways; 0s: never",
            |d, v| d.config.grpc.max_connection_age = (!v.is_zero()).then_some(v)),
        one("grpc.max_connection_age_grace", "1h", Span(Duration::ZERO..=24 * HOUR),
            "for calls in flight to end then; after it they are cut",
            |d, v| d.config.grpc.max_connection_age_grace = v),
        one("admin.listen", "127.0.0.1:9102", TcpAddress, "where operators look: metrics, liveness, readiness",
            |d, v| d.config.admin.listen = v),
        many("readiness", "none", Choice(READY),
            "endpoints that must serve for the gateway to be ready; others may fail without taking it out",
            |d, v| d.readiness = v),
        one("limits.max_calls", "10000", Whole(1..=10_000_000), "calls in flight; more are refused",
            |d, v| d.config.limits.max_calls = v),
        one("limits.max_streams", "20000", Whole(1..=10_000_000), "open streams; more are refused",
            |d, v| d.config.limits.max_streams = v),
        one("limits.max_request_bytes", "4MiB", Bytes(1 << 10..=512 << 20),
            "bytes of one request, once it is unpacked; larger ones are refused",
            |d, v| d.config.limits.max_request_bytes = v),
        one("limits.max_value_bytes", "3MiB", Bytes(1 << 10..=512 << 20),
            "bytes of one value that is stored in the cache, never more than fit into an answer; larger ones are refused",
            |d, v| d.config.limits.max_value_bytes = v),
        one("limits.max_answer_bytes", "4MiB", Bytes(64 << 10..=512 << 20),
            "bytes of one answer of the cache; clients accept 4MiB unless told otherwise",
            |d, v| d.config.limits.max_answer_bytes = v),
        one("build_logs.poll_interval", "250ms", Span(10 * MS..=MINUTE),
            "between two looks at a log that is followed; lower costs Redis commands, higher delays what others append",
            |d, v| d.config.build_logs.poll_interval = v),
        one("build_logs.heartbeat", "15s", Span(100 * MS..=10 * MINUTE),
            "silence after which a follower hears a heartbeat",
            |d, v| d.config.build_logs.heartbeat = v),
        one("build_logs.ttl_from_first_append", "false", Bool,
            "give a log its TTL with the first append too, not only from the second on",
            |d, v| d.config.build_logs.ttl_from_first_append = v),
        many("cache.near.prefixes", "", Beginning,
            "beginnings of keys whose values are kept in the gateway's own memory; without one, none are",
            |d, v| d.config.cache.near_prefixes = v),
        one("cache.near.max_bytes", "64MiB", Bytes(1 << 20..=1 << 40), "memory for them; what is read least goes first",
            |d, v| d.config.cache.near_max_bytes = v),
        one("cache.near.max_stale", "10m", Span(Duration::ZERO..=24 * HOUR),
            "time past its end that a value is kept for callers that allow stale ones",
            |d, v| d.config.cache.near_max_stale = v),
        one("pull_metrics.coalesce_window", "5ms", Span(Duration::ZERO..=1_000 * MS),
            "for a pull to wait for others of its key, to become one Redis call with them; 0s: none waits",
            |d, v| d.config.pull_metrics.coalesce_window = v),
        one("pull_metrics.buffer_bytes", "16MiB", Bytes(0..=1 << 30),
            "memory for buffered pulls while Redis is away; more are refused, and lost if the gateway is killed",
            |d, v| d.config.pull_metrics.buffer_bytes = v),
        one("pull_metrics.orphan_age", "15m", Span(1_000 * MS..=24 * HOUR),
            "age from which on a key is flushed that a worker without the gateway has claimed and left behind",
            |d, v| d.config.pull_metrics.orphan_age = v),
        one("user_events.heartbeat", "5s", Span(100 * MS..=10 * MINUTE),
            "silence after which a listener hears a heartbeat",
            |d, v| d.config.user_events.heartbeat = v),
        one("orchestrator.channel_prefix", "", Text,
            "what stands before the channel's name, orchestrator_events; the same for all build managers",
            |d, v| d.config.orchestrator.channel_prefix = v),
        one("orchestrator.skip_keyspace_event_setup", "false", Bool,
            "leave notify-keyspace-events of the server as it is, instead of adding K and x to it",
            |d, v| d.config.orchestrator.skip_keyspace_event_setup = v),
        one("orchestrator.look_interval", "30s", Span(100 * MS..=HOUR),
            "between two looks at all keys for expirations that nobody told of",
            |d, v| d.config.orchestrator.look_interval = v),
        one("orchestrator.ack_timeout", "30s", Span(100 * MS..=HOUR),
            "for a client to acknowledge an expiry; then another one is given it",
            |d, v| d.config.orchestrator.ack_timeout = v),
        one("orchestrator.heartbeat", "15s", Span(100 * MS..=10 * MINUTE),
            "silence after which a watch hears a heartbeat",
            |d, v| d.config.orchestrator.heartbeat = v),
        one("drain.delay", "0s", Span(Duration::ZERO..=10 * MINUTE),
            "between readiness off and the end of streams, for load balancers to notice",
            |d, v| d.config.drain.delay = v),
        one("drain.timeout", "20s", Span(Duration::ZERO..=HOUR), "for calls in flight to end; then they are cut",
            |d, v| d.config.drain.timeout = v),
        one("telemetry.log_format", "text", Choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]),
            "form of log lines: for people, or one JSON object a line",
            |d, v| d.config.telemetry.log_format = v),
        one("telemetry.log_level", "info", LogFilter, "what is logged",
            |d, v| d.config.telemetry.log_level = v),
        one("telemetry.otlp_endpoint", "", Url, "where traces go, over gRPC; without it there are none",
            |d, v| d.config.telemetry.otlp_endpoint = Some(v)),
        one("telemetry.sample_ratio", "0.01", Ratio(0.0..=1.0),
            "share of calls to trace where the caller has not decided",
            |d, v| d.config.telemetry.sample_ratio = v),
        one("embedded.data_dir", "", AnyPath,
            "folder of the private server that runs when no endpoint is configured; without it \
             $XDG_DATA_HOME/redis-gateway, else ~/.local/share/redis-gateway",
            |d, v| d.data_dir = Some(v)),
        one("embedded.server", "", ReadableFile,
            "that server's binary; without it redis-server, else valkey-server, from PATH",
            |d, v| d.server = Some(v)),
    ]
}

/// Those of one endpoint. The timeouts are the contract's, section "Endpoints"; where it has none, 5s.
#[rustfmt::skip]
fn endpoint(name: EndpointName) -> Vec<Setting> {
    let (connect, command) = match name {
        EndpointName::BuildLogs | EndpointName::Cache => ("1s", "2s"),
        EndpointName::UserEvents => ("2s", "2s"),
        EndpointName::PullMetrics | EndpointName::Locks => ("5s", "5s"),
        EndpointName::Orchestrator => ("1s", "5s"),
    };
    let db = if name == EndpointName::PullMetrics { "1" } else { "0" };
    let at = Endpoint(name);
    vec![
        at.one("host", "", Host, "the primary's name or address", |e, v| e.host = Some(v)),
        at.one("port", "6379", Whole(1..=u16::MAX), "the primary's port", |e, v| e.port = v),
        at.one("socket", "", Socket, "the primary's Unix socket, instead of host and port", |e, v| e.socket = Some(v)),
        at.one("db", db, Whole(0..=u8::MAX), "database number", |e, v| e.db = v),
        at.one("username", "", Text, "user name of an ACL user", |e, v| e.username = Some(v)),
        secret(at.one("password", "", Text, "password; no flag, since others can see a process' arguments",
            |e, v| e.password = Some(v))),
        at.one("password_file", "", ReadableFile, "file that holds the password, read again for each new connection",
            |e, v| e.password_file = Some(v)),
        many(at.path("replicas"), "", ServerAddress, "replicas of the primary, for reads that may be stale",
            move |d, v| d.endpoint(name).replicas = v),
        at.one("max_staleness", "5s", Span(10 * MS..=24 * HOUR),
            "lag up to which a replica is read from unless the caller says otherwise; below twice probe_interval most reads go \
             to the primary",
            |e, v| e.max_staleness = v),
        many(at.path("cluster"), "", NodeAddress,
            "servers by which a Cluster is found, instead of host and port; for the cache alone",
            move |d, v| d.endpoint(name).cluster = v),
        at.one("read_from_replicas", "false", Bool,
            "on a Cluster: read from its replicas what may be stale, by max_staleness",
            |e, v| e.read_from_replicas = v),
        at.one("tls.enabled", "false", Bool, "talk TLS to the servers", |e, v| e.tls = v),
        at.one("tls.ca_file", "", ReadableFile, "PEM file of the authorities to trust instead of the system's",
            |e, v| e.ca_file = Some(v)),
        at.one("tls.cert_file", "", ReadableFile, "PEM file of the client certificate chain; with tls.key_file",
            |e, v| e.cert_file = Some(v)),
        at.one("tls.key_file", "", ReadableFile, "PEM file of the client key; with tls.cert_file",
            |e, v| e.key_file = Some(v)),
        at.one("tls.verify", "full", Choice(&[("full", false), ("none", true)]),
            "check the server's certificate; none lets anyone on the way read and change what is sent",
            |e, v| e.insecure = v),
        at.one("connect_timeout", connect, Span(10 * MS..=MINUTE),
            "for a connection to stand, TLS and login included; too low fails on a busy network",
            |e, v| e.connect_timeout = v),
        at.one("command_timeout", command, Span(MS..=5 * MINUTE),
            "for one command, unless the caller's deadline is sooner",
            |e, v| e.command_timeout = v),
        at.one("max_in_flight", "4096", Whole(1..=1_000_000),
            "commands in flight to one server; more are refused",
            |e, v| e.max_in_flight = v),
        at.one("probe_interval", "250ms", Span(10 * MS..=MINUTE),
            "between two probes of a connection; higher notices a dead one later",
            |e, v| e.probe_interval = v),
        at.one("probe_timeout", "300ms", Span(10 * MS..=MINUTE),
            "for the answer to a probe; two that are missed replace the connection",
            |e, v| e.probe_timeout = v),
        at.one("reconnect_max_delay", "500ms", Span(10 * MS..=MINUTE),
            "longest wait between two attempts to connect; higher delays the return of a server",
            |e, v| e.reconnect_max_delay = v),
    ]
}

struct Endpoint(EndpointName);

impl Endpoint {
    fn path(&self, leaf: &str) -> String {
        format!("endpoints.{}.{leaf}", self.0.as_str())
    }

    fn one<F: Form + Send + Sync + 'static>(
        &self,
        leaf: &str,
        default: &'static str,
        form: F,
        help: &'static str,
        put: impl Fn(&mut EndpointDraft, F::Value) + Send + Sync + 'static,
    ) -> Setting {
        let name = self.0;
        one(self.path(leaf), default, form, help, move |draft: &mut Draft, value| {
            put(draft.endpoint(name), value);
        })
    }
}
