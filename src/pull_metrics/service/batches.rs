//! A stream of batches of pulls.

use std::sync::Arc;

use tonic::Status;

use super::super::pulls::Pulls;
use super::parse::parse_pulls;
use super::{reason, summed};
use crate::deadline::Deadline;
use crate::layer::Batch;
use crate::proto::{DegradedReason, StreamPullsRequest, StreamPullsResponse};

impl Batch for StreamPullsRequest {
    type Answer = StreamPullsResponse;

    fn number(&self) -> u64 {
        self.number
    }

    fn last(number: u64) -> StreamPullsResponse {
        StreamPullsResponse {
            number,
            ..Default::default()
        }
    }

    fn degraded(answer: &StreamPullsResponse) -> DegradedReason {
        reason(&answer.failures, answer.degraded())
    }
}

/// Counts a batch by `by`.
pub(super) async fn track(
    pulls: Arc<Pulls>,
    batch: StreamPullsRequest,
    by: Deadline,
) -> Result<StreamPullsResponse, Status> {
    let StreamPullsRequest {
        number,
        pulls: batch,
        buffered,
    } = batch;
    let results = pulls.track_all(parse_pulls(batch)?, buffered, by).await;
    let (failures, degraded) = summed(&results);
    Ok(StreamPullsResponse {
        number,
        failures,
        buffered,
        degraded: degraded.into(),
    })
}
