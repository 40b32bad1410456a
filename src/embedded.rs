//! The embedded default: a private Redis server as a child, which lives and dies with the gateway.
//!
//! `setpriv --pdeathsig` makes the kernel send SIGTERM to the server when the thread that started it ends. That thread
//! lives until the server shall go, or as long as the process: so the server gets its SIGTERM and saves, whether the
//! gateway ends in order or is killed.

use std::{
    env,
    fs::{DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::config;

/// For the server to answer from its start on; a large append-only file takes its time to load.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// Between two looks whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// For the server to save and go after its SIGTERM; then it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// Wait before the server is started again: the first and the longest, doubled in between.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// A server that lived this long starts the backoff afresh.
const SETTLED: Duration = Duration::from_secs(10);

/// Why the embedded server cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server's binary.
    #[error(
        "neither redis-server nor valkey-server is in PATH: install one (apt-get install redis-server, dnf install \
         redis or valkey), name its binary in embedded.server, or configure endpoints"
    )]
    NoServer,
    /// No `setpriv`.
    #[error(
        "setpriv is not in PATH; the embedded server needs it to end with the gateway: install util-linux, or \
         configure endpoints"
    )]
    NoSetpriv,
    /// Another gateway runs on the same folder.
    #[error("another gateway uses {}: stop it, or set embedded.data_dir to another folder", .0.display())]
    InUse(PathBuf),
    /// Others may enter the folder.
    #[error(
        "{} is open to others (mode {mode:04o}): chmod it to 0700, or set embedded.data_dir to a folder that is not \
         there yet", path.display()
    )]
    Open {
        /// The folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file or folder that cannot be used.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server could not be started.
    #[error("{} cannot be started: {source}", program.display())]
    Start {
        /// What was to be run.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server ended before it answered.
    #[error("the embedded server ended at once ({status}); the end of {} says:\n{tail}", log.display())]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// The server does not answer.
    #[error("the embedded server did not answer within {READY_WITHIN:?}; look into {}", .0.display())]
    Silent(PathBuf),
}

/// A running server; dropped without [`Embedded::stop`] it gets its SIGTERM all the same, but is not waited for.
#[derive(Debug)]
pub struct Embedded {
    stop: CancellationToken,
    supervisor: JoinHandle<()>,
    // Held until the server is gone: the next gateway on this folder must not find it running.
    _lock: File,
}

/// Starts the server and waits until it answers. It is started again whenever it ends, until [`Embedded::stop`].
pub async fn start(settings: &config::Embedded) -> Result<Embedded, Error> {
    let setup = Setup::prepare(settings)?;
    let lock = setup.lock()?;
    setup.clear().await?;
    let spawner = setup.spawner()?;
    let mut child = setup.spawn(&spawner).await?;
    setup.ready(&mut child).await?;
    let stop = CancellationToken::new();
    let supervisor = tokio::spawn(supervise(setup, spawner, child, stop.clone()));
    Ok(Embedded {
        stop,
        supervisor,
        _lock: lock,
    })
}

impl Embedded {
    /// Ends the server with SIGTERM and waits until it has saved and is gone; after 10 s it is killed.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(e) = self.supervisor.await {
            tracing::error!("the embedded server's supervisor failed: {e}");
        }
    }
}

/// Asked for a child, the spawning thread answers with one; when this is dropped, the thread ends.
type Spawner = mpsc::Sender<oneshot::Sender<io::Result<Child>>>;

async fn supervise(setup: Setup, spawner: Spawner, mut child: Child, stop: CancellationToken) {
    let (mut started, mut backoff) = (Instant::now(), BACKOFF.0);
    loop {
        let status = tokio::select! {
            status = child.wait() => status,
            () = stop.cancelled() => break,
        };
        match status {
            Ok(status) => tracing::error!("the embedded server ended ({status}); it is started again"),
            Err(e) => tracing::error!("the embedded server is lost ({e}); it is started again"),
        }
        if started.elapsed() > SETTLED {
            backoff = BACKOFF.0;
        }
        child = loop {
            tokio::select! {
                () = sleep(backoff) => {}
                () = stop.cancelled() => return,
            }
            backoff = (backoff * 2).min(BACKOFF.1);
            started = Instant::now();
            match setup.spawn(&spawner).await {
                Ok(child) => break child,
                Err(e) => tracing::error!("{e}"),
            }
        };
    }
    // The spawning thread ends with its last handle, and the kernel sends SIGTERM to the server.
    drop(spawner);
    if timeout(STOP_WITHIN, child.wait()).await.is_err() {
        tracing::error!("the embedded server did not end within {STOP_WITHIN:?}: it is killed");
        if let Err(e) = child.kill().await {
            tracing::error!("the embedded server cannot be killed: {e}");
        }
    }
}

/// The folder and the programs.
struct Setup {
    data_dir: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    setpriv: PathBuf,
    server: PathBuf,
}

