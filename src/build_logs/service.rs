//! The RPCs of build logs: checks, one call to the store or the hub, an answer.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status};

use super::BuildId;
use super::entry::{self, Json};
use super::known::{Cause, Print};
use super::logs::Logs;
use super::position::News;
use super::store::{Compared, Page};
use super::tail::{Event, Tail};
use crate::config::EndpointName;
use crate::deadline::Deadline;
use crate::layer::{Call, Method};
use crate::proto::build_logs_server::BuildLogs;
use crate::proto::tail_reset::Cause as ResetCause;
use crate::proto::{
    AppendRequest, AppendResponse, CompareAndAppendRequest, CompareAndAppendResponse, DegradedReason,
    DeleteEntriesRequest, DeleteEntriesResponse, ExpireEntriesRequest, ExpireEntriesResponse, ExpireStatusRequest,
    ExpireStatusResponse, GetStatusRequest, GetStatusResponse, ListEntriesRequest, ListEntriesResponse, LogEntry,
    SetStatusRequest, SetStatusResponse, TailEntries, TailHeartbeat, TailOpened, TailRequest, TailReset, TailResponse,
    log_entry, tail_response,
};
use crate::redis::Error;
use crate::status;

/// The most entries of one append.
const MAX_ENTRIES: usize = 10_000;
/// The most entries of a page, and how many it has unless told.
const MAX_PAGE: i32 = 10_000;
const DEFAULT_PAGE: usize = 1_000;

/// The `redisgateway.v1.BuildLogs` service.
pub struct Service {
    logs: Option<Logs>,
}

impl Service {
    /// A service on `logs`; without them every call is answered `NOT_CONFIGURED`.
    pub fn new(logs: Option<Logs>) -> Self {
        Service { logs }
    }

    fn logs(&self, call: &Call) -> Result<&Logs, Status> {
        self.logs
            .as_ref()
            .ok_or_else(|| status::not_configured(EndpointName::BuildLogs, call.method))
    }
}

#[tonic::async_trait]
impl BuildLogs for Service {
    async fn append(&self, request: Request<AppendRequest>) -> Result<Response<AppendResponse>, Status> {
        let call = Call::of(&request);
        let AppendRequest { build_id, entries } = request.into_inner();
        let (build, entries) = (parse_build(&build_id)?, parse_entries(entries)?);
        let logs = self.logs(&call)?;
        let length = logs.store.append(&build, entries, call.due()).await;
        let length = length.map_err(failed(call.method))?;
        logs.hub.wake(&build);
        Ok(Response::new(AppendResponse { length }))
    }

    async fn compare_and_append(
        &self,
        request: Request<CompareAndAppendRequest>,
    ) -> Result<Response<CompareAndAppendResponse>, Status> {
        let call = Call::of(&request);
        let (build, expected_length, entries) = parse_compare(request.into_inner())?;
        let logs = self.logs(&call)?;
        let compared = logs
            .store
            .compare_and_append(&build, expected_length, entries, call.due());
        let compared = compared.await.map_err(failed(call.method))?;
        logs.hub.wake(&build);
        Ok(Response::new(compared.into()))
    }

    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        let call = Call::of(&request);
        let (build, start, most) = parse_list(&request.into_inner())?;
        let page = self.logs(&call)?.store.page(&build, start, most, call.due()).await;
        Ok(Response::new(page.map_err(failed(call.method))?.into()))
    }

    type TailStream = Pin<Box<dyn Stream<Item = Result<TailResponse, Status>> + Send>>;

    async fn tail(&self, request: Request<TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let call = Call::of(&request);
        let (build, start, previous) = parse_tail(request.into_inner())?;
        let logs = self.logs(&call)?;
        let timeout = logs.store.timeout();
        let by = call
            .deadline
            .map_or_else(|| Deadline::within(timeout), |due| due.capped(timeout));
        let tail = Tail::open(&logs.hub, &build, start, previous, logs.heartbeat, by).await;
        let tail = tail.map_err(failed(call.method))?;
        // Pulled by the transport as the caller takes what comes: a slow caller costs no memory here.
        Ok(Response::new(Box::pin(stream::unfold(tail, |mut tail| async {
            let event = tail.next().await;
            Some((Ok(event.into()), tail))
        }))))
    }

    async fn set_status(&self, request: Request<SetStatusRequest>) -> Result<Response<SetStatusResponse>, Status> {
        let call = Call::of(&request);
        let SetStatusRequest { build_id, status } = request.into_inner();
        let build = parse_build(&build_id)?;
        let status = Json::parse(&status).map_err(|error| status::invalid("status", error.to_string()))?;
        let set = self.logs(&call)?.store.set_status(&build, status, call.due()).await;
        set.map_err(failed(call.method))?;
        Ok(Response::new(SetStatusResponse {}))
    }

    async fn get_status(&self, request: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let call = Call::of(&request);
        let build = parse_build(&request.into_inner().build_id)?;
        let status = self.logs(&call)?.store.status(&build, call.due()).await;
        let status = status.map_err(failed(call.method))?;
        Ok(Response::new(GetStatusResponse { status }))
    }

    async fn expire_status(
        &self,
        request: Request<ExpireStatusRequest>,
    ) -> Result<Response<ExpireStatusResponse>, Status> {
        let call = Call::of(&request);
        let build = parse_build(&request.into_inner().build_id)?;
        let found = self.logs(&call)?.store.expire_status(&build, call.due()).await;
        let found = found.map_err(failed(call.method))?;
        Ok(Response::new(ExpireStatusResponse { found }))
    }

    async fn expire_entries(
        &self,
        request: Request<ExpireEntriesRequest>,
    ) -> Result<Response<ExpireEntriesResponse>, Status> {
        let call = Call::of(&request);
        let build = parse_build(&request.into_inner().build_id)?;
        let found = self.logs(&call)?.store.expire_entries(&build, call.due()).await;
        let found = found.map_err(failed(call.method))?;
        Ok(Response::new(ExpireEntriesResponse { found }))
    }

    async fn delete_entries(
        &self,
        request: Request<DeleteEntriesRequest>,
    ) -> Result<Response<DeleteEntriesResponse>, Status> {
        let call = Call::of(&request);
        let build = parse_build(&request.into_inner().build_id)?;
        let logs = self.logs(&call)?;
        let found = logs.store.delete_entries(&build, call.due()).await;
        let found = found.map_err(failed(call.method))?;
        logs.hub.wake(&build);
        Ok(Response::new(DeleteEntriesResponse { found }))
    }
}

