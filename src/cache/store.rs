//! What the cache means in commands.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use super::Token;
use super::keys::{lease_key, load_key, wake_channel};
use crate::deadline::Deadline;
use crate::redis::{
    Command, Endpoint, Error, Existing, Freshness, Once, Position, Subscriber, Subscription, command, script,
};

script!(
    GET_OR_LEASE,
    Once,
    "get_or_lease-2",
    "cf9486f13eee3bedcb2ed40859ad809e468e1ea6"
);
script!(REFRESH, Once, "refresh-2", "bf93a3ac5cb42d0b3dfff0af2e2b9a23bbd1b6de");
script!(FILL, Once, "fill-3", "2d09ef6da7f37420eab307b7a6fd2ca65964c52b");
script!(GIVE_UP, Once, "give_up-1", "d7a9ac7bed2a54edc979bbf9dec0ef85e20a94ad");
script!(DELETE, Once, "delete-1", "e7bb50a719f4a8bf7fa426ea7f77a345ea190883");

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

/// How a caller would load a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// How long it gets.
    pub(super) lease: Duration,
    /// Whether it may load a value again that is about to end; then the load is timed.
    pub(super) early: bool,
}

/// What tells when to load a value again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// Until it ends.
    pub(super) left: Duration,
    /// How long it took to load.
    pub(super) load: Duration,
}

impl Times {
    /// None unless both are known: a value may stay, and what is left of it is then negative, as `PTTL` has it.
    pub(super) fn new(pttl: i64, load: Option<Duration>) -> Option<Self> {
        Some(Times {
            left: Duration::from_millis(u64::try_from(pttl).ok()?),
            load: load?,
        })
    }
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

/// What became of a load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filled {
    /// Whether it is stored, or why not.
    pub(super) stored: Result<(), Refusal>,
    /// Whether its lease stood, and was to refresh a value.
    pub(super) refresh: bool,
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

