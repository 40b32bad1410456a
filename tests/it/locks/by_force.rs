//! A lock that is released by force: who did it stands in the gateway's log.

use std::{fs, process::Stdio};

use redis_gateway::proto::locks_client::LocksClient;
use tonic::{Code, transport::Endpoint};

use super::reset;
use crate::{
    cli,
    harness::{RedisServer, eventually, unused_port},
};

#[tokio::test]
async fn reset_is_logged_with_the_lock_and_its_caller() {
    let server = RedisServer::new().start().await;
    let folder = tempfile::tempdir().unwrap();
    let (uid, pid) = (rustix::process::getuid().as_raw(), std::process::id());
    let tcp = format!("127.0.0.1:{}", unused_port());
    let socket = format!("unix:{}", folder.path().join("grpc.sock").display());
    for (listen, address, caller) in [
        (&tcp, format!("http://{tcp}"), "caller=127.0.0.1:".to_owned()),
        (&socket, socket.clone(), format!("caller=uid {uid}, pid {pid} ")),
    ] {
        let log = folder.path().join("log");
        let mut command = cli::gateway();
        command
            .args([
                "serve",
                "--admin-listen=127.0.0.1:0",
                "--endpoints-user-events-host=127.0.0.1",
            ])
            .arg(format!("--endpoints-user-events-port={}", server.addr().port()))
            .arg(format!("--grpc-listen={listen}"));
        let mut gateway = tokio::process::Command::from(command)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut locks = LocksClient::new(Endpoint::from_shared(address).unwrap().connect_lazy());
        server.run::<()>(&["SET", "lock:GC \"7\"", "somebody"]).await;
        eventually("the lock is released", async || {
            match reset(&mut locks, "GC \"7\"").await {
                Err(status) if status.code() == Code::Unavailable => false,
                held => held.unwrap(),
            }
        })
        .await;
        eventually("it is logged", async || {
            let log = fs::read_to_string(&log).unwrap();
            let mut lines = log.lines().filter(|line| line.contains("a lock was released by force"));
            lines
                .any(|line| line.contains(&caller) && line.contains(r#"lock="GC \"7\"""#) && line.contains("held=true"))
        })
        .await;
        gateway.kill().await.unwrap();
    }
}
