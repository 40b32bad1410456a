//! Messages as they are on the wire: compressed for callers who compress theirs, and refused in one form where they are too large.
//!
//! Most client libraries say that they read gzip, on loopback too, and compressing costs more than it saves on all but slow
//! networks. So who wants it says so by compressing its requests. Done here and not by tonic, which would compress for all who
//! could read it, whatever the size, and in one piece on a thread that others need.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Status};
use tower::Service;

use super::{Call, Method};
use crate::status;

/// Messages below this are sent as they are: they fit into a few packets.
const COMPRESS_FROM: usize = 16 << 10;

/// What is compressed in one go, in about a quarter of a millisecond; then others get their turn.
const AT_ONCE: usize = 32 << 10;

/// What stands before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

const ENCODING: &str = "grpc-encoding";
const ACCEPTED: &str = "grpc-accept-encoding";

/// Compresses answers, and says what was too large.
#[derive(Clone)]
pub struct Messages<S> {
    inner: S,
    /// The most bytes of a request.
    most: usize,
}

impl<S> Messages<S> {
    pub(super) fn new(inner: S, most: usize) -> Self {
        Messages { inner, most }
    }
}

impl<S, A, B> Service<Request<A>> for Messages<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Default,
{
    type Response = Response<MessageBody<B>>;
    type Error = S::Error;
    type Future = MessageFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        MessageFuture {
            method: Call::in_request(&request).method,
            most: self.most,
            compress: wants_gzip(request.headers()),
            inner: self.inner.call(request),
        }
    }
}

/// Whether a caller compresses, and reads what is compressed.
fn wants_gzip(headers: &HeaderMap) -> bool {
    let accepted = |value: &HeaderValue| {
        let value = value.to_str().unwrap_or_default();
        value.split(',').any(|one| one.trim() == "gzip")
    };
    headers.get(ENCODING).is_some_and(|value| value == "gzip") && headers.get(ACCEPTED).is_some_and(accepted)
}

pin_project! {
    /// A call whose answer may be compressed.
    pub struct MessageFuture<F> {
        #[pin]
        inner: F,
        method: &'static Method,
        most: usize,
        compress: bool,
    }
}

impl<F, B, E> Future for MessageFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Default,
{
    type Output = Result<Response<MessageBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        if is_too_large(response.headers()) {
            return Poll::Ready(Ok(status::request_too_large(*this.most, this.method).into_http()));
        }
        let compress = *this.compress;
        if compress {
            response
                .headers_mut()
                .insert(ENCODING, HeaderValue::from_static("gzip"));
        }
        let limit = Some((*this.most, *this.method));
        Poll::Ready(Ok(response.map(|inner| MessageBody {
            inner,
            compress,
            limit,
            packing: None,
        })))
    }
}

/// Whether tonic refuses a request for its length. Handlers never answer the first code, nor the second without details.
fn is_too_large(headers: &HeaderMap) -> bool {
    let Some(code) = headers.get(Status::GRPC_STATUS) else {
        return false;
    };
    match Code::from_bytes(code.as_bytes()) {
        Code::OutOfRange => true,
        // One that was compressed, and is not unpacked further.
        Code::ResourceExhausted => !headers.contains_key("grpc-status-details-bin"),
        _ => false,
    }
}

