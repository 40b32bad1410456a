//! The content tracker in Redis: keys and scripts. All on the primary: the lag of a replica can hide a revocation.

use std::sync::Arc;

use bytes::Bytes;

use super::{Repository, UserId, scattered};
use crate::deadline::Deadline;
use crate::redis::{Endpoint, Error, Once, Repeatable, command, script};

/// Seconds that a mark lives.
pub(super) const TTL: u64 = 300;

/// What the names of marks begin with.
pub(super) const MODIFIED: &str = "quay:repo_content_tracker:repo_modified:";
pub(super) const REVOKED: &str = "quay:repo_content_tracker:permission_revoked:";

script!(MARK, Once, "mark-1", "84b3d7d47d0a9e206d1142f19252303d6934e7b7");

script!(
    IS_BLOCKED,
    Repeatable,
    "is_blocked-2",
    "6a64b97336280b9cd0460244f0268a5115e6d491"
);

/// The string that holds when a repository was modified.
fn modified_key(Repository { namespace, name }: &Repository) -> Bytes {
    format!("{MODIFIED}{}:{}", namespace.0, name.0).into()
}

/// The string that holds when a user's permission for a repository was revoked.
fn revoked_key(user: UserId, Repository { namespace, name }: &Repository) -> Bytes {
    format!("{REVOKED}{}:{}:{}", user.0, namespace.0, name.0).into()
}

/// The marks on one endpoint.
pub(super) struct Store {
    endpoint: Arc<Endpoint>,
}

impl Store {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Store { endpoint }
    }

    /// `EVALSHA mark-1`: in one step `TIME`, `SET modified time EX 300`. The time, in seconds since 1970 UTC.
    pub(super) async fn mark_modified(&self, repository: &Repository, by: Deadline) -> Result<f64, Error> {
        self.mark(repository, vec![modified_key(repository)], by).await
    }

    /// `EVALSHA mark-1`: in one step `TIME`, and `SET revoked time EX 300` for each user, where the reference takes a `TIME` and
    /// then a `MULTI`. The time, in seconds since 1970 UTC.
    pub(super) async fn mark_revoked(
        &self,
        users: &[UserId],
        repository: &Repository,
        by: Deadline,
    ) -> Result<f64, Error> {
        let keys = users.iter().map(|user| revoked_key(*user, repository)).collect();
        self.mark(repository, keys, by).await
    }

    /// `EVALSHA is_blocked-2`: in one step `GET revoked`, `GET modified`, on a Cluster two `GET`s. Whether both are there and the
    /// second is later.
    ///
    /// Quirk: two marks of the same microsecond block nothing.
    pub(super) async fn is_blocked(&self, user: UserId, repository: &Repository, by: Deadline) -> Result<bool, Error> {
        let keys = vec![revoked_key(user, repository), modified_key(repository)];
        if self.endpoint.together(&keys).len() > 1 {
            let [revoked, modified] = [keys[0].clone(), keys[1].clone()];
            return scattered::is_blocked(&self.endpoint, revoked, modified, by).await;
        }
        self.endpoint.eval(&IS_BLOCKED, keys, Vec::new(), by).await
    }

    /// On a Cluster `TIME` of the server that has the repository's modification, then the `SET`s.
    async fn mark(&self, repository: &Repository, keys: Vec<Bytes>, by: Deadline) -> Result<f64, Error> {
        let clock = modified_key(repository);
        let all: Vec<Bytes> = keys.iter().cloned().chain([clock.clone()]).collect();
        let time: Bytes = if self.endpoint.together(&all).len() > 1 {
            scattered::mark(&self.endpoint, &clock, keys, TTL, by).await?
        } else {
            self.endpoint.eval(&MARK, keys, vec![command::number(TTL)], by).await?
        };
        let time = std::str::from_utf8(&time).ok().and_then(|time| time.parse().ok());
        time.ok_or(Error::Protocol("EVALSHA"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Part;
    use super::*;

    #[test]
    fn keys_are_those_of_the_recording() {
        let repository = Repository {
            namespace: Part("ns".into()),
            name: Part("r".into()),
        };
        assert_eq!(
            modified_key(&repository),
            "quay:repo_content_tracker:repo_modified:ns:r"
        );
        assert_eq!(
            revoked_key(UserId(5), &repository),
            "quay:repo_content_tracker:permission_revoked:5:ns:r"
        );
    }

    #[test]
    fn scripts_are_pinned() {
        MARK.assert_pinned();
        IS_BLOCKED.assert_pinned();
    }
}
