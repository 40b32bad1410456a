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
use crate::layer::{Caller, Stack};

/// Between two HTTP/2 pings to a client that is silent, so that one that is gone does not hold its streams for ever.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// For a client to begin with HTTP/2, which one does at once; pings to it come after that. Too low ends callers on slow networks, too
/// high keeps file descriptors for who never says a word, such as a port that is checked by a connection that is then forgotten.
const HANDSHAKE: Duration = Duration::from_secs(20);

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
    handshake: Duration,
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
            handshake: HANDSHAKE,
            draining,
            cut,
            open: TaskTracker::new(),
        }
    }

    /// Takes connections until the drain, and comes back when the last one has ended.
    pub async fn run(self, listener: Listener) {
        accept_until(&self.draining, "grpc", || self.accept(&listener)).await;
        if let Some(path) = listener.path() {
            // Before the successor can put its own socket there, which it does once nobody listens on this one.
            drop(tokio::fs::remove_file(path).await);
        }
        // Nobody is to wait in its queue.
        drop(listener);
        self.open.close();
        self.open.wait().await;
    }

    async fn accept(&self, listener: &Listener) -> io::Result<()> {
        match listener {
            Listener::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                // Fails for one that is gone again.
                drop(stream.set_nodelay(true));
                self.open
                    .spawn(self.connection(stream, Caller::At(from), self.age.map(around)));
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let caller = stream.peer_cred().map_or(Caller::Anonymous, Caller::Process);
                // There is no other gateway behind a socket that its caller could find.
                self.open.spawn(self.connection(stream, caller, None));
            }
        }
        Ok(())
    }

    /// Serves one connection. At its age, or at the drain, its client is told to make another one; then its streams end and say
    /// why, and calls in flight come to their end, for which an aged one has its grace, and all have until `cut`.
    fn connection<S>(
        &self,
        stream: S,
        caller: Caller,
        age: Option<Duration>,
    ) -> impl Future<Output = ()> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (draining, cut) = (self.draining.clone(), self.cut.clone());
        let (grace, handshake) = (self.grace, self.handshake);
        let ending = draining.child_token();
        let service = self.stack.of(caller, ending.clone()).layer(self.routes.clone());
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
                () = silent(&begun, handshake) => return,
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

/// Has `accept` take one connection of `port` after the other until `stop`. What goes wrong is logged when it begins.
pub async fn accept_until<F>(stop: &CancellationToken, port: &str, accept: impl Fn() -> F)
where
    F: Future<Output = io::Result<()>>,
{
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accept() => accepted,
        };
        match accepted {
            Ok(()) => failing = false,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(port, %error, "cannot accept connections");
                }
                sleep(RETRY).await;
            }
        }
    }
}

/// Comes back if nothing has begun after `limit`.
async fn silent(begun: &AtomicBool, limit: Duration) {
    sleep(limit).await;
    if begun.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

/// Within a tenth of `age`, so that connections that began together do not end together.
fn around(age: Duration) -> Duration {
    age.mul_f64(rand::rng().random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::config::{Limits, Listen, LogFormat, Telemetry};
    use crate::layer;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn server() -> Server {
        let limits = Limits {
            max_calls: 1,
            max_streams: 1,
            max_request_bytes: 1,
            max_value_bytes: 1,
            max_answer_bytes: 1,
        };
        let telemetry = Telemetry {
            log_format: LogFormat::Text,
            log_level: "info".to_owned(),
            otlp_endpoint: None,
            sample_ratio: 0.0,
        };
        let grpc = config::Grpc {
            listen: Listen::Unix(PathBuf::new()),
            socket_mode: 0o660,
            max_connection_age: None,
            max_connection_age_grace: PATIENCE,
        };
        let (draining, cut) = (CancellationToken::new(), CancellationToken::new());
        let stack = layer::stack(&limits, &telemetry, |_| PATIENCE, draining.clone(), &Registry::new());
        Server::new(Routes::default(), stack, &grpc, draining, cut)
    }

    #[tokio::test]
    async fn who_never_begins_is_not_kept() {
        let mut server = server();
        server.handshake = Duration::from_millis(200);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let running = tokio::spawn(server.run(Listener::Tcp(listener)));
        // Of one that begins, no more is asked by then.
        let mut begun = TcpStream::connect(address).await.unwrap();
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &settings].concat();
        begun.write_all(&hello).await.unwrap();
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut heard = Vec::new();
        let end = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut heard)).await;
        end.expect("an end").unwrap();
        let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        begun.write_all(&ping).await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(&ping[9..]) {
            let read = tokio::time::timeout(PATIENCE, begun.read_buf(&mut heard)).await;
            assert!(
                read.expect("an answer").unwrap() > 0,
                "the connection has ended: {heard:?}"
            );
        }
        running.abort();
    }

    #[tokio::test]
    async fn a_socket_that_the_successor_has_put_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grpc.sock");
        let server = server();
        let (draining, cut) = (server.draining.clone(), server.cut.clone());
        let listener = UnixListener::bind(&path).unwrap();
        let running = tokio::spawn(server.run(Listener::Unix(listener, path.clone())));
        let mut open = tokio::net::UnixStream::connect(&path).await.unwrap();
        open.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        // Its settings: the connection is served.
        open.read_exact(&mut [0; 9]).await.unwrap();
        draining.cancel();
        tokio::time::timeout(PATIENCE, async {
            while path.exists() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the socket is gone while calls go on");
        let _successor = UnixListener::bind(&path).unwrap();
        cut.cancel();
        running.await.unwrap();
        assert!(path.exists());
    }
}
