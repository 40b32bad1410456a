//! Reads and writes of values: from the gateway's own memory where it may answer, and never past a write that it has carried out.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::leases::{Cache, Found};
use super::near::{Fill, Load, Near, Stale};
use super::store::{Item, Times, Written};
use crate::deadline::Deadline;
use crate::redis::{Error, Freshness, Reply};

/// What a reader accepts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    /// How new the value has to be.
    pub(super) freshness: Freshness,
    /// How long past its end it may be where there is no other. Zero: not at all.
    pub(super) stale: Duration,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) value: Option<Bytes>,
    /// How long the value is past its end. Zero: it is not.
    pub(super) stale_age: Duration,
}

impl From<Option<Bytes>> for Read {
    fn from(value: Option<Bytes>) -> Self {
        Read {
            value,
            stale_age: Duration::ZERO,
        }
    }
}

impl From<Stale> for Read {
    fn from(stale: Stale) -> Self {
        Read {
            value: Some(stale.value),
            stale_age: stale.age,
        }
    }
}

impl Cache {
    /// Reads a value. With an error, why Redis could not be asked: then it is none, or stale.
    pub(super) async fn get(&self, key: Bytes, wish: Wish, by: Deadline) -> (Read, Option<Error>) {
        let near = self.near_for(&wish).filter(|(near, _)| near.keeps(&key));
        let Some((near, within)) = near else {
            return plain(self.store().get(key, wish.freshness, by).await);
        };
        if let Some(value) = near.get(&key, within) {
            return (Some(value).into(), None);
        }
        match self.load(near, key.clone(), wish.freshness, by).await {
            Ok(value) => (value.into(), None),
            Err(error) => (stale(Some(near), &key, &wish, &error), Some(error)),
        }
    }

    /// The same, with the times that tell when to load the value again, if they are known.
    pub(super) async fn get_timed(&self, key: Bytes, wish: Wish, by: Deadline) -> (Read, Option<Times>, Option<Error>) {
        let near = self.near_for(&wish).filter(|(near, _)| near.keeps(&key));
        if let Some((near, within)) = near
            && let Some((value, times)) = near.get_timed(&key, within)
        {
            return (Some(value).into(), times, None);
        }
        let near = near.map(|(near, _)| near);
        // In a box, as below: three reads at once are large beside a hit without this.
        match Box::pin(self.load_timed(near, &key, wish.freshness, by)).await {
            Ok((value, times)) => (value.into(), times, None),
            Err(error) => (stale(near, &key, &wish, &error), None, Some(error)),
        }
    }

    /// Reads many values, in their order, those in memory from there.
    pub(super) async fn get_many(&self, keys: &[Bytes], wish: Wish, by: Deadline) -> (Vec<Read>, Option<Error>) {
        let Some((near, within)) = self.near_for(&wish) else {
            let (values, failed) = self.store().get_many(keys, wish.freshness, by).await;
            return (values.into_iter().map(Read::from).collect(), failed);
        };
        let mut reads: Vec<Read> = keys.iter().map(|_| Read::default()).collect();
        let mut missing = Vec::with_capacity(keys.len());
        for (n, key) in keys.iter().enumerate() {
            let near = Some(near).filter(|near| near.keeps(key));
            match near.and_then(|near| near.get(key, within)) {
                Some(value) => reads[n] = Some(value).into(),
                None => missing.push((n, near, key.clone())),
            }
        }
        if missing.is_empty() {
            return (reads, None);
        }
        let (values, failed) = self.load_many(&missing, wish.freshness, by).await;
        for ((n, near, key), value) in missing.iter().zip(values) {
            reads[*n] = match (value, &failed) {
                (None, Some(error)) => stale(*near, key, &wish, error),
                (value, _) => value.into(),
            };
        }
        (reads, failed)
    }

    /// `SET`, as the store does. What is kept of the key is dropped before this answers.
    pub(super) async fn set(&self, item: Item, by: Deadline) -> Result<Written<bool>, Error> {
        let key = self.kept_key(&item.key);
        let set = self.store().set(item, by).await;
        self.forget(&key);
        set
    }

    /// The same for many.
    pub(super) async fn set_many(&self, items: Vec<Item>, by: Deadline) -> Vec<Result<Written<bool>, Error>> {
        let keys: Vec<Bytes> = items.iter().filter_map(|item| self.kept_key(&item.key)).collect();
        let set = self.store().set_many(items, by).await;
        self.forget(&keys);
        set
    }

    /// `DEL`, as the store does. What is kept of the keys is dropped before this answers.
    pub(super) async fn delete(&self, keys: &[Bytes], tell: bool, by: Deadline) -> (Written<i64>, Option<Error>) {
        let deleted = self.store().delete(keys, tell, by).await;
        self.forget(keys);
        deleted
    }

    /// A value whose TTL is over, for who would have to wait.
    pub(super) fn expired(&self, key: &Bytes, wish: &Wish) -> Option<Stale> {
        self.near_for(wish)?.0.expired(key, wish.stale)
    }

