//! Locks in Redis: keys, commands and scripts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Holder, Name, Session, Token, Ttl};
use crate::config::EndpointName;
use crate::deadline::Deadline;
use crate::redis::{Blocking, Endpoint, Error, Once, Repeatable, command, script};

/// How long a wake-up waits for one who listens.
const SIGNAL: Duration = Duration::from_secs(1);
/// Beyond the second that one `BLPOP` is armed at most; see [`Blocking::pop`].
const LISTEN: Duration = Duration::from_millis(1_150);

/// What the names of signals begin with.
pub(super) const SIGNALS: &str = "lock-signal:";
/// What the names of locks begin with.
pub(super) const LOCKS: &str = "lock:";
/// What the names of records begin with.
pub(super) const RECORDS: &str = "redis-gateway:v1:locks:holding:";
/// What the names of lists begin with that end a gateway's own `BLPOP`.
pub(super) const STIRS: &str = "redis-gateway:v1:locks:stir:";
/// The last token that was given, without a TTL: one key for all locks.
pub(super) const TOKEN: &str = "redis-gateway:v1:locks:token";

fn lock_key(name: &Name) -> Bytes {
    format!("{LOCKS}{}", name.0).into()
}

fn signal_key(name: &Name) -> Bytes {
    format!("{SIGNALS}{}", name.0).into()
}

/// `token acquired_at_ms session holder`, with the lock's own TTL.
fn record_key(name: &Name) -> Bytes {
    format!("{RECORDS}{}", name.0).into()
}

fn token_key() -> Bytes {
    Bytes::from_static(TOKEN.as_bytes())
}

/// The list that ends a gateway's own `BLPOP`; it lives for [`SIGNAL`].
fn stir_key(listener: u64) -> Bytes {
    format!("{STIRS}{listener:016x}").into()
}

script!(ACQUIRE, Once, "acquire-3", "282007e4d9803c44e45eac6d8b147d0d2af67062");
script!(RELEASE, Once, "release-3", "cd4770d48c3a131d3b5bcfd860d108c092d314e2");
script!(RENEW, Once, "renew-2", "7ff5b1fd03b0389f148b42dffc4edcfec103e8c1");
script!(TAKE_UP, Once, "take_up-2", "6e773cc3f8a8e98106a63125f1013dda53d7694b");
script!(RESET, Once, "reset-3", "8777e31cb3d5cb42156b06dc17a2d3f38c95c9c4");
script!(GET, Repeatable, "get-2", "ddd75f613aef841ed1316d882a81d00829ff0538");
script!(HAND_ON, Once, "hand_on-2", "a6d073685e0dd5c432433ee1d196eaf3d4310a73");
script!(STIR, Once, "stir-1", "2f41de73cfdc2385ff70988b6ce64dfd76aa0b5e");

/// Who asks for which lock.
#[derive(Debug, Clone)]
pub(super) struct Want {
    pub name: Name,
    pub holder: Holder,
    pub ttl: Ttl,
    pub session: Session,
}

/// What became of a question for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The holder holds it.
    Held {
        token: Token,
        /// Until it ends. None: without end.
        left: Option<Duration>,
        /// Whether this session got it, rather than one before it.
        fresh: bool,
    },
    /// Somebody else does; until it ends, if it does.
    Busy(Option<Duration>),
}

/// Why a lock does not live on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Nobody holds it.
    Gone,
    /// Somebody else holds it.
    Taken,
    /// It has no time to live.
    NoTtl,
    /// Another session of its holder has taken it up.
    TakenUp,
}

/// Who holds a lock.
#[derive(Debug)]
pub(super) struct Held {
    pub holder: String,
    pub left: Option<Duration>,
    /// None: it came by no gateway.
    pub record: Option<Record>,
}

/// What is kept of an acquisition by a gateway.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub token: Token,
    /// Milliseconds since 1970 by Redis' clock.
    pub at: i64,
    pub session: Session,
}

/// What a listener heard.
#[derive(Debug)]
pub(super) enum Heard {
    /// The wake-up of the lock of that name, which nobody else hears now.
    Signal(String),
    /// It is to listen to others.
    Stirred,
    /// Nothing, for a second.
    Silence,
}

/// The locks on one endpoint.
pub(super) struct Store {
    endpoint: Arc<Endpoint>,
}

