//! Build logs through their RPCs, with a direct client on the other side.

mod tail;
mod unary;

use bytes::Bytes;
use redis_gateway::{
    config::Config,
    proto::{AppendRequest, LogEntry, build_logs_client::BuildLogsClient, log_entry::Kind},
};
use tonic::transport::Channel;

use crate::harness::{Gateway, RedisServer, at, config};

/// A gateway on a Redis of its own.
struct Stand {
    server: RedisServer,
    gateway: Gateway,
    logs: BuildLogsClient<Channel>,
}

impl Stand {
    async fn new() -> Self {
        Stand::with(|_| {}).await
    }

    /// With a change to the configuration.
    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let server = RedisServer::new().start().await;
        let mut config = config();
        config.endpoints.build_logs = Some(at(server.addr()));
        change(&mut config);
        let gateway = Gateway::start(config).await;
        Stand {
            logs: gateway.build_logs().await,
            server,
            gateway,
        }
    }

    /// Appends through the gateway; the log's length.
    async fn append(&mut self, build: &str, entries: &[&str]) -> i64 {
        let request = append(build, entries);
        self.logs.append(request).await.unwrap().into_inner().length
    }

    /// Appends past the gateway.
    async fn rpush(&self, build: &str, entries: &[&str]) {
        let key = logs_key(build);
        let mut words = vec!["RPUSH", &key];
        words.extend(entries);
        self.server.run::<i64>(&words).await;
    }

    /// How often scripts ran, as Redis counts.
    async fn scripts_run(&self) -> u64 {
        self.server.calls("evalsha").await
    }

    /// Ends the gateway and checks that it leaves nothing behind.
    async fn stop(self) {
        drop(self.logs);
        self.gateway.stop().await;
    }
}

fn logs_key(build: &str) -> String {
    format!("builds/{build}/logs")
}

fn status_key(build: &str) -> String {
    format!("builds/{build}/status")
}

fn append(build: &str, entries: &[&str]) -> AppendRequest {
    AppendRequest {
        build_id: build.into(),
        entries: entries.iter().map(|text| entry(text)).collect(),
    }
}

fn entry(json: &str) -> LogEntry {
    LogEntry {
        kind: Some(Kind::Json(Bytes::copy_from_slice(json.as_bytes()))),
    }
}

fn texts(entries: &[Bytes]) -> Vec<&str> {
    entries
        .iter()
        .map(|entry| std::str::from_utf8(entry).unwrap())
        .collect()
}
