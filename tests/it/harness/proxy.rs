//! A TCP proxy that breaks what goes through it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{eventually, patience, unused_port};

/// What happens to the bytes of a connection.
///
/// A connection that lost bytes never passes any again, whatever is set later: it would pass a torn stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They pass.
    Pass,
    /// They pass after a while, in each direction.
    Delay(Duration),
    /// Replies are read and lost; requests pass, so that commands run and are not answered.
    SwallowReplies,
    /// Read and lost, both ways, without closing.
    BlackHole,
    /// Not even read, so that socket buffers fill; they pass once another mode is set.
    Stall,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The client sees a reset.
    Reset,
    /// The client sees an orderly end.
    Fin,
}

/// A proxy in front of one server. Dropped, it cuts all.
pub(crate) struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    listener: JoinHandle<()>,
}

struct Shared {
    /// Guards where new connections lead to.
    upstream: Mutex<SocketAddr>,
    rules: watch::Sender<Rules>,
    open: watch::Sender<BTreeSet<u64>>,
    accepted: AtomicU64,
    requests: AtomicU64,
    replies: AtomicU64,
    swallowed: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    refuse: bool,
    all: Mode,
    /// Another mode for the connections up to this number.
    old: (u64, Mode),
    /// The connections up to this number end.
    cut: (u64, Cut),
}

impl Rules {
    fn mode(&self, id: u64) -> Mode {
        if id <= self.old.0 { self.old.1 } else { self.all }
    }
}

impl Proxy {
    /// A proxy on a port of its own.
    pub(crate) fn new(upstream: SocketAddr) -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], unused_port()));
        let rules = Rules {
            refuse: false,
            all: Mode::Pass,
            old: (0, Mode::Pass),
            cut: (0, Cut::Fin),
        };
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream),
            rules: watch::Sender::new(rules),
            open: watch::Sender::new(BTreeSet::new()),
            accepted: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            replies: AtomicU64::new(0),
            swallowed: AtomicU64::new(0),
        });
        let first = bind(addr).expect("an unused port");
        let listener = tokio::spawn(listen(shared.clone(), first, addr));
        Proxy { addr, shared, listener }
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Leads connections to come to another server, as a failover does.
    pub(crate) fn lead_to(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().unwrap() = upstream;
    }

    /// Sets what happens on all connections, those to come included.
    pub(crate) fn set(&self, mode: Mode) {
        self.split(0, mode, mode);
    }

    /// Sets what happens on the connections that are open now; those to come pass.
    pub(crate) fn set_open(&self, mode: Mode) {
        self.split(self.accepted(), mode, Mode::Pass);
    }

    /// Sets what happens on so many connections that were made first, and on all others.
    pub(crate) fn split(&self, count: u64, first: Mode, others: Mode) {
        self.shared.rules.send_modify(|rules| {
            rules.all = others;
            rules.old = (count, first);
        });
    }

    /// Refuses connections, or takes them again. Those that are open stay.
    pub(crate) async fn refuse(&self, refuse: bool) {
        self.shared.rules.send_modify(|rules| rules.refuse = refuse);
        eventually("the proxy's listener follows", async || {
            TcpStream::connect(self.addr).await.is_err() == refuse
        })
        .await;
    }

    /// Ends all connections that are open now and waits until they are gone. Answers how many they were.
    pub(crate) async fn cut(&self, how: Cut) -> usize {
        let last = self.shared.accepted.load(Relaxed);
        let mut open = self.shared.open.subscribe();
        let count = open.borrow().range(..=last).count();
        self.shared.rules.send_modify(|rules| rules.cut = (last, how));
        let gone = open.wait_for(|open| open.range(..=last).next().is_none());
        timeout(patience(), gone)
            .await
            .expect("connections that end")
            .expect("a proxy that lives");
        count
    }

    /// Lets commands run without an answer, for at least one reply's bytes if any come within `within`, then cuts as
    /// [`Proxy::cut`]. Answers how many bytes of replies were swallowed.
    pub(crate) async fn swallow_and_cut(&self, within: Duration, how: Cut) -> u64 {
        let before = self.swallowed();
        self.set_open(Mode::SwallowReplies);
        let some = async {
            while self.swallowed() == before {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = timeout(within, some).await;
        self.cut(how).await;
        self.swallowed() - before
    }

    /// Connections taken so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Relaxed)
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.borrow().len()
    }

    /// Bytes of requests that were read so far.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Relaxed)
    }

    /// Bytes of replies that were read so far.
    pub(crate) fn replies(&self) -> u64 {
        self.shared.replies.load(Relaxed)
    }

    /// Bytes of replies that were read and lost so far.
    pub(crate) fn swallowed(&self) -> u64 {
        self.shared.swallowed.load(Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.shared
            .rules
            .send_modify(|rules| rules.cut = (u64::MAX, Cut::Reset));
    }
}

fn bind(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(1024)
}

async fn listen(shared: Arc<Shared>, first: TcpListener, addr: SocketAddr) {
    let mut rules = shared.rules.subscribe();
    let mut listener = Some(first);
    loop {
        let refuse = rules.borrow_and_update().refuse;
        let Some(open) = listener.take_if(|_| !refuse) else {
            drop(listener.take());
            if !refuse {
                listener = Some(bind(addr).expect("the proxy's own port"));
            } else if rules.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            accepted = open.accept() => if let Ok((client, _)) = accepted {
                let id = shared.accepted.fetch_add(1, Relaxed) + 1;
                shared.open.send_modify(|open| { open.insert(id); });
                tokio::spawn(serve(shared.clone(), id, client));
            },
            _ = rules.changed() => {}
        }
        listener = Some(open);
    }
}

