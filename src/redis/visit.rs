//! A look at one server, for operators: a connection of its own that a few questions are asked on, and no data is
//! changed by.

use std::io;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use super::cluster::View;
use super::command::{self, Command, Repeatable};
use super::connection::{ConnectError, Connection, Role};
use super::error::{Error, Reply};
use super::info::Info;
use super::reply::FromReply;
use crate::config::{Endpoint, Server};
use crate::deadline::Deadline;

/// One server of an endpoint, as configured or as a Cluster tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where it is.
    pub server: Server,
    /// What it should be.
    pub part: Part,
    /// On a Cluster the number of its shard, from 0; else 0.
    pub shard: usize,
}

/// What a server is for its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It takes writes.
    Primary,
    /// It follows a primary.
    Replica,
}

/// Why a server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// Its name has no address.
    #[error("its name cannot be resolved: {0}")]
    Name(io::Error),
    /// Nothing takes connections there.
    #[error("it takes no connection: {0}")]
    Connect(io::Error),
    /// TLS cannot be set up, or the two sides do not agree on it.
    #[error("TLS fails: {0}")]
    Tls(String),
    /// The file with the password cannot be read.
    #[error("the password file cannot be read: {0}")]
    PasswordFile(io::Error),
    /// It wants a password, and none is configured.
    #[error("it wants a password, and none is configured")]
    NoPassword,
    /// It does not know the user by this password.
    #[error("it refuses the password, or the user is unknown or off")]
    WrongPassword,
    /// It takes the connection and refuses what makes it usable. Its words.
    #[error("it refuses to be used: {0}")]
    Refused(String),
    /// It takes the connection and does not answer.
    #[error("no answer within {0:?}")]
    Silent(Duration),
}

/// A connection to one server.
pub struct Visit {
    pub(super) connection: Connection,
    pub(super) limit: Duration,
}

impl Visit {
    /// Connects and logs in as the gateway would: within the endpoint's connect timeout for each of name, address and login, and its
    /// command timeout for the first answer.
    pub async fn open(member: &Member, config: &Endpoint) -> Result<Self, Unreached> {
        reach(&member.server, config.connect_timeout).await?;
        let role = match member.part {
            Part::Replica if config.cluster.is_some() => Role::Reader,
            _ => Role::Commands,
        };
        let connection = Connection::open(&member.server, config, role).await;
        let visit = Visit {
            connection: connection.map_err(|error| unreached(error, config))?,
            limit: config.command_timeout,
        };
        // Who is not logged in is denied everything.
        match visit.ask(command::ping()).await {
            Err(Error::Reply(Reply::Denied(_))) if config.password.is_none() => Err(Unreached::NoPassword),
            Err(Error::Timeout) => Err(Unreached::Silent(visit.limit)),
            _ => Ok(visit),
        }
    }

    /// Asks, and waits for the endpoint's command timeout.
    pub async fn ask<T: FromReply>(&self, command: Command<Repeatable, T>) -> Result<T, Error> {
        self.connection.ask(command, Deadline::within(self.limit)).await
    }
}

/// All servers of an endpoint; on a Cluster those that the first of the configured servers to answer tells of.
pub async fn members(config: &Endpoint) -> Result<Vec<Member>, Unreached> {
    let Some(cluster) = &config.cluster else {
        let replicas = config.replicas.iter().map(|server| (server, Part::Replica));
        let all = std::iter::once((&config.server, Part::Primary)).chain(replicas);
        return Ok(all.map(|(server, part)| member(server, part, 0)).collect());
    };
    let mut why = Unreached::Silent(config.connect_timeout);
    for server in &cluster.servers {
        match shards(&member(server, Part::Primary, 0), config).await {
            Ok(view) => return Ok(view),
            Err(error) => why = error,
        }
    }
    Err(why)
}

async fn shards(seed: &Member, config: &Endpoint) -> Result<Vec<Member>, Unreached> {
    let visit = Visit::open(seed, config).await?;
    let slots = visit.ask(command::cluster_slots()).await;
    let slots = slots.map_err(|error| Unreached::Refused(error.to_string()))?;
    let view = View::read(slots, &Info::default(), &seed.server);
    let mut all = Vec::new();
    for (n, (primary, replicas)) in view.shards().enumerate() {
        all.push(member(primary, Part::Primary, n));
        all.extend(replicas.iter().map(|server| member(server, Part::Replica, n)));
    }
    if all.is_empty() {
        return Err(Unreached::Refused("it knows of no server that has slots".to_owned()));
    }
    Ok(all)
}

fn member(server: &Server, part: Part, shard: usize) -> Member {
    Member {
        server: server.clone(),
        part,
        shard,
    }
}

/// Whether something takes connections there: the library does not say how far it came.
async fn reach(server: &Server, limit: Duration) -> Result<(), Unreached> {
    match server {
        Server::Tcp { host, port } => {
            let found = within(limit, lookup_host((host.as_str(), *port))).await;
            let addresses: Vec<_> = found.map_err(Unreached::Name)?.collect();
            let stream = within(limit, TcpStream::connect(&addresses[..])).await;
            stream.map(drop).map_err(Unreached::Connect)
        }
        Server::Unix(path) => {
            let stream = within(limit, UnixStream::connect(path)).await;
            stream.map(drop).map_err(Unreached::Connect)
        }
    }
}

async fn within<T>(limit: Duration, what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"));
    timeout(limit, what).await.map_err(late)?
}

fn unreached(error: ConnectError, config: &Endpoint) -> Unreached {
    match error {
        ConnectError::Password(error) => Unreached::PasswordFile(error),
        ConnectError::Tls(error) => Unreached::Tls(error.to_string()),
        ConnectError::Silent(limit) => Unreached::Silent(limit),
        ConnectError::Refused(error) => Unreached::Refused(error.to_string()),
        ConnectError::Failed(what) => match what.split(' ').next() {
            Some("WRONGPASS") => Unreached::WrongPassword,
            Some("NOAUTH") => Unreached::NoPassword,
            // In capitals: an error of the server's.
            Some(code) if code.len() > 2 && code.bytes().all(|b| b.is_ascii_uppercase()) => Unreached::Refused(what),
            _ if config.tls.is_some() => Unreached::Tls(what),
            _ => Unreached::Refused(what),
        },
    }
}
