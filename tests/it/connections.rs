//! Connections that end by their age: each at its own time, with its streams told why, and nothing cut that was going to end.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Stdio, time::Duration};

use prost::Message;
use redis_gateway::config::Endpoint;
use redis_gateway::proto::{
    AcquireRequest, AcquireResponse, ListEntriesRequest, TailRequest, build_logs_client::BuildLogsClient,
    locks_client::LocksClient,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
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
async fn a_connection_that_says_nothing_holds_up_no_drain() {
    let server = RedisServer::new().start().await;
    let gateway = gateway(&server, Duration::from_hours(1), Duration::ZERO).await;
    let mut silent = TcpStream::connect(gateway.grpc()).await.unwrap();
    // The gateway has taken it: another one that came after it is served.
    let mut locks = LocksClient::new(gateway.channel().await);
    acquire(&mut locks, "after", Duration::ZERO).await.unwrap();
    let began = Instant::now();
    gateway.stop().await;
    let took = began.elapsed();
    assert!(took < config().drain.timeout / 2, "{took:?}");
    // It hears the gateway's settings, and the end.
    let heard = timeout(patience(), silent.read_to_end(&mut Vec::new())).await;
    heard.expect("an end").unwrap();
}

/// A Redis that hangs keeps a call for as long as its caller would wait; the end of the drain does not.
#[tokio::test]
async fn what_outlives_the_drain_is_cut() {
    let server = RedisServer::new().start().await;
    let mut config = config();
    let hours = Duration::from_hours(1);
    config.drain.timeout = Duration::from_millis(300);
    config.endpoints.build_logs = Some(Endpoint {
        command_timeout: hours,
        probe_timeout: hours,
        ..at(server.addr())
    });
    let gateway = Gateway::start(config).await;
    let mut logs = gateway.build_logs().await;
    let request = ListEntriesRequest {
        build_id: "b".into(),
        ..ListEntriesRequest::default()
    };
    eventually("the gateway is connected", async || {
        logs.list_entries(request.clone()).await.is_ok()
    })
    .await;
    server.pause();
    let waiting = tokio::spawn(async move { logs.list_entries(within(hours, request)).await });
    eventually("the call is in flight", async || {
        let (_, metrics) = gateway.admin("/metrics").await;
        metrics.contains("redis_gateway_rpc_in_flight{method=\"ListEntries\",service=\"BuildLogs\"} 1\n")
    })
    .await;
    // It leaves no task behind, the call's neither.
    gateway.stop().await;
    let status = waiting.await.unwrap().unwrap_err();
    assert_eq!(reason(&status), None, "{status}");
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
    assert!(last > first + age.mul_f64(0.05), "all at once: {ages:?}");
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
        let mut command = tokio::process::Command::from(command);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        eventually("the socket has its mode", async || {
            fs::metadata(&socket).is_ok_and(|found| found.permissions().mode() & 0o777 == mode)
        })
        .await;
        child.kill().await.unwrap();
    }
    let (code, _, err) = cli::run(&["check", "--grpc-socket-mode=0400"]);
    assert_eq!(code, Some(64));
    assert!(
        err.contains("--grpc-socket-mode: \"0400\" is no mode of a socket: 0600 to 0777"),
        "{err}"
    );
}

const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The next frame: its type, its flags, its stream and what it brings. None at the end of the connection.
async fn next_frame(connection: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    timeout(patience(), connection.read_exact(&mut head))
        .await
        .expect("a frame")
        .ok()?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    connection.read_exact(&mut payload).await.ok()?;
    Some((kind, flags, u32::from_be_bytes(stream), payload))
}

/// A call, in the frames of a client.
fn call(stream: u32, path: &str, message: &impl Message) -> Vec<u8> {
    // POST and http are the static table's; the names of the others stand in it or follow.
    let mut fields = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    fields.extend(path.bytes());
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        for text in [name, value] {
            if text == name {
                fields.push(0);
            }
            fields.push(u8::try_from(text.len()).unwrap());
            fields.extend(text.bytes());
        }
    }
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0], length.as_slice(), &message].concat();
    [frame(1, 4, stream, &fields), frame(0, 1, stream, &body)].concat()
}

/// As clients do that have begun a call when they hear of the end: it goes unheard, and costs no other call anything.
#[tokio::test]
async fn a_call_that_comes_too_late_ends_no_other() {
    let server = RedisServer::new().start().await;
    let gateway = gateway(&server, Duration::from_millis(300), Duration::from_hours(1)).await;
    let () = server.run(&["SET", "lock:busy", "another"]).await;
    let mut connection = TcpStream::connect(gateway.grpc()).await.unwrap();
    let request = AcquireRequest {
        name: "busy".into(),
        ttl_ms: 1_000,
        wait_ms: i64::try_from(patience().as_millis()).unwrap(),
        ..AcquireRequest::default()
    };
    let path = "/redisgateway.v1.Locks/Acquire";
    let begin = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        call(1, path, &request),
    ];
    connection.write_all(&begin.concat()).await.unwrap();
    loop {
        match next_frame(&mut connection).await.expect("a connection that stands") {
            (PING, 0, 0, payload) => {
                let late = [
                    frame(PING, 1, 0, &payload),
                    call(3, path, &request),
                    frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 5]),
                ];
                connection.write_all(&late.concat()).await.unwrap();
            }
            (GOAWAY, _, _, payload) if payload[..4] == 1_u32.to_be_bytes() => break,
            _ => {}
        }
    }
    let () = server.run(&["DEL", "lock:busy"]).await;
    let () = server.run(&["LPUSH", "lock-signal:busy", "1"]).await;
    let mut answered = false;
    while let Some((kind, _, stream, payload)) = next_frame(&mut connection).await {
        assert!(
            kind != GOAWAY || payload[4..8] == [0; 4],
            "the connection failed: {payload:?}"
        );
        answered |= kind == 0 && stream == 1 && !payload.is_empty();
    }
    assert!(answered, "the call was cut");
    gateway.stop().await;
}
