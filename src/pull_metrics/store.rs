//! Pulls in Redis: keys, commands and scripts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::{Target, Timestamp};
use crate::deadline::Deadline;
use crate::redis::{Endpoint, Error, Once, State, command, script};

script!(
    TRACK_TAG_PULL,
    Once,
    "track_tag_pull-1",
    "dc067b844a859eb36626ee6519fb599fd15cbeb5"
);

script!(
    TRACK_MANIFEST_PULL,
    Once,
    "track_manifest_pull-1",
    "512c499168b956cd595b808628f610958c592ea7"
);

script!(
    ADD_PULLS,
    Once,
    "add_pulls-1",
    "e67b59e88edb25df2aebfd4124c57f78baa826c4"
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

/// Whether the key's name would look like that of a claimed one, `…:processing:{ms}:{8 hex digits}`: a flush would take it for an
/// orphan, and delete pulls that came in meanwhile.
pub(super) fn looks_claimed(target: &Target) -> bool {
    let Target {
        tag: Some(tag), digest, ..
    } = target
    else {
        return false;
    };
    let numbers = digest
        .split_once(':')
        .is_some_and(|(ms, hex)| ms.bytes().all(|b| b.is_ascii_digit()) && hex.len() == 8);
    numbers && (tag == "processing" || tag.ends_with(":processing"))
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

    /// Counts `count` pulls of `target`, `last` being the timestamp of the last of them: the key's new count.
    ///
    /// One by `EVALSHA track_tag_pull-1` or `track_manifest_pull-1`; several by `EVALSHA add_pulls-1`, which leaves what as many of
    /// those would. Quirk: the timestamp is taken as given, also if it is older than the one that is there.
    pub(super) async fn add(&self, target: &Target, count: u64, last: &Timestamp, by: Deadline) -> Result<i64, Error> {
        let Target {
            repository,
            tag,
            digest,
        } = target;
        let method = Bytes::from_static(if tag.is_some() { b"tag" } else { b"digest" });
        let mut args = vec![Bytes::from(repository.to_string())];
        // A tag of no bytes stands for a manifest where one script does for both.
        args.extend(tag.clone().or((count > 1).then(String::new)).map(Bytes::from));
        args.extend([digest.clone().into(), last.0.clone(), method]);
        let script = match (count, tag) {
            (1, Some(_)) => &TRACK_TAG_PULL,
            (1, None) => &TRACK_MANIFEST_PULL,
            _ => {
                args.push(command::number(count));
                &ADD_PULLS
            }
        };
        let count: Bytes = self.endpoint.eval(script, vec![key(target)], args, by).await?;
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
    fn a_key_that_looks_claimed_is_told() {
        let target = |tag: &str, digest: &str| Target {
            repository: 1,
            tag: Some(tag.into()),
            digest: digest.into(),
        };
        assert!(looks_claimed(&target("processing", "1:deadbeef")));
        assert!(looks_claimed(&target("a:processing", "17:00000000")));
        for (tag, digest) in [
            ("processing", "sha256:deadbeef"),
            ("processing", "1:deadbee"),
            ("process", "1:deadbeef"),
        ] {
            assert!(!looks_claimed(&target(tag, digest)), "{tag} {digest}");
        }
    }

    #[test]
    fn scripts_are_pinned() {
        for script in [&TRACK_TAG_PULL, &TRACK_MANIFEST_PULL, &ADD_PULLS] {
            script.assert_pinned();
        }
    }
}
