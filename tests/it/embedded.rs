//! The embedded server lives and dies with the gateway, and keeps what it was given.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

use crate::{
    cli,
    harness::{eventually, patience},
};

/// A gateway in a process group of its own, as a shell would start it.
struct Gateway {
    child: Child,
    data: PathBuf,
    log: Lines<BufReader<ChildStderr>>,
}

fn command(data: &Path) -> Command {
    let mut command = Command::from(cli::gateway());
    command.args([
        "--grpc-listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
        "--embedded-data-dir",
    ]);
    command
        .arg(data)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

impl Gateway {
    async fn start(data: &Path) -> Self {
        Self::start_with(data, &[]).await
    }

    /// Started, and past the point where it says that it listens.
    async fn start_with(data: &Path, args: &[&str]) -> Self {
        let mut child = command(data).args(args).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        let data = data.to_owned();
        let mut gateway = Gateway { child, data, log };
        gateway.says("listening").await;
        gateway
    }

    /// Waits until its log says so.
    async fn says(&mut self, what: &str) {
        let mut said = Vec::new();
        let wait = async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                if line.contains(what) {
                    return true;
                }
                said.push(line);
            }
            false
        };
        let found = timeout(patience(), wait).await;
        assert!(found == Ok(true), "the gateway did not say {what:?}, but: {said:#?}");
    }

    async fn redis(&self) -> Option<MultiplexedConnection> {
        let client = redis::Client::open(format!("unix://{}", self.data.join("redis.sock").display())).unwrap();
        client.get_multiplexed_async_connection().await.ok()
    }

    async fn set(&self, value: &str) {
        let mut redis = self.redis().await.unwrap();
        redis::cmd("SET")
            .arg("k")
            .arg(value)
            .exec_async(&mut redis)
            .await
            .unwrap();
    }

    async fn get(&self) -> Option<String> {
        let mut redis = self.redis().await.unwrap();
        redis::cmd("GET").arg("k").query_async(&mut redis).await.unwrap()
    }

    /// The server's process, once it serves: while it loads its data it answers INFO, but nothing else.
    async fn server(&self) -> Option<u32> {
        let mut redis = self.redis().await?;
        redis::cmd("PING").exec_async(&mut redis).await.ok()?;
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut redis).await.ok()?;
        info.lines()
            .find_map(|line| line.strip_prefix("process_id:")?.parse().ok())
    }

    fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }
}

fn signal(name: &str, target: &str) {
    let status = std::process::Command::new("kill")
        .args(["-s", name, "--", target])
        .status()
        .unwrap();
    assert!(status.success(), "kill -s {name} {target}: {status}");
}

fn runs(pid: u32) -> bool {
    // One that has ended and is not yet taken note of runs no more.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    (folder, data)
}

#[tokio::test]
async fn the_embedded_server_ends_with_the_gateway_and_keeps_its_data() {
    let (_folder, data) = folder();
    let mut value = "first".to_owned();
    let mut gateway = Gateway::start(&data).await;
    gateway.set(&value).await;
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&data), mode(&data.join("redis.sock"))), (0o700, 0o700));
    for name in ["TERM", "INT", "KILL"] {
        let server = gateway.server().await.unwrap();
        // A terminal's Ctrl-C reaches the whole group of the gateway.
        let group = if name == "INT" { "-" } else { "" };
        signal(name, &format!("{group}{}", gateway.pid()));
        let status = timeout(patience(), gateway.child.wait()).await.unwrap().unwrap();
        if name == "KILL" {
            assert_eq!(status.signal(), Some(9));
            eventually("the server ends with a killed gateway", async || !runs(server)).await;
        } else {
            assert!(status.success(), "{name}: {status}");
            assert!(!runs(server), "{name}: the gateway waits for its server");
        }
        let log = fs::read_to_string(data.join("redis.log")).unwrap();
        assert!(log.contains("ready to exit, bye bye"), "{name}: {log}");
        assert!(
            log.contains("Received SIGTERM") && !log.contains("Received SIGINT"),
            "{name}: {log}"
        );
        gateway = Gateway::start(&data).await;
        assert_eq!(gateway.get().await.as_ref(), Some(&value), "{name}");
        value = format!("after {name}");
        gateway.set(&value).await;
    }
}

#[tokio::test]
async fn what_it_says_to_type_next_works() {
    let (_folder, data) = folder();
    let mut gateway = Gateway::start(&data).await;
    let mut said = BufReader::new(gateway.child.stdout.take().unwrap()).lines();
    let mut page = false;
    let health = loop {
        let line = timeout(patience(), said.next_line()).await.unwrap().unwrap().unwrap();
        page |= line.contains("; http://127.0.0.1:");
        if line.contains(" health --address 127.0.0.1:") {
            break line;
        }
    };
    assert!(page, "the status page is not named");
    let typed = Command::new("sh").args(["-c", &health]).output().await.unwrap();
    assert!(typed.status.success(), "{health}: {typed:?}");
}

#[tokio::test]
async fn a_second_interrupt_ends_a_drain_at_once() {
    let (_folder, data) = folder();
    let mut gateway = Gateway::start_with(&data, &["--drain-delay=10m"]).await;
    let server = gateway.server().await.unwrap();
    signal("INT", &gateway.pid().to_string());
    gateway.says("draining").await;
    signal("INT", &gateway.pid().to_string());
    let status = timeout(patience(), gateway.child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(1));
    eventually("the server ends too", async || !runs(server)).await;
}

#[tokio::test]
async fn a_killed_embedded_server_is_replaced() {
    let (_folder, data) = folder();
    let gateway = Gateway::start(&data).await;
    gateway.set("v").await;
    let mut server = gateway.server().await.unwrap();
    for _ in 0..2 {
        let killed = server;
        signal("KILL", &killed.to_string());
        eventually("another server", async || match gateway.server().await {
            Some(pid) if pid != killed => {
                server = pid;
                true
            }
            _ => false,
        })
        .await;
        assert_eq!(gateway.get().await.as_deref(), Some("v"));
    }
}

#[tokio::test]
async fn one_gateway_at_a_time_on_a_folder_of_its_own() {
    let (_folder, data) = folder();
    let gateway = Gateway::start(&data).await;
    let second = command(&data).output().await.unwrap();
    let why = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(
        why.contains(&format!("another gateway uses {}: stop it", data.display())),
        "{why}"
    );
    assert!(gateway.server().await.is_some());

    let shared = tempfile::tempdir().unwrap();
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let open = command(shared.path()).output().await.unwrap();
    let why = String::from_utf8(open.stderr).unwrap();
    assert!(
        open.status.code() == Some(1) && why.contains("is open to others (mode 0755): chmod it to 0700"),
        "{why}"
    );
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let (folder, data) = folder();
    let missing = async |path: &Path| {
        let output = command(&data).env("PATH", path).output().await.unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let why = missing(folder.path()).await;
    assert!(
        why.contains("setpriv is not in PATH") && why.contains("install util-linux"),
        "{why}"
    );
    let setpriv = folder.path().join("setpriv");
    fs::write(&setpriv, "#!/bin/sh\necho no such option >&2\nexit 3\n").unwrap();
    fs::set_permissions(&setpriv, fs::Permissions::from_mode(0o755)).unwrap();
    let why = missing(folder.path()).await;
    assert!(why.contains("apt-get install redis-server"), "{why}");
    fs::copy(&setpriv, folder.path().join("valkey-server")).unwrap();
    let why = missing(folder.path()).await;
    assert!(
        why.contains("(exit status: 3)") && why.contains("no such option"),
        "{why}"
    );
}
