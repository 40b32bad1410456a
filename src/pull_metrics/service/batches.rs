//! A stream of batches of pulls.

use std::sync::Arc;

use tonic::Status;

use super::super::pulls::Pulls;
use super::parse::parse_pulls;
use super::summed;
use crate::deadline::Deadline;
use crate::layer::Batch;
use crate::proto::{StreamPullsRequest, StreamPullsResponse};

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
