//! What the cache means in commands.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Token;
use crate::deadline::Deadline;
use crate::redis::{
    Command, Endpoint, Error, Existing, Freshness, Once, Position, Subscriber, Subscription, command, script,
};

/// The lease of a key: a hash with the TTL of the lease. `token` is that of who has it, `wanted` is there once somebody waits for it,
/// `voided` is the token that the latest Delete has taken it from.
///
/// In the slot of its value on a Cluster: a key with braces brings its own hash tag.
fn lease_key(key: &Bytes) -> Bytes {
    let braced = key.iter().any(|byte| matches!(byte, b'{' | b'}'));
    let (before, after): (&[u8], &[u8]) = if braced {
        (b"redis-gateway:v1:cache:lease-of:", b"")
    } else {
        (b"redis-gateway:v1:cache:lease:{", b"}")
    };
    [before, key, after].concat().into()
}

/// Where the keys are named whose leases ended while somebody waited.
fn wake_channel() -> Bytes {
    Bytes::from_static(b"redis-gateway:v1:cache:wake")
}

script!(
    GET_OR_LEASE,
    Once,
    "get_or_lease-2",
    "c343781d5921b045734e102674a2983189f3b80a"
);
script!(FILL, Once, "fill-2", "5fbf97beb42ca5f9b58ed8bb80f7e8e1dc517484");
script!(GIVE_UP, Once, "give_up-1", "8b858e331dc54d2f887066292182d226cc5eaee0");
script!(DELETE, Once, "delete-1", "ccde6375219b632aeb0c1786b7a3e434c672ca01");

/// The cache in Redis.
pub(super) struct Store {
    endpoint: Arc<Endpoint>,
}

/// A value to be set.
pub(super) struct Item {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    /// Seconds; none: it stays. Quirk: the reference's expiration of zero means none too.
    pub(super) ttl: Option<u64>,
    pub(super) existing: Existing,
    /// Whether to tell how far the primary is after it.
    pub(super) tell: bool,
}

/// A value that was loaded by who had the lease.
pub(super) struct Loaded {
    pub(super) key: Bytes,
    pub(super) token: Token,
    pub(super) value: Bytes,
    /// Seconds; none: it stays.
    pub(super) ttl: Option<u64>,
    /// Whether to tell how far the primary is after it.
    pub(super) tell: bool,
}

/// What became of a write, and how far the primary was after it, if that was to be told.
pub(super) type Written<T> = (T, Position);

/// What stands where a value was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It does.
    Value(Bytes),
    /// Nothing, and the one who asked has the lease now.
    Leased,
    /// Nothing, and somebody else has the lease, for so long.
    Busy(Duration),
}

/// Why a value is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A value stands there.
    Written,
    /// The key was deleted since.
    Deleted,
    /// The lease is over.
    LeaseOver,
}

