//! Blocking commands: apart from all others, and without a trace once they are given up.

use std::time::Duration;

use bytes::Bytes;
use redis_gateway::redis::{Error, command};
use tokio::time::{Instant, timeout};

use super::{close, serving, within_ms};
use crate::harness::{Cut, MachineLag, Mode, Proxy, RedisServer, at, eventually, heavy};

fn signal() -> [Bytes; 1] {
    [Bytes::from_static(b"signal")]
}

#[tokio::test]
async fn given_up_pop_takes_no_wake_up_with_it() {
    let server = RedisServer::new().start().await;
    let endpoint = serving(&at(server.addr())).await;
    for round in 0..20 {
        let mut given_up = endpoint.blocking();
        let keys = signal();
        let waits = given_up.pop(&keys, within_ms(10_000));
        let armed = eventually("a pop is armed", async || server.info("blocked_clients").await == 1);
        tokio::select! {
            popped = waits => panic!("popped {popped:?} from an empty list"),
            () = armed => {}
        }
        // Its future is gone, its owner is not.
        eventually("no pop is armed", async || server.info("blocked_clients").await == 0).await;
        server.run::<()>(&["RPUSH", "signal", &round.to_string()]).await;
        let asked = Instant::now();
        let popped = given_up.pop(&signal(), within_ms(5_000)).await.unwrap();
        assert_eq!(
            popped,
            Some((Bytes::from_static(b"signal"), Bytes::from(round.to_string())))
        );
        assert!(asked.elapsed() < Duration::from_secs(1));
    }
    close(endpoint, &server).await;
}

#[tokio::test]
async fn armed_pop_is_apart_from_other_commands() {
    let server = RedisServer::new().start().await;
    let endpoint = serving(&at(server.addr())).await;
    let mut blocking = endpoint.blocking();
    let wait = tokio::spawn(async move { blocking.pop(&signal(), within_ms(10_000)).await });
    eventually("a pop is armed", async || server.info("blocked_clients").await == 1).await;
    for _ in 0..100 {
        endpoint.primary(command::ping(), within_ms(500)).await.unwrap();
    }
    // Longer than one slice: the wait goes on.
    let longer = timeout(Duration::from_millis(1_500), std::future::pending::<()>());
    assert!(longer.await.is_err() && !wait.is_finished());
    server.run::<()>(&["RPUSH", "signal", "1"]).await;
    assert!(wait.await.unwrap().unwrap().is_some());
    close(endpoint, &server).await;
}

#[tokio::test]
async fn pop_ends_by_its_deadline() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = serving(&at(proxy.addr())).await;
    let mut blocking = endpoint.blocking();

    let asked = Instant::now();
    assert_eq!(blocking.pop(&signal(), within_ms(1_300)).await, Ok(None));
    lag.assert_within("a pop of an empty list", asked.elapsed(), Duration::from_millis(1_350));

    proxy.set(Mode::BlackHole);
    let asked = Instant::now();
    let popped = blocking.pop(&signal(), within_ms(700)).await;
    assert!(
        matches!(popped, Err(Error::Unknown | Error::Unavailable | Error::Timeout)),
        "{popped:?}"
    );
    lag.assert_within(
        "a pop from a silent server",
        asked.elapsed(),
        Duration::from_millis(750),
    );
    proxy.set(Mode::Pass);
    proxy.cut(Cut::Reset).await;

    server.run::<()>(&["RPUSH", "signal", "1"]).await;
    assert!(
        blocking.pop(&signal(), within_ms(1_000)).await.unwrap().is_some(),
        "a new connection is made"
    );
    drop(blocking);
    close(endpoint, &server).await;
}
