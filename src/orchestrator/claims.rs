//! Keys that expire, in Redis: when they do, and who has taken which.
//!
//! A claim stands in Redis until its client has acknowledged it: under its lease it is the client's, after that whoever's asks.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};

use super::store::{EXPIRING, all_keys, claims_key, expiring_key, values_key};
use super::{ClaimId, Key, Prefix};
use crate::deadline::Deadline;
use crate::redis::{Endpoint, Error, Once, Subscriber, Subscription, command, script};

/// The server's setting of what it tells of keys.
const NOTIFICATIONS: &str = "notify-keyspace-events";

script!(CLAIM, Once, "claim-6", "2bcdb143d79355c8105807905f0c33a9fde317ef");
script!(OWED, Once, "owed-2", "a26aef1e1f5e81946fe5be3254b4bc34c06c7998");
script!(TAKE, Once, "take-3", "c7d3d8e88bb7283a98eb2e5d279dc1dc9c685621");
script!(END, Once, "end_claim-2", "9c474a161a3d2ae6ff1259dead36b3de42e04b33");

/// What is heard beside events.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A key's expiration is over.
    Due(Key),
    /// A gateway has claimed a key that has expired.
    Claimed(Expiry),
}

/// A key that has expired and is claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expiry {
    pub id: ClaimId,
    pub key: Key,
    pub value: Bytes,
    /// The client that it is claimed for. Empty: none.
    pub client: String,
}

/// What became of a claim.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// The key has expired, with this value, and nobody else has it.
    Won(Bytes),
    /// Somebody else has it, or it never expires.
    None,
    /// It expires later.
    NotDue,
}

/// Who asks for an expiry: a client's name, or nobody yet.
pub(super) type Client<'a> = Option<&'a str>;

/// The claims on one endpoint.
pub(super) struct Claims {
    endpoint: Arc<Endpoint>,
    /// How long a client has to acknowledge.
    pub lease: Duration,
    told: Bytes,
    notified: String,
}

impl Claims {
    pub(super) fn new(endpoint: Arc<Endpoint>, lease: Duration) -> Self {
        let db = endpoint.db();
        Claims {
            endpoint,
            lease,
            // Channels are one for all databases of a server.
            told: format!("redis-gateway:v1:orchestrator:{db}:claimed").into(),
            notified: format!("__keyspace@{db}__:"),
        }
    }

    /// By when one command is answered that nobody waits for.
    pub(super) fn soon(&self) -> Deadline {
        Deadline::within(self.endpoint.command_timeout())
    }

    /// `PTTL K/expiring`: how long until the key expires. None: it has none, or its time is over; then it is gone by this, and Redis
    /// tells all. It would tell much later by itself.
    pub(super) async fn touch(&self, key: &Key) -> Result<Option<Duration>, Error> {
        self.left(expiring_key(key)).await
    }

    /// `PTTL key`: how long it lives. None: without end, or it is not there.
    pub(super) async fn lives(&self, key: &Key) -> Result<Option<Duration>, Error> {
        self.left(key.as_str().to_owned().into()).await
    }

    async fn left(&self, name: Bytes) -> Result<Option<Duration>, Error> {
        let left = self.endpoint.primary(command::pttl(name), self.soon()).await?;
        Ok(u64::try_from(left).ok().map(Duration::from_millis))
    }

    /// `EVALSHA claim-6`: `PTTL` of expiring and of the key, `GET`; `SET` of expired and `DEL` of the key, or, for an empty value, `SET` of
    /// its mark; `HSET` of the claim, `PUBLISH` to gateways.
    pub(super) async fn claim(&self, key: &Key, id: ClaimId, client: Client<'_>) -> Result<Claimed, Error> {
        let mut args = self.of(id, client);
        args.push(self.told.clone());
        let (state, value, _): (i64, Bytes, i64) = self.endpoint.eval(&CLAIM, all_keys(key), args, self.soon()).await?;
        Ok(match state {
            1 => Claimed::Won(value),
            2 => Claimed::NotDue,
            _ => Claimed::None,
        })
    }

    /// `EVALSHA owed-2`: `HGETALL` of claims, `HDEL` of those older than a day. Keys under one of `prefixes` whose claims are nobody's
    /// any more, or one of `clients`', which is named then.
    pub(super) async fn owed(
        &self,
        prefixes: &[Prefix],
        clients: &[Arc<str>],
    ) -> Result<Vec<(Key, Option<String>)>, Error> {
        let count = command::number(prefixes.len() as u64);
        let names = prefixes.iter().map(|prefix| &prefix.0).chain(clients);
        let args = std::iter::once(count).chain(names.map(|name| name.to_string().into()));
        let keys = vec![claims_key(), values_key()];
        let owed: Vec<Bytes> = self.endpoint.eval(&OWED, keys, args.collect(), self.soon()).await?;
        let client = |name: &Bytes| {
            std::str::from_utf8(name)
                .ok()
                .filter(|name| !name.is_empty())
                .map(Into::into)
        };
        let pairs = owed.chunks_exact(2);
        Ok(pairs
            .filter_map(|pair| Some((Key::read(&pair[0])?, client(&pair[1]))))
            .collect())
    }

    /// `EVALSHA take-3`: `HGET`, `PTTL`, `HSET` of the claim. The value, if it is the client's now.
    pub(super) async fn take(&self, key: &Key, id: ClaimId, client: &str) -> Result<Option<Bytes>, Error> {
        let keys = vec![key.as_str().to_owned().into(), claims_key(), values_key()];
        self.endpoint
            .eval(&TAKE, keys, self.of(id, Some(client)), self.soon())
            .await
    }