    /// `MGET key …`, where it is as fresh as is wanted; on a Cluster one for each slot. A key of another type is none. A value that
    /// could not be asked for is none too; then the first reason is told.
    pub(super) async fn get_many(
        &self,
        keys: &[Bytes],
        freshness: Freshness,
        deadline: Deadline,
    ) -> (Vec<Option<Bytes>>, Option<Error>) {
        let groups = self.endpoint.together(keys);
        let reads = groups.iter().map(|group| {
            let mget = command::mget(group.iter().map(|n| keys[*n].clone()).collect());
            self.endpoint.read(mget, freshness, deadline)
        });
        let mut values = vec![None; keys.len()];
        let mut failed = None;
        for (group, read) in groups.iter().zip(join_all(reads).await) {
            match read {
                Ok(found) => group.iter().zip(found).for_each(|(n, value)| values[*n] = value),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        (values, failed)
    }

    /// `GET key`, `PTTL key` and `GET` of its load time, sent together. The value, and its times if all are known.
    ///
    /// With replicas each may ask another of them: times that do not belong together cost a question to the primary, or a refresh.
    pub(super) async fn get_timed(
        &self,
        key: &Bytes,
        freshness: Freshness,
        deadline: Deadline,
    ) -> Result<(Option<Bytes>, Option<Times>), Error> {
        let (value, left, load) = tokio::join!(
            self.get(key.clone(), freshness, deadline),
            self.endpoint.read(command::pttl(key.clone()), freshness, deadline),
            self.get(load_key(key), freshness, deadline),
        );
        // Without them the value is worth no less.
        Ok((value?, Times::new(left.unwrap_or(-1), read_load(load))))
    }

    /// `GET key` and `PTTL key` on the primary, in one pipeline.
    pub(super) async fn get_with_ttl(&self, key: Bytes, deadline: Deadline) -> Result<(Option<Bytes>, i64), Error> {
        let (get, pttl) = (command::get(key.clone()), command::pttl(key));
        self.endpoint.primary_pair(get, pttl, deadline).await
    }

    /// `GET` of a load time on the primary. None: it is not known.
    pub(super) async fn load_time(&self, key: &Bytes, deadline: Deadline) -> Option<Duration> {
        read_load(self.endpoint.primary(command::get(load_key(key)), deadline).await)
    }

    /// `MGET key …` and a `PTTL` for each of `kept` on the primary, in one pipeline.
    pub(super) async fn get_many_with_ttls(
        &self,
        keys: Vec<Bytes>,
        kept: Vec<Bytes>,
        deadline: Deadline,
    ) -> Result<(Vec<Option<Bytes>>, Vec<i64>), Error> {
        let ttls = kept.into_iter().map(command::pttl).collect();
        self.endpoint.primary_with(command::mget(keys), ttls, deadline).await
    }

    /// Whether reads may go to replicas.
    pub(super) fn has_replicas(&self) -> bool {
        self.endpoint.has_replicas()
    }

    /// `SET key value [NX] [EX seconds]`: whether it was stored.
    pub(super) async fn set(&self, item: Item, deadline: Deadline) -> Result<Written<bool>, Error> {
        let tell = item.tell;
        let (stored, at) = self.endpoint.primary_then(set(item), tell, deadline).await?;
        Ok((stored.is_some(), at))
    }

    /// A `SET` for each item, in one pipeline for each primary; how far these are, if one is to tell, is asked after all of them.
    pub(super) async fn set_many(&self, items: Vec<Item>, deadline: Deadline) -> Vec<Result<Written<bool>, Error>> {
        let tell = items.iter().any(|item| item.tell);
        let keys: Option<Vec<Bytes>> = tell.then(|| items.iter().map(|item| item.key.clone()).collect());
        let commands = items.into_iter().map(set).collect();
        let results = self.endpoint.batch(commands, deadline).await;
        let at = match keys {
            Some(keys) => self.endpoint.positions(&keys, deadline).await,
            None => vec![Position::NEVER; results.len()],
        };
        results
            .into_iter()
            .zip(at)
            .map(|(result, at)| result.map(|stored| (stored.is_some(), at)))
            .collect()
    }

    /// `EVALSHA delete-1`, on a Cluster one for each slot: for each key `DEL`, and `HMGET`, `HSET`, `HDEL` of its lease, `PUBLISH` if
    /// somebody waits for it. How many of the keys were there; and the first reason why some may still be.
    pub(super) async fn delete(&self, keys: &[Bytes], tell: bool, deadline: Deadline) -> (Written<i64>, Option<Error>) {
        let groups = self.endpoint.together(keys);
        let at_once = groups.len() == 1;
        let scripts = groups.iter().map(|group| {
            let with_leases = group.iter().flat_map(|n| [keys[*n].clone(), lease_key(&keys[*n])]);
            let (keys, args) = (with_leases.collect(), vec![wake_channel()]);
            self.endpoint
                .eval_then::<_, i64>(&DELETE, keys, args, tell && at_once, deadline)
        });
        let (mut deleted, mut at, mut failed) = (0, Position::NEVER, None);
        for answer in join_all(scripts).await {
            match answer {
                Ok((count, position)) => (deleted, at) = (deleted + count, position),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if tell && !at_once {
            let positions = self.endpoint.positions(keys, deadline).await;
            at = positions
                .into_iter()
                .reduce(Position::or_later)
                .unwrap_or(Position::NEVER);
        }
        if failed.is_some() {
            at = Position::NEVER;
        }
        ((deleted, at), failed)
    }

    /// `EVALSHA get_or_lease-2`: `GET`; on a miss `PTTL` and `HEXISTS` of the lease, then `HSETNX` if somebody has it, `HSET` and
    /// `PEXPIRE` if not, `TIME` before them if the load is timed. Always on the primary.
    pub(super) async fn get_or_lease(
        &self,
        key: &Bytes,
        token: Token,
        Terms { lease, early }: Terms,
        deadline: Deadline,
    ) -> Result<Answer, Error> {
        let keys = vec![key.clone(), lease_key(key)];
        let args = vec![text(token), millis(lease), command::number(early.into())];
        let (state, value, left): (i64, Bytes, i64) = self.endpoint.eval(&GET_OR_LEASE, keys, args, deadline).await?;
        Ok(match state {
            0 => Answer::Value(value),
            1 => Answer::Leased,
            _ => Answer::Busy(Duration::from_millis(left.unsigned_abs())),
        })
    }

    /// `EVALSHA refresh-2`: `PTTL` and `HEXISTS` of the lease, `PTTL`; if at most `early` is left of the value and nobody has a lease,
    /// `TIME`, `GET`, `HSET` and `PEXPIRE`. Whether the lease is the caller's. Always on the primary.
    pub(super) async fn refresh(
        &self,
        key: &Bytes,
        token: Token,
        lease: Duration,
        early: Duration,
        deadline: Deadline,
    ) -> Result<bool, Error> {
        let keys = vec![key.clone(), lease_key(key)];
        let args = vec![text(token), millis(lease), millis(early)];
        self.endpoint.eval(&REFRESH, keys, args, deadline).await
    }

    /// `EVALSHA fill-3`: `HMGET` of the lease, `SET NX [EX]`, `DEL` of the lease, `PUBLISH` if somebody waits. If the load is timed,
    /// `TIME`, `PTTL`, and `SET EX` of how long it took; if it is a refresh, `GET` too, and `XX` in place of `NX`.
    pub(super) async fn fill(&self, loaded: Loaded, deadline: Deadline) -> Result<Written<Filled>, Error> {
        let Loaded {
            key,
            token,
            value,
            ttl,
            tell,
        } = loaded;
        let keys = vec![key.clone(), lease_key(&key), load_key(&key)];
        let args = vec![
            text(token),
            value,
            command::number(ttl.unwrap_or_default()),
            wake_channel(),
        ];
        let ((state, refresh), at): ((i64, bool), _) =
            self.endpoint.eval_then(&FILL, keys, args, tell, deadline).await?;
        let stored = match state {
            0 => Ok(()),
            1 => Err(Refusal::Written),
            2 => Err(Refusal::Deleted),
            _ => Err(Refusal::LeaseOver),
        };
        Ok((Filled { stored, refresh }, at))
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

/// The milliseconds that a load took. Without them, or where they cannot be read, nobody knows.
fn read_load(load: Result<Option<Bytes>, Error>) -> Option<Duration> {
    let millis = std::str::from_utf8(&load.ok()??).ok()?.parse().ok()?;
    Some(Duration::from_millis(millis))
}

fn text(token: Token) -> Bytes {
    token.to_string().into()
}

fn millis(length: Duration) -> Bytes {
    length.as_millis().to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_pinned() {
        for script in [&GET_OR_LEASE, &REFRESH, &FILL, &GIVE_UP, &DELETE] {
            script.assert_pinned();
        }
    }
}