impl Store {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Store { endpoint }
    }

    /// By when one command is answered that no single caller waits for.
    pub(super) fn soon(&self) -> Deadline {
        Deadline::within(self.endpoint.command_timeout())
    }

    /// `GET key`, where it is as fresh as is wanted.
    pub(super) async fn get(
        &self,
        key: Bytes,
        freshness: Freshness,
        deadline: Deadline,
    ) -> Result<Option<Bytes>, Error> {
        self.endpoint.read(command::get(key), freshness, deadline).await
    }

    /// `MGET key …`, where it is as fresh as is wanted. A key of another type is none.
    pub(super) async fn get_many(
        &self,
        keys: Vec<Bytes>,
        freshness: Freshness,
        deadline: Deadline,
    ) -> Result<Vec<Option<Bytes>>, Error> {
        self.endpoint.read(command::mget(keys), freshness, deadline).await
    }

    /// `SET key value [NX] [EX seconds]`: whether it was stored.
    pub(super) async fn set(&self, item: Item, deadline: Deadline) -> Result<Written<bool>, Error> {
        let tell = item.tell;
        let (stored, at) = self.endpoint.primary_then(set(item), tell, deadline).await?;
        Ok((stored.is_some(), at))
    }

    /// A `SET` for each item, in one pipeline; how far the primary is, if one is to tell, is asked after all of them.
    pub(super) async fn set_many(&self, items: Vec<Item>, deadline: Deadline) -> Vec<Result<Written<bool>, Error>> {
        let tell = items.iter().any(|item| item.tell);
        let commands = items.into_iter().map(set).collect();
        let results = self.endpoint.batch(commands, deadline).await;
        let at = if tell {
            self.endpoint.position(deadline).await
        } else {
            Position::NEVER
        };
        results
            .into_iter()
            .map(|result| result.map(|stored| (stored.is_some(), at)))
            .collect()
    }

    /// `EVALSHA delete-1`: for each key `DEL`, and `HMGET`, `HSET`, `HDEL` of its lease, `PUBLISH` if somebody waits for it. How many
    /// of the keys were there.
    pub(super) async fn delete(&self, keys: Vec<Bytes>, tell: bool, deadline: Deadline) -> Result<Written<i64>, Error> {
        let with_leases = keys.into_iter().flat_map(|key| {
            let lease = lease_key(&key);
            [key, lease]
        });
        let (keys, args) = (with_leases.collect(), vec![wake_channel()]);
        self.endpoint.eval_then(&DELETE, keys, args, tell, deadline).await
    }

    /// `EVALSHA get_or_lease-2`: `GET`; on a miss `PTTL` and `HEXISTS` of the lease, then `HSETNX` if somebody has it, `HSET` and
    /// `PEXPIRE` if not. Always on the primary.
    pub(super) async fn get_or_lease(
        &self,
        key: &Bytes,
        token: Token,
        lease: Duration,
        deadline: Deadline,
    ) -> Result<Answer, Error> {
        let keys = vec![key.clone(), lease_key(key)];
        let args = vec![text(token), lease.as_millis().to_string().into()];
        let (state, value, left): (i64, Bytes, i64) = self.endpoint.eval(&GET_OR_LEASE, keys, args, deadline).await?;
        Ok(match state {
            0 => Answer::Value(value),
            1 => Answer::Leased,
            _ => Answer::Busy(Duration::from_millis(left.unsigned_abs())),
        })
    }

    /// `EVALSHA fill-2`: `HMGET` of the lease, `SET NX [EX]`, `DEL` of the lease, `PUBLISH` if somebody waits.
    pub(super) async fn fill(&self, loaded: Loaded, deadline: Deadline) -> Result<Written<Result<(), Refusal>>, Error> {
        let Loaded {
            key,
            token,
            value,
            ttl,
            tell,
        } = loaded;
        let keys = vec![key.clone(), lease_key(&key)];
        let args = vec![
            text(token),
            value,
            command::number(ttl.unwrap_or_default()),
            wake_channel(),
        ];
        let (state, at): (i64, _) = self.endpoint.eval_then(&FILL, keys, args, tell, deadline).await?;
        let filled = match state {
            0 => Ok(()),
            1 => Err(Refusal::Written),
            2 => Err(Refusal::Deleted),
            _ => Err(Refusal::LeaseOver),
        };
        Ok((filled, at))
    }

    /// `EVALSHA give_up-1`: `HMGET` and `DEL` of the lease, `PUBLISH` if somebody waits. Whether it was the token's.
    pub(super) async fn give_up(&self, key: &Bytes, token: Token, deadline: Deadline) -> Result<bool, Error> {
        let args = vec![text(token), wake_channel(), key.clone()];
        self.endpoint.eval(&GIVE_UP, vec![lease_key(key)], args, deadline).await
    }

    /// The connection for [`Store::listen`].
    pub(super) fn subscriber(&self) -> Subscriber {
        self.endpoint.subscriber()
    }

    /// `SUBSCRIBE` to the channel on which keys are named whose leases ended while somebody waited.
    pub(super) async fn listen(&self, on: &Subscriber) -> Result<Subscription, Error> {
        on.subscribe(wake_channel(), self.soon()).await
    }
}

fn set(item: Item) -> Command<Once, Option<Bytes>> {
    command::set(item.key, item.value, item.existing, item.ttl)
}

fn text(token: Token) -> Bytes {
    token.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_pinned() {
        for script in [&GET_OR_LEASE, &FILL, &GIVE_UP, &DELETE] {
            script.assert_pinned();
        }
    }

    #[test]
    fn no_two_keys_share_a_lease() {
        let lease = |key: &'static str| lease_key(&key.into());
        assert_eq!(
            lease("security_report__x"),
            "redis-gateway:v1:cache:lease:{security_report__x}"
        );
        assert_eq!(lease("a{b}c"), "redis-gateway:v1:cache:lease-of:a{b}c");
        let keys = ["a", "{a}", "a}", "{a", "of:a", "{of:a}", "{{a}}"];
        let leases: std::collections::HashSet<Bytes> = keys.into_iter().map(lease).collect();
        assert_eq!(leases.len(), keys.len());
    }
}
