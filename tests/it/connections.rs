//! Connections that end by their age: each at its own time, with its streams told why, and nothing cut that was going to end.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use redis_gateway::proto::{
    AcquireRequest, AcquireResponse, TailRequest, build_logs_client::BuildLogsClient, locks_client::LocksClient,
};
use tokio::{
    task::JoinSet,
    time::Instant,
};
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::{
    cli,
    harness::{Gateway, MachineLag, RedisServer, at, config, eventually, heavy, patience, reason, within},
};

/// A gateway whose connections end at an age.
async fn gateway(server: &RedisServer, age: Duration, grace: Duration) -> Gateway {
    let mut config = config();
    config.endpoints.build_logs = Some(at(server.addr()));
    config.endpoints.user_events = Some(at(server.addr()));
    config.grpc.max_connection_age = Some(age);
    config.grpc.max_connection_age_grace = grace;
    let gateway = Gateway::start(config).await;
    eventually("the gateway is connected", async || {
        let mut locks = LocksClient::new(gateway.channel().await);
        acquire(&mut locks, "first", Duration::ZERO).await.is_ok()
    })
    .await;
    gateway
}

async fn acquire(locks: &mut LocksClient<Channel>, name: &str, wait: Duration) -> Result<AcquireResponse, Status> {
    let request = AcquireRequest {
        name: name.into(),
        ttl_ms: 1_000,
        wait_ms: i64::try_from(wait.as_millis()).unwrap(),
        ..AcquireRequest::default()
    };
    let answer = locks.acquire(within(wait + patience(), request)).await;
    answer.map(tonic::Response::into_inner)
}

/// What a stream ends with.
async fn end<T>(mut stream: Streaming<T>) -> Status {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a stream that ends without a word"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn connections_end_around_their_age_each_at_its_own_time() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let server = RedisServer::new().start().await;
    let age = Duration::from_secs(3);
    let gateway = gateway(&server, age, Duration::from_hours(1)).await;
    let mut streams = JoinSet::new();
    for _ in 0..30 {
        let connected = Instant::now();
        let mut logs = gateway.build_logs().await;
        let request = TailRequest {
            build_id: "b".into(),
            ..TailRequest::default()
        };
        let stream = logs.tail(request).await.unwrap().into_inner();
        streams.spawn(async move {
            let status = end(stream).await;
            (status, connected.elapsed())
        });
    }
    let mut ages = Vec::new();
    for (status, age) in streams.join_all().await {
        assert_eq!(
            (status.code(), reason(&status).as_deref()),
            (Code::Unavailable, Some("DRAINING"))
        );
        ages.push(age);
    }
    ages.sort();
    let (first, last) = (ages[0], ages[29]);
    println!("ended at {first:?} to {last:?}");
    assert!(first >= age.mul_f64(0.9), "{first:?}");
    lag.assert_within(
        "the oldest connection",
        last,
        age.mul_f64(1.1) + Duration::from_millis(200),
    );
    assert!(last - first > age.mul_f64(0.05), "all at once: {ages:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_call_in_flight_outlives_its_connections_age_but_not_the_grace() {
    let server = RedisServer::new().start().await;
    for (grace, lives) in [(Duration::from_hours(1), true), (Duration::ZERO, false)] {
        let gateway = gateway(&server, Duration::from_millis(300), grace).await;
        let holder: String = server.run(&["SET", "lock:busy", "another"]).await;
        assert_eq!(holder, "OK");
        let channel = gateway.channel().await;
        let mut locks = LocksClient::new(channel.clone());
        let waiting = tokio::spawn(async move { acquire(&mut locks, "busy", patience()).await });
        let mut logs = BuildLogsClient::new(channel);
        let stream = logs.tail(TailRequest {
            build_id: "b".into(),
            ..TailRequest::default()
        });
        // It ends when the connection has come to its age.
        assert_eq!(
            reason(&end(stream.await.unwrap().into_inner()).await).as_deref(),
            Some("DRAINING")
        );
        if lives {
            assert!(!waiting.is_finished());
            let () = server.run(&["DEL", "lock:busy"]).await;
            let () = server.run(&["LPUSH", "lock-signal:busy", "1"]).await;
            assert!(waiting.await.unwrap().unwrap().acquired);
        } else {
            let status = waiting.await.unwrap().unwrap_err();
            // Whoever cut it did not say so: it is the connection that is gone.
            assert_eq!(reason(&status), None, "{status}");
        }
        drop(logs);
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_socket_can_be_called_by_whom_its_mode_says() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("grpc.sock");
    for (given, mode) in [(None, 0o660), (Some("0600"), 0o600), (Some("666"), 0o666)] {
        let mut command = cli::gateway();
        command
            .args([
                "serve",
                "--admin-listen=127.0.0.1:0",
                "--endpoints-cache-host=127.0.0.1",
            ])
            .arg(format!("--grpc-listen=unix:{}", socket.display()))
            .args(given.map(|given| format!("--grpc-socket-mode={given}")));
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        eventually("the socket has its mode", async || {
            fs::metadata(&socket).is_ok_and(|found| found.permissions().mode() & 0o777 == mode)
        })
        .await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (code, _, err) = cli::run(&["check", "--grpc-socket-mode=0400"]);
    assert_eq!(code, Some(64));
    assert!(
        err.contains("--grpc-socket-mode: \"0400\" is no mode of a socket: 0600 to 0777"),
        "{err}"
    );
}
