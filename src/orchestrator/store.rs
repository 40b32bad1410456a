//! Keys of build managers in Redis: their names, commands and scripts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::event::{self, Kind};
use super::{Key, Prefix};
use crate::deadline::Deadline;
use crate::redis::{Endpoint, Error, Once, Repeatable, Subscriber, Subscription, command, script};

/// What stands beside a key, in whose names it ends.
pub(super) const EXPIRING: &str = "/expiring";
pub(super) const EXPIRED: &str = "/expired";
/// What the names of marks begin with.
pub(super) const MARKS: &str = "redis-gateway:v1:orchestrator:expired:";
/// Hash of keys that have expired and that nobody has acknowledged: `lease_ends_ms claim client`. Lives for a day after the last.
pub(super) const CLAIMS: &str = "redis-gateway:v1:orchestrator:claims";
/// Hash of the values of those keys.
pub(super) const VALUES: &str = "redis-gateway:v1:orchestrator:values";
/// The name of the channel on which managers tell of keys.
const CHANNEL: &str = "orchestrator_events";

/// The empty string whose time to live is the expiration of a key.
pub(super) fn expiring_key(key: &Key) -> Bytes {
    format!("{}{EXPIRING}", key.0).into()
}

/// The value of a key that has expired.
fn expired_key(key: &Key) -> Bytes {
    format!("{}{EXPIRED}", key.0).into()
}

/// When a key whose value is empty ends after its expiry, in milliseconds since 1970: it was given to somebody in that life. Lives
/// as long as the key.
fn mark_key(key: &Key) -> Bytes {
    format!("{MARKS}{}", key.0).into()
}

pub(super) fn claims_key() -> Bytes {
    Bytes::from_static(CLAIMS.as_bytes())
}

pub(super) fn values_key() -> Bytes {
    Bytes::from_static(VALUES.as_bytes())
}

/// A key and all that stands beside it, in the order in which scripts name them.
pub(super) fn all_keys(key: &Key) -> Vec<Bytes> {
    let name = key.as_str().to_owned().into();
    let own = [mark_key(key), claims_key(), values_key()];
    [name, expiring_key(key), expired_key(key)]
        .into_iter()
        .chain(own)
        .collect()
}

/// Whether a name is that of something beside a key, or of what gateways keep for themselves.
pub(super) fn is_beside(key: &Key) -> bool {
    let name = key.as_str();
    name.ends_with(EXPIRING) || name.ends_with(EXPIRED) || name.starts_with("redis-gateway:")
}

/// Whether what stands beside a key would be found by its name: the reference leaves out a slash at either end of it.
pub(super) fn may_be_set(key: &Key) -> bool {
    let name = key.as_str();
    !(is_beside(key) || name.starts_with('/') || name.ends_with('/'))
}

/// The channel, with its prefix: one slash between them, whether or not the prefix has one.
pub(super) fn channel(prefix: &str) -> Bytes {
    let prefix = prefix.strip_prefix('/').unwrap_or(prefix);
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    format!("{prefix}/{CHANNEL}").trim_start_matches('/').to_owned().into()
}