async fn serve(shared: Arc<Shared>, id: u64, mut client: TcpStream) {
    let mut ends = shared.rules.subscribe();
    let to = *shared.upstream.lock().unwrap();
    if let Ok(mut upstream) = TcpStream::connect(to).await {
        let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
        let (mut from_client, mut to_client) = client.split();
        let (mut from_upstream, mut to_upstream) = upstream.split();
        tokio::select! {
            () = pump(&shared, id, false, &mut from_client, &mut to_upstream) => {}
            () = pump(&shared, id, true, &mut from_upstream, &mut to_client) => {}
            _ = ends.wait_for(|rules| id <= rules.cut.0) => {}
        }
    }
    let cut = shared.rules.borrow().cut;
    if id <= cut.0 && cut.1 == Cut::Reset {
        let _ = client.set_zero_linger();
    }
    drop(client);
    shared.open.send_modify(|open| {
        open.remove(&id);
    });
}

/// Carries bytes one way until an end closes.
async fn pump(shared: &Shared, id: u64, replies: bool, from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) {
    let mut rules = shared.rules.subscribe();
    let mut buffer = vec![0; 64 << 10];
    let mut torn = false;
    loop {
        if rules.wait_for(|rules| rules.mode(id) != Mode::Stall).await.is_err() {
            return;
        }
        let read = tokio::select! {
            biased;
            changed = rules.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            read = from.read(&mut buffer) => read,
        };
        let Ok(length @ 1..) = read else { return };
        let counter = if replies { &shared.replies } else { &shared.requests };
        counter.fetch_add(length as u64, Relaxed);

        let mode = rules.borrow().mode(id);
        match mode {
            Mode::BlackHole => torn = true,
            Mode::SwallowReplies => torn |= replies,
            Mode::Delay(time) => sleep(time).await,
            Mode::Pass | Mode::Stall => {}
        }
        if torn {
            if replies {
                shared.swallowed.fetch_add(length as u64, Relaxed);
            }
        } else if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

mod tests {
    use std::time::Duration;

    use redis::{AsyncConnectionConfig, RedisError, aio::MultiplexedConnection};
    use tokio::time::Instant;

    use super::{
        super::{RedisServer, eventually},
        Cut, Mode, Proxy,
    };

    /// A connection through `proxy` that waits 200 ms for an answer.
    async fn client(proxy: &Proxy) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_millis(200)))
            .set_response_timeout(Some(Duration::from_millis(200)));
        let client = redis::Client::open(format!("redis://{}", proxy.addr()))?;
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    async fn increment(client: &mut MultiplexedConnection) -> Result<i64, RedisError> {
        redis::cmd("INCR").arg("counter").query_async(client).await
    }

    #[tokio::test]
    async fn modes_do_what_they_say() {
        let server = RedisServer::new().start().await;
        let proxy = Proxy::new(server.addr());

        let mut passing = client(&proxy).await.unwrap();
        assert_eq!(increment(&mut passing).await.unwrap(), 1);

        proxy.set(Mode::Delay(Duration::from_millis(30)));
        let start = Instant::now();
        assert_eq!(increment(&mut passing).await.unwrap(), 2);
        assert!(start.elapsed() >= Duration::from_millis(60));

        proxy.set(Mode::Stall);
        assert!(increment(&mut passing).await.unwrap_err().is_timeout());
        assert_eq!(server.run::<i64>(&["GET", "counter"]).await, 2);
        proxy.set(Mode::Pass);
        eventually("what was stalled passes", async || {
            server.run::<i64>(&["GET", "counter"]).await == 3
        })
        .await;

        proxy.set_open(Mode::BlackHole);
        assert!(increment(&mut passing).await.unwrap_err().is_timeout());
        let mut fresh = client(&proxy).await.unwrap();
        assert_eq!(increment(&mut fresh).await.unwrap(), 4);

        proxy.set(Mode::Pass);
        assert!(
            increment(&mut passing).await.is_err(),
            "a torn connection passes nothing"
        );
        assert_eq!(proxy.cut(Cut::Fin).await, 2);
        assert_eq!((proxy.accepted(), proxy.open()), (2, 0));
        assert!(proxy.requests() > 0 && proxy.replies() > 0);
    }

    #[tokio::test]
    async fn swallowed_commands_ran() {
        let server = RedisServer::new().start().await;
        let proxy = Proxy::new(server.addr());
        let mut first = client(&proxy).await.unwrap();
        let (answer, swallowed) = tokio::join!(
            async {
                // Once replies are swallowed for sure.
                tokio::time::sleep(Duration::from_millis(20)).await;
                increment(&mut first).await
            },
            proxy.swallow_and_cut(Duration::from_secs(5), Cut::Reset),
        );
        assert!(answer.is_err());
        assert_eq!(swallowed, 4, ":1 and the line's end");
        assert_eq!(server.run::<i64>(&["GET", "counter"]).await, 1);
    }

    #[tokio::test]
    async fn refuses_and_takes_again() {
        let server = RedisServer::new().start().await;
        let proxy = Proxy::new(server.addr());
        let mut open = client(&proxy).await.unwrap();
        proxy.refuse(true).await;
        assert!(client(&proxy).await.is_err());
        assert_eq!(increment(&mut open).await.unwrap(), 1);
        proxy.refuse(false).await;
        assert_eq!(increment(&mut client(&proxy).await.unwrap()).await.unwrap(), 2);
    }
}
