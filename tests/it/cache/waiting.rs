//! How a wait ends: by a value, by a lease that is free again, by its caller.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use redis_gateway::{config::Server, proto::CacheGetOrLeaseResponse};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};
use tonic::{Code, Status};

use super::{
    Client, Stand, ask, asking, busy_in, delete, fill, filled, give_up, lease_in, leased, set, value_in, waiting,
};
use crate::harness::{MachineLag, Mode, Proxy, RedisServer, at, eventually, heavy, patience, reason, within};

/// Longer than any test waits.
const LONG: i64 = 60_000;

type Wait = JoinHandle<(Result<CacheGetOrLeaseResponse, Status>, Instant)>;

/// A call that waits for a key, and when it was answered.
fn wait(stand: &Stand, gateway: usize, key: &str) -> Wait {
    let mut client = stand.client(gateway);
    let request = waiting(key, LONG);
    tokio::spawn(async move { (ask(&mut client, request).await, Instant::now()) })
}

async fn ended(wait: Wait) -> (CacheGetOrLeaseResponse, Instant) {
    let (answer, at) = timeout(patience(), wait).await.expect("an end").unwrap();
    (answer.unwrap(), at)
}

#[tokio::test]
async fn fill_wakes_all_who_wait_on_all_gateways() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let stand = Stand::new(2).await;
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        let key = format!("key{round}");
        let token = leased(&mut stand.client(0), &key).await;
        let waits: Vec<Wait> = (0..6).map(|n| wait(&stand, n % 2, &key)).collect();
        stand.waiters(0, 3).await;
        stand.waiters(1, 3).await;
        stand.listeners(2).await;
        let filling = Instant::now();
        filled(&mut stand.client(round % 2), &key, &token, "1").await;
        for wait in waits {
            let (answer, at) = ended(wait).await;
            assert_eq!(value_in(answer), b"1");
            slowest = slowest.max(at - filling);
        }
    }
    println!("from fill to the last who waited: at most {slowest:?}");
    lag.assert_within("a wake-up", slowest, Duration::from_millis(150));
    stand.stop().await;
}

#[tokio::test]
async fn lease_given_up_or_voided_goes_to_who_waited_first() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let stand = Stand::new(2).await;
    let [mut a, mut b] = [0, 1].map(|n| stand.client(n));
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        let key = format!("key{round}");
        let token = leased(&mut a, &key).await;
        let first = wait(&stand, 1, &key);
        stand.waiters(1, 1).await;
        let second = wait(&stand, 1, &key);
        stand.waiters(1, 2).await;
        stand.listeners(1).await;
        let ending = Instant::now();
        if round % 2 == 0 {
            assert!(give_up(&mut a, &key, &token).await);
        } else {
            delete(&mut a, &key).await;
        }
        let (answer, at) = ended(first).await;
        let next = lease_in(answer);
        slowest = slowest.max(at - ending);
        assert!(!fill(&mut a, &key, &token, "old").await.stored);
        filled(&mut b, &key, &next, "new").await;
        assert_eq!(value_in(ended(second).await.0), b"new");
    }
    println!("from the end of a lease to the next: at most {slowest:?}");
    lag.assert_within("a hand-over", slowest, Duration::from_millis(150));
    drop((a, b));
    stand.stop().await;
}

#[tokio::test]
async fn who_writes_without_a_lease_is_seen_within_half_a_second() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let stand = Stand::new(1).await;
    for direct in [true, false] {
        let key = format!("key {direct}");
        leased(&mut stand.client(0), &key).await;
        let waits = wait(&stand, 0, &key);
        stand.waiters(0, 1).await;
        let wrote = Instant::now();
        if direct {
            stand.server.run::<()>(&["SET", &key, "1"]).await;
        } else {
            set(&mut stand.client(0), &key, "1", false).await;
        }
        let (answer, at) = ended(waits).await;
        assert_eq!(value_in(answer), b"1");
        lag.assert_within("a look", at - wrote, Duration::from_millis(550));
    }
    stand.stop().await;
}

