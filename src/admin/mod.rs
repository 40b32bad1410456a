//! What operators ask over HTTP: how it goes, metrics, and whether the process lives and is ready.

mod process;
mod status;

use std::future::ready;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::{Registry, TextEncoder};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use status::{Stand, Watched};

use crate::connections::accept_until;

/// For a request to be whole, and for the next one to come on a connection that is kept; and at the connection's end, for its answer
/// to be taken. Too low, and Prometheus connects anew for each scrape; too high keeps file descriptors for who says nothing.
const REQUEST: Duration = Duration::from_secs(90);

/// After which a connection takes no more requests, so that one whose answer nobody takes is not kept for ever.
const AGE: Duration = Duration::from_hours(1);

/// Serves the status page, `/metrics`, `/livez` and `/readyz` until `stop`, and then what has been asked for by then. Liveness
/// depends on nothing. The page counts from this call on, not from the first poll.
pub fn serve(listener: TcpListener, watched: Watched, stop: CancellationToken) -> impl Future<Output = ()> + Send {
    accept(listener, routes(Arc::new(watched)), (REQUEST, AGE), stop)
}

async fn accept(listener: TcpListener, routes: Router, limits: (Duration, Duration), stop: CancellationToken) {
    let service = TowerToHyperService::new(routes);
    let open = TaskTracker::new();
    let accept = || async {
        let (stream, _) = listener.accept().await?;
        open.spawn(connection(stream, service.clone(), limits, stop.clone()));
        Ok(())
    };
    accept_until(&stop, "admin", accept).await;
    // Nobody is to wait in its queue.
    drop(listener);
    open.close();
    open.wait().await;
}

/// Serves one connection until its client has enough, its age, or `stop`; then the request that has come by then.
async fn connection(
    stream: TcpStream,
    service: TowerToHyperService<Router>,
    (request, age): (Duration, Duration),
    stop: CancellationToken,
) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(request);
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // Its end is its client's affair, however it came.
        _ = served.as_mut() => return,
        () = stop.cancelled() => {}
        () = sleep(age) => {}
    }
    served.as_mut().graceful_shutdown();
    drop(timeout(request, served).await);
}

fn routes(watched: Arc<Watched>) -> Router {
    let (registry, status) = (watched.registry.clone(), status::routes(watched.clone()));
    Router::new()
        .merge(status)
        .route("/metrics", get(move || ready(metrics(&registry))))
        .route("/livez", get("live\n"))
        .route("/readyz", get(move || ready(readiness(&(watched.unready)()))))
        .fallback((
            StatusCode::NOT_FOUND,
            "no such path; there are / (status), /status.json, /metrics, /livez and /readyz\n",
        ))
}

fn metrics(registry: &Registry) -> Response {
    let mut families = registry.gather();
    families.extend(process::families());
    match TextEncoder::new().encode_to_string(&families) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, "cannot encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn readiness(unready: &[&str]) -> (StatusCode, String) {
    if unready.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        let text = format!("not ready: {}\n", unready.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use axum::routing::MethodRouter;
    use prometheus::IntCounter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinHandle;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn operators_get_what_they_ask_for() {
        let registry = Registry::new();
        let counter = IntCounter::new("things_total", "Things.").unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        counter.inc();
        let unready = Arc::new(Mutex::new(vec!["cache", "build_logs"]));
        let stop = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let names = unready.clone();
        let server = tokio::spawn(serve(
            listener,
            Watched {
                registry,
                unready: Box::new(move || names.lock().unwrap().clone()),
                stands: Vec::new(),
            },
            stop.clone(),
        ));

        let metrics = get(address, "/metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
        assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
        for line in [
            "\nthings_total 1\n".to_owned(),
            format!(
                "\nredis_gateway_build_info{{version=\"{}\"}} 1\n",
                env!("CARGO_PKG_VERSION")
            ),
            "\nprocess_resident_memory_bytes ".to_owned(),
        ] {
            assert!(metrics.contains(&line), "{line} in {metrics}");
        }

        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let readyz = get(address, "/readyz").await;
        assert!(readyz.starts_with("HTTP/1.1 503") && readyz.ends_with("not ready: cache, build_logs\n"));
        unready.lock().unwrap().clear();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let nothing = get(address, "/nothing").await;
        assert!(
            nothing.starts_with("HTTP/1.1 404") && nothing.contains("/metrics"),
            "{nothing}"
        );

        stop.cancel();
        server.await.unwrap();
    }

    /// Serves one route, with 200 ms for a request.
    async fn start(route: MethodRouter, age: Duration) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let limits = (Duration::from_millis(200), age);
        let server = tokio::spawn(accept(listener, Router::new().route("/", route), limits, stop.clone()));
        (address, stop, server)
    }

    #[tokio::test]
    async fn who_never_ends_a_request_is_not_kept() {
        let (address, stop, server) = start(axum::routing::get("here\n"), Duration::from_hours(1)).await;
        for begun in [
            "",
            "GET / HTTP/1.1\r\nhost: gateway\r\n",
            "GET / HTTP/1.1\r\nhost: gateway\r\n\r\n",
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(begun.as_bytes()).await.unwrap();
            let mut heard = String::new();
            let end = tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut heard)).await;
            end.unwrap_or_else(|_| panic!("no end of {begun:?}")).unwrap();
            assert_eq!(heard.ends_with("here\n"), begun.ends_with("\r\n\r\n"), "{heard}");
        }
        // One that is in the middle of nothing holds up no end.
        let _silent = TcpStream::connect(address).await.unwrap();
        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn who_does_not_take_its_answer_is_not_kept() {
        // More than any buffer on the way holds.
        let much = vec![b'.'; 64 << 20];
        let route = axum::routing::get(move || ready(much));
        let (address, stop, server) = start(route, Duration::from_millis(200)).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n")
            .await
            .unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        // Its end is seen by writing: reading would take what is there.
        let end = async {
            while stream.write_all(b"x").await.is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(20), end).await.expect("an end");
        stop.cancel();
        server.await.unwrap();
    }
}
