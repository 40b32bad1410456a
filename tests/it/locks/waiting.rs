//! Who waits: in which order they are served, what wakes them, and what one who gives up leaves to the others.

use std::time::Duration;

use redis_gateway::proto::{AcquireRequest, AcquireResponse, locks_client::LocksClient};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tonic::{Code, Status, transport::Channel};

use super::{Stand, acquire, asking, direct::Direct, get, got, release, waiters};
use crate::harness::{MachineLag, Mode, Proxy, RedisServer, at, eventually, heavy, reason, within};

/// How soon a wake-up reaches who waits.
const AT_ONCE: Duration = Duration::from_millis(50);

fn waiting(name: &str) -> AcquireRequest {
    AcquireRequest {
        wait_ms: 20_000,
        ..asking(name)
    }
}

/// A call that waits; what it came to, and when.
fn wait(locks: &LocksClient<Channel>, name: &str) -> JoinHandle<(Result<AcquireResponse, Status>, Instant)> {
    let (mut locks, request) = (locks.clone(), waiting(name));
    tokio::spawn(async move { (acquire(&mut locks, request).await, Instant::now()) })
}

#[tokio::test]
async fn who_came_first_is_served_first() {
    let mut stand = Stand::new().await;
    let held = got(&mut stand.locks, "a").await;
    let (tell, mut served) = mpsc::channel(16);
    for number in 0..16 {
        let (mut locks, tell) = (stand.locks.clone(), tell.clone());
        tokio::spawn(async move {
            let held = acquire(&mut locks, waiting("a")).await.unwrap();
            assert!(held.acquired);
            tell.send((number, held.fencing_token)).await.unwrap();
            release(&mut locks, "a", &held.holder_id).await.unwrap();
        });
        waiters(&mut stand.locks, "a", number + 1).await;
    }
    // Who asks without a wait goes before nobody.
    assert!(!acquire(&mut stand.locks, asking("a")).await.unwrap().acquired);
    release(&mut stand.locks, "a", &held.holder_id).await.unwrap();
    let mut latest = held.fencing_token;
    for number in 0..16 {
        let (served, token) = served.recv().await.unwrap();
        assert_eq!(served, number);
        assert!(token > latest, "{token} after {latest}");
        latest = token;
    }
    waiters(&mut stand.locks, "a", 0).await;
    stand.stop().await;
}

#[tokio::test]
async fn holders_with_and_without_the_gateway_wake_each_other() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let mut stand = Stand::new().await;
    for round in 0..10 {
        let name = format!("a{round}");
        let mut direct = Direct::new(&stand.server, &name, "direct").await;
        assert!(direct.try_acquire(60).await);
        let waiter = wait(&stand.locks, &name);
        waiters(&mut stand.locks, &name, 1).await;
        eventually("the gateway listens", async || stand.blocked().await == 1).await;
        let released = Instant::now();
        assert!(direct.release().await);
        let (held, at) = waiter.await.unwrap();
        let held = held.unwrap();
        assert!(held.acquired);
        lag.assert_within("from a direct holder", at - released, AT_ONCE);

        let waiter = tokio::spawn(async move {
            direct.acquire(60).await;
            (direct, Instant::now())
        });
        eventually("the direct client waits", async || stand.blocked().await > 0).await;
        let released = Instant::now();
        release(&mut stand.locks, &name, &held.holder_id).await.unwrap();
        let (mut direct, at) = waiter.await.unwrap();
        lag.assert_within("to a direct holder", at - released, AT_ONCE);
        assert!(direct.release().await);
    }
    stand.stop().await;
}

