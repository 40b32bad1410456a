//! Bounds what the gateway has in flight, over all connections, and refuses the rest before it costs anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::Code;
use tower::Service;

use super::refuse::Refusable;
use super::watch::{Watch, WatchedBody, WatchedFuture};
use super::{Call, Method};
use crate::config::Limits;
use crate::status;

/// What is in flight, by its kind, and how much may be.
pub(super) struct Load {
    in_flight: [AtomicUsize; 3],
    limits: Limits,
}

/// What is counted apart.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Call,
    Stream,
    /// A stream of health or reflection: neither are they to be in the way of the API's, nor those in theirs.
    Watch,
}

impl Kind {
    /// None: whoever asks how the gateway is must hear it, most of all when it has too much to do. But a stream may stay.
    fn of(method: &Method) -> Option<Self> {
        match (method.is_api(), method.streaming) {
            (true, false) => Some(Kind::Call),
            (true, true) => Some(Kind::Stream),
            (false, true) => Some(Kind::Watch),
            (false, false) => None,
        }
    }
}

impl Load {
    pub(super) fn new(limits: Limits) -> Self {
        Load {
            in_flight: Default::default(),
            limits,
        }
    }

    fn admit(self: &Arc<Self>, kind: Kind, pattern: &str) -> Option<Place> {
        let limit = match kind {
            Kind::Call => self.limits.max_calls.saturating_mul(share(pattern)).div_ceil(100),
            Kind::Stream | Kind::Watch => self.limits.max_streams,
        };
        let count = self.count(kind);
        if count.fetch_add(1, Ordering::Relaxed) < limit {
            return Some(Place(self.clone(), kind));
        }
        count.fetch_sub(1, Ordering::Relaxed);
        None
    }

    fn count(&self, kind: Kind) -> &AtomicUsize {
        &self.in_flight[kind as usize]
    }
}

/// The share of `max_calls`, in percent, up to which a pattern's calls are taken: the cache's callers can do without, those
/// who wait for a lock would pile up.
fn share(pattern: &str) -> usize {
    match pattern {
        "cache" => 80,
        "locks" => 100,
        _ => 90,
    }
}

/// Lets calls through as long as there is room.
#[derive(Clone)]
pub struct Admission<S> {
    inner: S,
    load: Arc<Load>,
}

impl<S> Admission<S> {
    pub(super) fn new(inner: S, load: Arc<Load>) -> Self {
        Admission { inner, load }
    }
}

impl<S, A, B> Service<Request<A>> for Admission<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: http_body::Body + Default,
{
    type Response = Response<WatchedBody<B, Place>>;
    type Error = S::Error;
    type Future = Refusable<WatchedFuture<S::Future, Place>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let method = Call::in_request(&request).method;
        let place = match Kind::of(method) {
            Some(kind) => match self.load.admit(kind, method.pattern) {
                None => return Refusable::refused(status::overloaded(method)),
                place => place,
            },
            None => None,
        };
        Refusable::passed(WatchedFuture::new(self.inner.call(request), place))
    }
}

/// A call's place among those in flight, free again when the call ends.
pub struct Place(Arc<Load>, Kind);

impl Watch for Place {
    fn ended(&mut self, _code: Code) {}
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.count(self.1).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;
    use tower::{Layer as _, ServiceExt as _, service_fn};

    use super::super::METHODS;
    use super::super::testing::{CHECK, Fixture, GET, LIST, TAIL, answer, message, open, reason, request, seen};
    use super::*;

    fn load(max_calls: usize) -> Arc<Load> {
        Arc::new(Load::new(Limits {
            max_calls,
            max_streams: 1,
            max_request_bytes: 0,
            max_value_bytes: 0,
            max_answer_bytes: 0,
        }))
    }

    fn method(path: &str) -> &'static Method {
        METHODS.iter().find(|method| method.path == path).unwrap()
    }

    #[test]
    fn the_cache_is_refused_first() {
        static LOCK: Method = Method {
            path: "/redisgateway.v1.Locks/Acquire",
            service: "Locks",
            name: "Acquire",
            pattern: "locks",
            retry_safe: false,
            streaming: false,
            client_streaming: false,
        };
        let load = load(10);
        let fill = |method: &Method| std::iter::from_fn(|| load.admit(Kind::Call, method.pattern)).collect::<Vec<_>>();
        let cache = fill(method(GET));
        let logs = fill(method(LIST));
        let locks = fill(&LOCK);
        assert_eq!((cache.len(), logs.len(), locks.len()), (8, 1, 1));
        drop((cache, logs, locks));
        assert_eq!(fill(method(GET)).len(), 8);
    }

    #[test]
    fn a_limit_of_one_lets_one_through() {
        let load = load(1);
        let place = load.admit(Kind::Call, method(GET).pattern);
        assert!(place.is_some() && load.admit(Kind::Call, method(GET).pattern).is_none());
    }

    #[tokio::test]
    async fn a_stream_keeps_its_place_until_its_body_ends() {
        let fixture = Fixture::with(1, 1, None);
        let service = fixture.stack.layer(service_fn(|request: Request<_>| async move {
            if request.uri().path() == TAIL {
                open(vec![message()])
            } else {
                answer()
            }
        }));
        let call = |path| service.clone().oneshot(request(path));
        let stream = call(TAIL).await.unwrap();
        let status = seen(call(TAIL).await.unwrap()).await.1;
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::ResourceExhausted, "OVERLOADED")
        );
        assert!(status.get_details_retry_info().is_some());
        // Neither do streams take calls' places.
        assert_eq!(seen(call(GET).await.unwrap()).await.1.code(), Code::Ok);
        drop(stream);
        let again = call(TAIL).await.unwrap();
        assert!(!again.headers().contains_key("grpc-status"));
    }

    #[tokio::test]
    async fn health_is_never_refused() {
        let fixture = Fixture::with(0, 0, None);
        let service = fixture.stack.layer(service_fn(|_: Request<_>| async { answer() }));
        let call = |path| service.clone().oneshot(request(path));
        assert_eq!(reason(&seen(call(GET).await.unwrap()).await.1), "OVERLOADED");
        assert_eq!(seen(call(CHECK).await.unwrap()).await.1.code(), Code::Ok);
        // But for streams, of which one client could open any number.
        let watch = call("/grpc.health.v1.Health/Watch").await.unwrap();
        assert_eq!(reason(&seen(watch).await.1), "OVERLOADED");
    }
}
