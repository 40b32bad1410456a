//! Questions without an answer: the lock that one may have got is nobody's for long, and is not believed to be held for longer
//! than it lives.

use std::time::Duration;

use redis_gateway::{
    config::Password,
    proto::{AcquireRequest, HoldRequest, hold_lost::Cause, hold_response::Event},
};
use tokio::time::{Instant, sleep_until};

use super::{Held, Stand, acquire, asking, direct::Direct, got, holding, waiters};
use crate::harness::{Cut, MachineLag, Mode, Proxy, RedisServer, at, eventually, heavy, reason};

/// How long the gateway waits for Redis in the tests that wait for that.
const BRIEF: Duration = Duration::from_millis(400);

/// A gateway behind a proxy that has got a lock before, so that its scripts are loaded.
async fn behind_a_proxy(command_timeout: Option<Duration>) -> (Stand, Proxy) {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let addr = proxy.addr();
    let mut stand = Stand::with(server, |config| {
        let mut endpoint = at(addr);
        endpoint.command_timeout = command_timeout.unwrap_or(endpoint.command_timeout);
        config.endpoints.user_events = Some(endpoint);
    })
    .await;
    drop(got(&mut stand.locks, "warm").await);
    (stand, proxy)
}

async fn given_up(stand: &Stand) -> bool {
    let given_up = "redis_gateway_locks_acquires_total{outcome=\"given_up\"} ";
    stand.gateway.admin("/metrics").await.1.contains(given_up)
}

#[tokio::test]
async fn cancelled_acquire_is_given_up_though_its_outcome_was_never_known() {
    let (stand, proxy) = behind_a_proxy(Some(BRIEF)).await;
    // Nor is it known who holds the lock.
    proxy.set(Mode::SwallowReplies);
    let mut locks = stand.locks.clone();
    let call = tokio::spawn(async move { acquire(&mut locks, asking("a")).await });
    eventually("the lock is got", async || stand.value("a").await.is_some()).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled(), "cancelled too late");
    eventually("it is being given up", async || given_up(&stand).await).await;
    proxy.set(Mode::Pass);
    proxy.cut(Cut::Reset).await;
    eventually("it is given up", async || stand.value("a").await.is_none()).await;
    stand.stop().await;
}

#[tokio::test]
async fn late_question_of_one_who_is_gone_leaves_no_lock_behind() {
    let (mut stand, proxy) = behind_a_proxy(None).await;
    let own = "UJPA666E9eycGM865uiZS6N3";
    stand.server.run::<()>(&["SET", "lock:a", "direct", "PX", "500"]).await;
    let (mut locks, request) = (stand.locks.clone(), asking("a"));
    let request = AcquireRequest {
        wait_ms: 20_000,
        holder_id: own.into(),
        ..request
    };
    let call = tokio::spawn(async move { acquire(&mut locks, request).await });
    waiters(&mut stand.locks, "a", 1).await;
    // It asks when the lock was due to end, and this question is on its way for long.
    stand.server.run::<()>(&["PEXPIRE", "lock:a", "60000"]).await;
    proxy.set_open(Mode::Stall);
    let asked = stand.server.calls("evalsha").await;
    eventually("it has read back, and asked again in vain", async || {
        stand.server.calls("evalsha").await >= asked + 2
    })
    .await;
    stand.server.run::<()>(&["DEL", "lock:a"]).await;
    proxy.set(Mode::Pass);
    eventually("the first question gets through", async || {
        stand.value("a").await.as_deref() == Some(own)
    })
    .await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled(), "cancelled too late");
    eventually("it is given up", async || stand.value("a").await.is_none()).await;
    stand.stop().await;
}

