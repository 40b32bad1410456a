//! Build logs in Redis: keys, commands and scripts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::BuildId;
use super::entry::Json;
use crate::deadline::Deadline;
use crate::redis::{Endpoint, Error, Existing, Once, Repeatable, command, script};

/// Seconds that the entries live after the latest append, and the status after it was set.
pub(super) const TTL: u64 = 604_800;

/// Seconds that entries and status live once the log is archived.
const ARCHIVED_TTL: u64 = 86_400;

/// A page ends before its entries take more bytes, but has one entry at least.
pub(super) const PAGE_BYTES: usize = 1 << 20;

script!(
    LIST_ENTRIES,
    Repeatable,
    "list_entries-1",
    "d9985a369d497ebbc8039f99afdbc7d81f4b0e31"
);

script!(
    COMPARE_AND_APPEND,
    Once,
    "compare_and_append-1",
    "57457a37fb498c3c619080b51d011aa671c6825f"
);

/// The list of a build's entries.
fn logs_key(build: &BuildId) -> Bytes {
    format!("builds/{}/logs", build.as_str()).into()
}

/// The string that holds a build's status.
fn status_key(build: &BuildId) -> Bytes {
    format!("builds/{}/status", build.as_str()).into()
}

/// A part of a log, and the log's length, of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    /// The log's length; 0 if there is none.
    pub length: i64,
    /// Index of the first entry of the page, or where it would be.
    pub start: i64,
    /// The entries, as they stand in Redis.
    pub entries: Vec<Bytes>,
}

impl Page {
    /// The index after the page.
    pub(super) fn end(&self) -> i64 {
        // No more entries than fit in memory.
        self.start
            .saturating_add(self.entries.len().try_into().unwrap_or(i64::MAX))
    }
}

/// What a compare-and-append came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    /// The entries stand where they should, through this call or an earlier one. The index after them.
    Appended(i64),
    /// Something else stands there, or the log is shorter; nothing was changed. The log's length.
    Differs(i64),
}

/// The logs on one endpoint.
pub(super) struct Store {
    endpoint: Arc<Endpoint>,
    ttl_from_first_append: bool,
}

impl Store {
    pub(super) fn new(endpoint: Arc<Endpoint>, ttl_from_first_append: bool) -> Self {
        Store {
            endpoint,
            ttl_from_first_append,
        }
    }

    /// The limit of one command.
    pub(super) fn timeout(&self) -> Duration {
        self.endpoint.command_timeout()
    }

    /// One pipeline: `EXPIRE logs 604800`, `RPUSH logs entry …`. The log's length.
    ///
    /// Quirk: in this order the first append leaves the list without a TTL. With `ttl_from_first_append` the `RPUSH` goes
    /// first. What became of the `RPUSH` is the answer: entries that stand must not be appended again for the sake of a TTL
    /// that was not set.
    pub(super) async fn append(&self, build: &BuildId, entries: Vec<Json>, by: Deadline) -> Result<i64, Error> {
        let key = logs_key(build);
        let expire = command::expire(key.clone(), TTL);
        let rpush = command::rpush(key, entries.into_iter().map(Json::into_bytes));
        let (length, expired) = if self.ttl_from_first_append {
            self.endpoint.pipeline(rpush, expire, by).await
        } else {
            let (expired, length) = self.endpoint.pipeline(expire, rpush, by).await;
            (length, expired)
        };
        if let (Ok(_), Err(error)) = (&length, expired) {
            // It is counted by its outcome; not a line for each append.
            tracing::debug!(%error, "entries were appended, and their expiry was not set");
        }
        length
    }

    /// `EVALSHA compare_and_append-1`: in one step `LLEN logs`, then what [`Store::append`] does if the length is as expected,
    /// or `LRANGE logs` to see whether it was done before.
    pub(super) async fn compare_and_append(
        &self,
        build: &BuildId,
        expected_length: i64,
        entries: Vec<Json>,
        by: Deadline,
    ) -> Result<Compared, Error> {
        let ttl_after = if self.ttl_from_first_append { "1" } else { "0" };
        let mut args = Vec::with_capacity(3 + entries.len());
        args.extend([
            integer(expected_length),
            command::number(TTL),
            Bytes::from_static(ttl_after.as_bytes()),
        ]);
        args.extend(entries.into_iter().map(Json::into_bytes));
        let eval = self.endpoint.eval(&COMPARE_AND_APPEND, vec![logs_key(build)], args, by);
        let (appended, length): (bool, i64) = eval.await?;
        Ok(if appended {
            Compared::Appended(length)
        } else {
            Compared::Differs(length)
        })
    }