/// The trailers of answers to a stream of which a request was too large.
fn refusal((most, method): (usize, &'static Method)) -> Option<HeaderMap> {
    let mut trailers = HeaderMap::new();
    status::request_too_large(most, method).add_header(&mut trailers).ok()?;
    Some(trailers)
}

pin_project! {
    /// An answer, or answers, whose large messages may be compressed.
    #[derive(Default)]
    pub struct MessageBody<B> {
        #[pin]
        inner: B,
        compress: bool,
        // The most bytes of a request, and of which method: on a stream, the one that is too large may be a later one.
        limit: Option<(usize, &'static Method)>,
        // Apart: most answers have none.
        packing: Option<Box<Packing>>,
    }
}

impl<B> Body for MessageBody<B>
where
    B: Body<Data = Bytes, Error = Status>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        if this.packing.is_none() {
            match ready!(this.inner.poll_frame(cx)) {
                Some(Ok(frame)) if *this.compress && frame.data_ref().is_some_and(is_large) => {
                    *this.packing = frame.into_data().ok().map(Packing::new);
                }
                Some(Ok(frame)) if frame.trailers_ref().is_some_and(is_too_large) => {
                    return Poll::Ready(Some(Ok(this.limit.and_then(refusal).map_or(frame, Frame::trailers))));
                }
                other => return Poll::Ready(other),
            }
        }
        let Some(packing) = this.packing else {
            return Poll::Ready(None);
        };
        let Some(message) = packing.go_on() else {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        *this.packing = None;
        Poll::Ready(Some(Ok(Frame::data(message))))
    }

    fn is_end_stream(&self) -> bool {
        self.packing.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.compress {
            SizeHint::default()
        } else {
            self.inner.size_hint()
        }
    }
}

/// Whether a frame is one whole message that is worth compressing.
fn is_large(frame: &Bytes) -> bool {
    let Some((prefix, message)) = frame.split_first_chunk::<PREFIX>() else {
        return false;
    };
    let [0, length @ ..] = *prefix else { return false };
    message.len() >= COMPRESS_FROM && u32::from_be_bytes(length) as usize == message.len()
}

/// A message that is being compressed.
struct Packing {
    plain: Bytes,
    done: usize,
    encoder: GzEncoder<Vec<u8>>,
}

impl Packing {
    fn new(plain: Bytes) -> Box<Self> {
        Box::new(Packing {
            done: PREFIX,
            encoder: GzEncoder::new(vec![0; PREFIX], Compression::fast()),
            plain,
        })
    }

    /// Compresses a piece. The message, after the last one.
    fn go_on(&mut self) -> Option<Bytes> {
        let end = self.plain.len().min(self.done + AT_ONCE);
        let written = self.encoder.write_all(&self.plain[self.done..end]);
        self.done = end;
        if written.is_ok() && end < self.plain.len() {
            return None;
        }
        let finished = written.and_then(|()| self.encoder.try_finish());
        let mut packed = std::mem::take(self.encoder.get_mut());
        // What has no air in it goes as it is.
        let shorter = finished.is_ok() && packed.len() < self.plain.len();
        match u32::try_from(packed.len().saturating_sub(PREFIX)) {
            Ok(length) if shorter => {
                packed[0] = 1;
                packed[1..PREFIX].copy_from_slice(&length.to_be_bytes());
                Some(packed.into())
            }
            _ => Some(std::mem::take(&mut self.plain)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use http_body_util::BodyExt as _;
    use tower::{Layer as _, ServiceExt as _, service_fn};

    use super::super::testing::{Answer, Fixture, GET, TAIL, ok, open, reason, request, seen};
    use super::*;

    fn framed(message: &[u8]) -> Bytes {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0][..], &length, message].concat().into()
    }

    /// What is on the wire of messages that are answered to who sends these headers, and the header that tells of it.
    async fn sent(messages: &[Bytes], headers: &[(&'static str, &'static str)]) -> (Vec<Bytes>, Option<HeaderValue>) {
        let mut request = request(TAIL);
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        let frames: Vec<Frame<Bytes>> = messages.iter().cloned().map(Frame::data).chain([ok()]).collect();
        let handler = service_fn(move |_: Request<_>| {
            let frames = frames
                .iter()
                .map(|frame| match (frame.data_ref(), frame.trailers_ref()) {
                    (Some(data), _) => Frame::data(data.clone()),
                    (None, trailers) => Frame::trailers(trailers.unwrap().clone()),
                })
                .collect();
            async { open(frames) }
        });
        let response = Fixture::new().stack.layer(handler).oneshot(request).await.unwrap();
        let encoding = response.headers().get(ENCODING).cloned();
        let mut body = std::pin::pin!(response.into_body());
        let mut sent = Vec::new();
        while let Ok(data) = body.frame().await.unwrap().unwrap().into_data() {
            sent.push(data);
        }
        (sent, encoding)
    }

    const BOTH: [(&str, &str); 2] = [(ENCODING, "gzip"), (ACCEPTED, "identity, deflate, gzip")];

    #[tokio::test]
    async fn large_messages_are_compressed_for_who_compresses() {
        let text = "a line that comes again and again\n".repeat(40_000);
        let (small, large) = (framed(&[b'x'; COMPRESS_FROM - 1]), framed(text.as_bytes()));
        let noise: Vec<u8> = (0..COMPRESS_FROM).map(|_| rand::random()).collect();
        let messages = [small, large.clone(), framed(&noise), framed(&[b'x'; COMPRESS_FROM])];
        let (sent_to, encoding) = sent(&messages, &BOTH).await;
        assert_eq!(encoding.unwrap(), "gzip");
        assert_eq!([&sent_to[0], &sent_to[2]], [&messages[0], &messages[2]]);
        for (packed, plain) in [(&sent_to[1], &messages[1]), (&sent_to[3], &messages[3])] {
            assert!(packed.len() < plain.len() / 20);
            assert_eq!(packed[0], 1);
            assert_eq!(
                packed[1..PREFIX],
                u32::try_from(packed.len() - PREFIX).unwrap().to_be_bytes()
            );
            let mut unpacked = Vec::new();
            GzDecoder::new(&packed[PREFIX..]).read_to_end(&mut unpacked).unwrap();
            assert!(unpacked == plain[PREFIX..]);
        }
    }

    #[tokio::test]
    async fn everyone_else_gets_them_as_they_are() {
        let messages = [framed(&vec![b'x'; 1 << 20])];
        for headers in [
            &[][..],
            &BOTH[1..],
            &BOTH[..1],
            &[(ENCODING, "identity"), BOTH[1]],
            &[BOTH[0], (ACCEPTED, "identity, deflate")],
        ] {
            let (sent, encoding) = sent(&messages, headers).await;
            assert_eq!((encoding, sent == messages), (None, true), "{headers:?}");
        }
    }

    #[tokio::test]
    async fn requests_that_are_too_large_are_refused_in_one_form() {
        for told in [Status::out_of_range("tonic's"), Status::resource_exhausted("tonic's")] {
            let handler = service_fn(move |_: Request<_>| {
                let answer: Answer = Ok(told.clone().into_http());
                async { answer }
            });
            let response = Fixture::new().stack.layer(handler).oneshot(request(GET)).await.unwrap();
            let status = seen(response).await.1;
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::InvalidArgument, "REQUEST_TOO_LARGE")
            );
        }
        // What handlers say themselves stays.
        let handler = service_fn(|_: Request<_>| async {
            let method = super::super::METHODS.iter().find(|method| method.path == GET).unwrap();
            Ok(status::overloaded(method).into_http()) as Answer
        });
        let response = Fixture::new().stack.layer(handler).oneshot(request(GET)).await.unwrap();
        assert_eq!(reason(&seen(response).await.1), "OVERLOADED");
    }
}
