//! Locks that streams hold: kept, lost, taken up again, released.

use std::time::Duration;

use redis_gateway::proto::{HoldRequest, hold_lost::Cause, hold_response::Event};
use tokio::time::{Instant, sleep_until};
use tonic::Code;

use super::{Held, Stand, acquire, asking, direct::Direct, get, got, holding, release, waiters};
use crate::harness::{MachineLag, Mode, Proxy, RedisServer, at, eventually, heavy, reason};

#[tokio::test]
async fn stream_waits_acquires_and_releases() {
    let mut stand = Stand::new().await;
    let held = got(&mut stand.locks, "a").await;
    let request = HoldRequest {
        wait_ms: 20_000,
        ..holding("a")
    };
    let mut stream = Held::open(&mut stand.locks, request).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), Some(Event::Waiting(_))));
    assert_eq!(get(&mut stand.locks, "a").await.unwrap().waiters, 1);
    release(&mut stand.locks, "a", &held.holder_id).await.unwrap();
    let (holder, token) = stream.acquired().await;
    assert!(token > held.fencing_token);
    assert_eq!(stand.value("a").await, Some(holder));

    let mut direct = Direct::new(&stand.server, "a", "direct").await;
    let waiter = tokio::spawn(async move { direct.acquire(60).await });
    eventually("the direct client waits", async || stand.blocked().await == 1).await;
    drop(stream);
    waiter.await.unwrap();
    stand.stop().await;
}

#[tokio::test]
async fn stream_that_waits_long_enough_is_told_busy() {
    let mut stand = Stand::new().await;
    got(&mut stand.locks, "a").await;
    for wait_ms in [0, 300] {
        let request = HoldRequest {
            wait_ms,
            ..holding("a")
        };
        let mut stream = Held::open(&mut stand.locks, request).await.unwrap();
        if wait_ms > 0 {
            assert!(matches!(stream.next().await.unwrap(), Some(Event::Waiting(_))));
        }
        assert!(matches!(stream.next().await.unwrap(), Some(Event::Busy(_))));
        assert_eq!(stream.next().await.unwrap(), None);
    }
    waiters(&mut stand.locks, "a", 0).await;
    stand.stop().await;
}

#[tokio::test]
async fn lock_is_renewed_for_as_long_as_the_stream_lives() {
    let mut stand = Stand::new().await;
    let request = HoldRequest {
        ttl_ms: 1_000,
        ..holding("a")
    };
    let mut stream = Held::open(&mut stand.locks, request.clone()).await.unwrap();
    let (holder, token) = stream.acquired().await;
    let unread = Held::open(
        &mut stand.locks,
        HoldRequest {
            name: "b".into(),
            ..request
        },
    )
    .await
    .unwrap();
    for _ in 0..10 {
        let renewed = stream.0.message().await.unwrap().unwrap().event;
        assert!(matches!(renewed, Some(Event::Renewed(_))), "{renewed:?}");
        let seen = get(&mut stand.locks, "a").await.unwrap();
        assert_eq!((seen.holder_id, seen.fencing_token), (holder.clone(), token));
    }
    // Whether or not anybody reads what is told.
    assert!(get(&mut stand.locks, "b").await.unwrap().held);
    drop((stream, unread));
    eventually("both are released", async || {
        stand.value("a").await.is_none() && stand.value("b").await.is_none()
    })
    .await;
    stand.stop().await;
}

#[tokio::test]
async fn lost_lock_is_news_within_the_check_interval() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let mut stand = Stand::new().await;
    for (command, cause) in [
        (["DEL", "lock:a"].as_slice(), Cause::Gone),
        (&["SET", "lock:a", "direct"], Cause::Taken),
        (&["FLUSHALL"], Cause::Gone),
    ] {
        let mut stream = Held::open(&mut stand.locks, holding("a")).await.unwrap();
        stream.acquired().await;
        let lost = Instant::now();
        stand.server.run::<()>(command).await;
        assert_eq!(stream.lost().await, cause, "{command:?}");
        lag.assert_within("the news", lost.elapsed(), Duration::from_millis(1_100));
        stand.server.run::<()>(&["DEL", "lock:a"]).await;
    }
    let metrics = stand.gateway.admin("/metrics").await.1;
    assert!(
        metrics.contains("redis_gateway_locks_lost_total{cause=\"gone\"} 2"),
        "{metrics}"
    );
    assert!(metrics.contains("redis_gateway_locks_held 0"), "{metrics}");
    stand.stop().await;
}

