//! A connection on which nothing comes back is noticed and replaced.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use redis_gateway::{
    deadline::Deadline,
    redis::{Endpoint, Error, Existing, command},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{close, down, open, serving, up, within_ms};
use crate::harness::{Cut, MachineLag, Mode, Proxy, RedisServer, at, endpoint, eventually, heavy, soak};

/// What each call gets.
const TIMEOUT: Duration = Duration::from_millis(500);

/// One call of a load.
struct Call {
    began: Instant,
    took: Duration,
    result: Result<(), Error>,
}

/// Callers that read and write without a pause until told to stop.
struct Load {
    callers: JoinSet<Vec<Call>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Starts `callers` that write `size` bytes and read nothing much, in turn.
    fn start(endpoint: &Arc<Endpoint>, callers: usize, size: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let value = Bytes::from(vec![b'x'; size]);
        let caller = |n: usize| {
            let (endpoint, stop, value) = (endpoint.clone(), stop.clone(), value.clone());
            async move {
                let mut calls = Vec::new();
                while !stop.load(Relaxed) {
                    let key = Bytes::from(format!("key-{n}"));
                    let (began, deadline) = (Instant::now(), Deadline::within(TIMEOUT));
                    let result = if calls.len() % 2 == 0 {
                        let set = command::set(key, value.clone(), Existing::Replace, None);
                        endpoint.primary(set, deadline).await.map(drop)
                    } else {
                        endpoint.primary(command::ttl(key), deadline).await.map(drop)
                    };
                    calls.push(Call {
                        began,
                        took: began.elapsed(),
                        result,
                    });
                    sleep(Duration::from_millis(2)).await;
                }
                calls
            }
        };
        Load {
            callers: (0..callers).map(caller).collect(),
            stop,
        }
    }

    async fn stop(self) -> Vec<Call> {
        self.stop.store(true, Relaxed);
        self.callers.join_all().await.into_iter().flatten().collect()
    }
}