#[tokio::test]
async fn lock_that_came_while_listening_is_heard_at_once() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let mut stand = Stand::new().await;
    let mut others = Vec::new();
    for round in 0..20 {
        let name = format!("a{round}");
        let mut direct = Direct::new(&stand.server, &name, "direct").await;
        assert!(direct.try_acquire(60).await);
        let waiter = wait(&stand.locks, &name);
        waiters(&mut stand.locks, &name, 1).await;
        // The others are waited for all along.
        if round % 2 == 0 {
            others.push((direct, waiter));
            continue;
        }
        let released = Instant::now();
        assert!(direct.release().await);
        let (held, at) = waiter.await.unwrap();
        assert!(held.unwrap().acquired);
        lag.assert_within("a new name", at - released, AT_ONCE);
    }
    assert!(stand.blocked().await <= 2);
    for (mut direct, waiter) in others {
        assert!(direct.release().await);
        assert!(waiter.await.unwrap().0.unwrap().acquired);
    }
    stand.stop().await;
}

#[tokio::test]
async fn lock_that_ends_is_taken_when_it_is_due() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let stand = Stand::new().await;
    for millis in [300_u64, 1_450, 2_300] {
        let name = format!("a{millis}");
        let due = Instant::now() + Duration::from_millis(millis);
        let set = ["SET", &format!("lock:{name}"), "direct", "PX", &millis.to_string()];
        stand.server.run::<()>(&set).await;
        let (held, at) = wait(&stand.locks, &name).await.unwrap();
        assert!(held.unwrap().acquired && at >= due);
        lag.assert_within("a lock that ended", at - due, AT_ONCE);
    }
    stand.stop().await;
}

#[tokio::test]
async fn next_in_line_looks_for_itself_when_the_first_gives_up() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let mut stand = Stand::new().await;
    let due = Instant::now() + Duration::from_millis(1_500);
    // It wakes nobody when it ends.
    stand.server.run::<()>(&["SET", "lock:a", "direct", "PX", "1500"]).await;
    let first = wait(&stand.locks, "a");
    waiters(&mut stand.locks, "a", 1).await;
    let next = wait(&stand.locks, "a");
    waiters(&mut stand.locks, "a", 2).await;
    first.abort();
    let (held, at) = next.await.unwrap();
    assert!(held.unwrap().acquired && at >= due);
    lag.assert_within("a lock that ended", at - due, AT_ONCE);
    stand.stop().await;
}

#[tokio::test]
async fn deleted_lock_is_noticed_within_a_second() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let mut stand = Stand::new().await;
    for round in 0..3 {
        let name = format!("a{round}");
        let mut direct = Direct::new(&stand.server, &name, "direct").await;
        assert!(direct.try_acquire(600).await);
        let waiter = wait(&stand.locks, &name);
        waiters(&mut stand.locks, &name, 1).await;
        let deleted = Instant::now();
        stand.server.run::<()>(&["DEL", &format!("lock:{name}")]).await;
        let (held, at) = waiter.await.unwrap();
        assert!(held.unwrap().acquired);
        lag.assert_within("a deleted lock", at - deleted, Duration::from_millis(1_050));
    }
    stand.stop().await;
}

#[tokio::test]
async fn cancelled_wait_leaves_the_wake_up() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let mut stand = Stand::new().await;
    for round in 0..20 {
        let name = format!("a{round}");
        let held = got(&mut stand.locks, &name).await;
        let given_up = wait(&stand.locks, &name);
        eventually("the gateway listens", async || stand.blocked().await == 1).await;
        // Behind the gateway in Redis' own line.
        let mut direct = Direct::new(&stand.server, &name, "direct").await;
        let waiter = tokio::spawn(async move {
            direct.acquire(60).await;
            (direct, Instant::now())
        });
        eventually("the direct client waits", async || stand.blocked().await == 2).await;
        given_up.abort();
        waiters(&mut stand.locks, &name, 0).await;
        let released = Instant::now();
        release(&mut stand.locks, &name, &held.holder_id).await.unwrap();
        let (mut direct, at) = waiter.await.unwrap();
        lag.assert_within("the next one elsewhere", at - released, AT_ONCE);
        assert!(direct.release().await);
    }
    let metrics = stand.gateway.admin("/metrics").await.1;
    let handed_on = metrics
        .lines()
        .find(|line| line.starts_with("redis_gateway_locks_wake_ups_handed_on_total"));
    assert!(
        !handed_on.unwrap().ends_with(" 0"),
        "no wake-up was taken by mistake: nothing is shown"
    );
    stand.stop().await;
}

