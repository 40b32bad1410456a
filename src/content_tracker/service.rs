//! The RPCs of the content tracker: checks, one call to the store, an answer. None is degraded: who is not told that a read is
//! blocked would let it pass.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::store::Store;
use super::{Part, Repository, UserId};
use crate::config::EndpointName;
use crate::layer::{Call, Method};
use crate::proto::content_tracker_server::ContentTracker;
use crate::proto::{
    IsBlockedRequest, IsBlockedResponse, MarkModifiedRequest, MarkModifiedResponse, MarkRevokedRequest,
    MarkRevokedResponse,
};
use crate::redis::{Endpoint, Error};
use crate::status;

/// The most users in one call. So many keep Redis from everybody else for about 60 ms.
const MAX_USERS: usize = 10_000;

/// The `redisgateway.v1.ContentTracker` service.
pub struct Service {
    store: Option<Store>,
}

impl Service {
    /// A service on `endpoint`; without one every call is answered `NOT_CONFIGURED`.
    pub fn new(endpoint: Option<Arc<Endpoint>>) -> Self {
        Service {
            store: endpoint.map(Store::new),
        }
    }

    fn store(&self, call: &Call) -> Result<&Store, Status> {
        self.store
            .as_ref()
            .ok_or_else(|| status::not_configured(EndpointName::Cache, call.method))
    }
}

#[tonic::async_trait]
impl ContentTracker for Service {
    async fn mark_modified(
        &self,
        request: Request<MarkModifiedRequest>,
    ) -> Result<Response<MarkModifiedResponse>, Status> {
        let call = Call::of(&request);
        let MarkModifiedRequest { namespace, repository } = request.into_inner();
        let repository = parse_repository(namespace, repository)?;
        let time = self.store(&call)?.mark_modified(&repository, call.due()).await;
        let time = time.map_err(failed(call.method))?;
        Ok(Response::new(MarkModifiedResponse { time }))
    }

    async fn mark_revoked(
        &self,
        request: Request<MarkRevokedRequest>,
    ) -> Result<Response<MarkRevokedResponse>, Status> {
        let call = Call::of(&request);
        let MarkRevokedRequest {
            user_ids,
            namespace,
            repository,
        } = request.into_inner();
        let users = parse_users(&user_ids)?;
        let repository = parse_repository(namespace, repository)?;
        let time = self.store(&call)?.mark_revoked(&users, &repository, call.due()).await;
        let time = time.map_err(failed(call.method))?;
        Ok(Response::new(MarkRevokedResponse { time }))
    }

    async fn is_blocked(&self, request: Request<IsBlockedRequest>) -> Result<Response<IsBlockedResponse>, Status> {
        let call = Call::of(&request);
        let IsBlockedRequest {
            user_id,
            namespace,
            repository,
        } = request.into_inner();
        let user = parse_user("user_id", user_id)?;
        let repository = parse_repository(namespace, repository)?;
        let blocked = self.store(&call)?.is_blocked(user, &repository, call.due()).await;
        let blocked = blocked.map_err(failed(call.method))?;
        Ok(Response::new(IsBlockedResponse { blocked }))
    }
}

fn failed(method: &'static Method) -> impl Fn(Error) -> Status {
    move |error| status::redis(&error, EndpointName::Cache, method)
}

fn parse_repository(namespace: String, repository: String) -> Result<Repository, Status> {
    let part = |field, part| Part::parse(part).map_err(|error| status::invalid(field, error.to_string()));
    Ok(Repository {
        namespace: part("namespace", namespace)?,
        name: part("repository", repository)?,
    })
}

fn parse_user(field: &str, id: i64) -> Result<UserId, Status> {
    UserId::parse(id).ok_or_else(|| status::invalid(field, "must be above 0"))
}

fn parse_users(ids: &[i64]) -> Result<Vec<UserId>, Status> {
    if !(1..=MAX_USERS).contains(&ids.len()) {
        let expected = format!("must be from 1 to {MAX_USERS} users, not {}", ids.len());
        return Err(status::invalid("user_ids", expected));
    }
    ids.iter()
        .enumerate()
        .map(|(n, id)| parse_user(&format!("user_ids[{n}]"), *id))
        .collect()
}
