//! One connection to one server, from its birth to its end.
//!
//! The client library would connect again by itself and hold commands until then. Here a client lives as long as its one
//! connection: what is asked of it after that is known to be not executed, and whoever owns it makes a new one.

use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use fred::clients::Client;
use fred::error::ErrorKind;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::{ClusterHash, CustomCommand, KeyspaceEvent, Message, Resp3Frame, Value};
use futures_util::FutureExt as _;
use tokio::sync::{broadcast, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::beside::{Count, Counted};
use super::command::{self, Command, Repeat};
use super::error::{Error, Reply};
use super::library::client;
use super::replication::{Standing, Watch};
use super::reply::FromReply;
use super::tls::TlsError;
use crate::config::{self, Server};
use crate::deadline::Deadline;

/// What `CLIENT LIST` shows of the gateway's connections, those of its commands too, so that others on the same server stand out.
pub const CONNECTION_NAME: &str = "redis-gateway";

/// How often replies are looked at again after an error reply to `SUBSCRIBE` has shifted them by one. They fall into place as
/// soon as one comes in that nobody waits for, so nothing is asked meanwhile: for 1 ms, then twice as long each time.
const RESYNC_ATTEMPTS: u32 = 8;

/// How often a call without a reply looks whether its connection is still there. One that was taken on in the moment in
/// which the library ended stays with it for ever, and was never sent; being woken for that would cost every call a lock.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What kind of connection is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Commands, any number in flight.
    Commands,
    /// The same to a replica of a Cluster, which would send readers to its primary unless it is told not to.
    Reader,
    /// Subscriptions and the `PING`s that confirm them, nothing else: an error reply to `SUBSCRIBE` shifts the library's
    /// replies by one.
    Subscriber,
    /// Hears of changed keys, as of messages on a channel of its own, and nothing else.
    Tracker,
}

/// What is subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// A channel, by its name.
    Channel,
    /// All channels whose names match a glob pattern.
    Pattern,
}

impl Kind {
    fn command(self) -> &'static str {
        match self {
            Kind::Channel => "SUBSCRIBE",
            Kind::Pattern => "PSUBSCRIBE",
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("the password file cannot be read: {0}")]
    Password(std::io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Failed(String),
    #[error("the server is not serving: {0}")]
    Refused(Error),
    #[error("no answer within {0:?}")]
    Silent(Duration),
}

/// What became of a command on a connection.
enum Fault {
    /// It cannot have been executed.
    NotExecuted,
    /// It may have been, and the connection is gone.
    Lost,
    /// It may have been, and the deadline has passed.
    Late,
}

/// A connection. Dropped with its last owner, whatever it is doing then.
pub(super) struct Connection {
    client: Client,
    task: AbortHandle,
    /// Why it ended, once it has.
    ended: watch::Receiver<Option<String>>,
    /// How far the replica is that it leads to, as the latest probe told. None: nobody knows.
    pub(super) standing: ArcSwapOption<Standing>,
    counted: Option<Counted>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Closes the socket even where its buffers are full and nobody reads: the library's own ways to end wait for that.
        self.task.abort();
    }
}

impl Connection {
    /// Connects, logs in and hears the server's first `PONG`, all within the endpoint's connect timeout.
    pub(super) async fn open(server: &Server, config: &config::Endpoint, role: Role) -> Result<Self, ConnectError> {
        let client = client(server, config, role).await?;
        let running = client.connect();
        let task = running.abort_handle();
        let (tell, ended) = watch::channel(None);
        tokio::spawn(async move {
            let why = match running.await {
                // A server that knows no AUTH repeats what came with it, which is the password.
                Ok(Err(error)) => error
                    .details()
                    .split(", with args")
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
                _ => "closed".to_owned(),
            };
            tell.send_replace(Some(why));
        });
        let connection = Connection {
            client,
            task,
            ended,
            standing: ArcSwapOption::empty(),
            counted: None,
        };
        let deadline = Deadline::within(config.connect_timeout);
        let greet = async {
            if role == Role::Reader {
                connection.ask(command::readonly(), deadline).await?;
            }
            // A user without the right to a name is connected all the same.
            let named = connection.ask(command::client_setname(CONNECTION_NAME), deadline);
            tokio::join!(named, connection.ask(command::ping(), deadline)).1
        };
        let pong = tokio::select! {
            biased;
            pong = greet => pong,
            () = connection.ended() => Err(Error::Unavailable),
        };
        match pong {
            // A user without the right to PING is connected all the same.
            Ok(_) | Err(Error::Reply(Reply::Denied("PING"))) => Ok(connection),
            Err(Error::Timeout) => Err(ConnectError::Silent(config.connect_timeout)),
            Err(Error::Unavailable) => {
                connection.ended().await;
                Err(ConnectError::Failed(
                    connection.ended.borrow().clone().unwrap_or_default(),
                ))
            }
            Err(error) => Err(ConnectError::Refused(error)),
        }
    }

