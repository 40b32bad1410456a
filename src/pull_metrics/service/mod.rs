//! The RPCs of pull metrics: checks, one call to the noun that does it, an answer.

mod batches;
mod convert;
mod parse;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use tonic::{Request, Response, Status, Streaming};

use self::parse::{
    WHOLE_SECONDS, parse_claim, parse_lease, parse_manifest, parse_most, parse_pulls, parse_tag, parse_timestamp,
};
use super::Pull;
use super::pulls::{Pulls, Tracked};
use crate::config::EndpointName;
use crate::layer::{Call, Degraded, Method, answers};
use crate::proto::pull_metrics_server::PullMetrics;
use crate::proto::{
    BatchTrackPullsRequest, BatchTrackPullsResponse, ClaimPullsRequest, ClaimPullsResponse, CommitClaimRequest,
    CommitClaimResponse, DegradedReason, ExtendClaimRequest, ExtendClaimResponse, GetManifestPullStatisticsRequest,
    GetManifestPullStatisticsResponse, GetTagPullStatisticsRequest, GetTagPullStatisticsResponse, GiveBackClaimRequest,
    GiveBackClaimResponse, PullFailure, StreamPullsRequest, StreamPullsResponse, TrackManifestPullRequest,
    TrackManifestPullResponse, TrackTagPullRequest, TrackTagPullResponse,
};
use crate::redis::{Error, Reply};
use crate::status;

/// The `redisgateway.v1.PullMetrics` service.
pub struct Service {
    pulls: Option<Arc<Pulls>>,
}

impl Service {
    /// A service on `pulls`; without them every call is answered `NOT_CONFIGURED`.
    pub fn new(pulls: Option<Arc<Pulls>>) -> Self {
        Service { pulls }
    }

    fn pulls(&self, call: &Call) -> Result<&Arc<Pulls>, Status> {
        self.pulls
            .as_ref()
            .ok_or_else(|| status::not_configured(EndpointName::PullMetrics, call.method))
    }

    async fn track(&self, call: &Call, pull: Pull, buffered: bool) -> Result<Tracked, Status> {
        let odd = !pull.timestamp.is_whole();
        if odd && buffered {
            return Err(status::invalid("timestamp", WHOLE_SECONDS));
        }
        let tracked = self.pulls(call)?.track(pull, buffered, call.due()).await;
        tracked.map_err(|error| match error {
            // The script checks what was checked here, but for such a timestamp, which is Redis' to read.
            Error::Reply(Reply::Other(_)) if odd => status::invalid("timestamp", WHOLE_SECONDS),
            Error::Overloaded if buffered => status::overloaded(call.method),
            error => failed(call.method)(error),
        })
    }
}