    /// `EVALSHA end_claim-2`: `HDEL` of a claim that is acknowledged, `HSET` of one that is given back. Whether it was the claim's.
    pub(super) async fn end(&self, key: &Key, id: ClaimId, acknowledged: bool) -> Result<bool, Error> {
        let args = vec![
            key.as_str().to_owned().into(),
            id.to_string().into(),
            command::number(acknowledged.into()),
        ];
        let keys = vec![claims_key(), values_key()];
        self.endpoint.eval(&END, keys, args, self.soon()).await
    }

    fn of(&self, id: ClaimId, client: Client<'_>) -> Vec<Bytes> {
        // Without a client it is for whoever comes first.
        let lease = client.map_or(0, |_| u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX));
        vec![
            id.to_string().into(),
            client.unwrap_or_default().to_owned().into(),
            command::number(lease),
        ]
    }

    /// `CONFIG GET`, and `CONFIG SET` with what is missing: notifications of expirations beside those that there are. Whether the
    /// server has taken it.
    pub(super) async fn set_up_notifications(&self) -> Result<bool, Error> {
        let flags = self.notifications().await?;
        let missing = missing_flags(&flags);
        if missing.is_empty() {
            return Ok(true);
        }
        let all = flags + missing;
        let set = command::config_set(NOTIFICATIONS, all.into());
        self.endpoint.primary(set, self.soon()).await?;
        Ok(missing_flags(&self.notifications().await?).is_empty())
    }

    async fn notifications(&self) -> Result<String, Error> {
        let get = command::config_get(NOTIFICATIONS);
        let found = self.endpoint.primary(get, self.soon()).await?;
        let flags = found.get(1).ok_or(Error::Protocol("CONFIG"))?;
        Ok(String::from_utf8_lossy(flags).into_owned())
    }

    /// Hears which expiries gateways claim.
    pub(super) async fn hear_claims(&self, subscriber: &Subscriber) -> Result<Subscription, Error> {
        subscriber.subscribe(self.told.clone(), self.soon()).await
    }

    /// Hears which expirations are over.
    pub(super) async fn hear_dues(&self, subscriber: &Subscriber) -> Result<Subscription, Error> {
        let pattern = format!("{}*{EXPIRING}", self.notified);
        subscriber.subscribe_pattern(pattern.into(), self.soon()).await
    }

    /// Reads what was published on a channel. None: nothing of this.
    pub(super) fn read(&self, channel: &Bytes, payload: &Bytes) -> Option<Heard> {
        if *channel == self.told {
            return claimed(payload);
        }
        let name = channel
            .strip_prefix(self.notified.as_bytes())?
            .strip_suffix(EXPIRING.as_bytes())?;
        (payload == "expired")
            .then(|| Key::read(name))
            .flatten()
            .map(Heard::Due)
    }
}

/// `claim length key length client value`.
fn claimed(payload: &Bytes) -> Option<Heard> {
    let mut rest = payload.clone();
    let mut word = |length: Option<usize>| {
        let length = length.or_else(|| rest.iter().position(|byte| *byte == b' '))?;
        let word = (rest.get(length) == Some(&b' ')).then(|| rest.split_to(length))?;
        rest.advance(1);
        Some(word)
    };
    let length = |word: Bytes| std::str::from_utf8(&word).ok()?.parse::<usize>().ok();
    let id = ClaimId::parse(std::str::from_utf8(&word(None)?).ok()?)?;
    let long = length(word(None)?)?;
    let key = Key::read(&word(Some(long))?)?;
    let long = length(word(None)?)?;
    let client = String::from_utf8(word(Some(long))?.into()).ok()?;
    Some(Heard::Claimed(Expiry {
        id,
        key,
        value: rest,
        client,
    }))
}

/// Which flags for keyspace notifications of expired keys are missing; `A` stands for all kinds of events.
pub(super) fn missing_flags(flags: &str) -> &'static str {
    match (flags.contains('K'), flags.contains(['x', 'A'])) {
        (true, true) => "",
        (true, false) => "x",
        (false, true) => "K",
        (false, false) => "Kx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_stand_are_never_dropped() {
        for (flags, missing) in [
            ("", "Kx"),
            ("Kx", ""),
            ("AK", ""),
            ("Elg", "Kx"),
            ("KE$", "x"),
            ("AE", "K"),
        ] {
            assert_eq!(missing_flags(flags), missing, "{flags}");
        }
    }

    #[test]
    fn claims_are_read_as_they_are_told() {
        let heard = |text: &'static str| claimed(&Bytes::from_static(text.as_bytes()));
        let told = |client: &str, value: &'static str| {
            Some(Heard::Claimed(Expiry {
                id: ClaimId(0x2a),
                key: Key::parse("a b").unwrap(),
                value: Bytes::from_static(value.as_bytes()),
                client: client.to_owned(),
            }))
        };
        assert_eq!(heard("000000000000002a 3 a b 3 c d  v"), told("c d", " v"));
        assert_eq!(heard("000000000000002a 3 a b 0  "), told("", ""));
        for other in [
            "",
            "x",
            "2a",
            "2a 3",
            "2a 3 a b",
            "2a 3 a b 0",
            "2a 4 a b 0 ",
            "2a -1 a 0 ",
            "zz 1 a 0 ",
            "2a 99999999999999999999 a 0 ",
        ] {
            assert_eq!(heard(other), None, "{other}");
        }
    }

    #[test]
    fn scripts_are_pinned() {
        CLAIM.assert_pinned();
        OWED.assert_pinned();
        TAKE.assert_pinned();
        END.assert_pinned();
    }
}
