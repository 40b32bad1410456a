//! Pulls in Redis: keys, commands and scripts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::{Pull, Target, Timestamp};
use crate::deadline::Deadline;
use crate::redis::{Endpoint, Error, Once, Script, State, command};

static TRACK_TAG_PULL: Script<Once> = Script::new(
    "track_tag_pull-1",
    include_str!("track_tag_pull-1.lua"),
    "120fe4153b130f4a5e443a4c130a010a34cc1cbb",
);

static TRACK_MANIFEST_PULL: Script<Once> = Script::new(
    "track_manifest_pull-1",
    include_str!("track_manifest_pull-1.lua"),
    "06d75bb623afa26ee57e094c40c865b7cffe3000",
);

static ADD_PULLS: Script<Once> = Script::new(
    "add_pulls-1",
    include_str!("add_pulls-1.lua"),
    "955f6fe4193751f33a4b1dd3b948d25f3aa7244f",
);

/// The hash of a tag at a digest, or of a manifest.
pub(super) fn key(target: &Target) -> Bytes {
    let Target {
        repository,
        tag,
        digest,
    } = target;
    match tag {
        Some(tag) => format!("pull_events:repo:{repository}:tag:{tag}:{digest}"),
        None => format!("pull_events:repo:{repository}:digest:{digest}"),
    }
    .into()
}

/// What is counted under one key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Statistics {
    pub repository_id: Bytes,
    pub tag_name: Bytes,
    pub manifest_digest: Bytes,
    pub pull_count: i64,
    pub last_pull_timestamp: Bytes,
    pub pull_method: Bytes,
}

/// The pulls on one endpoint.
pub(super) struct Store {
    endpoint: Arc<Endpoint>,
}

impl Store {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Store { endpoint }
    }

    /// The limit of one command.
    pub(super) fn timeout(&self) -> Duration {
        self.endpoint.command_timeout()
    }

    /// Whether Redis serves, and its changes.
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.endpoint.state()
    }

    /// `EVALSHA track_tag_pull-1` or `track_manifest_pull-1`: the key's new count.
    ///
    /// Quirk: the timestamp is taken as given, also if it is older than the one that is there.
    pub(super) async fn track(&self, pull: &Pull, by: Deadline) -> Result<i64, Error> {
        let Pull { target, timestamp } = pull;
        let mut args = vec![integer(target.repository)];
        args.extend(target.tag.iter().cloned().map(Bytes::from));
        args.extend([target.digest.clone().into(), timestamp.0.clone(), method(target)]);
        let script = if target.tag.is_some() {
            &TRACK_TAG_PULL
        } else {
            &TRACK_MANIFEST_PULL
        };
        let count: Bytes = self.endpoint.eval(script, vec![key(target)], args, by).await?;
        number(&count).ok_or(Error::Protocol("EVALSHA"))
    }

    /// `EVALSHA add_pulls-1`: what `count` times [`Store::track`] would leave, `last` being the timestamp of the last of them.
    /// The key's new count.
    pub(super) async fn add(&self, target: &Target, count: u64, last: &Timestamp, by: Deadline) -> Result<i64, Error> {
        if count == 1 {
            let pull = Pull {
                target: target.clone(),
                timestamp: last.clone(),
            };
            return self.track(&pull, by).await;
        }
        let args = vec![
            integer(target.repository),
            target.tag.clone().unwrap_or_default().into(),
            target.digest.clone().into(),
            last.0.clone(),
            method(target),
            command::number(count),
        ];
        let count: Bytes = self.endpoint.eval(&ADD_PULLS, vec![key(target)], args, by).await?;
        number(&count).ok_or(Error::Protocol("EVALSHA"))
    }

    /// `HGETALL`: what is counted for `target`, if there is anything.
    pub(super) async fn statistics(&self, target: &Target, by: Deadline) -> Result<Option<Statistics>, Error> {
        let fields = self.endpoint.primary(command::hgetall(key(target)), by).await?;
        if fields.is_empty() {
            return Ok(None);
        }
        let mut statistics = Statistics::default();
        for pair in fields.chunks_exact(2) {
            let value = pair[1].clone();
            match &pair[0][..] {
                b"repository_id" => statistics.repository_id = value,
                b"tag_name" => statistics.tag_name = value,
                b"manifest_digest" => statistics.manifest_digest = value,
                b"last_pull_timestamp" => statistics.last_pull_timestamp = value,
                b"pull_method" => statistics.pull_method = value,
                b"pull_count" => statistics.pull_count = number(&value).ok_or(Error::Protocol("HGETALL"))?,
                _ => {}
            }
        }
        Ok(Some(statistics))
    }
}

/// How the hash names the way of a pull.
fn method(target: &Target) -> Bytes {
    Bytes::from_static(if target.tag.is_some() { b"tag" } else { b"digest" })
}

fn integer(n: i64) -> Bytes {
    n.to_string().into()
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_recording() {
        let mut target = Target {
            repository: 42,
            tag: Some("latest".into()),
            digest: "sha256:a1a1".into(),
        };
        assert_eq!(key(&target), "pull_events:repo:42:tag:latest:sha256:a1a1");
        target.tag = None;
        assert_eq!(key(&target), "pull_events:repo:42:digest:sha256:a1a1");
    }

    #[test]
    fn scripts_are_pinned() {
        for script in [&TRACK_TAG_PULL, &TRACK_MANIFEST_PULL, &ADD_PULLS] {
            script.assert_pinned();
        }
    }
}