#[tokio::test]
async fn lock_is_lost_when_redis_cannot_be_asked_for_as_long_as_it_lives() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let addr = proxy.addr();
    let mut stand = Stand::with(server, |config| config.endpoints.user_events = Some(at(addr))).await;
    let request = HoldRequest {
        ttl_ms: 2_000,
        ..holding("a")
    };
    let mut stream = Held::open(&mut stand.locks, request).await.unwrap();
    stream.acquired().await;
    let silent = Instant::now();
    proxy.set(Mode::BlackHole);
    assert_eq!(stream.lost().await, Cause::Unknown);
    lag.assert_within("the news", silent.elapsed(), Duration::from_millis(2_100));
    // Not before: the lock may live for all that is known.
    assert!(
        silent.elapsed() > Duration::from_millis(1_200),
        "{:?}",
        silent.elapsed()
    );
    proxy.set(Mode::Pass);
    proxy.cut(crate::harness::Cut::Reset).await;

    // A shorter outage costs nothing.
    eventually("redis is reached", async || {
        get(&mut stand.locks, "a").await.is_ok_and(|seen| !seen.held)
    })
    .await;
    let request = HoldRequest {
        ttl_ms: 6_000,
        ..holding("a")
    };
    let mut stream = Held::open(&mut stand.locks, request).await.unwrap();
    let (holder, _) = stream.acquired().await;
    proxy.set(Mode::BlackHole);
    sleep_until(Instant::now() + Duration::from_millis(2_500)).await;
    proxy.set(Mode::Pass);
    proxy.cut(crate::harness::Cut::Reset).await;
    for _ in 0..3 {
        let renewed = stream.0.message().await.unwrap().unwrap().event;
        assert!(matches!(renewed, Some(Event::Renewed(_))), "{renewed:?}");
    }
    assert_eq!(stand.value("a").await, Some(holder));
    drop(stream);
    stand.stop().await;
}

#[tokio::test]
async fn lock_is_taken_up_on_another_gateway_within_its_grace() {
    let mut stand = Stand::new().await;
    let (another, mut others) = stand.another().await;
    let request = HoldRequest {
        ttl_ms: 3_000,
        grace_ms: 1_000,
        ..holding("a")
    };
    let mut stream = Held::open(&mut stand.locks, request.clone()).await.unwrap();
    let (holder, token) = stream.acquired().await;
    drop(stream);
    let ended = Instant::now();
    let again = HoldRequest {
        holder_id: holder.clone(),
        fencing_token: token,
        ..request
    };
    let mut stream = Held::open(&mut others, again.clone()).await.unwrap();
    assert_eq!(stream.acquired().await, (holder.clone(), token));
    // The first one's grace runs out, and nothing happens; the second one renews.
    sleep_until(ended + Duration::from_secs(4)).await;
    assert_eq!(stand.value("a").await, Some(holder.clone()));

    // While the stream lives, on the first one again.
    let mut back = Held::open(&mut stand.locks, again.clone()).await.unwrap();
    assert_eq!(back.acquired().await, (holder.clone(), token));
    assert_eq!(stream.lost().await, Cause::TakenUp);
    assert_eq!(stand.value("a").await, Some(holder));
    drop(back);
    eventually("it is released after its grace", async || {
        stand.value("a").await.is_none()
    })
    .await;

    // Too late.
    let mut late = Held::open(&mut others, again.clone()).await.unwrap();
    assert_eq!(late.lost().await, Cause::Gone);
    got(&mut stand.locks, "a").await;
    let mut late = Held::open(&mut others, again).await.unwrap();
    assert_eq!(late.lost().await, Cause::Taken);
    drop((others, late));
    another.stop().await;
    stand.stop().await;
}

#[tokio::test]
async fn stream_that_was_followed_releases_nothing() {
    let mut stand = Stand::new().await;
    for round in 0..5 {
        let name = format!("a{round}");
        let mut stream = Held::open(&mut stand.locks, holding(&name)).await.unwrap();
        let (holder, token) = stream.acquired().await;
        let again = HoldRequest {
            holder_id: holder.clone(),
            fencing_token: token,
            ..holding(&name)
        };
        let mut next = Held::open(&mut stand.locks, again).await.unwrap();
        assert_eq!(next.acquired().await, (holder.clone(), token));
        // Before it is told.
        drop(stream);
        eventually("the first one is gone", async || {
            let metrics = stand.gateway.admin("/metrics").await.1;
            metrics.contains("redis_gateway_locks_held 1\n")
        })
        .await;
        assert_eq!(stand.value(&name).await, Some(holder));
        drop(next);
        eventually("it is released", async || stand.value(&name).await.is_none()).await;
    }
    stand.stop().await;
}