#[tonic::async_trait]
impl PullMetrics for Service {
    async fn track_tag_pull(
        &self,
        request: Request<TrackTagPullRequest>,
    ) -> Result<Response<TrackTagPullResponse>, Status> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let pull = Pull {
            target: parse_tag("", request.repository_id, request.tag, request.digest)?,
            timestamp: parse_timestamp("", request.timestamp)?,
        };
        let tracked = self.track(&call, pull, request.buffered).await?;
        let (pull_count, buffered, degraded) = told(&tracked);
        Ok(marked(
            TrackTagPullResponse {
                pull_count,
                buffered,
                degraded: degraded.into(),
            },
            degraded,
        ))
    }

    async fn track_manifest_pull(
        &self,
        request: Request<TrackManifestPullRequest>,
    ) -> Result<Response<TrackManifestPullResponse>, Status> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let pull = Pull {
            target: parse_manifest("", request.repository_id, request.digest)?,
            timestamp: parse_timestamp("", request.timestamp)?,
        };
        let tracked = self.track(&call, pull, request.buffered).await?;
        let (pull_count, buffered, degraded) = told(&tracked);
        Ok(marked(
            TrackManifestPullResponse {
                pull_count,
                buffered,
                degraded: degraded.into(),
            },
            degraded,
        ))
    }

    async fn batch_track_pulls(
        &self,
        request: Request<BatchTrackPullsRequest>,
    ) -> Result<Response<BatchTrackPullsResponse>, Status> {
        let call = Call::of(&request);
        let BatchTrackPullsRequest { pulls, buffered } = request.into_inner();
        let pulls = parse_pulls(pulls)?;
        let results = self.pulls(&call)?.track_all(pulls, buffered, call.due()).await;
        let (failures, degraded) = summed(&results);
        let reason = reason(&failures, degraded);
        Ok(marked(
            BatchTrackPullsResponse {
                failures,
                buffered,
                degraded: degraded.into(),
            },
            reason,
        ))
    }

    type StreamPullsStream = Pin<Box<dyn Stream<Item = Result<StreamPullsResponse, Status>> + Send>>;

    async fn stream_pulls(
        &self,
        request: Request<Streaming<StreamPullsRequest>>,
    ) -> Result<Response<Self::StreamPullsStream>, Status> {
        let pulls = self.pulls(&Call::of(&request))?.clone();
        let timeout = pulls.store.timeout();
        let answers = answers(request, timeout, move |batch, by| {
            batches::track(pulls.clone(), batch, by)
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_tag_pull_statistics(
        &self,
        request: Request<GetTagPullStatisticsRequest>,
    ) -> Result<Response<GetTagPullStatisticsResponse>, Status> {
        let call = Call::of(&request);
        let GetTagPullStatisticsRequest {
            repository_id,
            tag,
            digest,
        } = request.into_inner();
        let target = parse_tag("", repository_id, tag, digest)?;
        let statistics = self.pulls(&call)?.store.statistics(&target, call.due()).await;
        let statistics = statistics.map_err(failed(call.method))?.map(Into::into);
        Ok(Response::new(GetTagPullStatisticsResponse { statistics }))
    }

    async fn get_manifest_pull_statistics(
        &self,
        request: Request<GetManifestPullStatisticsRequest>,
    ) -> Result<Response<GetManifestPullStatisticsResponse>, Status> {
        let call = Call::of(&request);
        let GetManifestPullStatisticsRequest { repository_id, digest } = request.into_inner();
        let target = parse_manifest("", repository_id, digest)?;
        let statistics = self.pulls(&call)?.store.statistics(&target, call.due()).await;
        let statistics = statistics.map_err(failed(call.method))?.map(Into::into);
        Ok(Response::new(GetManifestPullStatisticsResponse { statistics }))
    }

    async fn claim_pulls(&self, request: Request<ClaimPullsRequest>) -> Result<Response<ClaimPullsResponse>, Status> {
        let call = Call::of(&request);
        let ClaimPullsRequest {
            max_keys,
            lease_seconds,
        } = request.into_inner();
        let (most, lease) = (parse_most(max_keys)?, parse_lease(lease_seconds)?);
        let claimed = self.pulls(&call)?.claims.claim(most, lease, call.due()).await;
        let claimed = claimed.map_err(failed(call.method))?;
        Ok(Response::new(claimed.into()))
    }

    async fn commit_claim(
        &self,
        request: Request<CommitClaimRequest>,
    ) -> Result<Response<CommitClaimResponse>, Status> {
        let call = Call::of(&request);
        let id = parse_claim(&request.into_inner().claim_id)?;
        let committed = self.pulls(&call)?.claims.commit(&id, call.due()).await;
        let committed = committed.map_err(failed(call.method))?;
        let committed = committed.ok_or_else(|| status::claim_not_found(call.method))?;
        let (deleted, lost) = (committed.deleted, committed.lost);
        Ok(Response::new(CommitClaimResponse { deleted, lost }))
    }

    async fn give_back_claim(
        &self,
        request: Request<GiveBackClaimRequest>,
    ) -> Result<Response<GiveBackClaimResponse>, Status> {
        let call = Call::of(&request);
        let id = parse_claim(&request.into_inner().claim_id)?;
        let given_back = self.pulls(&call)?.claims.give_back(&id, call.due()).await;
        let given_back = given_back.map_err(failed(call.method))?;
        let given_back = given_back.ok_or_else(|| status::claim_not_found(call.method))?;
        Ok(Response::new(GiveBackClaimResponse { given_back }))
    }

    async fn extend_claim(
        &self,
        request: Request<ExtendClaimRequest>,
    ) -> Result<Response<ExtendClaimResponse>, Status> {
        let call = Call::of(&request);
        let ExtendClaimRequest {
            claim_id,
            lease_seconds,
        } = request.into_inner();
        let (id, lease) = (parse_claim(&claim_id)?, parse_lease(lease_seconds)?);
        let extended = self.pulls(&call)?.claims.extend(&id, lease, call.due()).await;
        let extended = extended.map_err(failed(call.method))?;
        let extended = extended.ok_or_else(|| status::claim_not_found(call.method))?;
        let (held, lost) = (extended.held, extended.lost);
        Ok(Response::new(ExtendClaimResponse { held, lost }))
    }
}

fn failed(method: &'static Method) -> impl Fn(Error) -> Status {
    move |error| status::redis(&error, EndpointName::PullMetrics, method)
}

/// The count, whether it is buffered, and why it waits.
fn told(tracked: &Tracked) -> (i64, bool, DegradedReason) {
    match tracked {
        Tracked::Stands(count) => (*count, false, DegradedReason::Unspecified),
        Tracked::Buffered(away) => (
            0,
            true,
            away.as_ref().map_or(DegradedReason::Unspecified, status::degraded),
        ),
    }
}

/// The failures among pulls, and why the others wait.
fn summed(results: &[Result<Tracked, Error>]) -> (Vec<PullFailure>, DegradedReason) {
    let failure = |(index, result): (i32, &Result<Tracked, Error>)| {
        let reason = status::degraded(result.as_ref().err()?).into();
        Some(PullFailure { index, reason })
    };
    let failures = (0..).zip(results).filter_map(failure).collect();
    let waits = results.iter().flatten().map(|tracked| told(tracked).2);
    (failures, waits.max().unwrap_or_default())
}

/// What an answer about many pulls is counted by: failures before pulls that wait.
fn reason(failures: &[PullFailure], degraded: DegradedReason) -> DegradedReason {
    failures.first().map_or(degraded, PullFailure::reason)
}

/// An answer that is counted as degraded, if it is.
fn marked<A>(answer: A, reason: DegradedReason) -> Response<A> {
    let mut response = Response::new(answer);
    if reason != DegradedReason::Unspecified {
        response.extensions_mut().insert(Degraded(reason));
    }
    response
}