impl Setup {
    fn prepare(settings: &config::Embedded) -> Result<Self, Error> {
        let data_dir = settings.data_dir.clone();
        let failed = |source| Error::File {
            path: settings.data_dir.clone(),
            source,
        };
        let server = settings.server.clone();
        let server = server
            .or_else(|| in_path("redis-server"))
            .or_else(|| in_path("valkey-server"));
        let setup = Setup {
            socket: settings.socket(),
            log: data_dir.join("redis.log"),
            setpriv: in_path("setpriv").ok_or(Error::NoSetpriv)?,
            server: server.ok_or(Error::NoServer)?,
            data_dir,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&setup.data_dir)
            .map_err(failed)?;
        let mode = setup.data_dir.metadata().map_err(failed)?.permissions().mode() & 0o7777;
        // None of the six bits of group and others.
        if mode.trailing_zeros() >= 6 {
            Ok(setup)
        } else {
            let path = setup.data_dir;
            Err(Error::Open { path, mode })
        }
    }

    /// The lock is the kernel's: it is gone with the process that holds it, however that ends.
    fn lock(&self) -> Result<File, Error> {
        let path = self.data_dir.join("lock");
        let failed = |source| Error::File {
            path: path.clone(),
            source,
        };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(self.data_dir.clone())),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Removes what a killed gateway left: its server may still be saving, and only its socket tells when it is done.
    async fn clear(&self) -> Result<(), Error> {
        let gone = async {
            let mut look = interval(LOOK_EVERY);
            while UnixStream::connect(&self.socket).await.is_ok() {
                // Whether it answers or not, it is done when its socket is closed.
                let _ = self.ask(b"*1\r\n$8\r\nSHUTDOWN\r\n").await;
                look.tick().await;
            }
        };
        if timeout(STOP_WITHIN, gone).await.is_err() {
            return Err(Error::InUse(self.data_dir.clone()));
        }
        match std::fs::remove_file(&self.socket) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::File {
                path: self.socket.clone(),
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Starts the thread that starts servers.
    fn spawner(&self) -> Result<Spawner, Error> {
        let (spawner, orders) = mpsc::channel::<oneshot::Sender<io::Result<Child>>>();
        let log = File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.log);
        let failed = |source| Error::File {
            path: self.log.clone(),
            source,
        };
        drop(log.map_err(failed)?);
        let (runtime, log, command) = (Handle::current(), self.log.clone(), self.command());
        let spawn = move || {
            let _runtime = runtime.enter();
            let mut command = command;
            while let Ok(order) = orders.recv() {
                let log = File::options().append(true).open(&log);
                let child = log.and_then(|log| {
                    let also = log.try_clone()?;
                    command.stdout(log).stderr(also).spawn()
                });
                // Nobody waits any more: the child is dropped, and ends when this thread does.
                let _ = order.send(child);
            }
        };
        let thread = std::thread::Builder::new().name("embedded".into()).spawn(spawn);
        thread.map_err(|source| Error::Start {
            program: self.server.clone(),
            source,
        })?;
        Ok(spawner)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.setpriv);
        command.args(["--pdeathsig", "TERM", "--"]).arg(&self.server);
        command.args(["--port", "0", "--daemonize", "no", "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "everysec"]);
        command
            .arg("--unixsocket")
            .arg(&self.socket)
            .args(["--unixsocketperm", "700"]);
        command.arg("--dir").arg(&self.data_dir);
        // A group of its own: Ctrl-C in a terminal is for the gateway, which then ends the server.
        command.process_group(0).stdin(Stdio::null());
        command
    }

    async fn spawn(&self, spawner: &Spawner) -> Result<Child, Error> {
        let (order, child) = oneshot::channel();
        let gone = || io::Error::other("its thread is gone");
        let child = match spawner.send(order) {
            Ok(()) => child.await.unwrap_or_else(|_| Err(gone())),
            Err(_) => Err(gone()),
        };
        child.map_err(|source| Error::Start {
            program: self.setpriv.clone(),
            source,
        })
    }

    async fn ready(&self, child: &mut Child) -> Result<(), Error> {
        let answers = async {
            let mut look = interval(LOOK_EVERY);
            while !self
                .ask(b"*1\r\n$4\r\nPING\r\n")
                .await
                .is_ok_and(|answer| answer == b"+PONG")
            {
                look.tick().await;
            }
        };
        tokio::select! {
            answers = timeout(READY_WITHIN, answers) => answers.map_err(|_| Error::Silent(self.log.clone())),
            status = child.wait() => Err(match status {
                Ok(status) => Error::Ended { status, log: self.log.clone(), tail: self.tail() },
                Err(source) => Error::Start { program: self.server.clone(), source },
            }),
        }
    }

    /// Sends a command, and answers the first five bytes of the reply; nothing if the server closes instead.
    async fn ask(&self, command: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        stream.write_all(command).await?;
        let mut answer = Vec::new();
        stream.take(5).read_to_end(&mut answer).await?;
        Ok(answer)
    }

    fn tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let executable = |path: &Path| {
        path.metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| executable(path))
}