fn failed(method: &'static Method) -> impl Fn(Error) -> Status {
    move |error| status::redis(&error, EndpointName::BuildLogs, method)
}

fn parse_build(id: &str) -> Result<BuildId, Status> {
    BuildId::parse(id).map_err(|error| status::invalid("build_id", error.to_string()))
}

fn parse_entries(entries: Vec<LogEntry>) -> Result<Vec<Json>, Status> {
    if !(1..=MAX_ENTRIES).contains(&entries.len()) {
        let expected = format!("must be from 1 to {MAX_ENTRIES} entries, not {}", entries.len());
        return Err(status::invalid("entries", expected));
    }
    entries
        .into_iter()
        .enumerate()
        .map(|(n, entry)| parse_entry(n, entry))
        .collect()
}

fn parse_entry(n: usize, entry: LogEntry) -> Result<Json, Status> {
    let invalid = |field: &str, expected: String| status::invalid(format!("entries[{n}]{field}"), expected);
    match entry.kind {
        Some(log_entry::Kind::Json(text)) => Json::parse(&text).map_err(|error| invalid(".json", error.to_string())),
        Some(log_entry::Kind::Message(message)) => Json::message(&message.message, &message.r#type, &message.data)
            .map_err(|error| match error {
                entry::Error::Json(_) => invalid(".message.data", error.to_string()),
                entry::Error::TooLong(_) => invalid(".message", error.to_string()),
            }),
        None => Err(invalid("", "must have json or message".to_owned())),
    }
}

fn parse_compare(request: CompareAndAppendRequest) -> Result<(BuildId, i64, Vec<Json>), Status> {
    let build = parse_build(&request.build_id)?;
    if request.expected_length < 0 {
        return Err(status::invalid("expected_length", "must be 0 or more"));
    }
    Ok((build, request.expected_length, parse_entries(request.entries)?))
}

fn parse_list(request: &ListEntriesRequest) -> Result<(BuildId, i64, usize), Status> {
    let build = parse_build(&request.build_id)?;
    let most = match usize::try_from(request.page_size) {
        Ok(0) => DEFAULT_PAGE,
        Ok(most) if request.page_size <= MAX_PAGE => most,
        _ => {
            let expected = format!("must be from 0 to {MAX_PAGE}");
            return Err(status::invalid("page_size", expected));
        }
    };
    Ok((build, request.start, most))
}

fn parse_tail(request: TailRequest) -> Result<(BuildId, i64, Option<Print>), Status> {
    let build = parse_build(&request.build_id)?;
    if request.previous_entry.is_some() && request.start <= 0 {
        let expected = "must be missing unless start is above 0";
        return Err(status::invalid("previous_entry", expected));
    }
    let previous = request.previous_entry.map(|entry| Print::of(&entry));
    Ok((build, request.start, previous))
}

impl From<Compared> for CompareAndAppendResponse {
    fn from(compared: Compared) -> Self {
        let (appended, length) = match compared {
            Compared::Appended(length) => (true, length),
            Compared::Differs(length) => (false, length),
        };
        CompareAndAppendResponse { appended, length }
    }
}

impl From<Page> for ListEntriesResponse {
    fn from(page: Page) -> Self {
        ListEntriesResponse {
            next_start: page.end(),
            length: page.length,
            entries: page.entries,
        }
    }
}

impl From<Event> for TailResponse {
    fn from(event: Event) -> Self {
        use tail_response::Event as Form;
        let form = match event {
            Event::Opened { start, length } => Form::Opened(TailOpened { start, length }),
            Event::News(News::Entries { start, entries }) => Form::Entries(TailEntries { start, entries }),
            Event::News(News::Reset {
                cause,
                length,
                next_start,
            }) => Form::Reset(TailReset {
                cause: ResetCause::from(cause).into(),
                length,
                next_start,
            }),
            Event::Heartbeat(trouble) => {
                let degraded = trouble.map_or(DegradedReason::Unspecified, |error| status::degraded(&error));
                Form::Heartbeat(TailHeartbeat {
                    degraded: degraded.into(),
                })
            }
        };
        TailResponse { event: Some(form) }
    }
}

impl From<Cause> for ResetCause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Shortened => ResetCause::Shortened,
            Cause::Deleted => ResetCause::Deleted,
            Cause::Archived => ResetCause::Archived,
            Cause::Replaced => ResetCause::Replaced,
        }
    }
}