    /// Is one of `count` as long as it lives.
    pub(super) fn counted(mut self, count: &Count) -> Self {
        self.counted = Some(count.one());
        self
    }

    /// Sends a command and waits for its reply until `deadline`.
    pub(super) async fn ask<R: Repeat, T: FromReply>(
        &self,
        command: Command<R, T>,
        deadline: Deadline,
    ) -> Result<T, Error> {
        let name = command.name;
        self.reply(command, deadline).await.and_then(|frame| read(name, frame))
    }

    /// Sends a command and waits for its reply until `deadline`, whatever it is: an error is one too.
    pub(super) async fn reply<R: Repeat, T>(
        &self,
        command: Command<R, T>,
        deadline: Deadline,
    ) -> Result<Resp3Frame, Error> {
        let name = command.name;
        let custom = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
        let args: Vec<Value> = command.args.into_iter().map(Value::Bytes).collect();
        let mut reply = std::pin::pin!(self.client.custom_raw(custom, args));
        let outcome = loop {
            let look = deadline.instant().min(Instant::now() + LOOK_AGAIN);
            match tokio::time::timeout_at(look, &mut reply).await {
                Ok(reply) => break reply.map_err(|error| fault(&error)),
                // Whatever the library had sent it answered before it ended, perhaps just after the look above: what has no
                // reply now was never sent. Unconstrained: a task that has used up its turn would see no reply either.
                Err(_) if self.has_ended() => {
                    let reply = tokio::task::unconstrained(reply.as_mut()).now_or_never();
                    break reply.map_or(Err(Fault::NotExecuted), |reply| reply.map_err(|error| fault(&error)));
                }
                Err(_) if deadline.instant() <= Instant::now() => break Err(Fault::Late),
                Err(_) => {}
            }
        };
        match outcome {
            Ok(frame) => Ok(frame),
            Err(Fault::Lost | Fault::Late) if !R::REPEATABLE => Err(Error::Unknown),
            Err(Fault::Late) => Err(Error::Timeout),
            Err(Fault::NotExecuted | Fault::Lost) => Err(Error::Unavailable),
        }
    }

    /// Whether the connection is gone, as far as is known.
    pub(super) fn has_ended(&self) -> bool {
        // It changes once, and this receiver never takes note. One atomic read.
        self.ended.has_changed().unwrap_or(true)
    }

    /// Waits until the connection is gone: closed by the other side, or broken.
    pub(super) async fn ended(&self) {
        // An error means that the task which tells is gone, and so is the connection.
        drop(self.ended.clone().wait_for(Option::is_some).await);
    }

