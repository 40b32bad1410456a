//! What runs around every RPC, once, outside of all patterns.
//!
//! Three of the layers' futures and bodies are shared: `watch` follows a call to its end, `cut` ends it from outside, `refuse`
//! answers in its handler's place. `batches` is no layer: it is what handlers of streams of batches have in common.

mod admission;
mod batches;
mod call;
mod cut;
mod deadline;
mod drain;
mod identity;
mod message;
mod method;
mod metrics;
mod refuse;
#[cfg(test)]
mod testing;
mod trace;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use tower::Layer;

use self::admission::{Admission, Load};
use self::deadline::{Deadlines, Timeouts};
use self::drain::Drain;
use self::identity::Identity;
use self::message::Messages;
use self::method::OTHERS;
use self::metrics::{Counters, Metrics};
use self::trace::{Sampling, Trace};
use crate::config;

pub use batches::{Batch, answers};
pub use call::{Call, Caller, Degraded, Draining};
pub use method::{METHODS, Method};

/// The layers, ready to be put around the routes by [`crate::connections::Server`].
#[derive(Clone)]
pub struct Stack {
    counters: Arc<Counters>,
    sampling: Sampling,
    load: Arc<Load>,
    drain: Arc<CancellationToken>,
    caller: Caller,
    timeouts: Arc<Timeouts>,
    most: usize,
}

impl Stack {
    /// The same layers for the calls of one connection, whose streams end when `drain` is cancelled.
    #[must_use]
    pub fn of(&self, caller: Caller, drain: CancellationToken) -> Self {
        Stack {
            drain: Arc::new(drain),
            caller,
            ..self.clone()
        }
    }
}

/// Makes the layers. `timeout` says what a unary call of a pattern gets that brings no deadline; `drain`, once cancelled, ends
/// every stream.
///
/// # Panics
/// If `registry` has the metrics of another stack.
pub fn stack(
    limits: &config::Limits,
    telemetry: &config::Telemetry,
    timeout: impl Fn(&'static str) -> Duration,
    drain: CancellationToken,
    registry: &Registry,
) -> Stack {
    let patterns = METHODS.iter().chain(OTHERS).map(|method| method.pattern);
    Stack {
        counters: Arc::new(Counters::new(registry)),
        sampling: Sampling::of(telemetry),
        load: Arc::new(Load::new(limits.clone())),
        drain: Arc::new(drain),
        caller: Caller::Anonymous,
        timeouts: Arc::new(patterns.map(|pattern| (pattern, timeout(pattern))).collect()),
        most: limits.max_request_bytes,
    }
}

/// The routes with all layers around them.
pub type Layered<S> = Metrics<Trace<Identity<Admission<Drain<Deadlines<Messages<S>>>>>>>;

impl<S> Layer<S> for Stack {
    type Service = Layered<S>;

    fn layer(&self, routes: S) -> Layered<S> {
        // Looks the method up for all others, and counts what they refuse too.
        Metrics::new(
            // Nothing below is outside of the call's span.
            Trace::new(
                // Before anything is decided by who calls.
                Identity::new(
                    // Before the call costs anything.
                    Admission::new(
                        // A stream that ends here gives its place back.
                        Drain::new(
                            // Ends the handler's work.
                            Deadlines::new(
                                // Next to the handler: what is compressed is due by the deadline too.
                                Messages::new(routes, self.most),
                                self.timeouts.clone(),
                            ),
                            self.drain.clone(),
                        ),
                        self.load.clone(),
                    ),
                    self.caller,
                ),
                self.sampling,
            ),
            self.counters.clone(),
        )
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::Code;
    use tonic::transport::{Endpoint, Server};
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

    use super::testing::{Fixture, reason};

    #[tokio::test]
    async fn the_stack_stands_between_a_client_and_its_service() {
        let fixture = Fixture::new();
        let (_reporter, health) = tonic_health::server::health_reporter();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::builder().layer(fixture.stack.clone()).add_service(health);
        let server = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

        let channel = Endpoint::try_from(address).unwrap().connect().await.unwrap();
        let mut client = HealthClient::new(channel);
        let everything = HealthCheckRequest::default();
        let response = client.check(everything.clone()).await.unwrap().into_inner();
        assert_eq!(response.status(), ServingStatus::Serving);
        let nobody = HealthCheckRequest {
            service: "nobody".to_owned(),
        };
        assert_eq!(client.check(nobody).await.unwrap_err().code(), Code::NotFound);

        let mut watch = client.watch(everything).await.unwrap().into_inner();
        assert!(watch.message().await.unwrap().is_some());
        fixture.drain.cancel();
        let status = watch.message().await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unavailable, "DRAINING")
        );

        let counted = |method, code| {
            let labels = format!("{{code=\"{code}\",method=\"{method}\",service=\"grpc.health.v1\"}}");
            fixture.sample(&format!("redis_gateway_rpc_requests_total{labels}"))
        };
        assert_eq!(counted("Check", "OK"), Some(1.0));
        assert_eq!(counted("Check", "NOT_FOUND"), Some(1.0));
        assert_eq!(counted("Watch", "UNAVAILABLE"), Some(1.0));
        server.abort();
    }
}
