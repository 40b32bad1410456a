//! Ends streams when the gateway drains, but for those that callers fill: their handlers are told. Unary calls are left to
//! end by themselves.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tower::Service;

use super::cut::{Cut, CutBody, CutFuture};
use super::{Call, Draining, Method};
use crate::status;

/// Cuts streams, begun or not, once its token is cancelled; one whose caller takes nothing, when it does, or with its connection.
#[derive(Clone)]
pub struct Drain<S> {
    inner: S,
    // A token's own clone takes a lock; this one is for streams alone.
    token: Arc<CancellationToken>,
}

impl<S> Drain<S> {
    pub(super) fn new(inner: S, token: Arc<CancellationToken>) -> Self {
        Drain { inner, token }
    }
}

impl<S, A, B> Service<Request<A>> for Drain<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Default,
{
    type Response = Response<CutBody<B, Drained>>;
    type Error = S::Error;
    type Future = CutFuture<S::Future, Drained>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let method = Call::in_request(&request).method;
        if method.client_streaming {
            // Cut here, what its caller has sent would be done and not answered.
            request.extensions_mut().insert(Draining((*self.token).clone()));
        }
        let cut = (method.streaming && !method.client_streaming).then(|| Drained {
            token: (*self.token).clone(),
            method,
        });
        CutFuture::new(self.inner.call(request), cut)
    }
}

/// A stream's end by drain.
pub struct Drained {
    token: CancellationToken,
    method: &'static Method,
}

impl Cut for Drained {
    type Wait = WaitForCancellationFutureOwned;

    fn wait(&self) -> Self::Wait {
        self.token.clone().cancelled_owned()
    }

    fn cuts_body(&self) -> bool {
        true
    }

    fn status(&self) -> Status {
        status::draining(self.method)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use http_body_util::BodyExt as _;
    use tonic::Code;
    use tonic_types::StatusExt as _;
    use tower::{Layer as _, ServiceExt as _, service_fn};

    use super::super::testing::{
        APPEND, Answer, Fixture, STREAM_PULLS, TAIL, answer, message, open, reason, request, seen,
    };
    use super::*;

    #[tokio::test]
    async fn open_streams_end_and_say_why() {
        let fixture = Fixture::new();
        let handler = service_fn(|_: Request<_>| async { open(vec![message()]) });
        let response = fixture.stack.layer(handler).oneshot(request(TAIL)).await.unwrap();
        fixture.drain.cancel();
        let (_, status) = seen(response).await;
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unavailable, "DRAINING")
        );
        assert!(status.get_details_retry_info().unwrap().retry_delay.unwrap().is_zero());
    }

    #[tokio::test]
    async fn a_stream_that_is_not_answered_yet_ends_too() {
        let fixture = Fixture::new();
        fixture.drain.cancel();
        let handler = service_fn(|_: Request<_>| pending::<Answer>());
        let response = fixture.stack.layer(handler).oneshot(request(TAIL)).await.unwrap();
        assert_eq!(reason(&seen(response).await.1), "DRAINING");
    }

    #[tokio::test]
    async fn a_stream_that_its_caller_fills_ends_by_its_handler() {
        let fixture = Fixture::new();
        fixture.drain.cancel();
        let handler = service_fn(|request: Request<_>| async {
            Draining::of(&tonic::Request::from_http(request)).begun().await;
            open(vec![message(), message()])
        });
        let response = fixture
            .stack
            .layer(handler)
            .oneshot(request(STREAM_PULLS))
            .await
            .unwrap();
        let mut body = Box::pin(response.into_body());
        for _ in 0..2 {
            assert!(body.frame().await.unwrap().unwrap().is_data());
        }
    }

    #[tokio::test]
    async fn unary_calls_are_left_to_end() {
        let fixture = Fixture::new();
        fixture.drain.cancel();
        let handler = service_fn(|_: Request<_>| async { answer() });
        let response = fixture.stack.layer(handler).oneshot(request(APPEND)).await.unwrap();
        let (messages, status) = seen(response).await;
        assert_eq!((messages, status.code()), (1, Code::Ok));
    }
}
