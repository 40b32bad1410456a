//! Follows a call to its end: the answer's headers where they hold the status, the body's trailers where they do not.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Status};
use tracing::Span;

/// What a layer keeps for as long as a call is under way. Dropped after [`Watch::ended`].
pub trait Watch {
    /// The span in which the call's future and body are polled.
    fn span(&self) -> Option<&Span> {
        None
    }

    /// The handler has answered; the body may still be to come.
    fn answered(&mut self, _extensions: &http::Extensions) {}

    /// The handler, or a layer, has failed the call, which ends right after. Not for one whose caller went away.
    fn failed(&mut self, _status: &Status) {}

    /// The call is over. CANCELLED if its caller went away before that.
    fn ended(&mut self, code: Code);
}

pin_project! {
    /// A call whose handler is at work. Without a `watch` it runs as it is.
    pub struct WatchedFuture<F, W: Watch> {
        #[pin]
        inner: F,
        watch: Watching<W>,
    }
}

impl<F, W: Watch> WatchedFuture<F, W> {
    pub(super) fn new(inner: F, watch: Option<W>) -> Self {
        let watch = Watching(watch);
        WatchedFuture { inner, watch }
    }
}

impl<F, B, E, W> Future for WatchedFuture<F, W>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
    W: Watch,
{
    type Output = Result<Response<WatchedBody<B, W>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = {
            let _entered = this.watch.span().map(Span::enter);
            ready!(this.inner.poll(cx))?
        };
        let mut watch = Watching(this.watch.0.take());
        if let Some(watch) = &mut watch.0 {
            watch.answered(response.extensions());
        }
        if let Some(code) = code(response.headers()) {
            watch.told(code, response.headers());
        } else if response.body().is_end_stream() {
            watch.end(Code::Unknown);
        }
        Poll::Ready(Ok(response.map(|inner| WatchedBody { inner, watch })))
    }
}

pin_project! {
    /// A call whose answer is on its way.
    pub struct WatchedBody<B, W: Watch> {
        #[pin]
        inner: B,
        watch: Watching<W>,
    }
}

impl<B: Default, W: Watch> Default for WatchedBody<B, W> {
    fn default() -> Self {
        let watch = Watching(None);
        WatchedBody {
            inner: B::default(),
            watch,
        }
    }
}

impl<B, W> Body for WatchedBody<B, W>
where
    B: Body<Data = Bytes, Error = Status>,
    W: Watch,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let frame = {
            let _entered = this.watch.span().map(Span::enter);
            ready!(this.inner.poll_frame(cx))
        };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    this.watch.told(code(trailers).unwrap_or(Code::Unknown), trailers);
                }
            }
            Some(Err(status)) => this.watch.fail(status),
            None => this.watch.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Sees to it that every call ends, once.
struct Watching<W: Watch>(Option<W>);

impl<W: Watch> Watching<W> {
    fn span(&self) -> Option<&Span> {
        self.0.as_ref().and_then(W::span)
    }

    /// Ends with what headers or trailers say; their details are read of failures alone.
    fn told(&mut self, code: Code, headers: &HeaderMap) {
        let wanted = code != Code::Ok && self.0.is_some();
        match wanted.then(|| Status::from_header_map(headers)).flatten() {
            Some(status) => self.fail(&status),
            None => self.end(code),
        }
    }

    fn fail(&mut self, status: &Status) {
        if let Some(watch) = &mut self.0 {
            watch.failed(status);
        }
        self.end(status.code());
    }

    fn end(&mut self, code: Code) {
        if let Some(mut watch) = self.0.take() {
            watch.ended(code);
        }
    }
}

impl<W: Watch> Drop for Watching<W> {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers
        .get(Status::GRPC_STATUS)
        .map(|value| Code::from_bytes(value.as_bytes()))
}
