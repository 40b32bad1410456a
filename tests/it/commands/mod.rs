//! Commands of operators, as a shell runs them, on real servers.

mod clients;
mod completions;
mod doctor;
mod health;
mod inventory;
mod inventory_ends;
mod locks;
mod locks_asked;
mod planted;
mod terminal;

use std::{net::SocketAddr, process::Stdio};

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::cli;

/// What a command came to.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    /// Its one document.
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

/// For messages of tests that fail.
impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}\n{}{}", self.code, self.out, self.err)
    }
}

/// Begins a command on pipes. Each of `args` is words.
fn begin(args: &[&str], endpoints: &[String]) -> Child {
    let mut command = Command::from(cli::gateway());
    command
        .args(args.iter().flat_map(|words| words.split(' ')))
        .args(endpoints);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.kill_on_drop(true).spawn().unwrap()
}

/// Waits until it ends.
async fn ended(command: Child) -> Ran {
    let output = command.wait_with_output().await.unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs a command on pipes.
async fn run(args: &[&str], endpoints: &[String]) -> Ran {
    ended(begin(args, endpoints)).await
}

/// The flags that place these endpoints at one server.
fn placed(names: &[&str], at: SocketAddr) -> Vec<String> {
    let flags = |name: &&str| {
        let name = name.replace('_', "-");
        [
            format!("--endpoints-{name}-host={}", at.ip()),
            format!("--endpoints-{name}-port={}", at.port()),
        ]
    };
    names.iter().flat_map(flags).collect()
}

/// The flags that log in to these endpoints as `user` with the password in `file`.
fn logged_in(names: &[&str], user: &str, file: &tempfile::NamedTempFile) -> Vec<String> {
    let file = file.path().display();
    let flags = |name: &&str| {
        let name = name.replace('_', "-");
        [
            format!("--endpoints-{name}-username={user}"),
            format!("--endpoints-{name}-password-file={file}"),
        ]
    };
    names.iter().flat_map(flags).collect()
}

/// A file with the password `secret`.
fn secret() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "secret").unwrap();
    file
}

/// The same for all endpoints that there are, locks where user events are.
fn all_at(at: SocketAddr) -> Vec<String> {
    placed(
        &["build_logs", "cache", "user_events", "pull_metrics", "orchestrator"],
        at,
    )
}