#[tokio::test]
async fn wake_ups_that_are_denied_cost_half_a_second() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let server = RedisServer::new().user("default", "on nopass ~* resetchannels +@all");
    let stand = Stand::with(server.start().await, 2, |_| {}).await;
    let token = leased(&mut stand.client(0), "key").await;
    let waits = wait(&stand, 1, "key");
    stand.waiters(1, 1).await;
    let filling = Instant::now();
    filled(&mut stand.client(0), "key", &token, "1").await;
    let (answer, at) = ended(waits).await;
    assert_eq!(value_in(answer), b"1");
    lag.assert_within("a look", at - filling, Duration::from_millis(550));
    stand.stop().await;
}

#[tokio::test]
async fn cancelled_waits_leave_nothing() {
    let stand = Stand::new(2).await;
    let mut loader = stand.client(0);
    let token = leased(&mut loader, "key").await;
    let mut waits: Vec<Wait> = (0..100).map(|n| wait(&stand, n % 2, "key")).collect();
    stand.waiters(0, 50).await;
    stand.waiters(1, 50).await;
    let abandoned = leased(&mut loader, "abandoned").await;
    waits.extend((0..10).map(|n| wait(&stand, n % 2, "abandoned")));
    stand.waiters(0, 55).await;
    stand.waiters(1, 55).await;
    for wait in &waits[1..] {
        wait.abort();
    }
    stand.waiters(0, 1).await;
    stand.waiters(1, 0).await;
    // The lease goes to the one who is left, not to those who came before or after.
    assert!(give_up(&mut loader, "key", &token).await);
    let next = lease_in(ended(waits.swap_remove(0)).await.0);
    assert!(give_up(&mut loader, "key", &next).await);
    eventually("nobody looks any more", async || {
        let before = stand.server.calls("evalsha").await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        stand.server.calls("evalsha").await == before
    })
    .await;
    assert!(give_up(&mut loader, "abandoned", &abandoned).await);
    assert!(stand.own_keys().await.is_empty());
    drop((loader, waits));
    stand.stop().await;
}

#[tokio::test]
async fn lease_that_its_caller_does_not_take_is_given_up() {
    let server = RedisServer::new().start().await;
    let slow = Proxy::new(server.addr());
    let slow_at = slow.addr();
    let stand = Stand::with(server, 1, |config| config.endpoints.cache = Some(at(slow_at))).await;
    slow.set(Mode::Delay(Duration::from_millis(5)));
    for round in 0..100 {
        let mut client: Client = stand.client(0);
        let key = format!("key{round}");
        // The caller goes away at any moment of a call, which is of two commands of 10 ms.
        let call = tokio::spawn(async move { ask(&mut client, waiting(&key, LONG)).await });
        tokio::time::sleep(Duration::from_micros(300 * round)).await;
        call.abort();
        drop(call.await);
    }
    stand.waiters(0, 0).await;
    // Those that were answered have their leases; of those that were not, none is left.
    let given = async || {
        stand
            .metric(0, "redis_gateway_cache_leases_total{event=\"given\"}")
            .await
    };
    eventually("only leases that were given are left", async || {
        stand.own_keys().await.len() as u64 == given().await
    })
    .await;
    let unwanted = stand
        .metric(0, "redis_gateway_cache_leases_total{event=\"unwanted\"}")
        .await;
    println!("{} leases given, {unwanted} given up", given().await);
    assert!(unwanted > 0);
    stand.stop().await;
}

