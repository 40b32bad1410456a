//! A real `redis-server` of a test's own.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use rand::Rng as _;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, aio::MultiplexedConnection,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::{Certs, logs, patience};

/// A running server in a folder of its own; killed and gone when dropped.
///
/// The builder's methods come before [`RedisServer::start`], all others after it.
pub(crate) struct RedisServer {
    folder: TempDir,
    settings: String,
    port: u16,
    tls_port: u16,
    password: Option<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// A server that keeps nothing on disk.
    pub(crate) fn new() -> Self {
        logs();
        RedisServer {
            folder: tempfile::tempdir().unwrap(),
            settings: String::new(),
            port: unused_port(),
            tls_port: 0,
            password: None,
            child: None,
        }
    }

    /// Adds a line of `redis.conf`.
    pub(crate) fn setting(mut self, line: impl AsRef<str>) -> Self {
        self.set(line.as_ref());
        self
    }

    /// Keeps an append-only file, in step with each command.
    pub(crate) fn append_only(self) -> Self {
        self.setting("appendonly yes").setting("appendfsync always")
    }

    /// Wants `password` from the default user.
    pub(crate) fn password(mut self, password: &str) -> Self {
        self.password = Some(password.into());
        self.setting(format!("requirepass {password}"))
    }

    /// Knows the ACL user `name` by `rules`, such as `on >secret ~* &* +@all -subscribe`.
    pub(crate) fn user(self, name: &str, rules: &str) -> Self {
        self.setting(format!("user {name} {rules}"))
    }

    /// Listens with TLS too, and wants a certificate of the same authority there.
    pub(crate) fn tls(mut self, certs: &Certs) -> Self {
        self.tls_port = unused_port();
        self.set(&format!("tls-port {}", self.tls_port));
        self.set(&format!("tls-ca-cert-file {}", certs.ca().display()));
        self.set(&format!("tls-cert-file {}", certs.cert().display()));
        self.setting(format!("tls-key-file {}", certs.key().display()))
    }

    /// Follows `primary`.
    pub(crate) fn replica_of(self, primary: &RedisServer) -> Self {
        let line = format!("replicaof 127.0.0.1 {}", primary.port);
        self.setting(line)
    }

    /// Starts it and waits until it answers.
    pub(crate) async fn start(mut self) -> Self {
        self.restart().await;
        self
    }

    /// Starts it again on the same ports and data, after [`RedisServer::kill`], and waits until it serves.
    pub(crate) async fn restart(&mut self) {
        self.launch();
        let end = Instant::now() + patience();
        while !self.serves().await {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("redis-server ended with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < end, "redis-server does not answer:\n{}", self.log());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts it without waiting until it serves: it may be loading.
    pub(crate) fn launched(mut self) -> Self {
        self.launch();
        self
    }

    fn launch(&mut self) {
        assert!(self.child.is_none(), "redis-server runs already");
        let mut conf = format!(
            "port {}\nbind 127.0.0.1\nunixsocket {}\ndir {}\nlogfile redis.log\nsave \"\"\nrepl-diskless-sync-delay 0\nenable-debug-command yes\n",
            self.port,
            self.socket().display(),
            self.folder.path().display(),
        );
        conf.push_str(&self.settings);
        let file = self.folder.path().join("redis.conf");
        fs::write(&file, conf).unwrap();
        let child = Command::new("redis-server")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("redis-server: {error}; install it with `apt-get install redis-server` or `brew install redis`")
            });
        self.child = Some(child);
    }

    /// Kills it by SIGKILL and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops it by SIGSTOP: connections stay, nothing is answered.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on after [`RedisServer::pause`].
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Where it listens with TLS.
    pub(crate) fn tls_addr(&self) -> SocketAddr {
        assert!(self.tls_port != 0, "a server without tls()");
        SocketAddr::from(([127, 0, 0, 1], self.tls_port))
    }

    /// Its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// A direct connection, without anything of the gateway in between.
    pub(crate) async fn client(&self) -> MultiplexedConnection {
        self.client_of(0).await
    }

    /// A direct connection to the database `db`.
    pub(crate) async fn client_of(&self, db: i64) -> MultiplexedConnection {
        match self.connect(db).await {
            Ok(connection) => connection,
            Err(error) => panic!("no connection to redis-server: {error}\n{}", self.log()),
        }
    }

    /// Runs one command given as words, as `redis-cli` would.
    pub(crate) async fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.run_on(0, words).await
    }

