//! The span of a command, as a child of that of the call which asks for it.

use tracing::Span;
use tracing::field::{Empty, display};

use super::error::{Error, Reply};
use crate::config::Server;

/// A span for a command to a server, named as OpenTelemetry names them; none if the call is not traced. Keys, values and users are
/// nowhere in it.
pub(super) fn open(command: &'static str, endpoint: &'static str, label: &str, server: &Server, db: u8) -> Span {
    if Span::current().is_none() {
        return Span::none();
    }
    let span = tracing::info_span!(
        "redis",
        otel.name = command,
        otel.kind = "client",
        otel.status_code = Empty,
        db.system.name = "redis",
        db.operation.name = command,
        db.namespace = display(db),
        server.address = Empty,
        server.port = Empty,
        error.r#type = Empty,
        redis_gateway.endpoint = endpoint,
        redis_gateway.server = label,
    );
    match server {
        Server::Tcp { host, port } => span.record("server.address", host.as_str()).record("server.port", port),
        Server::Unix(path) => span.record("server.address", display(path.display())),
    };
    span
}

/// Marks the span that this runs in, if there is one, as that of a command which has failed.
pub(super) fn fail(error: &Error) {
    let kind = match error {
        Error::Reply(reply) => code(reply),
        Error::Unavailable => "unavailable",
        Error::Overloaded => "overloaded",
        Error::Timeout => "timeout",
        Error::Unknown => "unknown",
        Error::Protocol(_) => "protocol",
    };
    Span::current()
        .record("error.type", kind)
        .record("otel.status_code", "ERROR");
}

/// The code that Redis' answer began with.
fn code(reply: &Reply) -> &str {
    match reply {
        Reply::WrongType => "WRONGTYPE",
        Reply::OutOfMemory => "OOM",
        Reply::Denied(_) => "NOPERM",
        Reply::NotServing(code) => code,
        Reply::Elsewhere(to) if to.ask => "ASK",
        Reply::Elsewhere(_) => "MOVED",
        Reply::NoScript => "NOSCRIPT",
        Reply::Other(code) => code,
    }
}