    /// `EVALSHA list_entries-1`: `LLEN logs` and `LRANGE logs` in one step, where the reference takes two. At most `most`
    /// entries, bounded by [`PAGE_BYTES`]. A negative `start` counts from the end, and means 0 where that is before the first.
    pub(super) async fn page(&self, build: &BuildId, start: i64, most: usize, by: Deadline) -> Result<Page, Error> {
        let args = vec![
            integer(start),
            command::number(most as u64),
            command::number(PAGE_BYTES as u64),
        ];
        let eval = self.endpoint.eval(&LIST_ENTRIES, vec![logs_key(build)], args, by);
        let (length, entries): (i64, Vec<Bytes>) = eval.await?;
        Ok(Page {
            length,
            start: resolve(start, length),
            entries,
        })
    }

    /// `SET status json EX 604800`
    pub(super) async fn set_status(&self, build: &BuildId, status: Json, by: Deadline) -> Result<(), Error> {
        let set = command::set(status_key(build), status.into_bytes(), Existing::Replace, Some(TTL));
        self.endpoint.primary(set, by).await.map(drop)
    }

    /// `GET status`
    pub(super) async fn status(&self, build: &BuildId, by: Deadline) -> Result<Option<Bytes>, Error> {
        self.endpoint.primary(command::get(status_key(build)), by).await
    }

    /// `TTL status`: whether it is there and ends within a day, as after archiving.
    pub(super) async fn is_archived(&self, build: &BuildId, by: Deadline) -> Result<bool, Error> {
        let seconds = self.endpoint.primary(command::ttl(status_key(build)), by).await?;
        Ok(u64::try_from(seconds).is_ok_and(|seconds| seconds <= ARCHIVED_TTL))
    }

    /// `EXPIRE status 86400`: whether there was a status.
    pub(super) async fn expire_status(&self, build: &BuildId, by: Deadline) -> Result<bool, Error> {
        let expire = command::expire(status_key(build), ARCHIVED_TTL);
        self.endpoint.primary(expire, by).await
    }

    /// `EXPIRE logs 86400`: whether there were entries.
    pub(super) async fn expire_entries(&self, build: &BuildId, by: Deadline) -> Result<bool, Error> {
        let expire = command::expire(logs_key(build), ARCHIVED_TTL);
        self.endpoint.primary(expire, by).await
    }

    /// `DEL logs`: whether there were entries.
    pub(super) async fn delete_entries(&self, build: &BuildId, by: Deadline) -> Result<bool, Error> {
        let del = command::del(vec![logs_key(build)]);
        self.endpoint.primary(del, by).await.map(|deleted| deleted > 0)
    }
}

/// The index that `start` means in a list of `length` entries, as `LRANGE` has it.
pub(super) fn resolve(start: i64, length: i64) -> i64 {
    if start < 0 { (length + start).max(0) } else { start }
}

fn integer(n: i64) -> Bytes {
    n.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_recording() {
        let build = BuildId("4f7c2f4e-1f6b-4a53-9a51-0d5a3f6f3a11".into());
        assert_eq!(logs_key(&build), "builds/4f7c2f4e-1f6b-4a53-9a51-0d5a3f6f3a11/logs");
        assert_eq!(status_key(&build), "builds/4f7c2f4e-1f6b-4a53-9a51-0d5a3f6f3a11/status");
    }

    #[test]
    fn scripts_are_pinned() {
        LIST_ENTRIES.assert_pinned();
        COMPARE_AND_APPEND.assert_pinned();
    }

    #[test]
    fn negative_indices_count_from_the_end() {
        assert_eq!(resolve(-1, 5), 4);
        assert_eq!(resolve(-9, 5), 0);
        assert_eq!(resolve(i64::MIN, 0), 0);
        assert_eq!(resolve(7, 5), 7);
    }
}
