//! What callers are told when Redis is away, and what becomes of a question that was not answered.

use std::time::Duration;

use redis_gateway::proto::AcquireRequest;
use tokio::time::Instant;
use tonic::Code;

use super::{Stand, acquire, asking, direct::Direct, got, release, waiters};
use crate::harness::{Cut, MachineLag, Mode, Proxy, RedisServer, at, eventually, heavy, reason, within};

async fn behind_a_proxy(server: RedisServer) -> (Stand, Proxy) {
    let proxy = Proxy::new(server.addr());
    let addr = proxy.addr();
    let mut stand = Stand::with(server, |config| config.endpoints.user_events = Some(at(addr))).await;
    // Its scripts are loaded.
    let held = got(&mut stand.locks, "warm").await;
    release(&mut stand.locks, "warm", &held.holder_id).await.unwrap();
    (stand, proxy)
}

#[tokio::test]
async fn unanswered_acquire_is_read_back() {
    let (mut stand, proxy) = behind_a_proxy(RedisServer::new().start().await).await;
    proxy.set_open(Mode::SwallowReplies);
    let before = stand.server.calls("set").await;
    let held = acquire(&mut stand.locks, asking("a")).await.unwrap();
    assert!(held.acquired && held.fencing_token > 0);
    assert_eq!(stand.value("a").await, Some(held.holder_id.clone()));
    // Token, record and lock: asked for once.
    assert_eq!(stand.server.calls("set").await, before + 3);
    release(&mut stand.locks, "a", &held.holder_id).await.unwrap();
    proxy.cut(Cut::Reset).await;
    stand.stop().await;
}

#[tokio::test]
async fn unanswered_acquire_is_given_up_when_nobody_waits_for_it() {
    let (mut stand, proxy) = behind_a_proxy(RedisServer::new().start().await).await;
    proxy.set_open(Mode::SwallowReplies);
    let before = stand.server.calls("set").await;
    let call = stand
        .locks
        .acquire(within(Duration::from_millis(400), asking("a")))
        .await;
    let status = call.unwrap_err();
    assert!(
        matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded),
        "{status}"
    );
    assert_eq!(stand.server.calls("set").await, before + 3, "it was carried out");
    eventually("it is given up", async || stand.value("a").await.is_none()).await;
    proxy.cut(Cut::Reset).await;
    stand.stop().await;
}

#[tokio::test]
async fn waiters_are_answered_by_their_deadline_and_leave_nothing_armed() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let (mut stand, proxy) = behind_a_proxy(RedisServer::new().start().await).await;
    got(&mut stand.locks, "a").await;
    let mut calls = Vec::new();
    for _ in 0..20 {
        let mut locks = stand.locks.clone();
        calls.push(tokio::spawn(async move {
            let request = AcquireRequest {
                wait_ms: 20_000,
                ..asking("a")
            };
            let asked = Instant::now();
            (
                locks.acquire(within(Duration::from_millis(2_500), request)).await,
                asked.elapsed(),
            )
        }));
    }
    waiters(&mut stand.locks, "a", 20).await;
    eventually("the gateway listens", async || stand.blocked().await == 1).await;
    proxy.set(Mode::BlackHole);
    for call in calls {
        let (answer, took) = call.await.unwrap();
        match answer {
            // As it was seen last.
            Ok(answer) => assert!(!answer.into_inner().acquired),
            Err(status) => assert!(reason(&status).is_some(), "the gateway speaks first: {status}"),
        }
        lag.assert_within("a waiter", took, Duration::from_millis(2_500));
    }
    // Connections that were black-holed stay open at Redis until they are given up.
    eventually("nothing is armed", async || stand.blocked().await == 0).await;
    proxy.set(Mode::Pass);
    proxy.cut(Cut::Reset).await;
    stand.stop().await;
}