    /// Waits until the connection is gone or two probes in a row have missed their limit. The library notices no dead
    /// connection while commands are sent, so this is what does.
    pub(super) async fn dead(&self, config: &config::Endpoint, watch: &Watch) -> &'static str {
        let mut missed = false;
        loop {
            // The second probe goes out at once.
            let pause = if missed { Duration::ZERO } else { config.probe_interval };
            if tokio::time::timeout(pause, self.ended()).await.is_ok() {
                return "lost";
            }
            match watch.probe(self, Deadline::within(config.probe_timeout)).await {
                Err(Error::Timeout) if missed => return "silent",
                Err(Error::Timeout) => missed = true,
                Err(Error::Unavailable) => return "lost",
                Err(Error::Reply(Reply::NotServing(_))) => return "not_serving",
                // Any other reply is one.
                _ => missed = false,
            }
        }
    }

    /// Subscribes to topics of one kind, which makes `total` subscriptions of it, and makes sure of it. The library's call returns
    /// before anything has happened, and an error reply is dropped where nobody waits for one, so that no later command tells;
    /// Redis is asked for the number. One at a time: the owner sees to that, and drops the connection after any error but
    /// [`Reply::Denied`].
    pub(super) async fn subscribe(
        &self,
        kind: Kind,
        names: &[Bytes],
        total: usize,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let names: Vec<&str> = names.iter().map(topic_name).collect::<Result<_, _>>()?;
        let sent = match kind {
            Kind::Channel => self.client.subscribe(names).await,
            Kind::Pattern => self.client.psubscribe(names).await,
        };
        sent.map_err(|_| Error::Unavailable)?;
        self.confirm(kind, kind.command(), total, deadline).await
    }

    /// Asks for a subscription and makes sure of nothing.
    pub(super) async fn ask_for(&self, channel: &'static str) -> Result<(), Error> {
        self.client.subscribe(channel).await.map_err(|_| Error::Unavailable)
    }

    /// Ends a subscription, which leaves `total` of its kind; see [`Connection::subscribe`].
    pub(super) async fn unsubscribe(
        &self,
        kind: Kind,
        name: &Bytes,
        total: usize,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let name = topic_name(name)?;
        let sent = match kind {
            Kind::Channel => self.client.unsubscribe(name).await,
            Kind::Pattern => self.client.punsubscribe(name).await,
        };
        sent.map_err(|_| Error::Unavailable)?;
        self.confirm(kind, "UNSUBSCRIBE", total, deadline).await
    }

    async fn confirm(&self, kind: Kind, name: &'static str, total: usize, deadline: Deadline) -> Result<(), Error> {
        let denied = Error::Reply(Reply::Denied(name));
        match self.ask(command::client_info(), deadline).await {
            Ok(info) => match subscriptions(&info, kind) {
                Some(now) if now == total => return Ok(()),
                // The error reply came in before the question had gone out.
                Some(_) => return Err(denied),
                None => return Err(Error::Protocol("CLIENT")),
            },
            // It came to the question, whose own answer is still on its way.
            Err(Error::Reply(Reply::Denied(_))) => {}
            Err(error) => return Err(error),
        }
        for attempt in 0..RESYNC_ATTEMPTS {
            tokio::time::sleep(Duration::from_millis(1 << attempt)).await;
            if self.echoes(deadline).await? {
                return Err(denied);
            }
        }
        Err(Error::Protocol(name))
    }

    /// Whether a `PING` with a text of its own gets just that text back. What was published before it has come in by then.
    pub(super) async fn echoes(&self, deadline: Deadline) -> Result<bool, Error> {
        let text = command::number(rand::random());
        Ok(self.ask(command::echo_ping(text.clone()), deadline).await? == text)
    }

    /// What is published on the channels subscribed to.
    pub(super) fn messages(&self) -> broadcast::Receiver<Message> {
        self.client.message_rx()
    }

    /// Those among them that are notifications of what happens to keys: the library tells them apart.
    pub(super) fn notifications(&self) -> broadcast::Receiver<KeyspaceEvent> {
        self.client.keyspace_event_rx()
    }
}

/// Reads a reply, or the error that it is.
fn read<T: FromReply>(name: &'static str, frame: Resp3Frame) -> Result<T, Error> {
    match frame {
        Resp3Frame::SimpleError { data, .. } => Err(Error::Reply(Reply::classify(name, &data))),
        Resp3Frame::BlobError { data, .. } => Err(Error::Reply(Reply::classify(name, &String::from_utf8_lossy(&data)))),
        frame => T::from_frame(frame).ok_or(Error::Protocol(name)),
    }
}

/// What an error of the library, which is no reply of the server, says about a command.
fn fault(error: &fred::error::Error) -> Fault {
    match error.kind() {
        // Refused at the door, or still in line when the connection ended.
        ErrorKind::Backpressure | ErrorKind::Canceled => Fault::NotExecuted,
        _ if matches!(
            error.details(),
            "Failed to route command." | "Failed to send command to router." | "Client is not initialized."
        ) =>
        {
            Fault::NotExecuted
        }
        _ => Fault::Lost,
    }
}

/// The number of subscriptions of a kind in the answer to `CLIENT INFO`.
fn subscriptions(info: &[u8], kind: Kind) -> Option<usize> {
    let field = match kind {
        Kind::Channel => "sub=",
        Kind::Pattern => "psub=",
    };
    let info = std::str::from_utf8(info).ok()?;
    info.split(' ').find_map(|part| part.strip_prefix(field))?.parse().ok()
}

fn topic_name(name: &Bytes) -> Result<&str, Error> {
    // Names are made from protobuf strings, which are UTF-8.
    std::str::from_utf8(name).map_err(|_| Error::Protocol("SUBSCRIBE"))
}
