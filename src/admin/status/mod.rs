//! The status page: what an operator looks at first, as a page for people at `/`, and for scripts at `/status.json`.
//!
//! Its numbers are those of `/metrics`, read out of the registry as Prometheus reads them: one task looks every few seconds and keeps
//! the looks of the last quarter of an hour. So page and dashboards agree, and calls pay nothing for it. The page is made here, with or
//! without a script that fetches it again, so that there is one form of it.

mod format;
mod history;
mod open;
mod page;
mod problem;
mod report;
mod tally;
mod window;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use prometheus::Registry;
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use self::history::{History, Sample};
use self::report::Report;
use crate::redis::Endpoint;

/// How long an answer is good for all who ask: however many look, the work is that of two.
const FRESH: Duration = Duration::from_millis(500);

/// Nothing from elsewhere, nothing inline but the icon, and in nobody's frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("page.js");

/// What the admin server tells of.
pub struct Watched {
    /// All metrics.
    pub registry: Registry,
    /// Names what the process is not ready for: nothing means that it is.
    pub unready: Box<dyn Fn() -> Vec<&'static str> + Send + Sync>,
    /// The configured endpoints.
    pub stands: Vec<Stand>,
}

/// An endpoint, and the full names of the services that stand on it, such as `redisgateway.v1.Cache`.
pub struct Stand {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The services.
    pub services: Vec<&'static str>,
}

/// The page. Its task ends with its last clone.
#[derive(Clone)]
struct Status {
    core: Arc<Core>,
    _task: Arc<AbortOnDropHandle<()>>,
}

struct Core {
    watched: Arc<Watched>,
    started: SystemTime,
    /// Never held across an await.
    history: Mutex<History>,
    /// The latest answer. Who finds it old makes the next one, and the others wait for that.
    latest: tokio::sync::Mutex<Option<Arc<Answer>>>,
}

/// What is answered until it is old.
struct Answer {
    made: Instant,
    page: Bytes,
    json: Bytes,
}

/// The routes of the page, which tells of what happens from here on.
pub(super) fn routes(watched: Arc<Watched>) -> Router {
    let mut history = History::default();
    history.keep(Sample::read(&watched.registry.gather()));
    let core = Arc::new(Core {
        watched,
        started: SystemTime::now(),
        history: Mutex::new(history),
        latest: tokio::sync::Mutex::default(),
    });
    let task = AbortOnDropHandle::new(tokio::spawn(look(core.clone())));
    let status = Status {
        core,
        _task: Arc::new(task),
    };
    let file = |kind, text| move || std::future::ready(answer(kind, Bytes::from_static(str::as_bytes(text))));
    Router::new()
        .route("/", get(page))
        .route("/status.json", get(json))
        .route("/status.css", get(file("text/css; charset=utf-8", STYLE)))
        .route("/status.js", get(file("text/javascript; charset=utf-8", SCRIPT)))
        .with_state(status)
}

/// Keeps the metrics as they are, again and again.
async fn look(core: Arc<Core>) {
    let mut due = tokio::time::interval_at(tokio::time::Instant::now() + history::INTERVAL, history::INTERVAL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let sample = Sample::read(&core.watched.registry.gather());
        core.history().keep(sample);
    }
}

async fn page(State(status): State<Status>) -> Response {
    match status.core.latest().await {
        Ok(latest) => answer("text/html; charset=utf-8", latest.page.clone()),
        Err(failed) => failed.into_response(),
    }
}

async fn json(State(status): State<Status>) -> Response {
    match status.core.latest().await {
        Ok(latest) => answer("application/json", latest.json.clone()),
        Err(failed) => failed.into_response(),
    }
}

impl Core {
    async fn latest(&self) -> Result<Arc<Answer>, StatusCode> {
        let mut latest = self.latest.lock().await;
        if let Some(latest) = latest.as_ref().filter(|latest| latest.made.elapsed() < FRESH) {
            return Ok(latest.clone());
        }
        match self.make() {
            Ok(made) => Ok(latest.insert(Arc::new(made)).clone()),
            Err(error) => {
                tracing::warn!(error, "cannot make the status page");
                Err(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }

    fn make(&self) -> Result<Answer, Box<dyn std::error::Error>> {
        let families = self.watched.registry.gather();
        let report = Report::new(&self.watched, self.started, &families, &self.history());
        let mut json = serde_json::to_vec_pretty(&report)?;
        json.push(b'\n');
        Ok(Answer {
            made: Instant::now(),
            page: page::render(&report)?.into(),
            json: json.into(),
        })
    }

    fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(kind: &'static str, body: Bytes) -> Response {
    let headers: [(HeaderName, &str); 5] = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, body).into_response()
}

/// A time as RFC 3339 has it, to the second.
fn utc(time: SystemTime) -> String {
    let time = prost_types::Timestamp::from(time);
    prost_types::Timestamp { nanos: 0, ..time }.to_string()
}
