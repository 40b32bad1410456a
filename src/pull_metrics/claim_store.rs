//! Claims in Redis: keys, commands and scripts. Every clock is Redis' own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::deadline::Deadline;
use crate::redis::{Endpoint, Error, Once, command, script};

/// What keys of pulls begin with, claimed or not.
const PULLS: &str = "pull_events:*";

/// How many places of the keyspace one step looks at: a fraction of a millisecond for Redis.
const SCAN_COUNT: u64 = 500;

/// How long a claim is known after its lease has run out, or after it has ended.
const KNOWN: Duration = Duration::from_hours(1);

/// What the names of leases begin with; the claimed key's name follows.
pub(super) const LEASES: &str = "redis-gateway:v1:pull_metrics:lease:";

/// What the names of records begin with; the claim follows.
pub(super) const RECORDS: &str = "redis-gateway:v1:pull_metrics:claim:";

/// A claim's record: the names of its keys, and its state.
fn record(claim: &ClaimId) -> Bytes {
    format!("{RECORDS}{}", claim.0).into()
}

script!(
    CLAIM_PULLS,
    Once,
    "claim_pulls-1",
    "fdd71b98157c5e7871442e9f0d9da703085bccc0"
);

script!(
    SEAL_CLAIM,
    Once,
    "seal_claim-1",
    "afcd309a3d374a3206f8dad072dc8e95c98cee98"
);

script!(
    COMMIT_CLAIM,
    Once,
    "commit_claim-1",
    "639222f5aa230a60e5340d117582d6082e2f1d98"
);

script!(
    GIVE_BACK_CLAIM,
    Once,
    "give_back_claim-1",
    "b17ffe79c6293f5f542c1bd06104b8bb882a80cf"
);

script!(
    EXTEND_CLAIM,
    Once,
    "extend_claim-1",
    "2368437ed6112dc66f01121854be18ec3409ecdc"
);

/// A claim's id: 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ClaimId(String);

impl ClaimId {
    /// An id that no other claim has.
    pub(super) fn random() -> Self {
        ClaimId(format!("{:032x}", rand::random::<u128>()))
    }

    /// The id in `text`, if it has the form of one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == 32 && text.bytes().all(digit)).then(|| ClaimId(text.to_owned()))
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// A claimed key as it stands.
#[derive(Debug)]
pub(super) struct Row {
    pub name: Bytes,
    /// Whether it was claimed before.
    pub orphan: bool,
    /// Repository, tag, digest, count, last timestamp, method.
    pub fields: Vec<Option<Bytes>>,
}

/// The claims on one endpoint.
pub(super) struct ClaimStore {
    endpoint: Arc<Endpoint>,
    orphan_age: Duration,
}

impl ClaimStore {
    pub(super) fn new(endpoint: Arc<Endpoint>, orphan_age: Duration) -> Self {
        ClaimStore { endpoint, orphan_age }
    }

    /// The limit of one command.
    pub(super) fn timeout(&self) -> Duration {
        self.endpoint.command_timeout()
    }

    /// `SCAN cursor MATCH pull_events:* COUNT 500`: where to go on, and names of keys.
    pub(super) async fn scan(&self, cursor: u64, by: Deadline) -> Result<(u64, Vec<Bytes>), Error> {
        let scan = command::scan(cursor, PULLS, SCAN_COUNT);
        let (next, names) = self.endpoint.primary(scan, by).await?;
        let next = std::str::from_utf8(&next).ok().and_then(|next| next.parse().ok());
        Ok((next.ok_or(Error::Protocol("SCAN"))?, names))
    }