#[tokio::test]
async fn later_caller_is_not_told_what_was_read_before_it_came() {
    let server = RedisServer::new().start().await;
    let replica = RedisServer::new().replica_of(&server).start().await;
    let slow = Proxy::new(server.addr());
    // The first gateway hears of the primary late, and of the replica at once.
    let slow_at = slow.addr();
    let first = AtomicBool::new(true);
    let stand = Stand::with(server, 2, |config| {
        if first.swap(false, Relaxed) {
            let mut endpoint = at(slow_at);
            endpoint.replicas = vec![Server::Tcp {
                host: replica.addr().ip().to_string(),
                port: replica.addr().port(),
            }];
            endpoint.probe_timeout = patience();
            config.endpoints.cache = Some(endpoint);
        }
    })
    .await;
    leased(&mut stand.client(1), "key").await;
    let earlier = wait(&stand, 0, "key");
    stand.waiters(0, 1).await;
    stand.listeners(1).await;
    slow.set(Mode::Delay(Duration::from_millis(400)));
    stand.server.run::<()>(&["SET", "key", "old"]).await;
    let looks = stand.server.calls("evalsha").await;
    eventually("the old value is read", async || {
        stand.server.calls("evalsha").await > looks
    })
    .await;
    assert!(delete(&mut stand.client(1), "key").await);
    eventually("the replica follows", async || {
        replica.run::<Option<String>>(&["GET", "key"]).await.is_none()
    })
    .await;
    assert!(!earlier.is_finished(), "a machine too slow to see it");
    lease_in(ended(wait(&stand, 0, "key")).await.0);
    assert_eq!(value_in(ended(earlier).await.0), b"old");
    stand.stop().await;
}

#[tokio::test]
async fn who_does_not_wait_is_answered_at_once_beside_who_does() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let server = RedisServer::new().start().await;
    let slow = Proxy::new(server.addr());
    let slow_at = slow.addr();
    let stand = Stand::with(server, 1, |config| config.endpoints.cache = Some(at(slow_at))).await;
    leased(&mut stand.client(0), "key").await;
    slow.set(Mode::Delay(Duration::from_millis(100)));
    let waits = wait(&stand, 0, "key");
    // Each reads for 200 ms; then the first asks for 200 ms, and the second comes meanwhile.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked = Instant::now();
    busy_in(ask(&mut stand.client(0), asking("key")).await.unwrap());
    lag.assert_within(
        "a read, the rest of a question, a question",
        asked.elapsed(),
        Duration::from_millis(650),
    );
    waits.abort();
    stand.stop().await;
}

#[tokio::test]
async fn drain_sends_away_who_waits() {
    let stand = Stand::new(2).await;
    leased(&mut stand.client(1), "key").await;
    let mut waits = Vec::new();
    for _ in 0..3 {
        waits.push(wait(&stand, 0, "key"));
    }
    stand.waiters(0, 3).await;
    let Stand {
        server,
        mut gateways,
        mut clients,
    } = stand;
    drop(clients.remove(0));
    gateways.remove(0).stop().await;
    for wait in waits {
        let status = wait.await.unwrap().0.unwrap_err();
        let told = (status.code(), reason(&status));
        assert_eq!(told, (Code::Unavailable, Some("DRAINING".into())), "{status}");
    }
    let rest = Stand {
        server,
        gateways,
        clients,
    };
    busy_in(ask(&mut rest.client(0), asking("key")).await.unwrap());
    rest.stop().await;
}

#[tokio::test]
async fn wait_ends_with_the_calls_deadline() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let stand = Stand::new(1).await;
    leased(&mut stand.client(0), "key").await;
    let deadline = Duration::from_millis(700);
    let began = Instant::now();
    let call = stand
        .client(0)
        .get_or_lease(within(deadline, waiting("key", LONG)))
        .await;
    busy_in(call.unwrap().into_inner());
    lag.assert_within("the deadline", began.elapsed(), deadline);
    // Without one, it is the endpoint's limit of a command.
    let began = Instant::now();
    let call = stand.client(0).get_or_lease(waiting("key", LONG)).await;
    busy_in(call.unwrap().into_inner());
    // No caller's clock is ahead of it: the way back comes on top.
    lag.assert_within("the default", began.elapsed(), Duration::from_millis(2_050));
    stand.stop().await;
}