#[tokio::test]
async fn lock_of_an_unanswered_question_is_not_kept_past_its_end() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let (mut stand, proxy) = behind_a_proxy(Some(BRIEF)).await;
    stand.server.run::<()>(&["SET", "lock:a", "direct", "PX", "500"]).await;
    let request = HoldRequest {
        ttl_ms: 3_000,
        wait_ms: 20_000,
        ..holding("a")
    };
    let mut stream = Held::open(&mut stand.locks, request).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), Some(Event::Waiting(_))));
    proxy.set(Mode::SwallowReplies);
    eventually("the lock is got", async || {
        stand.value("a").await.is_some_and(|holder| holder != "direct")
    })
    .await;
    // Until the question is given up, and what it came to cannot be read back.
    sleep_until(Instant::now() + BRIEF).await;
    proxy.set(Mode::Pass);
    proxy.cut(Cut::Reset).await;
    let (holder, _) = stream.acquired().await;
    assert_eq!(stand.value("a").await, Some(holder));
    proxy.set(Mode::BlackHole);
    eventually("the lock ends", async || stand.value("a").await.is_none()).await;
    let ended = Instant::now();
    assert_eq!(stream.lost().await, Cause::Unknown);
    lag.assert_within("the news", ended.elapsed(), Duration::from_millis(300));
    proxy.set(Mode::Pass);
    proxy.cut(Cut::Reset).await;
    stand.stop().await;
}

#[tokio::test]
async fn holder_whose_second_question_is_not_answered_holds_on() {
    let (mut stand, proxy) = behind_a_proxy(Some(BRIEF)).await;
    let held = got(&mut stand.locks, "a").await;
    let again = AcquireRequest {
        holder_id: held.holder_id.clone(),
        ..asking("a")
    };
    proxy.set(Mode::SwallowReplies);
    acquire(&mut stand.locks, again).await.unwrap_err();
    eventually("it is being given up", async || given_up(&stand).await).await;
    proxy.set(Mode::Pass);
    proxy.cut(Cut::Reset).await;
    let asked = stand.server.calls("evalsha").await;
    eventually("it was tried to give it up", async || {
        stand.server.calls("evalsha").await > asked
    })
    .await;
    assert_eq!(stand.value("a").await, Some(held.holder_id));
    stand.stop().await;
}

#[tokio::test]
async fn question_that_got_lost_makes_no_free_lock_busy() {
    let (mut stand, proxy) = behind_a_proxy(None).await;
    proxy.set_open(Mode::BlackHole);
    let answer = acquire(&mut stand.locks, asking("a")).await.unwrap();
    assert!(answer.acquired, "busy, for {:?} ms", answer.remaining_ms);
    assert_eq!(stand.value("a").await, Some(answer.holder_id));
    proxy.cut(Cut::Reset).await;
    stand.stop().await;
}

#[tokio::test]
async fn taking_up_that_is_cancelled_leaves_the_lock_to_its_grace() {
    let (mut stand, proxy) = behind_a_proxy(None).await;
    let request = HoldRequest {
        ttl_ms: 600_000,
        // Longer than the first stream takes to hear of it.
        grace_ms: 3_000,
        ..holding("a")
    };
    let mut stream = Held::open(&mut stand.locks, request.clone()).await.unwrap();
    let (holder_id, fencing_token) = stream.acquired().await;
    let again = HoldRequest {
        holder_id,
        fencing_token,
        ..request
    };
    let record = async || {
        let key = "redis-gateway:v1:locks:holding:a";
        stand.server.run::<Option<String>>(&["GET", key]).await
    };
    let first = record().await;
    proxy.set(Mode::Delay(Duration::from_millis(100)));
    let mut locks = stand.locks.clone();
    let call = tokio::spawn(async move { Held::open(&mut locks, again).await });
    eventually("it is taken up", async || record().await != first).await;
    // The answer is still on its way.
    call.abort();
    assert!(
        call.await.is_err_and(|ended| ended.is_cancelled()),
        "cancelled too late"
    );
    assert_eq!(stream.lost().await, Cause::TakenUp);
    eventually("it is released after its grace", async || {
        stand.value("a").await.is_none()
    })
    .await;
    proxy.set(Mode::Pass);
    stand.stop().await;
}

