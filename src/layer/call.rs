//! What the layers know about a call, handed to its handler in the request's extensions, and what the handler tells them.

use std::fmt;
use std::net::SocketAddr;

use tokio::net::unix::UCred;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use super::Method;
use crate::deadline::Deadline;
use crate::proto::DegradedReason;

/// Who calls, as its connection tells: neither certificates nor tokens are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// It is not known.
    Anonymous,
    /// From this address, which may be that of a proxy.
    At(SocketAddr),
    /// A process on this machine, by a Unix socket.
    Process(UCred),
}

/// For log lines.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Anonymous => f.write_str("unknown"),
            Caller::At(addr) => addr.fmt(f),
            // Another container's processes have no number here.
            Caller::Process(cred) => match cred.pid() {
                Some(pid) if pid > 0 => write!(f, "uid {}, pid {pid}", cred.uid()),
                _ => write!(f, "uid {}", cred.uid()),
            },
        }
    }
}

/// A call on its way.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// The method called.
    pub method: &'static Method,
    /// By when the gateway answers: a margin before the caller's own deadline. Always there for a unary method of the
    /// table; None for a stream without one.
    pub deadline: Option<Deadline>,
    /// Who calls.
    pub caller: Caller,
}

impl Call {
    /// The call that `request` belongs to.
    ///
    /// # Panics
    /// If the request did not come through the layers.
    pub fn of<T>(request: &Request<T>) -> Call {
        // The outermost layer puts it into every request, and services are reached through the layers alone.
        *request
            .extensions()
            .get::<Call>()
            .expect("a request that came through the layers")
    }

    /// The deadline of a unary call.
    ///
    /// # Panics
    /// If the method streams.
    pub fn due(&self) -> Deadline {
        // A layer gives every unary call one; see the field.
        self.deadline.expect("the deadline of a unary call")
    }

    /// The call as the layers see it.
    pub(super) fn in_request<A>(request: &http::Request<A>) -> &Call {
        // The outermost layer has put it there.
        request.extensions().get().expect("the outermost layer's call")
    }

    /// The call, for the layer that knows more about it.
    pub(super) fn in_request_mut<A>(request: &mut http::Request<A>) -> &mut Call {
        // The outermost layer has put it there.
        request.extensions_mut().get_mut().expect("the outermost layer's call")
    }
}

/// When the gateway drains, for the handler of a method whose callers stream: it ends its stream itself, once what was sent to
/// it is answered.
#[derive(Debug, Clone)]
pub struct Draining(pub(super) CancellationToken);

impl Draining {
    /// The drain, as the stream that `request` opens has to know of it.
    ///
    /// # Panics
    /// If the method's callers do not stream, or the request did not come through the layers.
    pub fn of<T>(request: &Request<T>) -> Draining {
        // A layer puts it into each such request; see `drain`.
        request
            .extensions()
            .get::<Draining>()
            .expect("a client's stream that came through the layers")
            .clone()
    }

    /// Ready when the drain has begun.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }
}

/// Put into a response's extensions by a handler whose answer is OK although Redis failed: it is counted by its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Degraded(pub DegradedReason);
