//! Who calls.

use std::task::{Context, Poll};

use http::Request;
use tower::Service;

use super::{Call, Caller};

/// Tells each call its caller: who made its connection, as long as neither certificates nor tokens are looked at.
#[derive(Clone)]
pub struct Identity<S> {
    inner: S,
    caller: Caller,
}

impl<S> Identity<S> {
    pub(super) fn new(inner: S, caller: Caller) -> Self {
        Identity { inner, caller }
    }
}

impl<S, A> Service<Request<A>> for Identity<S>
where
    S: Service<Request<A>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        Call::in_request_mut(&mut request).caller = self.caller;
        self.inner.call(request)
    }
}
