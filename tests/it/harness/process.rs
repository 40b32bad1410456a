//! A gateway as a process of its own, to be killed.

use std::{
    net::SocketAddr,
    process::{Child, ExitStatus, Stdio},
};

use redis_gateway::proto::{
    build_logs_client::BuildLogsClient, cache_client::CacheClient, locks_client::LocksClient,
    orchestrator_client::OrchestratorClient, pull_metrics_client::PullMetricsClient,
    user_events_client::UserEventsClient,
};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use super::{eventually, signal, unused_port};
use crate::cli;

/// A running gateway on ports of its own; killed and gone when dropped.
pub(crate) struct GatewayProcess {
    redis: SocketAddr,
    grpc: SocketAddr,
    child: Option<Child>,
}

impl GatewayProcess {
    /// Starts a gateway whose build logs, cache, with values in memory, pull metrics, user events, locks and keys of build managers are at `redis`, and waits until it takes connections.
    pub(crate) async fn start(redis: SocketAddr) -> Self {
        let grpc = SocketAddr::from(([127, 0, 0, 1], unused_port()));
        let mut gateway = GatewayProcess {
            redis,
            grpc,
            child: None,
        };
        gateway.restart().await;
        gateway
    }

    /// Starts it again on the same port.
    pub(crate) async fn restart(&mut self) {
        assert!(self.child.is_none(), "the gateway runs already");
        let child = cli::gateway()
            .args([
                "serve",
                "--admin-listen=127.0.0.1:0",
                &format!("--grpc-listen={}", self.grpc),
            ])
            .arg(format!("--endpoints-build-logs-host={}", self.redis.ip()))
            .arg(format!("--endpoints-build-logs-port={}", self.redis.port()))
            .arg(format!("--endpoints-cache-host={}", self.redis.ip()))
            .arg(format!("--endpoints-cache-port={}", self.redis.port()))
            .arg("--cache-near-prefixes=near:")
            .arg(format!("--endpoints-user-events-host={}", self.redis.ip()))
            .arg(format!("--endpoints-user-events-port={}", self.redis.port()))
            .arg(format!("--endpoints-orchestrator-host={}", self.redis.ip()))
            .arg(format!("--endpoints-orchestrator-port={}", self.redis.port()))
            .args(["--orchestrator-ack-timeout=5s", "--orchestrator-look-interval=10s"])
            .arg(format!("--endpoints-pull-metrics-host={}", self.redis.ip()))
            .arg(format!("--endpoints-pull-metrics-port={}", self.redis.port()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        eventually("the gateway takes connections", async || {
            TcpStream::connect(self.grpc).await.is_ok()
        })
        .await;
    }

    /// Kills it by SIGKILL and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends it by SIGTERM and waits until it has drained.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a gateway that runs");
        signal("TERM", child.id());
        let mut ended = None;
        eventually("the gateway drains", async || {
            ended = child.try_wait().unwrap();
            ended.is_some()
        })
        .await;
        ended.expect("a status")
    }

    /// A client of the build logs that connects again by itself.
    pub(crate) fn build_logs(&self) -> BuildLogsClient<Channel> {
        BuildLogsClient::new(self.channel())
    }

    /// A client of the cache that connects again by itself.
    pub(crate) fn cache(&self) -> CacheClient<Channel> {
        CacheClient::new(self.channel())
    }

    /// A client of pull metrics that connects again by itself.
    pub(crate) fn pull_metrics(&self) -> PullMetricsClient<Channel> {
        PullMetricsClient::new(self.channel())
    }

    /// A client of user events that connects again by itself.
    pub(crate) fn user_events(&self) -> UserEventsClient<Channel> {
        UserEventsClient::new(self.channel())
    }

    /// A client of locks that connects again by itself.
    pub(crate) fn locks(&self) -> LocksClient<Channel> {
        LocksClient::new(self.channel())
    }

    /// A client of the orchestrator that connects again by itself.
    pub(crate) fn orchestrator(&self) -> OrchestratorClient<Channel> {
        OrchestratorClient::new(self.channel())
    }

    /// The memory that it takes, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let pid = self.child.as_ref().expect("a gateway that runs").id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("VmRSS");
        let kib = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
        kib * 1024
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.grpc))
            .unwrap()
            .connect_lazy()
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
