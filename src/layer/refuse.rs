//! Answers a call instead of its handler.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use pin_project_lite::pin_project;
use tonic::Status;

pin_project! {
    /// A call that was let through, or not.
    #[project = Projected]
    pub enum Refusable<F> {
        /// Its handler answers.
        Passed {
            #[pin]
            inner: F,
        },
        /// It never reaches its handler. None once answered.
        Refused {
            status: Option<Status>,
        },
    }
}

impl<F> Refusable<F> {
    pub(super) fn passed(inner: F) -> Self {
        Refusable::Passed { inner }
    }

    pub(super) fn refused(status: Status) -> Self {
        Refusable::Refused { status: Some(status) }
    }
}

impl<F, B, E> Future for Refusable<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Default,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projected::Passed { inner } => inner.poll(cx),
            Projected::Refused { status } => match status.take() {
                Some(status) => Poll::Ready(Ok(status.into_http())),
                None => Poll::Pending,
            },
        }
    }
}
