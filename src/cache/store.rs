//! What the cache means in commands.

use std::sync::Arc;

use bytes::Bytes;

use crate::deadline::Deadline;
use crate::redis::{Command, Endpoint, Error, Existing, Once, command};

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
}

impl Store {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Store { endpoint }
    }

    /// `GET key`, on a replica where one serves, or, if `fresh`, on the primary.
    pub(super) async fn get(&self, key: Bytes, fresh: bool, deadline: Deadline) -> Result<Option<Bytes>, Error> {
        let command = command::get(key);
        if fresh {
            self.endpoint.primary(command, deadline).await
        } else {
            self.endpoint.replica(command, deadline).await
        }
    }

    /// `MGET key …`, on a replica where one serves, or, if `fresh`, on the primary. A key of another type is none.
    pub(super) async fn get_many(
        &self,
        keys: Vec<Bytes>,
        fresh: bool,
        deadline: Deadline,
    ) -> Result<Vec<Option<Bytes>>, Error> {
        let command = command::mget(keys);
        if fresh {
            self.endpoint.primary(command, deadline).await
        } else {
            self.endpoint.replica(command, deadline).await
        }
    }

    /// `SET key value [NX] [EX seconds]`: whether it was stored.
    pub(super) async fn set(&self, item: Item, deadline: Deadline) -> Result<bool, Error> {
        self.endpoint
            .primary(set(item), deadline)
            .await
            .map(|stored| stored.is_some())
    }

    /// A `SET` for each item, in one pipeline.
    pub(super) async fn set_many(&self, items: Vec<Item>, deadline: Deadline) -> Vec<Result<bool, Error>> {
        let results = self
            .endpoint
            .batch(items.into_iter().map(set).collect(), deadline)
            .await;
        results
            .into_iter()
            .map(|result| result.map(|stored| stored.is_some()))
            .collect()
    }

    /// `DEL key …`: how many were there.
    pub(super) async fn delete(&self, keys: Vec<Bytes>, deadline: Deadline) -> Result<i64, Error> {
        self.endpoint.primary(command::del(keys), deadline).await
    }
}

fn set(item: Item) -> Command<Once, Option<Bytes>> {
    command::set(item.key, item.value, item.existing, item.ttl)
}