    /// `EVALSHA claim_pulls-1`: for each of `names`, until the claim has `most` keys: `TYPE`, `RENAMENX` of a fresh key, `GET` of
    /// the lease of a claimed one; then `SET` of the lease, and the name into the record. How many keys the claim has.
    pub(super) async fn claim(
        &self,
        claim: &ClaimId,
        names: Vec<Bytes>,
        most: usize,
        lease: Duration,
        by: Deadline,
    ) -> Result<usize, Error> {
        let mut args = self.leased(claim, lease);
        args.extend([
            command::number(most as u64),
            format!("{:08x}", rand::random::<u32>()).into(),
        ]);
        args.extend(names);
        let held: i64 = self.endpoint.eval(&CLAIM_PULLS, vec![record(claim)], args, by).await?;
        usize::try_from(held).map_err(|_| Error::Protocol("EVALSHA"))
    }

    /// `EVALSHA seal_claim-1`: `HGETALL` of the record, which takes no more names; for each key `GET` and `SET` of its lease, and
    /// `HMGET`. The claim's keys.
    pub(super) async fn seal(&self, claim: &ClaimId, lease: Duration, by: Deadline) -> Result<Vec<Row>, Error> {
        let args = self.leased(claim, lease);
        let eval = self.endpoint.eval(&SEAL_CLAIM, vec![record(claim)], args, by);
        let rows: Vec<(Bytes, bool, Vec<Option<Bytes>>)> = eval.await?;
        Ok(rows
            .into_iter()
            .map(|(name, orphan, fields)| Row { name, orphan, fields })
            .collect())
    }

    /// `EVALSHA commit_claim-1`: for each key `GET` of its lease, `DEL` of both. How many keys were deleted, and the names of those
    /// that were not the claim's any more. None: no such claim.
    pub(super) async fn commit(&self, claim: &ClaimId, by: Deadline) -> Result<Option<(i64, Vec<Bytes>)>, Error> {
        let args = vec![
            claim.0.clone().into(),
            Bytes::from_static(LEASES.as_bytes()),
            millis(KNOWN),
        ];
        self.endpoint.eval(&COMMIT_CLAIM, vec![record(claim)], args, by).await
    }

    /// `EVALSHA give_back_claim-1`: for each key `GET` of its lease, `SET` of one that has ended. How many. None: no such claim.
    pub(super) async fn give_back(&self, claim: &ClaimId, by: Deadline) -> Result<Option<i64>, Error> {
        let args = vec![
            claim.0.clone().into(),
            Bytes::from_static(LEASES.as_bytes()),
            millis(self.orphan_age),
            millis(KNOWN),
        ];
        self.endpoint
            .eval(&GIVE_BACK_CLAIM, vec![record(claim)], args, by)
            .await
    }

    /// `EVALSHA extend_claim-1`: for each key `GET` and `SET` of its lease. How many keys the claim holds, and the names of those
    /// that are not its any more. None: no such claim.
    pub(super) async fn extend(
        &self,
        claim: &ClaimId,
        lease: Duration,
        by: Deadline,
    ) -> Result<Option<(i64, Vec<Bytes>)>, Error> {
        let args = self.leased(claim, lease);
        self.endpoint.eval(&EXTEND_CLAIM, vec![record(claim)], args, by).await
    }

    /// What each script that sets leases begins with.
    fn leased(&self, claim: &ClaimId, lease: Duration) -> Vec<Bytes> {
        vec![
            claim.0.clone().into(),
            Bytes::from_static(LEASES.as_bytes()),
            millis(lease),
            millis(self.orphan_age),
            millis(lease + KNOWN),
        ]
    }
}

fn millis(length: Duration) -> Bytes {
    length.as_millis().to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_pinned() {
        for script in [
            &CLAIM_PULLS,
            &SEAL_CLAIM,
            &COMMIT_CLAIM,
            &GIVE_BACK_CLAIM,
            &EXTEND_CLAIM,
        ] {
            script.assert_pinned();
        }
    }

    #[test]
    fn claim_ids_are_told_from_other_texts() {
        let id = ClaimId::random();
        assert_eq!(ClaimId::parse(&id.clone().into_string()), Some(id));
        for bad in [
            "",
            "0",
            &"0".repeat(33),
            &"A".repeat(32),
            &"g".repeat(32),
            &"é".repeat(16),
        ] {
            assert_eq!(ClaimId::parse(bad), None, "{bad}");
        }
    }
}
