//! A gateway in this process, on free ports and a runtime of its own.

use std::{net::SocketAddr, time::Duration};

use redis_gateway::{
    config::Config,
    gateway::{self, Listeners},
    proto::{
        build_logs_client::BuildLogsClient, cache_client::CacheClient, content_tracker_client::ContentTrackerClient,
        pull_metrics_client::PullMetricsClient, user_events_client::UserEventsClient,
    },
    status::DOMAIN,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::JoinHandle,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use super::{Told, eventually, patience};

/// A gateway that serves. Dropped, it is cut off; [`Gateway::stop`] drains it.
pub(crate) struct Gateway {
    grpc: SocketAddr,
    admin: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<Result<(), gateway::Error>>>,
    runtime: Option<Runtime>,
}

impl Gateway {
    /// Starts a gateway; `config` should ask for ports 0, as [`super::config`] does.
    pub(crate) async fn start(config: Config) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (shutdown, told) = oneshot::channel::<()>();
        let (bound, addrs) = oneshot::channel();
        let served = runtime.spawn(async move {
            let listeners = Listeners::bind(&config).await.expect("free ports");
            let grpc = listeners.grpc_addr().expect("a TCP address");
            let admin = listeners.admin_addr().expect("a TCP address");
            bound.send((grpc, admin)).expect("a test that waits");
            gateway::run(config, listeners, async { drop(told.await) }).await
        });
        let (grpc, admin) = addrs.await.expect("a gateway that binds its ports");
        Gateway {
            grpc,
            admin,
            shutdown: Some(shutdown),
            served: Some(served),
            runtime: Some(runtime),
        }
    }

    /// Gets `path` from the admin port: the status code and the body.
    pub(crate) async fn admin(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin)
            .await
            .expect("an admin port that is open");
        let request = format!("GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        let code = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .expect("a status code");
        (code, body.to_owned())
    }

    /// Where it takes calls.
    pub(crate) fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// A new connection.
    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.grpc))
            .unwrap()
            .connect_timeout(patience())
            .connect()
            .await
            .expect("a gateway that takes connections")
    }

    /// A client of the build logs, on a connection of its own.
    pub(crate) async fn build_logs(&self) -> BuildLogsClient<Channel> {
        BuildLogsClient::new(self.channel().await)
    }

    /// A client of the cache, on a connection of its own.
    pub(crate) async fn cache(&self) -> CacheClient<Channel> {
        CacheClient::new(self.channel().await)
    }

    /// A client of the content tracker, on a connection of its own.
    pub(crate) async fn content_tracker(&self) -> ContentTrackerClient<Channel> {
        ContentTrackerClient::new(self.channel().await)
    }

    /// A client of pull metrics, on a connection of its own.
    pub(crate) async fn pull_metrics(&self) -> PullMetricsClient<Channel> {
        PullMetricsClient::new(self.channel().await)
    }

    /// A client of user events, on a connection of its own.
    pub(crate) async fn user_events(&self) -> UserEventsClient<Channel> {
        UserEventsClient::new(self.channel().await)
    }

    /// A client of the health service, on a connection of its own.
    pub(crate) async fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel().await)
    }

    /// Drains the gateway and checks that it leaves no task behind. Clients should be gone by then, or the drain waits for
    /// their streams.
    pub(crate) async fn stop(mut self) {
        let runtime = self.runtime.take().expect("a gateway that runs");
        drop(self.shutdown.take());
        let served = tokio::time::timeout(patience(), self.served.take().expect("a gateway that runs")).await;
        served
            .expect("a drain that ends")
            .expect("no panic")
            .expect("a gateway that ends well");
        eventually("no task of the gateway is left", async || {
            runtime.metrics().num_alive_tasks() == 0
        })
        .await;
        runtime.shutdown_background();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What the outcome of a call says about the change that it asked for. A status that the gateway did not make says nothing.
pub(crate) fn told<T>(result: &Result<T, Status>) -> Told {
    match result {
        Ok(_) => Told::Done,
        Err(status) => match reason(status) {
            Some(_) if status.code() != Code::Unknown => Told::NotExecuted,
            _ => Told::Unknown,
        },
    }
}

/// The reason that the gateway gave.
pub(crate) fn reason(status: &Status) -> Option<String> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    Some(info.reason)
}

/// A request with a deadline.
pub(crate) fn within<T>(timeout: Duration, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}