impl Store {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Store { endpoint }
    }

    /// The endpoint's name.
    pub(super) fn endpoint(&self) -> EndpointName {
        self.endpoint.name()
    }

    /// By when one command is answered that nobody waits for.
    pub(super) fn soon(&self) -> Deadline {
        Deadline::within(self.endpoint.command_timeout())
    }

    /// `EVALSHA acquire-3`: `GET` of the lock; if it is free `TIME`, `SET` of token and record, `SET NX EX` of the lock.
    pub(super) async fn acquire(&self, want: &Want, by: Deadline) -> Result<Answer, Error> {
        let keys = vec![lock_key(&want.name), record_key(&want.name), token_key()];
        let args = vec![text(&want.holder), command::number(want.ttl.0), session(want.session)];
        let (state, token, left): (i64, Bytes, i64) = self.endpoint.eval(&ACQUIRE, keys, args, by).await?;
        Ok(match state {
            0 => Answer::Busy(millis(left)),
            state => Answer::Held {
                token: number(&token).ok_or(Error::Protocol("EVALSHA"))?,
                left: millis(left),
                fresh: state == 1,
            },
        })
    }

    /// `EVALSHA release-3`: `GET` of the lock; `DEL`, `LPUSH`, `PEXPIRE` of the signal, `DEL` of lock and record. Whether it was the
    /// holder's, and the session's if one is named.
    pub(super) async fn release(
        &self,
        name: &Name,
        holder: &Holder,
        by_session: Option<Session>,
        by: Deadline,
    ) -> Result<bool, Error> {
        let keys = vec![lock_key(name), signal_key(name), record_key(name)];
        let args = vec![text(holder), by_session.map_or_else(Bytes::new, session), signal_life()];
        let released: i64 = self.endpoint.eval(&RELEASE, keys, args, by).await?;
        Ok(released == 1)
    }

    /// `EVALSHA renew-2`: `GET` and `TTL` of the lock, `EXPIRE` of lock and record.
    pub(super) async fn renew(
        &self,
        name: &Name,
        holder: &Holder,
        ttl: Ttl,
        by_session: Option<Session>,
        by: Deadline,
    ) -> Result<Result<(), Refused>, Error> {
        let keys = vec![lock_key(name), record_key(name)];
        let args = vec![
            text(holder),
            command::number(ttl.0),
            by_session.map_or_else(Bytes::new, session),
        ];
        let renewed: i64 = self.endpoint.eval(&RENEW, keys, args, by).await?;
        Ok(refused(renewed))
    }

    /// `EVALSHA take_up-2`: `GET` of lock and record, `SET` of the record, `EXPIRE` of the lock.
    pub(super) async fn take_up(&self, want: &Want, token: Token, by: Deadline) -> Result<Result<(), Refused>, Error> {
        let keys = vec![lock_key(&want.name), record_key(&want.name)];
        let args = vec![
            text(&want.holder),
            command::number(want.ttl.0),
            session(want.session),
            token.to_string().into(),
        ];
        let taken_up: i64 = self.endpoint.eval(&TAKE_UP, keys, args, by).await?;
        Ok(refused(taken_up))
    }

    /// `EVALSHA reset-3`: as a release, whoever holds it. Whether somebody did.
    pub(super) async fn reset(&self, name: &Name, by: Deadline) -> Result<bool, Error> {
        let keys = vec![lock_key(name), signal_key(name), record_key(name)];
        let held: i64 = self.endpoint.eval(&RESET, keys, vec![signal_life()], by).await?;
        Ok(held == 1)
    }

    /// `EVALSHA get-2`: `GET` and `PTTL` of the lock, `GET` of the record. None: nobody holds it.
    pub(super) async fn get(&self, name: &Name, by: Deadline) -> Result<Option<Held>, Error> {
        let keys = vec![lock_key(name), record_key(name)];
        let (holder, left, recorded): (Option<Bytes>, i64, Option<Bytes>) =
            self.endpoint.eval(&GET, keys, Vec::new(), by).await?;
        Ok(holder.map(|holder| Held {
            left: millis(left),
            record: recorded.and_then(|recorded| record(&recorded, &holder)),
            holder: String::from_utf8_lossy(&holder).into_owned(),
        }))
    }

    /// `SCAN MATCH lock:*`: where to go on, and the names of locks that were found.
    pub(super) async fn names(&self, cursor: u64, count: u64, by: Deadline) -> Result<(u64, Vec<Bytes>), Error> {
        let scan = command::scan(cursor, format!("{LOCKS}*"), count);
        let (next, keys) = self.endpoint.primary(scan, by).await?;
        let next = number(&next).and_then(|next| u64::try_from(next).ok());
        let names = keys.into_iter().map(|key| key.slice(LOCKS.len().min(key.len())..));
        Ok((next.ok_or(Error::Protocol("SCAN"))?, names.collect()))
    }

    /// `EVALSHA hand_on-2`: `EXISTS` of the lock; if it is free `DEL`, `LPUSH`, `PEXPIRE` of the signal.
    pub(super) async fn hand_on(&self, name: &Name) -> Result<(), Error> {
        let keys = vec![lock_key(name), signal_key(name)];
        self.endpoint
            .eval(&HAND_ON, keys, vec![signal_life()], self.soon())
            .await
    }

    /// `MGET` of locks and records: whether each is still its holder's, and its session's.
    pub(super) async fn check(
        &self,
        held: &[(Name, Holder, Session)],
        by: Deadline,
    ) -> Result<Vec<Result<(), Refused>>, Error> {
        let keys = held.iter().flat_map(|(name, ..)| [lock_key(name), record_key(name)]);
        let values = self.endpoint.primary(command::mget(keys.collect()), by).await?;
        if values.len() != 2 * held.len() {
            return Err(Error::Protocol("MGET"));
        }
        let check = |(pair, (_, holder, session)): (&[Option<Bytes>], &(Name, Holder, Session))| match &pair[0] {
            None => Err(Refused::Gone),
            Some(standing) if standing != holder.0.as_bytes() => Err(Refused::Taken),
            Some(standing) => match pair[1].as_ref().and_then(|recorded| record(recorded, standing)) {
                Some(record) if record.session != *session => Err(Refused::TakenUp),
                _ => Ok(()),
            },
        };
        Ok(values.chunks(2).zip(held).map(check).collect())
    }

    /// The connection for [`Store::listen`].
    pub(super) fn blocking(&self) -> Blocking {
        self.endpoint.blocking()
    }

    /// `BLPOP` of signals and the listener's own list, which comes last.
    pub(super) async fn listen(
        &self,
        on: &mut Blocking,
        mut signals: Vec<Bytes>,
        listener: u64,
    ) -> Result<Heard, Error> {
        signals.push(stir_key(listener));
        let Some((key, _)) = on.pop(&signals, Deadline::within(LISTEN)).await? else {
            return Ok(Heard::Silence);
        };
        let name = std::str::from_utf8(&key).ok().and_then(|key| key.strip_prefix(SIGNALS));
        Ok(name.map_or(Heard::Stirred, |name| Heard::Signal(name.to_owned())))
    }

    /// The list whose elements wake who waits for a lock.
    pub(super) fn signal(name: &Name) -> Bytes {
        signal_key(name)
    }

    /// `EVALSHA stir-1`: `DEL`, `LPUSH`, `PEXPIRE` of the listener's own list.
    pub(super) async fn stir(&self, listener: u64) -> Result<(), Error> {
        let eval = self
            .endpoint
            .eval(&STIR, vec![stir_key(listener)], vec![signal_life()], self.soon());
        eval.await
    }
}

