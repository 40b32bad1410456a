//! Ends a call from outside: its handler's future before the answer is there, its stream afterwards.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;

/// When a call is cut, and what its caller hears then.
pub trait Cut {
    /// Ready when the call is to be cut.
    type Wait: Future<Output = ()>;

    /// Waits from now on.
    fn wait(&self) -> Self::Wait;

    /// Whether a stream is cut too once it has begun to answer.
    fn cuts_body(&self) -> bool;

    /// What the caller hears.
    fn status(&self) -> Status;
}

pin_project! {
    /// A call that may be cut before its handler answers. Without a `cut` it runs as it is.
    pub struct CutFuture<F, C: Cut> {
        #[pin]
        inner: F,
        #[pin]
        wait: Option<C::Wait>,
        cut: Option<C>,
    }
}

impl<F, C: Cut> CutFuture<F, C> {
    pub(super) fn new(inner: F, cut: Option<C>) -> Self {
        let wait = cut.as_ref().map(C::wait);
        CutFuture { inner, wait, cut }
    }
}

impl<F, B, E, C> Future for CutFuture<F, C>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Default,
    C: Cut,
{
    type Output = Result<Response<CutBody<B, C>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // The handler first: most answers are there before a timer has to be registered.
        if let Poll::Ready(response) = this.inner.poll(cx) {
            let cut = this.cut.take().filter(C::cuts_body);
            return Poll::Ready(response.map(|response| response.map(|inner| CutBody::new(inner, cut))));
        }
        match (this.wait.as_pin_mut().map(|wait| wait.poll(cx)), this.cut) {
            (Some(Poll::Ready(())), Some(cut)) => Poll::Ready(Ok(cut.status().into_http())),
            _ => Poll::Pending,
        }
    }
}

pin_project! {
    /// An answer that may be cut.
    pub struct CutBody<B, C: Cut> {
        // None once it is cut: what the handler held is free.
        #[pin]
        inner: Option<B>,
        #[pin]
        wait: Option<C::Wait>,
        cut: Option<C>,
    }
}

impl<B, C: Cut> CutBody<B, C> {
    fn new(inner: B, cut: Option<C>) -> Self {
        let wait = cut.as_ref().map(C::wait);
        CutBody {
            inner: Some(inner),
            wait,
            cut,
        }
    }
}

impl<B, C: Cut> Default for CutBody<B, C> {
    fn default() -> Self {
        CutBody {
            inner: None,
            wait: None,
            cut: None,
        }
    }
}

impl<B, C> Body for CutBody<B, C>
where
    B: Body<Data = Bytes, Error = Status>,
    C: Cut,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut this = self.project();
        // The cut first: a stream that always has something to say ends too.
        if let Some(Poll::Ready(())) = this.wait.as_mut().as_pin_mut().map(|wait| wait.poll(cx)) {
            this.wait.set(None);
            this.inner.set(None);
            if let Some(cut) = this.cut.take() {
                let mut trailers = HeaderMap::new();
                return Poll::Ready(Some(match cut.status().add_header(&mut trailers) {
                    Ok(()) => Ok(Frame::trailers(trailers)),
                    Err(status) => Err(status),
                }));
            }
        }
        match this.inner.as_pin_mut() {
            Some(inner) => inner.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            // A stream may end before what it was going to say.
            Some(inner) if self.cut.is_none() => inner.size_hint(),
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(0),
        }
    }
}
