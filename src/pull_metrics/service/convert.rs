//! The pattern's own types as answers.

use super::super::claims::Claimed;
use super::super::rows::{self, Reason, text};
use super::super::store::Statistics;
use crate::proto::dropped_key::Reason as DropReason;
use crate::proto::{ClaimPullsResponse, ClaimedKey, DroppedKey, ManifestPulls, PullStatistics, TagPulls};

impl From<Statistics> for PullStatistics {
    fn from(statistics: Statistics) -> Self {
        PullStatistics {
            repository_id: text(&statistics.repository_id),
            tag_name: text(&statistics.tag_name),
            manifest_digest: text(&statistics.manifest_digest),
            pull_count: statistics.pull_count,
            last_pull_timestamp: text(&statistics.last_pull_timestamp),
            pull_method: text(&statistics.pull_method),
        }
    }
}

impl From<Claimed> for ClaimPullsResponse {
    fn from(Claimed { claim, more }: Claimed) -> Self {
        let Some(claim) = claim else {
            return ClaimPullsResponse {
                more,
                ..ClaimPullsResponse::default()
            };
        };
        ClaimPullsResponse {
            claim_id: claim.id.into_string(),
            manifests: claim.manifests.into_iter().map(Into::into).collect(),
            tags: claim.tags.into_iter().map(Into::into).collect(),
            keys: claim.keys.into_iter().map(Into::into).collect(),
            dropped: claim.dropped.into_iter().map(Into::into).collect(),
            more,
        }
    }
}

impl From<rows::ManifestPulls> for ManifestPulls {
    fn from(row: rows::ManifestPulls) -> Self {
        ManifestPulls {
            repository_id: row.repository,
            digest: row.digest,
            pull_count: row.count,
            last_pull_timestamp: row.last,
        }
    }
}

impl From<rows::TagPulls> for TagPulls {
    fn from(row: rows::TagPulls) -> Self {
        TagPulls {
            repository_id: row.repository,
            tag: row.tag,
            digest: row.digest,
            pull_count: row.count,
            last_pull_timestamp: row.last,
        }
    }
}

impl From<rows::ClaimedKey> for ClaimedKey {
    fn from(key: rows::ClaimedKey) -> Self {
        ClaimedKey {
            name: key.name,
            repository_id: key.repository,
            tag: key.tag.unwrap_or_default(),
            digest: key.digest,
            pull_count: key.count,
            last_pull_timestamp: key.last,
            orphan: key.orphan,
        }
    }
}

impl From<rows::DroppedKey> for DroppedKey {
    fn from(key: rows::DroppedKey) -> Self {
        let reason = match key.reason {
            Reason::Missing => DropReason::Missing,
            Reason::NotWhole => DropReason::NotWhole,
            Reason::OutOfRange => DropReason::OutOfRange,
            Reason::NotADigest => DropReason::NotADigest,
            Reason::NoPulls => DropReason::NoPulls,
        };
        DroppedKey {
            name: key.name,
            reason: reason.into(),
            field: key.field.to_owned(),
            orphan: key.orphan,
        }
    }
}