/// A pattern for all that begins with `prefix`, as text.
fn pattern(prefix: &Prefix) -> Bytes {
    let mut pattern = String::with_capacity(prefix.0.len() + 1);
    for char in prefix.0.chars() {
        if matches!(char, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(char);
    }
    pattern.push('*');
    pattern.into()
}

script!(SET, Once, "set-6", "9a2005ee847eb63e3b14de1a2eedf81f6bc59e27");
script!(DELETE, Once, "delete-6", "1206f3a8f4fddcf612e8a0df704a74393f9f3c93");
script!(LIVE, Repeatable, "live-1", "4fac31626780a27111d6325f6bee647d8f5a76d0");

/// The keys on one endpoint.
pub(super) struct Store {
    endpoint: Arc<Endpoint>,
    channel: Bytes,
}

impl Store {
    pub(super) fn new(endpoint: Arc<Endpoint>, channel_prefix: &str) -> Self {
        Store {
            endpoint,
            channel: channel(channel_prefix),
        }
    }

    /// By when one command is answered that nobody waits for.
    pub(super) fn soon(&self) -> Deadline {
        Deadline::within(self.timeout())
    }

    /// The limit of one command.
    pub(super) fn timeout(&self) -> Duration {
        self.endpoint.command_timeout()
    }

    /// The channel on which managers tell of keys.
    pub(super) fn channel(&self) -> &Bytes {
        &self.channel
    }

    /// `EVALSHA set-6`: `EXISTS`; `SET` of the key and `SET EX` of its expiring, `DEL` of its expired, `PUBLISH`. Whether it is stored.
    ///
    /// Quirk: without an expiration an earlier one goes with the `SET`, its expiring stays. Other than the reference: nothing stands
    /// and nothing is told where nothing was stored.
    pub(super) async fn set(
        &self,
        key: &Key,
        value: &str,
        overwrite: bool,
        expiration: Option<u64>,
        by: Deadline,
    ) -> Result<bool, Error> {
        let args = vec![
            value.to_owned().into(),
            command::number(expiration.unwrap_or(0)),
            command::number(overwrite.into()),
            self.channel.clone(),
            event::dump(Kind::Create, key, value),
            event::dump(Kind::Set, key, value),
        ];
        self.endpoint.eval(&SET, all_keys(key), args, by).await
    }

    /// `GET key`.
    pub(super) async fn get(&self, key: &Key, by: Deadline) -> Result<Option<Bytes>, Error> {
        self.endpoint
            .primary(command::get(key.as_str().to_owned().into()), by)
            .await
    }

    /// `GET`, then `EVALSHA delete-6`: `GET`, `DEL` of the key and what stands beside it, `PUBLISH`; again with another value if it
    /// was set in between. The value that it had.
    pub(super) async fn delete(&self, key: &Key, by: Deadline) -> Result<Option<Bytes>, Error> {
        let mut known = self.get(key, by).await?;
        while let Some(value) = known {
            let text = String::from_utf8_lossy(&value);
            let told = event::dump(Kind::Delete, key, &text);
            let args = vec![value.clone(), self.channel.clone(), told];
            let had: Option<Bytes> = self.endpoint.eval(&DELETE, all_keys(key), args, by).await?;
            if had.as_ref() == Some(&value) {
                return Ok(had);
            }
            known = had;
        }
        Ok(None)
    }

    /// `SCAN cursor MATCH prefix* COUNT count`: where to go on, and the names that were found, those beside keys among them.
    pub(super) async fn scan(
        &self,
        prefix: &Prefix,
        cursor: u64,
        count: u64,
        by: Deadline,
    ) -> Result<(u64, Vec<Key>), Error> {
        self.scan_pattern(pattern(prefix), cursor, count, by).await
    }

    /// `SCAN cursor MATCH */expiring COUNT count`: where to go on, and the keys that expire.
    pub(super) async fn scan_expiring(&self, cursor: u64, count: u64, by: Deadline) -> Result<(u64, Vec<Key>), Error> {
        let found = self
            .scan_pattern(format!("*{EXPIRING}").into(), cursor, count, by)
            .await?;
        let of = |name: Key| {
            name.as_str()
                .strip_suffix(EXPIRING)
                .and_then(|key| Key::parse(key).ok())
        };
        Ok((found.0, found.1.into_iter().filter_map(of).collect()))
    }

    async fn scan_pattern(
        &self,
        pattern: Bytes,
        cursor: u64,
        count: u64,
        by: Deadline,
    ) -> Result<(u64, Vec<Key>), Error> {
        let scan = command::scan(cursor, pattern, count);
        let (next, names) = self.endpoint.primary(scan, by).await?;
        let next = std::str::from_utf8(&next).ok().and_then(|next| next.parse().ok());
        let keys = names.iter().filter_map(|name| Key::read(name)).collect();
        Ok((next.ok_or(Error::Protocol("SCAN"))?, keys))
    }

    /// `EVALSHA live-1`: those of `keys` that have no time to live, and their values.
    pub(super) async fn live(&self, keys: &[Key], by: Deadline) -> Result<Vec<(Key, Bytes)>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let names = keys.iter().map(|key| key.as_str().to_owned().into()).collect();
        let found: Vec<Bytes> = self.endpoint.eval(&LIVE, names, Vec::new(), by).await?;
        let pairs = found.chunks_exact(2);
        Ok(pairs
            .filter_map(|pair| Some((Key::read(&pair[0])?, pair[1].clone())))
            .collect())
    }

    /// `MGET`: the values of `keys`, each none if it is not there.
    pub(super) async fn values(&self, keys: &[Key], by: Deadline) -> Result<Vec<Option<Bytes>>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let names = keys.iter().map(|key| key.as_str().to_owned().into()).collect();
        self.endpoint.primary(command::mget(names), by).await
    }

    /// A connection for subscriptions.
    pub(super) fn subscriber(&self) -> Subscriber {
        self.endpoint.subscriber()
    }

    /// Hears what managers tell of keys.
    pub(super) async fn hear(&self, subscriber: &Subscriber, by: Deadline) -> Result<Subscription, Error> {
        subscriber.subscribe(self.channel.clone(), by).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_recording() {
        let key = Key::parse("building/1f2e").unwrap();
        let names = all_keys(&key);
        assert_eq!(names[0], "building/1f2e");
        assert_eq!(names[1], "building/1f2e/expiring");
        assert_eq!(names[2], "building/1f2e/expired");
        assert!(names[3..].iter().all(|name| name.starts_with(b"redis-gateway:v1:")));
    }

    #[test]
    fn the_channel_has_one_slash_after_its_prefix() {
        assert_eq!(channel(""), "orchestrator_events");
        for prefix in ["a/b", "a/b/", "/a/b/"] {
            assert_eq!(channel(prefix), "a/b/orchestrator_events");
        }
    }

    #[test]
    fn a_prefix_is_text() {
        let prefix = Prefix::parse("a*[b]?\\é/").unwrap();
        assert_eq!(pattern(&prefix), "a\\*\\[b\\]\\?\\\\é/*");
        assert_eq!(pattern(&Prefix::all()), "*");
    }

    #[test]
    fn keys_that_would_not_be_found_again_are_not_set() {
        for (name, fine) in [
            ("building/1", true),
            ("a", true),
            ("/a", false),
            ("a/", false),
            ("a/expired", false),
            ("a/expiring", false),
            ("expiring", true),
        ] {
            assert_eq!(may_be_set(&Key::parse(name).unwrap()), fine, "{name}");
        }
    }

    #[test]
    fn scripts_are_pinned() {
        SET.assert_pinned();
        DELETE.assert_pinned();
        LIVE.assert_pinned();
    }
}