#[tokio::test]
async fn token_of_another_acquisition_takes_nothing_up() {
    let mut stand = Stand::new().await;
    let held = got(&mut stand.locks, "a").await;
    let request = HoldRequest {
        holder_id: held.holder_id.clone(),
        fencing_token: held.fencing_token - 1,
        ..holding("a")
    };
    let mut stream = Held::open(&mut stand.locks, request.clone()).await.unwrap();
    assert_eq!(stream.lost().await, Cause::Taken);
    // A call's lock can be taken up by a stream.
    let request = HoldRequest {
        fencing_token: held.fencing_token,
        ..request
    };
    let mut stream = Held::open(&mut stand.locks, request).await.unwrap();
    assert_eq!(stream.acquired().await, (held.holder_id, held.fencing_token));
    drop(stream);
    eventually("it is released", async || stand.value("a").await.is_none()).await;
    stand.stop().await;
}

#[tokio::test]
async fn grace_outlives_the_time_to_live() {
    let mut stand = Stand::new().await;
    let request = HoldRequest {
        ttl_ms: 1_000,
        grace_ms: 1_000,
        ..holding("a")
    };
    let mut stream = Held::open(&mut stand.locks, request).await.unwrap();
    stream.acquired().await;
    // Just before it is renewed.
    sleep_until(Instant::now() + Duration::from_millis(300)).await;
    drop(stream);
    let ended = Instant::now();
    let mut direct = Direct::new(&stand.server, "a", "direct").await;
    while !direct.try_acquire(60).await {
        direct.woken(1.0).await;
    }
    assert!(ended.elapsed() > Duration::from_millis(990), "{:?}", ended.elapsed());
    stand.stop().await;
}

#[tokio::test]
async fn drain_releases_after_the_grace_or_leaves_the_lock_to_it() {
    let server = RedisServer::new().start().await;
    let mut stand = Stand::with(server, |config| config.drain.timeout = Duration::from_secs(3)).await;
    let (another, mut others) = stand.another().await;
    let open = async |stand: &mut Stand, name: &str, grace_ms| {
        let request = HoldRequest {
            grace_ms,
            ..holding(name)
        };
        let mut stream = Held::open(&mut stand.locks, request).await.unwrap();
        let held = stream.acquired().await;
        (stream, held)
    };
    let (mut at_once, _) = open(&mut stand, "at once", 0).await;
    let (short, _) = open(&mut stand, "short", 500).await;
    let (followed, (holder, token)) = open(&mut stand, "taken", 1_000).await;
    let (long, _) = open(&mut stand, "long", 20_000).await;
    let Stand { server, gateway, locks } = stand;
    drop(locks);
    let taken_up = async {
        let status = at_once.next().await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_deref()),
            (Code::Unavailable, Some("DRAINING"))
        );
        let again = HoldRequest {
            holder_id: holder.clone(),
            fencing_token: token,
            ..holding("taken")
        };
        let mut stream = Held::open(&mut others, again).await.unwrap();
        assert_eq!(stream.acquired().await, (holder.clone(), token));
        drop((at_once, short, followed, long));
        stream
    };
    let ((), stream) = tokio::join!(gateway.stop(), taken_up);

    let value = async |name: &str| server.run::<Option<String>>(&["GET", &format!("lock:{name}")]).await;
    assert_eq!((value("at once").await, value("short").await), (None, None));
    assert_eq!(value("taken").await, Some(holder));
    assert!(value("long").await.is_some());
    let left: i64 = server.run(&["TTL", "lock:long"]).await;
    assert!((10..=20).contains(&left), "{left}: as its grace, not its time to live");
    drop((stream, others));
    another.stop().await;
}

#[tokio::test]
async fn cancelled_stream_that_waits_leaves_no_trace() {
    let mut stand = Stand::new().await;
    let held = got(&mut stand.locks, "a").await;
    let mut stream = Held::open(
        &mut stand.locks,
        HoldRequest {
            wait_ms: 20_000,
            ..holding("a")
        },
    )
    .await
    .unwrap();
    assert!(matches!(stream.next().await.unwrap(), Some(Event::Waiting(_))));
    drop(stream);
    waiters(&mut stand.locks, "a", 0).await;
    release(&mut stand.locks, "a", &held.holder_id).await.unwrap();
    assert!(acquire(&mut stand.locks, asking("a")).await.unwrap().acquired);
    stand.stop().await;
}