    /// Answers what [`Cache::expired`] has found; why Redis could not be asked.
    pub(super) fn found_expired(&self, expired: Stale, failed: Option<Error>) -> Found {
        if let Some(near) = &self.near {
            near.answers_stale();
        }
        Found::Stale(expired.into(), failed)
    }

    /// Drops what is kept of keys that were written, whatever became of that.
    pub(super) fn forget<'a>(&self, keys: impl IntoIterator<Item = &'a Bytes>) {
        if let Some(near) = &self.near {
            keys.into_iter().for_each(|key| near.forget(key));
        }
    }

    /// A key whose value may be in memory, for [`Cache::forget`] after it has gone elsewhere.
    pub(super) fn kept_key(&self, key: &Bytes) -> Option<Bytes> {
        self.near.as_ref().filter(|near| near.keeps(key)).map(|_| key.clone())
    }

    /// What may answer from memory, and how old that may be.
    fn near_for(&self, wish: &Wish) -> Option<(&Near, Duration)> {
        let near = self.near.as_ref()?;
        Some((near, near.serves(&wish.freshness)?))
    }

    /// Reads a value to be kept, from the primary. If that fails, and while nothing is kept, from wherever reads go.
    async fn load(&self, near: &Near, key: Bytes, freshness: Freshness, by: Deadline) -> Result<Option<Bytes>, Error> {
        if let Some(fill) = near.fill(key.clone()) {
            match self.store().get_with_ttl(key.clone(), self.first(by)).await {
                Ok((value, pttl)) => {
                    fill.end(value.as_ref(), pttl, Load::Unasked);
                    return Ok(value);
                }
                Err(error) if !self.has_second(&error) => return Err(error),
                Err(_) => {}
            }
        }
        self.store().get(key, freshness, by).await
    }

    async fn load_timed(
        &self,
        near: Option<&Near>,
        key: &Bytes,
        freshness: Freshness,
        by: Deadline,
    ) -> Result<(Option<Bytes>, Option<Times>), Error> {
        if let Some(fill) = near.and_then(|near| near.fill(key.clone())) {
            let first = self.first(by);
            let (read, load) = tokio::join!(
                self.store().get_with_ttl(key.clone(), first),
                self.store().load_time(key, first)
            );
            match read {
                Ok((value, pttl)) => {
                    fill.end(value.as_ref(), pttl, Load::Asked(load));
                    return Ok((value, Times::new(pttl, load)));
                }
                Err(error) if !self.has_second(&error) => return Err(error),
                Err(_) => {}
            }
        }
        Box::pin(self.store().get_timed(key, freshness, by)).await
    }

    async fn load_many(
        &self,
        missing: &[(usize, Option<&Near>, Bytes)],
        freshness: Freshness,
        by: Deadline,
    ) -> (Vec<Option<Bytes>>, Option<Error>) {
        let keys: Vec<Bytes> = missing.iter().map(|(.., key)| key.clone()).collect();
        let fills: Vec<(usize, Fill)> = missing
            .iter()
            .enumerate()
            .filter_map(|(n, (_, near, key))| Some((n, (*near)?.fill(key.clone())?)))
            .collect();
        if !fills.is_empty() {
            let kept = fills.iter().map(|(n, _)| missing[*n].2.clone()).collect();
            match self
                .store()
                .get_many_with_ttls(keys.clone(), kept, self.first(by))
                .await
            {
                Ok((values, pttls)) => {
                    for ((n, fill), pttl) in fills.into_iter().zip(pttls) {
                        fill.end(values.get(n).and_then(Option::as_ref), pttl, Load::Unasked);
                    }
                    return (values, None);
                }
                Err(error) if !self.has_second(&error) => return (vec![None; keys.len()], Some(error)),
                Err(_) => {}
            }
        }
        self.store().get_many(&keys, freshness, by).await
    }

    /// By when the primary is to answer: there has to be time left for a replica.
    fn first(&self, by: Deadline) -> Deadline {
        if !self.store().has_replicas() {
            return by;
        }
        by.capped(by.instant().saturating_duration_since(Instant::now()) / 2)
    }

    /// Whether a replica may answer where the primary did not.
    fn has_second(&self, error: &Error) -> bool {
        self.store().has_replicas() && error.is_transient()
    }
}

/// What may be answered where Redis was asked in vain: not where it has told that something else stands there now.
fn stale(near: Option<&Near>, key: &Bytes, wish: &Wish, error: &Error) -> Read {
    let Some(near) = near else { return Read::default() };
    if matches!(error, Error::Reply(Reply::WrongType)) {
        near.forget(key);
    }
    near.stale(key, wish.stale).map(Read::from).unwrap_or_default()
}

fn plain(result: Result<Option<Bytes>, Error>) -> (Read, Option<Error>) {
    match result {
        Ok(value) => (value.into(), None),
        Err(error) => (Read::default(), Some(error)),
    }
}
