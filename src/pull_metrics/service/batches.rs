//! A stream of batches, each answered when it is done.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tonic::{Status, Streaming};

use super::super::pulls::Pulls;
use super::parse::parse_pulls;
use super::summed;
use crate::deadline::{Deadline, jittered};
use crate::layer::{Call, Draining};
use crate::proto::{StreamPullsRequest, StreamPullsResponse};
use crate::status;

/// Silence on a stream after which its last number is told again.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A stream of batches.
pub(super) struct Batches {
    pulls: Arc<Pulls>,
    requests: Streaming<StreamPullsRequest>,
    call: Call,
    draining: Draining,
    opened: bool,
    /// That of the last batch answered.
    number: u64,
}

impl Batches {
    pub(super) fn new(
        pulls: Arc<Pulls>,
        requests: Streaming<StreamPullsRequest>,
        call: Call,
        draining: Draining,
    ) -> Self {
        Batches {
            pulls,
            requests,
            call,
            draining,
            opened: false,
            number: 0,
        }
    }

    /// The next answer; none when the caller has closed its side and all is answered.
    pub(super) async fn next(&mut self) -> Result<Option<StreamPullsResponse>, Status> {
        if !self.opened {
            self.opened = true;
            return Ok(Some(StreamPullsResponse::default()));
        }
        tokio::select! {
            biased;
            () = self.draining.begun() => Err(status::draining(self.call.method)),
            batch = self.requests.message() => match batch? {
                Some(batch) => self.take(batch).await.map(Some),
                None => Ok(None),
            },
            () = sleep(jittered(HEARTBEAT)) => Ok(Some(StreamPullsResponse { number: self.number, ..Default::default() })),
        }
    }

    async fn take(&mut self, batch: StreamPullsRequest) -> Result<StreamPullsResponse, Status> {
        let StreamPullsRequest {
            number,
            pulls,
            buffered,
        } = batch;
        if number <= self.number {
            return Err(status::invalid(
                "number",
                format!("must be above {}, the last one", self.number),
            ));
        }
        let pulls = parse_pulls(pulls)?;
        let timeout = self.pulls.store.timeout();
        let by = self
            .call
            .deadline
            .map_or_else(|| Deadline::within(timeout), |by| by.capped(timeout));
        let results = self.pulls.track_all(pulls, buffered, by).await;
        self.number = number;
        let (failures, degraded) = summed(&results);
        Ok(StreamPullsResponse {
            number,
            failures,
            buffered,
            degraded: degraded.into(),
        })
    }
}
