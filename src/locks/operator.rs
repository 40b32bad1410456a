//! Locks as an operator sees them, without a gateway that runs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::store::Store;
use super::{Holder, Name};
use crate::redis::{Endpoint, Error};

/// A lock that somebody holds.
#[derive(Debug)]
pub struct Lock {
    /// The holder's id.
    pub holder: String,
    /// Until it ends. None: without end.
    pub left: Option<Duration>,
    /// The fencing token, and when it was acquired, in milliseconds since 1970 by Redis' clock. None: it came by no gateway.
    pub handed_out: Option<(i64, i64)>,
}

/// Locks on one endpoint.
pub struct Operator {
    store: Store,
}

impl Operator {
    /// Locks on `endpoint`.
    pub fn new(endpoint: Arc<Endpoint>) -> Self {
        Operator {
            store: Store::new(endpoint),
        }
    }

    /// Names of locks, and where to go on; 0 is the beginning and the end. Looks at about `count` keys of any kind.
    pub async fn names(&self, cursor: u64, count: u64) -> Result<(u64, Vec<Bytes>), Error> {
        self.store.names(cursor, count, self.store.soon()).await
    }

    /// Who holds a lock. None: nobody.
    pub async fn get(&self, name: &Name) -> Result<Option<Lock>, Error> {
        let held = self.store.get(name, self.store.soon()).await?;
        Ok(held.map(|held| Lock {
            holder: held.holder,
            left: held.left,
            handed_out: held.record.map(|record| (record.token, record.at)),
        }))
    }

    /// Releases a lock if `holder` holds it, and wakes who waits: whoever has got it meanwhile keeps it. Whether it did.
    pub async fn release(&self, name: &Name, holder: &Holder) -> Result<bool, Error> {
        self.store.release(name, holder, None, self.store.soon()).await
    }
}