#[tokio::test]
async fn wait_outlasts_a_restart_of_redis() {
    let (mut stand, _proxy) = behind_a_proxy(RedisServer::new().append_only().start().await).await;
    let held = got(&mut stand.locks, "a").await;
    let mut locks = stand.locks.clone();
    let waiter = tokio::spawn(async move {
        acquire(
            &mut locks,
            AcquireRequest {
                wait_ms: 20_000,
                ..asking("a")
            },
        )
        .await
    });
    waiters(&mut stand.locks, "a", 1).await;
    stand.server.kill();
    stand.server.restart().await;
    eventually("the holder's release gets through", async || {
        release(&mut stand.locks, "a", &held.holder_id).await.is_ok()
    })
    .await;
    let next = waiter.await.unwrap().unwrap();
    assert!(next.acquired && next.fencing_token > held.fencing_token);
    stand.stop().await;
}

#[tokio::test]
async fn first_question_fails_at_once_while_redis_is_down() {
    let (mut stand, proxy) = behind_a_proxy(RedisServer::new().start().await).await;
    proxy.refuse(true).await;
    proxy.cut(Cut::Reset).await;
    eventually("calls are refused at once", async || {
        let asked = Instant::now();
        let call = acquire(
            &mut stand.locks,
            AcquireRequest {
                wait_ms: 20_000,
                ..asking("a")
            },
        )
        .await;
        let status = call.unwrap_err();
        assert_eq!(reason(&status).as_deref(), Some("REDIS_UNAVAILABLE"), "{status}");
        asked.elapsed() < Duration::from_millis(50)
    })
    .await;
    proxy.refuse(false).await;
    stand.stop().await;
}

#[tokio::test]
async fn unanswered_release_is_said_to_be_unknown() {
    let (mut stand, proxy) = behind_a_proxy(RedisServer::new().start().await).await;
    let held = got(&mut stand.locks, "a").await;
    proxy.set_open(Mode::SwallowReplies);
    let status = release(&mut stand.locks, "a", &held.holder_id).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_deref()),
        (Code::Unknown, Some("OUTCOME_UNKNOWN"))
    );
    assert_eq!(stand.value("a").await, None);
    proxy.cut(Cut::Reset).await;
    stand.stop().await;
}

#[tokio::test]
async fn lost_listener_costs_at_most_a_second() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let (stand, proxy) = behind_a_proxy(RedisServer::new().start().await).await;
    for round in 0..5 {
        let name = format!("a{round}");
        let mut direct = Direct::new(&stand.server, &name, "direct").await;
        assert!(direct.try_acquire(60).await);
        let mut locks = stand.locks.clone();
        let request = AcquireRequest {
            wait_ms: 20_000,
            ..asking(&name)
        };
        // What is heard then is for this waiter, whose first question has been answered.
        eventually("the gateway has ended listening", async || stand.blocked().await == 0).await;
        let waiter = tokio::spawn(async move { (acquire(&mut locks, request).await, Instant::now()) });
        eventually("the gateway listens", async || stand.blocked().await == 1).await;
        // The wake-up is taken, and its reply is lost.
        proxy.set_open(Mode::SwallowReplies);
        let released = Instant::now();
        assert!(direct.release().await);
        proxy.cut(Cut::Reset).await;
        let (held, at) = waiter.await.unwrap();
        assert!(held.unwrap().acquired);
        lag.assert_within("a lost wake-up", at - released, Duration::from_millis(1_300));
    }
    stand.stop().await;
}

#[tokio::test]
async fn scripts_are_loaded_again_where_redis_lost_them() {
    let mut stand = Stand::new().await;
    for _ in 0..3 {
        stand.server.run::<()>(&["SCRIPT", "FLUSH"]).await;
        let held = got(&mut stand.locks, "a").await;
        stand.server.run::<()>(&["SCRIPT", "FLUSH"]).await;
        release(&mut stand.locks, "a", &held.holder_id).await.unwrap();
    }
    stand.stop().await;
}