    /// The same on the database `db`.
    pub(crate) async fn run_on<T: redis::FromRedisValue>(&self, db: i64, words: &[&str]) -> T {
        let mut cmd = redis::Cmd::new();
        cmd.arg(words);
        match cmd.query_async(&mut self.client_of(db).await).await {
            Ok(value) => value,
            Err(error) => panic!("{}: {error}\n{}", words.join(" "), self.log()),
        }
    }

    /// One number of `INFO`, such as `total_commands_processed`.
    pub(crate) async fn info(&self, field: &str) -> u64 {
        let text: String = self.run(&["INFO", "everything"]).await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("no number {field} in INFO"))
    }

    /// How often a command ran, scripts' own included, such as `evalsha`.
    pub(crate) async fn calls(&self, command: &str) -> u64 {
        let stats: String = self.run(&["INFO", "commandstats"]).await;
        let calls = format!("cmdstat_{command}:calls=");
        let line = stats.lines().find_map(|line| line.strip_prefix(&calls));
        line.and_then(|rest| rest.split(',').next())
            .map_or(0, |calls| calls.parse().unwrap())
    }

    /// The connections that others than the test hold, as `CLIENT LIST` shows them.
    pub(crate) async fn connections(&self) -> Vec<String> {
        let mut client = self.client().await;
        let own: i64 = redis::cmd("CLIENT").arg("ID").query_async(&mut client).await.unwrap();
        let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut client).await.unwrap();
        let own = format!("id={own} ");
        list.lines()
            .filter(|line| !line.starts_with(&own))
            .map(Into::into)
            .collect()
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("redis.log")).unwrap_or_default()
    }

    fn set(&mut self, line: &str) {
        writeln!(self.settings, "{line}").unwrap();
    }

    fn signal(&self, name: &str) {
        signal(name, self.child.as_ref().expect("a server that runs").id());
    }

    async fn connect(&self, db: i64) -> redis::RedisResult<MultiplexedConnection> {
        let mut login = RedisConnectionInfo::default().set_db(db);
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        let info = ConnectionAddr::Unix(self.socket())
            .into_connection_info()?
            .set_redis_settings(login);
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(patience()));
        redis::Client::open(info)?
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    async fn serves(&self) -> bool {
        let Ok(mut connection) = self.connect(0).await else {
            return false;
        };
        let pong = redis::cmd("PING").query_async::<String>(&mut connection).await;
        pong.is_ok_and(|pong| pong == "PONG") && std::net::TcpStream::connect(self.addr()).is_ok()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal, by its name without `SIG`.
pub(crate) fn signal(name: &str, pid: u32) {
    let status = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success(), "kill -s {name} {pid}: {status}");
}

/// A port that nobody listens on, and that nobody's outgoing connection will take meanwhile: below the ephemeral range. Each
/// is given once.
pub(crate) fn unused_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    loop {
        let port = rand::rng().random_range(12_000..32_000);
        let fresh = GIVEN.lock().unwrap().get_or_insert_default().insert(port);
        if fresh && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

mod tests {
    use super::{super::Certs, RedisServer};

    #[tokio::test]
    async fn keeps_its_data_over_a_kill() {
        let mut server = RedisServer::new().append_only().password("secret").start().await;
        server.run::<()>(&["SET", "key", "value"]).await;
        server.kill();
        server.restart().await;
        assert_eq!(server.run::<String>(&["GET", "key"]).await, "value");
        assert!(server.connections().await.is_empty());
    }

    #[tokio::test]
    async fn serves_as_replica_and_with_tls() {
        let certs = Certs::new();
        let primary = RedisServer::new().tls(&certs).start().await;
        let replica = RedisServer::new().replica_of(&primary).start().await;
        super::super::eventually("the replica follows", async || {
            replica
                .run::<String>(&["INFO", "replication"])
                .await
                .contains("master_link_status:up")
        })
        .await;
        assert!(tokio::net::TcpStream::connect(primary.tls_addr()).await.is_ok());
        assert_eq!(primary.info("connected_slaves").await, 1);
    }

    #[tokio::test]
    async fn stops_and_goes_on() {
        let server = RedisServer::new().start().await;
        server.pause();
        assert!(std::net::TcpStream::connect(server.addr()).is_ok());
        server.resume();
        server.run::<()>(&["PING"]).await;
    }
}
