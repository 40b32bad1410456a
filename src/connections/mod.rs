//! Connections of callers, each from its accept to its end: by its age, by the drain, or by its caller.

mod late;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::OptionFuture;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rand::Rng as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tower::Layer as _;

use self::late::Looked;
use crate::config;
use crate::layer::Stack;

/// Between two HTTP/2 pings to a client that is silent, so that one that is gone does not hold its streams for ever.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Before another try when no connection can be accepted, such as for want of file descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// Where callers connect.
pub enum Listener {
    /// Over TCP.
    Tcp(TcpListener),
    /// By a Unix socket.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// The address, unless it is a Unix socket.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }

    /// The path of the Unix socket, if it is one.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Listener::Tcp(_) => None,
            Listener::Unix(_, path) => Some(path.clone()),
        }
    }
}

/// What serves the calls of all connections.
pub struct Server {
    routes: Routes,
    stack: Stack,
    age: Option<Duration>,
    grace: Duration,
    draining: CancellationToken,
    cut: CancellationToken,
    open: TaskTracker,
}

impl Server {
    /// Serves `routes` behind the layers until `draining`; what is still open at `cut` ends at once, with the calls on it.
    pub fn new(
        routes: Routes,
        stack: Stack,
        grpc: &config::Grpc,
        draining: CancellationToken,
        cut: CancellationToken,
    ) -> Self {
        Server {
            routes: routes.prepare(),
            stack,
            age: grpc.max_connection_age,
            grace: grpc.max_connection_age_grace,
            draining,
            cut,
            open: TaskTracker::new(),
        }
    }

    /// Takes connections until the drain, and comes back when the last one has ended.
    pub async fn run(self, listener: Listener) {
        loop {
            let accepted = tokio::select! {
                () = self.draining.cancelled() => break,
                accepted = self.accept(&listener) => accepted,
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(RETRY).await;
            }
        }
        // Nobody is to wait in its queue.
        drop(listener);
        self.open.close();
        self.open.wait().await;
    }

    async fn accept(&self, listener: &Listener) -> io::Result<()> {
        match listener {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Fails for one that is gone again.
                drop(stream.set_nodelay(true));
                self.open.spawn(self.connection(stream, self.age.map(around)));
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                // There is no other gateway behind a socket that its caller could find.
                self.open.spawn(self.connection(stream, None));
            }
        }
        Ok(())
    }

    /// Serves one connection. At its age, or at the drain, its client is told to make another one; then its streams end and say
    /// why, and calls in flight come to their end, for which an aged one has its grace, and all have until `cut`.
    fn connection<S>(&self, stream: S, age: Option<Duration>) -> impl Future<Output = ()> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (draining, cut) = (self.draining.clone(), self.cut.clone());
        let grace = self.grace;
        let ending = draining.child_token();
        let service = self.stack.until(ending.clone()).layer(self.routes.clone());
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            // The layers say how many are too many, of all connections together.
            .max_concurrent_streams(None);
        let begun = Arc::new(AtomicBool::new(false));
        let looked = TokioIo::new(Looked::at(stream, begun.clone()));
        let served = builder.serve_connection(looked, TowerToHyperService::new(service));
        async move {
            let mut served = pin!(served);
            let aged = tokio::select! {
                // Its end is its caller's affair, however it came.
                _ = served.as_mut() => return,
                () = draining.cancelled() => false,
                Some(()) = OptionFuture::from(age.map(sleep)) => true,
            };
            // Who has not even begun has nothing to be told, and would be waited for.
            if !begun.load(Ordering::Relaxed) {
                return;
            }
            served.as_mut().graceful_shutdown();
            ending.cancel();
            tokio::select! {
                _ = served => {}
                () = sleep(grace), if aged => {}
                () = cut.cancelled() => {}
            }
        }
    }
}

/// Within a tenth of `age`, so that connections that began together do not end together.
fn around(age: Duration) -> Duration {
    age.mul_f64(rand::rng().random_range(0.9..1.1))
}
