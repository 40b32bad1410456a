//! Walks through the keys of one database: `SCAN`, and what each key looks like, within a rate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio_util::sync::CancellationToken;

use super::kinds::{self, Homes};
use super::report::{End, Report, Row};
use crate::commands::pace::Pace;
use crate::commands::places::Place;
use crate::forms::{Form, Left, Reads, Seen, Value, Wrong};
use crate::redis::{Command, Error, FromReply, Repeatable, Reply, command};

/// How many places of the keyspace one step looks at: a fraction of a millisecond for Redis.
const PAGE: u64 = 500;

/// How many keys are asked about at once.
const AT_ONCE: usize = 32;

/// The largest value that is read, in bytes; of a list, the average entry. By what it takes in memory: Redis tells no length of an entry.
pub(super) const MAX_READ: u64 = 256 << 10;

/// What is read of values is paced too: so many bytes count as a key.
const BYTES_A_KEY: u64 = 1 << 10;

/// What a walk is told.
pub(super) struct Terms<'a> {
    pub(super) homes: &'a Homes,
    pub(super) orphan_age: Duration,
    /// How many findings are listed.
    pub(super) room: usize,
    /// Read values though that makes them look used.
    pub(super) touch: bool,
}

/// What one key looks like.
struct Look {
    kind: Bytes,
    bytes: Option<u64>,
    left: Left,
    value: Value,
    /// None: that may not be asked, or another server of a Cluster has it.
    beside: Option<Left>,
}

/// Walks until the end, or until it is told to stop; what was found by then is reported. `tell` hears how many keys it has seen,
/// and of how many.
pub(super) async fn walk(
    on: &Place,
    terms: &Terms<'_>,
    pace: &Pace,
    stop: &CancellationToken,
    tell: impl Fn(u64, u64),
) -> Report {
    let mut report = empty(
        on.endpoints.iter().map(|name| name.as_str()).collect(),
        on.server.to_string(),
        on.db.unwrap_or_default(),
        &kinds::names(),
    );
    let walk = Walk { place: on, terms, pace };
    let end = tokio::select! {
        biased;
        () = stop.cancelled() => End::Interrupted,
        ended = walk.all(&mut report, tell) => match ended {
            Ok(()) => End::Whole,
            Err(error) => End::Failed(error.to_string()),
        },
    };
    report.end = end;
    report
}

/// A report of nothing.
pub(super) fn empty(endpoints: Vec<&'static str>, server: String, db: u8, names: &[&'static str]) -> Report {
    Report {
        endpoints,
        server,
        db,
        role: None,
        looked: 0,
        denied: 0,
        unsized_keys: 0,
        heeded: None,
        total: 0,
        rows: names.iter().map(|name| Row::new(name)).collect(),
        findings: Vec::new(),
        more: 0,
        unknown: Vec::new(),
        end: End::Whole,
    }
}

struct Walk<'a> {
    place: &'a Place,
    terms: &'a Terms<'a>,
    pace: &'a Pace,
}