#[tokio::test]
async fn cancelled_first_leaves_its_turn_to_the_next_here() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let mut stand = Stand::new().await;
    for round in 0..10 {
        let name = format!("a{round}");
        let held = got(&mut stand.locks, &name).await;
        let given_up = wait(&stand.locks, &name);
        waiters(&mut stand.locks, &name, 1).await;
        let next = wait(&stand.locks, &name);
        waiters(&mut stand.locks, &name, 2).await;
        // At the same moment: whoever is woken first, the lock is not lost with it.
        let mut locks = stand.locks.clone();
        let (from, holder) = (name.clone(), held.holder_id.clone());
        let released = Instant::now();
        let releasing = tokio::spawn(async move { release(&mut locks, &from, &holder).await });
        given_up.abort();
        releasing.await.unwrap().unwrap();
        let (held, at) = next.await.unwrap();
        let held = held.unwrap();
        assert!(held.acquired);
        lag.assert_within("the next one here", at - released, AT_ONCE);
        release(&mut stand.locks, &name, &held.holder_id).await.unwrap();
    }
    stand.stop().await;
}

#[tokio::test]
async fn the_longest_wait_is_told_while_it_lasts() {
    let mut stand = Stand::new().await;
    let held = got(&mut stand.locks, "a").await;
    let mut told = Vec::new();
    for count in 0..=2 {
        let name = if count < 2 { "a" } else { "b" };
        if count > 0 {
            drop(wait(&stand.locks, name));
            waiters(&mut stand.locks, name, 1).await;
        } else {
            got(&mut stand.locks, "b").await;
        }
        let (_, metrics) = stand.gateway.admin("/metrics").await;
        let mut lines = metrics.lines();
        let longest = lines.find_map(|line| line.strip_prefix("redis_gateway_locks_longest_wait_seconds "));
        told.push(longest.unwrap().parse::<f64>().unwrap());
    }
    assert!(told[0] == 0.0 && told[1] > 0.0 && told[2] > told[1], "{told:?}");
    release(&mut stand.locks, "a", &held.holder_id).await.unwrap();
    stand.stop().await;
}

#[tokio::test]
async fn cancelled_acquire_gives_up_what_it_got() {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let addr = proxy.addr();
    let mut stand = Stand::with(server, |config| config.endpoints.user_events = Some(at(addr))).await;
    got(&mut stand.locks, "warm").await;
    proxy.set(Mode::Delay(Duration::from_millis(100)));
    for round in 0..5 {
        let name = format!("a{round}");
        let mut locks = stand.locks.clone();
        let request = asking(&name);
        let call = tokio::spawn(async move { acquire(&mut locks, request).await });
        eventually("the lock is got", async || stand.value(&name).await.is_some()).await;
        // The answer is still on its way.
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled(), "cancelled too late");
        eventually("it is given up", async || stand.value(&name).await.is_none()).await;
        let woken: i64 = stand.server.run(&["LLEN", &format!("lock-signal:{name}")]).await;
        assert_eq!(woken, 1, "as by a release");
    }
    proxy.set(Mode::Pass);
    stand.stop().await;
}

