//! Programs in Python, and one in Go, that work on the same Redis, the same gateway or the same database.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use super::{patience, signal};

/// Made of `tests/peers/go` by `make go-peers`, where Go is.
const GO: &str = "target/peers/lock_holders";

/// A running program of `tests/peers/`; killed when dropped.
pub(crate) struct Peer {
    name: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// Starts a program, and waits until SIGTERM ends it well. `gateway` is the one that it calls, if it calls one.
    pub(crate) async fn start(name: &str, gateway: Option<String>, args: &[String]) -> Self {
        let mut command = python();
        command.arg(root().join("tests/peers").join(name));
        if let Some(gateway) = gateway {
            command.env("GATEWAY", gateway);
        }
        Peer::run(name, command, args).await
    }

    /// Whether the program in Go is there.
    pub(crate) fn has_go() -> bool {
        root().join(GO).exists()
    }

    /// The same with the program in Go.
    pub(crate) async fn start_go(args: &[String]) -> Self {
        Peer::run(GO, Command::new(root().join(GO)), args).await
    }

    async fn run(name: &str, mut command: Command, args: &[String]) -> Self {
        command.args(args).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let name = name.to_owned();
        let mut peer = Peer { name, child, lines };
        let first = timeout(patience(), peer.lines.next_line()).await.unwrap().unwrap();
        assert_eq!(first.as_deref(), Some("ready"), "{}", peer.name);
        peer
    }

    /// Waits until it ends by itself; what it reported at its end, nothing if it was killed.
    pub(crate) async fn ended(&mut self) -> Option<Value> {
        let mut last = String::new();
        while let Some(line) = self.lines.next_line().await.unwrap() {
            last = line;
        }
        let status = self.child.wait().await.unwrap();
        status
            .success()
            .then(|| serde_json::from_str(&last).unwrap_or_else(|error| panic!("{}: {error}: {last}", self.name)))
    }

    /// Sends SIGTERM, if it has not ended already.
    pub(crate) fn tell_to_end(&self) {
        if let Some(pid) = self.child.id() {
            signal("TERM", pid);
        }
    }

    /// Ends it by SIGTERM; what it reported.
    pub(crate) async fn terminate(mut self) -> Value {
        self.tell_to_end();
        let report = timeout(patience(), self.ended()).await.expect("a peer that ends");
        report.unwrap_or_else(|| panic!("{} failed", self.name))
    }
}

/// Runs a few lines of Python with `args`, and answers what they print.
pub(crate) async fn python_says(lines: &str, args: &[&str]) -> String {
    let output = python().arg("-c").arg(lines).args(args).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn python() -> Command {
    let python = root().join(".venv/bin/python");
    assert!(
        python.exists(),
        "no {}: make it with `make python-stubs`",
        python.display()
    );
    Command::new(python)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