/// Puts `mode` on the connections of an endpoint under load, and checks that every call ends by its deadline and that service
/// is back in time.
async fn replaced(mode: Mode, callers: usize, size: usize) {
    let _one = heavy().await;
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = serving(&at(proxy.addr())).await;
    for round in 0..if soak() { 30 } else { 3 } {
        let lag = MachineLag::watch();
        let load = Load::start(&endpoint, callers, size);
        sleep(Duration::from_millis(300)).await;
        let fault = Instant::now();
        proxy.set_open(mode);
        sleep(Duration::from_millis(2_500)).await;
        let calls = load.stop().await;

        let worst = calls.iter().map(|call| call.took).max().unwrap();
        let failed = calls.iter().filter(|call| call.result.is_err());
        let last_failed = failed.clone().map(|call| call.began).max().unwrap_or(fault);
        let after = calls.iter().filter(|call| call.began > last_failed);
        let back = after.map(|call| call.began + call.took).min().unwrap() - fault;
        let meanwhile = calls
            .iter()
            .filter(|call| call.began >= fault && call.began < fault + back)
            .count();
        let later = calls.iter().filter(|call| call.began > fault + back).count();
        println!(
            "{mode:?} {round}: {} calls, {} failed, back after {back:?}, worst {worst:?}, machine {:?}",
            calls.len(),
            failed.clone().count(),
            lag.worst()
        );
        lag.assert_within("the slowest call", worst, TIMEOUT + Duration::from_millis(50));
        lag.assert_within("back in service", back, Duration::from_millis(1_500));
        assert!(failed.count() >= callers, "the fault was felt");
        assert!(
            later >= callers * 10 && calls.len() - meanwhile - later >= callers * 2,
            "too little traffic"
        );
        if mode == Mode::Stall {
            // More than twice what Linux lets a socket's send buffer grow to.
            let asked = calls
                .iter()
                .filter(|call| call.began >= fault && call.took >= TIMEOUT)
                .count()
                / 2
                * size;
            assert!(asked >= 8 << 20, "the socket's buffers were not full: {asked} bytes");
        }
    }
    // Whoever reads again sees that the dead connections were closed.
    proxy.set(Mode::Pass);
    close(endpoint, &server).await;
    assert_eq!(proxy.open(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_connection_replaced_under_load() {
    replaced(Mode::BlackHole, 32, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_connection_replaced_with_full_socket_buffer() {
    replaced(Mode::Stall, 64, 256 << 10).await;
}

#[tokio::test]
async fn dead_connection_replaced_when_idle() {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = serving(&at(proxy.addr())).await;
    proxy.set_open(Mode::BlackHole);
    eventually("a second connection", async || proxy.accepted() == 2).await;
    up(&endpoint).await;
    endpoint.primary(command::ping(), within_ms(1_000)).await.unwrap();
    assert_eq!(proxy.cut(Cut::Fin).await, 1, "the dead connection was closed");
    close(endpoint, &server).await;
}

#[tokio::test]
async fn starts_without_redis_and_comes_up_by_itself() {
    let server = RedisServer::new();
    let endpoint = open(&at(server.addr()));
    down(&endpoint).await;
    let refused = endpoint.primary(command::ping(), within_ms(1_000)).await;
    assert_eq!(refused, Err(Error::Unavailable));

    let mut server = server.start().await;
    up(&endpoint).await;
    endpoint.primary(command::ping(), within_ms(1_000)).await.unwrap();

    server.kill();
    down(&endpoint).await;
    server.restart().await;
    let back = Instant::now();
    up(&endpoint).await;
    endpoint.primary(command::ping(), within_ms(1_000)).await.unwrap();
    assert!(
        back.elapsed() < Duration::from_secs(1),
        "back after {:?}",
        back.elapsed()
    );
    close(endpoint, &server).await;
}

#[tokio::test]
async fn open_breaker_refuses_within_milliseconds() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = serving(&at(proxy.addr())).await;
    // A server that takes connections and never answers is as much down as one that is not there.
    proxy.set(Mode::BlackHole);
    down(&endpoint).await;
    for _ in 0..1_000 {
        let asked = Instant::now();
        let refused = endpoint.primary(command::ping(), within_ms(1_000)).await;
        assert_eq!(refused, Err(Error::Unavailable));
        lag.assert_within("a refusal", asked.elapsed(), Duration::from_millis(5));
    }
    proxy.set(Mode::Pass);
    up(&endpoint).await;
    endpoint.primary(command::ping(), within_ms(1_000)).await.unwrap();
    close(endpoint, &server).await;
}

#[tokio::test]
async fn one_endpoint_down_leaves_the_others_alone() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let silent = serving(&at(proxy.addr())).await;
    let healthy = serving(&at(server.addr())).await;
    proxy.set(Mode::Stall);
    let load = Load::start(&silent, 200, 10_000);
    for _ in 0..500 {
        let asked = Instant::now();
        healthy.primary(command::ping(), within_ms(1_000)).await.unwrap();
        lag.assert_within(
            "a call to the healthy endpoint",
            asked.elapsed(),
            Duration::from_millis(50),
        );
        sleep(Duration::from_millis(2)).await;
    }
    let calls = load.stop().await;
    assert!(
        calls.iter().all(|call| call.result.is_err()) && calls.len() > 1_000,
        "{} calls",
        calls.len()
    );
    drop(proxy);
    drop(silent);
    close(healthy, &server).await;
}

#[tokio::test]
async fn too_many_in_flight_are_refused_at_once() {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let mut config = endpoint(at(proxy.addr()).server);
    config.max_in_flight = 10;
    let endpoint = serving(&config).await;
    proxy.set(Mode::Delay(Duration::from_millis(100)));
    let calls = (0..50).map(|_| endpoint.primary(command::ping(), within_ms(2_000)));
    let results = futures_util::future::join_all(calls).await;
    let overloaded = results
        .iter()
        .filter(|result| **result == Err(Error::Overloaded))
        .count();
    let answered = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!((answered, overloaded), (10, 40), "{results:?}");
    endpoint.primary(command::ping(), within_ms(2_000)).await.unwrap();
    close(endpoint, &server).await;
}