impl Walk<'_> {
    async fn all(&self, report: &mut Report, tell: impl Fn(u64, u64)) -> Result<(), Error> {
        let replication = self.ask(command::info("replication")).await.unwrap_or_default();
        report.role = replication.get("role").map(str::to_owned);
        report.total = u64::try_from(self.ask(command::dbsize()).await?).unwrap_or_default();
        report.heeded = self.heeded().await;
        let values = report.heeded.is_none();
        let mut cursor = 0;
        loop {
            let (next, keys) = self.ask(command::scan(cursor, "*", PAGE)).await?;
            cursor = number(&next).ok_or(Error::Protocol("SCAN"))?;
            let now = self.now().await;
            let cost = PAGE.max(keys.len() as u64);
            let mut looks = stream::iter(keys)
                .map(|key| async {
                    let judged = self.judge(&key, values, now).await;
                    (key, judged)
                })
                .buffered(AT_ONCE);
            while let Some((key, judged)) = looks.next().await {
                let (look, wrong) = match judged {
                    Ok(Some(judged)) => judged,
                    // On a Cluster its slot has moved since.
                    Ok(None) | Err(Error::Reply(Reply::Elsewhere(_))) => continue,
                    Err(Error::Reply(Reply::Denied(_))) => {
                        report.denied += 1;
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                report.unsized_keys += u64::from(look.bytes.is_none());
                report.looked += 1;
                let (index, form) = kinds::of(&key);
                let row = &mut report.rows[index];
                row.add(look.left, look.bytes.unwrap_or_default());
                row.wrong += u64::from(!wrong.is_empty());
                let readable = |form: &Form| form.reads != Reads::Nothing && look.kind == form.kind.as_str();
                let wanted = form.is_some_and(readable);
                row.unread += u64::from(wanted && look.value == Value::Unread);
                let name = row.name;
                if form.is_none() {
                    report.unknown(&key);
                }
                report.found(&key, name, wrong, self.terms.room);
            }
            drop(looks);
            tell(report.looked, report.total);
            self.pace.spend(cost).await;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// The policy to which values that are read would look used, by which the server evicts what is not. None: they may be read.
    async fn heeded(&self) -> Option<String> {
        if self.terms.touch || self.place.touch_nothing().await {
            return None;
        }
        let memory = self.ask(command::info("memory")).await.unwrap_or_default();
        match memory.get("maxmemory_policy").map(str::to_owned) {
            Some(policy) => (policy.contains("lru") || policy.contains("lfu")).then_some(policy),
            None => Some("which is unknown".to_owned()),
        }
    }

    /// Looks at a key, and says what is wrong with it; twice, so that what is being changed is not taken for what is wrong. None: it
    /// is gone.
    async fn judge(&self, key: &Bytes, values: bool, now: u64) -> Result<Option<(Look, Vec<Wrong>)>, Error> {
        let Some(look) = self.look(key, values).await? else {
            return Ok(None);
        };
        let first = self.wrong(key, &look, now);
        if first.is_empty() {
            return Ok(Some((look, first)));
        }
        let Some(again) = self.look(key, values).await? else {
            return Ok(None);
        };
        let mut found = self.wrong(key, &again, now);
        found.retain(|wrong| first.iter().any(|before| before.right == wrong.right));
        Ok(Some((again, found)))
    }

    fn wrong(&self, key: &Bytes, look: &Look, now: u64) -> Vec<Wrong> {
        let (_, form) = kinds::of(key);
        let misplaced = kinds::misplaced(key, form, &self.place.endpoints, self.terms.homes);
        // In a database that nobody is on, what is there at all is what is wrong.
        let Some(form) = form.filter(|_| !self.place.endpoints.is_empty()) else {
            return misplaced.into_iter().collect();
        };
        let Some(beside) = look.beside else {
            return misplaced.into_iter().collect();
        };
        let seen = Seen {
            key,
            left: look.left,
            value: look.value.clone(),
            beside,
            now,
            orphan_age: self.terms.orphan_age,
        };
        let found = form.judge(&String::from_utf8_lossy(&look.kind), &seen);
        misplaced.into_iter().chain(found).collect()
    }

    /// `TYPE`, `PTTL`, `MEMORY USAGE`, then what the key's form wants to see. None: it is gone.
    async fn look(&self, key: &Bytes, values: bool) -> Result<Option<Look>, Error> {
        let (kind, left, bytes) = tokio::join!(
            self.ask(command::type_of(key.clone())),
            self.ask(command::pttl(key.clone())),
            self.ask(command::memory_usage(key.clone())),
        );
        let (kind, left) = (kind?, Left::read(left?));
        if left == Left::Gone {
            return Ok(None);
        }
        let bytes = permitted(bytes)?.flatten().and_then(|bytes| u64::try_from(bytes).ok());
        let mut look = Look {
            kind,
            bytes,
            left,
            value: Value::Unread,
            beside: Some(Left::Gone),
        };
        let (_, Some(form)) = kinds::of(key) else {
            return Ok(Some(look));
        };
        if look.kind == form.kind.as_str() {
            if values {
                look.value = permitted(self.value(key, form, bytes).await)?.unwrap_or(Value::Unread);
            }
            if let Some(beside) = form.beside {
                // Again, so that the two were read one after the other.
                let (left, beside) = tokio::join!(
                    self.ask(command::pttl(key.clone())),
                    self.ask(command::pttl(beside(key)))
                );
                (look.left, look.beside) = (Left::read(left?), permitted(beside)?.map(Left::read));
                if look.left == Left::Gone {
                    return Ok(None);
                }
            }
        }
        Ok(Some(look))
    }

    /// What the form wants to see of a value, if it is not too large: `GET`; `LLEN` and `LINDEX`; `HGETALL`. Paid for before it is read.
    async fn value(&self, key: &Bytes, form: &Form, bytes: Option<u64>) -> Result<Value, Error> {
        let small = |bytes: Option<u64>| bytes.filter(|bytes| *bytes <= MAX_READ);
        Ok(match (&form.reads, small(bytes)) {
            (Reads::Text, Some(bytes)) => {
                self.pace.spend(bytes / BYTES_A_KEY).await;
                let text = self.ask(command::get(key.clone())).await?;
                text.map_or(Value::Unread, Value::Text)
            }
            (Reads::Fields, Some(bytes)) => {
                self.pace.spend(bytes / BYTES_A_KEY).await;
                Value::Fields(self.ask(command::hgetall(key.clone())).await?)
            }
            (Reads::Ends, _) => {
                let length = self.ask(command::llen(key.clone())).await?;
                let entry = u64::try_from(length).ok().and_then(|length| bytes?.checked_div(length));
                let Some(entry) = small(entry) else {
                    return Ok(Value::Ends(length, Vec::new()));
                };
                let expected = 2 * entry / BYTES_A_KEY;
                self.pace.spend(expected).await;
                let (first, last) = tokio::join!(
                    self.ask(command::lindex(key.clone(), 0)),
                    self.ask(command::lindex(key.clone(), -1)),
                );
                let ends: Vec<Bytes> = first?.into_iter().chain(last?).collect();
                let read = ends.iter().map(|end| end.len() as u64).sum::<u64>() / BYTES_A_KEY;
                // An end can be larger than the average, and that is known only now.
                self.pace.spend(read.saturating_sub(expected)).await;
                Value::Ends(length, ends)
            }
            _ => Value::Unread,
        })
    }

    /// The server's clock in milliseconds, or else this machine's.
    async fn now(&self) -> u64 {
        let told = self.ask(command::time()).await.ok();
        let told = told.and_then(|(seconds, micros)| Some(number(&seconds)? * 1_000 + number(&micros)? / 1_000));
        told.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
    }

    async fn ask<T: FromReply>(&self, command: Command<Repeatable, T>) -> Result<T, Error> {
        // Boxed: a future of a question is large, and a look has several.
        Box::pin(self.place.ask(command)).await
    }
}

/// What Redis refuses, for want of a right or as the key has changed, is not known; the rest fails.
fn permitted<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(Error::Reply(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}