#[tokio::test]
async fn taking_up_without_an_answer_leaves_the_lock_to_its_grace() {
    let (mut stand, proxy) = behind_a_proxy(Some(BRIEF)).await;
    let request = HoldRequest {
        ttl_ms: 600_000,
        // Longer than the first stream takes to hear of it.
        grace_ms: 3_000,
        ..holding("a")
    };
    let mut stream = Held::open(&mut stand.locks, request.clone()).await.unwrap();
    let (holder_id, fencing_token) = stream.acquired().await;
    let again = HoldRequest {
        holder_id,
        fencing_token,
        ..request
    };
    // Once before, so that its script is loaded.
    let mut first = std::mem::replace(&mut stream, Held::open(&mut stand.locks, again.clone()).await.unwrap());
    assert_eq!(first.lost().await, Cause::TakenUp);
    stream.acquired().await;
    proxy.set_open(Mode::SwallowReplies);
    let status = Held::open(&mut stand.locks, again).await.err().unwrap();
    assert_eq!(reason(&status).as_deref(), Some("OUTCOME_UNKNOWN"));
    proxy.cut(Cut::Reset).await;
    assert_eq!(stream.lost().await, Cause::TakenUp);
    eventually("it is released after its grace", async || {
        stand.value("a").await.is_none()
    })
    .await;
    stand.stop().await;
}

#[tokio::test]
async fn lost_lock_is_news_though_a_look_and_a_renewal_get_no_answer() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let (mut stand, proxy) = behind_a_proxy(Some(Duration::from_secs(5))).await;
    let request = HoldRequest {
        ttl_ms: 12_000,
        ..holding("a")
    };
    let mut stream = Held::open(&mut stand.locks, request).await.unwrap();
    stream.acquired().await;
    // Just before it is renewed.
    sleep_until(Instant::now() + Duration::from_millis(3_700)).await;
    proxy.set_open(Mode::BlackHole);
    stand.server.run::<()>(&["DEL", "lock:a"]).await;
    let lost = Instant::now();
    assert_eq!(stream.lost().await, Cause::Gone);
    // A new connection takes about a second, the next look another.
    lag.assert_within("the news", lost.elapsed(), Duration::from_millis(2_300));
    proxy.cut(Cut::Reset).await;
    stand.stop().await;
}

#[tokio::test]
async fn denied_listener_does_not_storm_redis() {
    let rights = "~lock:* ~lock-signal:* ~redis-gateway:v1:locks:* +@all -blpop";
    let server = RedisServer::new()
        .user("locks", &format!("on >secret {rights}"))
        .start()
        .await;
    let proxy = Proxy::new(server.addr());
    let addr = proxy.addr();
    let mut stand = Stand::with(server, |config| {
        let mut endpoint = at(addr);
        endpoint.username = Some("locks".into());
        endpoint.password = Some(Password::Inline("secret".into()));
        config.endpoints.user_events = Some(endpoint);
    })
    .await;
    let mut direct = Direct::new(&stand.server, "a", "direct").await;
    assert!(direct.try_acquire(60).await);
    let (mut locks, request) = (stand.locks.clone(), asking("a"));
    let request = AcquireRequest {
        wait_ms: 20_000,
        ..request
    };
    let call = tokio::spawn(async move { acquire(&mut locks, request).await });
    waiters(&mut stand.locks, "a", 1).await;
    let asked = stand.server.calls("evalsha").await;
    eventually("it has looked three times", async || {
        stand.server.calls("evalsha").await >= asked + 3
    })
    .await;
    let connected = proxy.accepted();
    assert!((2..=8).contains(&connected), "{connected} connections in three seconds");
    assert!(direct.release().await);
    assert!(call.await.unwrap().unwrap().acquired);
    stand.stop().await;
}
