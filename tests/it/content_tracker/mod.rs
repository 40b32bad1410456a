//! The content tracker through its RPCs, with a direct client on the other side.

mod cluster;
mod faults;
mod unary;

use redis_gateway::{
    config::{Config, Password},
    json::push_float,
    proto::{IsBlockedRequest, MarkModifiedRequest, MarkRevokedRequest, content_tracker_client::ContentTrackerClient},
};
use tonic::{Code, Status, transport::Channel};

use crate::harness::{Gateway, RedisServer, at, config, eventually};

const MODIFIED: &str = "quay:repo_content_tracker:repo_modified:ns:r";

fn revoked(user: i64) -> String {
    format!("quay:repo_content_tracker:permission_revoked:{user}:ns:r")
}

fn modification() -> MarkModifiedRequest {
    MarkModifiedRequest {
        namespace: "ns".into(),
        repository: "r".into(),
    }
}

fn revocation(users: impl IntoIterator<Item = i64>) -> MarkRevokedRequest {
    MarkRevokedRequest {
        user_ids: users.into_iter().collect(),
        namespace: "ns".into(),
        repository: "r".into(),
    }
}

fn question(user_id: i64) -> IsBlockedRequest {
    IsBlockedRequest {
        user_id,
        namespace: "ns".into(),
        repository: "r".into(),
    }
}

/// A gateway on a Redis of its own.
struct Stand {
    server: RedisServer,
    gateway: Gateway,
    tracker: ContentTrackerClient<Channel>,
}

impl Stand {
    async fn new() -> Self {
        let server = RedisServer::new().start().await;
        Stand::with(server, |_| {}).await
    }

    /// With a change to the configuration.
    async fn with(server: RedisServer, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        config.endpoints.cache = Some(at(server.addr()));
        change(&mut config);
        let gateway = Gateway::start(config).await;
        let mut tracker = gateway.content_tracker().await;
        eventually("the gateway is connected", async || {
            let answer = tracker.is_blocked(question(1)).await;
            !answer.is_err_and(|status| status.code() == Code::Unavailable)
        })
        .await;
        Stand {
            server,
            gateway,
            tracker,
        }
    }

    /// As the ACL user of `rules`.
    async fn as_user(rules: &str) -> Self {
        let server = RedisServer::new()
            .user("tracker", &format!("on >secret {rules}"))
            .start()
            .await;
        let login = |config: &mut Config| {
            let cache = config.endpoints.cache.as_mut().expect("set above");
            cache.username = Some("tracker".into());
            cache.password = Some(Password::Inline("secret".into()));
        };
        Stand::with(server, login).await
    }

    async fn modify(&mut self) -> f64 {
        let marked = self.tracker.mark_modified(modification()).await;
        marked.unwrap().into_inner().time
    }

    async fn revoke(&mut self, users: impl IntoIterator<Item = i64>) -> Result<f64, Status> {
        let marked = self.tracker.mark_revoked(revocation(users)).await;
        marked.map(|marked| marked.into_inner().time)
    }

    async fn blocked(&mut self, user: i64) -> Result<bool, Status> {
        let answer = self.tracker.is_blocked(question(user)).await;
        answer.map(|answer| answer.into_inner().blocked)
    }

    async fn stop(self) {
        drop(self.tracker);
        self.gateway.stop().await;
    }
}

/// Python's `repr`.
fn python(float: f64) -> String {
    let mut text = Vec::new();
    push_float(&mut text, float);
    String::from_utf8(text).unwrap()
}
