//! A terminal that a command runs on, and what is different there.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::{all_at, run};
use crate::{
    cli,
    harness::{RedisServer, eventually},
};

/// A command whose input, output and errors are one terminal.
pub(super) struct Terminal {
    child: Child,
    typing: File,
    shown: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Terminal {
    pub(super) fn run(args: &[&str], endpoints: &[String], env: &[(&str, &str)]) -> Self {
        let near: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&near).unwrap();
        unlockpt(&near).unwrap();
        let name = ptsname(&near, Vec::new()).unwrap();
        let far = OpenOptions::new()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let end = || Stdio::from(far.try_clone().unwrap());
        let mut command = cli::gateway();
        command
            .args(args.iter().flat_map(|words| words.split(' ')))
            .args(endpoints);
        command
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .env_remove("CLICOLOR");
        command.envs(env.iter().copied());
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        // Those of the child are the last that keep it open.
        drop((command, far));
        let mut near = File::from(near);
        let typing = near.try_clone().unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let show = shown.clone();
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4_096];
            loop {
                match near.read(&mut bytes) {
                    Ok(0) => break,
                    Ok(count) => show.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count])),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // How Linux says that nobody has the other end open.
                    Err(_) => break,
                }
            }
        });
        Terminal {
            child,
            typing,
            shown,
            reader,
        }
    }

    /// Waits until it shows a text.
    pub(super) async fn shows(&self, text: &str) {
        eventually(text, async || self.shown.lock().unwrap().contains(text)).await;
    }

    /// Types a line.
    pub(super) fn type_in(&mut self, line: &str) {
        writeln!(self.typing, "{line}").unwrap();
    }

    /// Waits until it ends: the exit code, and all that was shown.
    pub(super) async fn ended(mut self) -> (Option<i32>, String) {
        let mut status = None;
        eventually("the command ends", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        self.reader.join().unwrap();
        let shown = self.shown.lock().unwrap().clone();
        (status.unwrap().code(), shown)
    }
}

/// What begins bold text.
const BOLD: &str = "\u{1b}[1m";

#[tokio::test]
async fn colours_and_progress_are_for_terminals_alone() {
    let server = RedisServer::new().start().await;
    server.run::<()>(&["DEBUG", "POPULATE", "3000", "key", "10"]).await;
    let endpoints = all_at(server.addr());
    let slowly = ["inventory --rate 2000"];
    let seen = |shown: &str| {
        let mut counts = shown
            .split(" of 3000 keys")
            .filter_map(|before| before.rsplit(": ").next());
        counts.any(|count| count.parse::<u32>().is_ok_and(|count| count > 0))
    };

    let (code, shown) = Terminal::run(&slowly, &endpoints, &[]).ended().await;
    assert!(
        code == Some(0) && shown.contains(BOLD) && seen(&shown),
        "{code:?} {shown}"
    );
    let (code, shown) = Terminal::run(&slowly, &endpoints, &[("NO_COLOR", "1")]).ended().await;
    assert!(
        code == Some(0) && !shown.contains(BOLD) && seen(&shown),
        "{code:?} {shown}"
    );

    let piped = run(&slowly, &endpoints).await;
    assert!(piped.code == Some(0) && piped.err.is_empty(), "{piped}");
    assert!(
        piped.out.contains("3000 keys") && !piped.out.contains('\u{1b}'),
        "{piped}"
    );
}