#[tokio::test]
async fn retry_keeps_what_the_cancelled_call_would_give_up() {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let addr = proxy.addr();
    let mut stand = Stand::with(server, |config| config.endpoints.user_events = Some(at(addr))).await;
    let held = got(&mut stand.locks, "warm").await;
    release(&mut stand.locks, "warm", &held.holder_id).await.unwrap();
    proxy.set(Mode::Delay(Duration::from_millis(100)));
    let request = AcquireRequest {
        holder_id: "UJPA666E9eycGM865uiZS6N3".into(),
        ..asking("a")
    };
    let (mut locks, first) = (stand.locks.clone(), request.clone());
    let call = tokio::spawn(async move { acquire(&mut locks, first).await });
    eventually("the lock is got", async || stand.value("a").await.is_some()).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled(), "cancelled too late");
    let again = acquire(&mut stand.locks, request).await.unwrap();
    assert!(again.acquired && again.fencing_token > 0);
    eventually("what the first call left is being given up", async || {
        let given_up = "redis_gateway_locks_acquires_total{outcome=\"given_up\"} 1";
        stand.gateway.admin("/metrics").await.1.contains(given_up)
    })
    .await;
    sleep_until(Instant::now() + Duration::from_millis(500)).await;
    assert_eq!(stand.value("a").await, Some(again.holder_id));
    proxy.set(Mode::Pass);
    stand.stop().await;
}

#[tokio::test]
async fn wait_ends_in_time_and_says_that_the_lock_is_busy() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let mut stand = Stand::new().await;
    let held = got(&mut stand.locks, "a").await;
    for (wait_ms, deadline_ms, ends) in [(300, 10_000, 300), (20_000, 1_500, 1_500), (400, 400, 400)] {
        for behind in [false, true] {
            let first = behind.then(|| wait(&stand.locks, "a"));
            waiters(&mut stand.locks, "a", i64::from(behind)).await;
            let request = AcquireRequest { wait_ms, ..asking("a") };
            let asked = Instant::now();
            let answer = stand
                .locks
                .acquire(within(Duration::from_millis(deadline_ms), request))
                .await;
            let answer = answer.unwrap().into_inner();
            assert!(!answer.acquired && answer.remaining_ms() > 50_000);
            let limit = Duration::from_millis(ends) + AT_ONCE;
            lag.assert_within("a bounded wait", asked.elapsed(), limit);
            assert!(asked.elapsed() > Duration::from_millis(ends) * 9 / 10);
            if let Some(first) = first {
                first.abort();
            }
            waiters(&mut stand.locks, "a", 0).await;
        }
    }
    assert_eq!(get(&mut stand.locks, "a").await.unwrap().holder_id, held.holder_id);
    stand.stop().await;
}

#[tokio::test]
async fn nothing_listens_when_nobody_waits() {
    let mut stand = Stand::new().await;
    got(&mut stand.locks, "a").await;
    let waiter = wait(&stand.locks, "a");
    eventually("the gateway listens", async || stand.blocked().await == 1).await;
    waiter.abort();
    eventually("nothing listens", async || stand.blocked().await == 0).await;
    let listened = stand.server.calls("blpop").await;
    sleep_until(Instant::now() + Duration::from_millis(1_300)).await;
    assert_eq!(
        stand.server.calls("blpop").await,
        listened,
        "longer than it is armed at once"
    );
    stand.stop().await;
}

#[tokio::test]
async fn drain_sends_who_waits_elsewhere() {
    let mut stand = Stand::new().await;
    let held = got(&mut stand.locks, "a").await;
    let waiter = wait(&stand.locks, "a");
    waiters(&mut stand.locks, "a", 1).await;
    let Stand { server, gateway, locks } = stand;
    drop(locks);
    let drained = Instant::now();
    gateway.stop().await;
    let status = waiter.await.unwrap().0.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_deref()),
        (Code::Unavailable, Some("DRAINING"))
    );
    assert!(
        drained.elapsed() < Duration::from_secs(15),
        "the drain waited for the wait"
    );
    assert_eq!(
        server.run::<Option<String>>(&["GET", "lock:a"]).await,
        Some(held.holder_id)
    );
    eventually("no connection is left", async || server.connections().await.is_empty()).await;
}
