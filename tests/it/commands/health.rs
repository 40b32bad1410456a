//! `health`, as a probe of a container runs it.

use std::time::Duration;

use serde_json::json;
use tokio::{net::TcpListener, time::Instant};

use super::{begin, placed, run};
use crate::harness::{Gateway, RedisServer, at, config, eventually, signal, unused_port};

#[tokio::test]
async fn what_serves_and_what_does_not_is_told_by_the_exit_code() {
    let mut server = RedisServer::new().start().await;
    let mut settings = config();
    settings.endpoints.locks = Some(at(server.addr()));
    settings.readiness = vec![redis_gateway::config::EndpointName::Locks];
    let gateway = Gateway::start(settings).await;
    let address = format!("--address={}", gateway.grpc());
    let health = async |more: &str| run(&["health", &address, more], &[]).await;
    let locks = "--service redisgateway.v1.Locks";
    eventually("locks serve", async || health(locks).await.code == Some(0)).await;
    let ran = health("--json").await;
    assert_eq!(
        (ran.code, &ran.json()["services"]),
        (Some(0), &json!([{"service": "", "status": "SERVING"}]))
    );
    assert_eq!(health("--service readiness").await.code, Some(0));

    let ran = health("--service redisgateway.v1.Cache").await;
    assert!(ran.code == Some(1) && ran.out.contains("NOT_SERVING"), "{ran}");
    let ran = health("--service redisgateway.v1.None").await;
    assert!(ran.code == Some(1) && ran.out.contains("SERVICE_UNKNOWN"), "{ran}");
    let ran = health("--all").await;
    assert!(
        ran.code == Some(1) && ran.out.contains("redisgateway.v1.Locks") && ran.out.contains("(process)"),
        "{ran}"
    );

    server.kill();
    eventually("locks serve no more", async || health(locks).await.code == Some(1)).await;
    assert_eq!(health("--service readiness").await.code, Some(1));
    // The process does.
    assert_eq!(health("--json").await.code, Some(0));
    gateway.stop().await;
    let ran = health("--json").await;
    assert!(
        ran.code == Some(69) && ran.err.contains("no gateway answers at 127.0.0.1:"),
        "{ran}"
    );
}

#[tokio::test]
async fn a_gateway_on_a_socket_is_found_by_its_configuration() {
    let server = RedisServer::new().start().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("grpc.sock");
    let listen = format!("--grpc-listen=unix:{}", socket.display());
    let gateway = begin(
        &["serve", "--admin-listen=127.0.0.1:0", &listen],
        &placed(&["locks"], server.addr()),
    );
    let health = async || run(&["health", &listen], &[]).await.code;
    eventually("the gateway serves", async || health().await == Some(0)).await;
    let address = format!("--address=unix:{}", socket.display());
    assert_eq!(run(&["health", &address], &[]).await.code, Some(0));
    signal("TERM", gateway.id().unwrap());
    let ended = gateway.wait_with_output().await.unwrap();
    assert!(ended.status.success());
    assert_eq!(health().await, Some(69));
}

#[tokio::test]
async fn who_does_not_answer_is_waited_for_no_longer_than_was_said() {
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("--address={}", silent.local_addr().unwrap());
    let began = Instant::now();
    let ran = run(&["health --timeout 300ms", &address], &[]).await;
    assert!(
        ran.code == Some(69) && ran.err.contains("no answer within 300ms"),
        "{ran}"
    );
    assert!(began.elapsed() < Duration::from_secs(10));
    let nobody = format!("--address=127.0.0.1:{}", unused_port());
    assert_eq!(run(&["health", &nobody], &[]).await.code, Some(69));
    let ran = run(&["health --address nonsense"], &[]).await;
    assert!(ran.code == Some(64) && ran.err.contains("127.0.0.1:50051"), "{ran}");
}
