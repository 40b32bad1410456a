//! What operators ask over HTTP: how it goes, metrics, and whether the process lives and is ready.

mod process;
mod status;

use std::future::ready;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;

pub use status::{Stand, Watched};

/// Serves the status page, `/metrics`, `/livez` and `/readyz` until `shutdown`, and then what has been asked for by then. Liveness
/// depends on nothing.
pub async fn serve(
    listener: TcpListener,
    watched: Watched,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, routes(Arc::new(watched)))
        .with_graceful_shutdown(shutdown)
        .await
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
    use std::sync::Mutex;

    use prometheus::IntCounter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
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
        let (stop, stopped) = oneshot::channel::<()>();
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
            async move {
                let _ = stopped.await;
            },
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

        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    }
}
