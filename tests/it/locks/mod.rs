//! Locks through their RPCs, with direct clients that keep to the protocol on the other side.

mod by_force;
mod direct;
mod faults;
mod fencing;
mod hold;
mod killed;
mod many;
mod refusals;
mod slow_reader;
mod unanswered;
mod unary;
mod waiting;

use std::time::Duration;

use redis_gateway::{
    config::Config,
    proto::{
        AcquireRequest, AcquireResponse, HoldRequest, HoldResponse, LocksGetRequest, LocksGetResponse, ReleaseRequest,
        RenewRequest, ResetRequest, hold_lost::Cause, hold_response::Event, locks_client::LocksClient,
    },
};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::harness::{Gateway, RedisServer, at, config, eventually, patience, reason, within};

/// A gateway on a Redis of its own.
struct Stand {
    server: RedisServer,
    gateway: Gateway,
    locks: LocksClient<Channel>,
}

impl Stand {
    async fn new() -> Self {
        Stand::with(RedisServer::new().start().await, |_| {}).await
    }

    /// With a change to the configuration.
    async fn with(server: RedisServer, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        config.endpoints.user_events = Some(at(server.addr()));
        change(&mut config);
        let (gateway, locks) = serving(config).await;
        Stand { server, gateway, locks }
    }

    /// A second gateway on the same Redis.
    async fn another(&self) -> (Gateway, LocksClient<Channel>) {
        let mut config = config();
        config.endpoints.user_events = Some(at(self.server.addr()));
        serving(config).await
    }

    async fn value(&self, name: &str) -> Option<String> {
        self.server.run(&["GET", &format!("lock:{name}")]).await
    }

    /// How many of others' connections are blocked.
    async fn blocked(&self) -> usize {
        let connections = self.server.connections().await;
        connections.iter().filter(|line| line.contains(" flags=b")).count()
    }

    async fn stop(self) {
        drop(self.locks);
        self.gateway.stop().await;
        let server = self.server;
        let gateways = |line: &String| !line.contains(" name=direct ");
        eventually("no connection of the gateway is left", async || {
            !server.connections().await.iter().any(gateways)
        })
        .await;
    }
}

/// A gateway that has reached its Redis, and a client.
async fn serving(config: Config) -> (Gateway, LocksClient<Channel>) {
    let gateway = Gateway::start(config).await;
    let mut locks = LocksClient::new(gateway.channel().await);
    eventually("the gateway is connected", async || {
        let answer = get(&mut locks, "none").await;
        !answer.is_err_and(|status| status.code() == Code::Unavailable)
    })
    .await;
    (gateway, locks)
}

fn asking(name: &str) -> AcquireRequest {
    AcquireRequest {
        name: name.into(),
        ttl_ms: 60_000,
        ..AcquireRequest::default()
    }
}

/// Acquires a lock, or waits for it.
async fn acquire(locks: &mut LocksClient<Channel>, request: AcquireRequest) -> Result<AcquireResponse, Status> {
    let wait = Duration::from_millis(request.wait_ms.unsigned_abs());
    let answer = locks.acquire(within(wait + patience(), request)).await;
    answer.map(tonic::Response::into_inner)
}

/// Acquires a lock that is free.
async fn got(locks: &mut LocksClient<Channel>, name: &str) -> AcquireResponse {
    let answer = acquire(locks, asking(name)).await.unwrap();
    assert!(answer.acquired, "{name} is busy");
    answer
}

async fn release(locks: &mut LocksClient<Channel>, name: &str, holder: &str) -> Result<(), Status> {
    let request = ReleaseRequest {
        name: name.into(),
        holder_id: holder.into(),
    };
    locks.release(request).await.map(drop)
}

async fn renew(locks: &mut LocksClient<Channel>, name: &str, holder: &str, ttl_ms: i64) -> Result<(), Status> {
    let request = RenewRequest {
        name: name.into(),
        holder_id: holder.into(),
        ttl_ms,
    };
    locks.renew(request).await.map(drop)
}

async fn reset(locks: &mut LocksClient<Channel>, name: &str) -> Result<bool, Status> {
    let answer = locks.reset(ResetRequest { name: name.into() }).await;
    answer.map(|answer| answer.into_inner().held)
}

async fn get(locks: &mut LocksClient<Channel>, name: &str) -> Result<LocksGetResponse, Status> {
    let answer = locks.get(LocksGetRequest { name: name.into() }).await;
    answer.map(tonic::Response::into_inner)
}

/// Waits until so many wait for a lock at a gateway.
async fn waiters(locks: &mut LocksClient<Channel>, name: &str, count: i64) {
    eventually(&format!("{count} wait for {name}"), async || {
        get(locks, name).await.unwrap().waiters == count
    })
    .await;
}

/// A stream that keeps a lock.
struct Held(Streaming<HoldResponse>);

impl Held {
    async fn open(locks: &mut LocksClient<Channel>, request: HoldRequest) -> Result<Self, Status> {
        Ok(Held(locks.hold(request).await?.into_inner()))
    }

    /// What comes next, renewals aside. None: the stream has ended.
    async fn next(&mut self) -> Result<Option<Event>, Status> {
        loop {
            match timeout(patience(), self.0.message()).await.expect("an event")? {
                Some(HoldResponse {
                    event: Some(Event::Renewed(_)),
                }) => {}
                Some(HoldResponse { event }) => return Ok(Some(event.expect("an event of this version"))),
                None => return Ok(None),
            }
        }
    }

    /// The holder and the token of a lock that is acquired next.
    async fn acquired(&mut self) -> (String, i64) {
        match self.next().await.unwrap() {
            Some(Event::Acquired(acquired)) => (acquired.holder_id, acquired.fencing_token),
            other => panic!("{other:?} instead of acquired"),
        }
    }

    /// Why the lock is lost, which is what comes next and last.
    async fn lost(&mut self) -> Cause {
        let cause = match self.next().await.unwrap() {
            Some(Event::Lost(lost)) => lost.cause(),
            other => panic!("{other:?} instead of lost"),
        };
        assert_eq!(self.next().await.unwrap(), None);
        cause
    }
}

fn holding(name: &str) -> HoldRequest {
    HoldRequest {
        name: name.into(),
        ttl_ms: 30_000,
        ..HoldRequest::default()
    }
}

/// The status is a refusal of that reason.
fn is(status: &Status, expected: &str) {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert_eq!(reason(status).as_deref(), Some(expected), "{status}");
}
