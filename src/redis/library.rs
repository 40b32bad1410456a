//! How the client library is told to be a plain connection.

use std::time::Duration;

use fred::clients::Client;
use fred::types::RespVersion;
use fred::types::config::{Config, ConnectionConfig, PerformanceConfig, ServerConfig, TcpConfig};

use super::connection::{ConnectError, Role};
use super::tls;
use crate::config::{self, Password, Server};

/// Messages that a subscriber may be behind by; then it loses its oldest and is told how many. The library keeps nine such buffers,
/// whatever it hears, with all their room from the start: 3 MiB a subscriber.
const MESSAGE_BUFFER: usize = 4_096;

/// Commands that may wait beyond those in flight: probes, and what a pipeline has more of than there are places.
const BEYOND: usize = 128;

/// A client that connects once, sends each command once, and takes no error reply for a reason to connect again.
pub(super) async fn client(server: &Server, config: &config::Endpoint, role: Role) -> Result<Client, ConnectError> {
    let password = match &config.password {
        None => None,
        Some(Password::Inline(password)) => Some(password.clone()),
        // Read for each connection, so that a changed password is taken up without a restart.
        Some(Password::File(path)) => {
            let text = tokio::fs::read_to_string(path).await.map_err(ConnectError::Password)?;
            Some(text.strip_suffix('\n').unwrap_or(&text).to_owned())
        }
    };
    let tls = match &config.tls {
        Some(tls) => Some(tls::connector(tls).await?.into()),
        None => None,
    };
    let library = Config {
        fail_fast: true,
        username: config.username.clone(),
        password,
        server: match server {
            Server::Tcp { host, port } => ServerConfig::new_centralized(host.clone(), *port),
            Server::Unix(path) => ServerConfig::new_unix_socket(path.clone()),
        },
        // RESP3 lets a subscriber tell the reply to a PING from a message. The library drops its news of a flush.
        version: match role {
            Role::Commands | Role::Reader | Role::Tracker => RespVersion::RESP2,
            Role::Subscriber => RespVersion::RESP3,
        },
        database: (config.db != 0).then_some(config.db),
        tls,
        ..Config::default()
    };
    let performance = PerformanceConfig {
        // Deadlines are ours; see `ask`.
        default_command_timeout: Duration::ZERO,
        broadcast_channel_capacity: match role {
            Role::Commands | Role::Reader => 1,
            Role::Subscriber | Role::Tracker => MESSAGE_BUFFER,
        },
        ..PerformanceConfig::default()
    };
    let connection = ConnectionConfig {
        connection_timeout: config.connect_timeout,
        internal_command_timeout: config.connect_timeout,
        max_command_attempts: 1,
        max_command_buffer_len: config.max_in_flight + BEYOND,
        reconnect_errors: Vec::new(),
        tcp: TcpConfig {
            nodelay: Some(true),
            ..TcpConfig::default()
        },
        ..ConnectionConfig::default()
    };
    Ok(Client::new(library, Some(performance), Some(connection), None))
}