fn text(holder: &Holder) -> Bytes {
    Bytes::copy_from_slice(holder.0.as_bytes())
}

fn session(session: Session) -> Bytes {
    format!("{:016x}", session.0).into()
}

fn signal_life() -> Bytes {
    SIGNAL.as_millis().to_string().into()
}

pub(super) fn number(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Milliseconds left, as `PTTL` tells them.
fn millis(left: i64) -> Option<Duration> {
    u64::try_from(left).ok().map(Duration::from_millis)
}

fn refused(answer: i64) -> Result<(), Refused> {
    match answer {
        0 => Err(Refused::Gone),
        -1 => Err(Refused::Taken),
        -2 => Err(Refused::NoTtl),
        -3 => Err(Refused::TakenUp),
        _ => Ok(()),
    }
}

/// What is recorded of this holder; none if the record is another's.
pub(super) fn record(recorded: &[u8], holder: &[u8]) -> Option<Record> {
    let mut parts = recorded.splitn(4, |byte| *byte == b' ');
    let (token, at) = (number(parts.next()?)?, number(parts.next()?)?);
    let session = std::str::from_utf8(parts.next()?).ok()?;
    let session = Session(u64::from_str_radix(session, 16).ok()?);
    (parts.next()? == holder).then_some(Record { token, at, session })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_pinned() {
        for script in [&ACQUIRE, &RELEASE, &RENEW, &TAKE_UP, &RESET, &HAND_ON, &STIR] {
            script.assert_pinned();
        }
        GET.assert_pinned();
    }

    #[test]
    fn keys_are_those_of_the_contract() {
        let name = Name::parse("BLOB_CLEANUP").unwrap();
        assert_eq!(lock_key(&name), "lock:BLOB_CLEANUP");
        assert_eq!(signal_key(&name), "lock-signal:BLOB_CLEANUP");
        assert_eq!(record_key(&name), "redis-gateway:v1:locks:holding:BLOB_CLEANUP");
        assert_eq!(stir_key(255), "redis-gateway:v1:locks:stir:00000000000000ff");
    }

    #[test]
    fn a_record_counts_for_its_own_holder_alone() {
        let written = b"1795455143166022 1795455143166 00000000000000ff a holder";
        let read = record(written, b"a holder").unwrap();
        assert_eq!((read.token, read.at), (1_795_455_143_166_022, 1_795_455_143_166));
        assert_eq!(read.session, Session(255));
        assert!(record(written, b"another").is_none());
        for torn in ["", "1", "1 2", "1 2 z a holder", "1 2 3"] {
            assert!(record(torn.as_bytes(), b"a holder").is_none(), "{torn}");
        }
    }
}
