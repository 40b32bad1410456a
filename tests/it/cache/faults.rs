//! Leases while Redis is away, or does not answer.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use redis_gateway::{
    config::Server,
    proto::{DegradedReason, cache_fill_response::Refusal, cache_get_or_lease_response::Outcome},
};
use tokio::time::Instant;

use super::{Client, Stand, ask, busy_in, delete, fill, filled, leased, refused, value_in, waiting};
use crate::harness::{Cut, MachineLag, Mode, Proxy, RedisServer, at, eventually, heavy, within};

/// Two gateways, the first one behind a proxy.
async fn behind_a_proxy(server: RedisServer) -> (Stand, Proxy) {
    let proxy = Proxy::new(server.addr());
    let addr = proxy.addr();
    let first = AtomicBool::new(true);
    let stand = Stand::with(server, 2, |config| {
        if first.swap(false, Relaxed) {
            config.endpoints.cache = Some(at(addr));
        }
    })
    .await;
    // Its scripts are loaded.
    let token = leased(&mut stand.client(0), "warm").await;
    filled(&mut stand.client(0), "warm", &token, "1").await;
    (stand, proxy)
}

/// How many commands of the first gateway have been answered.
async fn answered(stand: &Stand) -> u64 {
    let labels = "{endpoint=\"cache\",outcome=\"ok\",server=\"primary\"}";
    stand
        .metric(0, &format!("redis_gateway_redis_commands_total{labels}"))
        .await
}

/// Waits until one waits there whose first question has been answered, after so many others: a fault that met it would be its answer.
async fn one_waits(stand: &Stand, before: u64) {
    stand.waiters(0, 1).await;
    eventually("its question is answered", async || answered(stand).await > before).await;
}

#[tokio::test]
async fn wait_outlasts_a_lost_connection() {
    let (stand, proxy) = behind_a_proxy(RedisServer::new().start().await).await;
    for round in 0..10 {
        let key = format!("key{round}");
        let token = leased(&mut stand.client(1), &key).await;
        let mut client = stand.client(0);
        let before = answered(&stand).await;
        let asked = key.clone();
        let wait = tokio::spawn(async move { ask(&mut client, waiting(&asked, 20_000)).await });
        one_waits(&stand, before).await;
        proxy.set_open(Mode::SwallowReplies);
        filled(&mut stand.client(1), &key, &token, "1").await;
        proxy.cut(if round % 2 == 0 { Cut::Reset } else { Cut::Fin }).await;
        assert_eq!(value_in(wait.await.unwrap().unwrap()), b"1");
    }
    stand.stop().await;
}

#[tokio::test]
async fn wait_ends_at_its_bound_while_redis_is_away() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let (mut stand, proxy) = behind_a_proxy(RedisServer::new().start().await).await;
    let bound = Duration::from_millis(2_500);
    for black_hole in [true, false] {
        leased(&mut stand.client(1), &format!("key {black_hole}")).await;
        let mut client = stand.client(0);
        let before = answered(&stand).await;
        let wait = tokio::spawn(async move {
            let asked = Instant::now();
            let answer = ask(&mut client, waiting(&format!("key {black_hole}"), 2_500)).await;
            (answer.unwrap(), asked.elapsed())
        });
        one_waits(&stand, before).await;
        if black_hole {
            proxy.set(Mode::BlackHole);
        } else {
            stand.server.kill();
        }
        let (answer, took) = wait.await.unwrap();
        assert_eq!(answer.outcome, None, "{answer:?}");
        let told = answer.degraded();
        assert!(
            matches!(told, DegradedReason::RedisUnavailable | DegradedReason::OutcomeUnknown),
            "{told:?}"
        );
        assert!(took >= bound, "{took:?}");
        lag.assert_within("a wait", took, bound + Duration::from_millis(150));
        if black_hole {
            proxy.set(Mode::Pass);
            proxy.cut(Cut::Reset).await;
            up(&stand).await;
        }
    }
    // Whoever comes now is told at once, and loads.
    let asked = Instant::now();
    let answer = ask(&mut stand.client(0), waiting("key", 20_000)).await.unwrap();
    assert_eq!(
        (answer.outcome.clone(), answer.degraded()),
        (None, DegradedReason::RedisUnavailable)
    );
    lag.assert_within("a question", asked.elapsed(), Duration::from_millis(50));
    let answer = fill(&mut stand.client(0), "key", &"0".repeat(32), "1").await;
    assert_eq!(
        (answer.stored, answer.degraded()),
        (false, DegradedReason::RedisUnavailable)
    );
    stand.server.restart().await;
    up(&stand).await;
    stand.stop().await;
}

/// Waits until the first gateway gives leases.
async fn up(stand: &Stand) {
    eventually("leases are given again", async || {
        let answer = ask(&mut stand.client(0), waiting("again", 0)).await.unwrap();
        !matches!(answer.outcome, None | Some(Outcome::Value(_)))
    })
    .await;
}

#[tokio::test]
async fn unanswered_fill_is_said_to_be_unknown_and_fills_once() {
    let (stand, proxy) = behind_a_proxy(RedisServer::new().start().await).await;
    let mut client: Client = stand.client(0);
    let token = leased(&mut client, "key").await;
    proxy.set_open(Mode::SwallowReplies);
    let request = super::filling("key", &token, "1");
    let answer = client
        .fill(within(Duration::from_millis(300), request))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (answer.stored, answer.degraded()),
        (false, DegradedReason::OutcomeUnknown)
    );
    assert_eq!(stand.value("key").await.as_deref(), Some("1"));
    proxy.cut(Cut::Reset).await;
    up(&stand).await;
    // What is asked again, after a delete, brings nothing back.
    assert!(delete(&mut stand.client(1), "key").await);
    refused(&mut client, "key", &token, Refusal::LeaseOver).await;
    assert_eq!(stand.value("key").await, None);
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn fill_that_is_carried_out_late_is_refused_after_a_delete() {
    let (stand, proxy) = behind_a_proxy(RedisServer::new().start().await).await;
    for round in 0..10 {
        let key = format!("key{round}");
        let token = leased(&mut stand.client(0), &key).await;
        proxy.set(Mode::Delay(Duration::from_millis(100)));
        let mut client = stand.client(0);
        let filled = key.clone();
        let late = tokio::spawn(async move { fill(&mut client, &filled, &token, "old").await });
        // On its way, or not yet sent: it comes too late either way.
        delete(&mut stand.client(1), &key).await;
        let answer = late.await.unwrap();
        assert_eq!((answer.stored, answer.refusal()), (false, Refusal::Deleted));
        assert_eq!(stand.value(&key).await, None);
        proxy.set(Mode::Pass);
    }
    stand.stop().await;
}

#[tokio::test]
async fn lease_whose_answer_was_lost_is_given_up() {
    let server = RedisServer::new().start().await;
    let replica = RedisServer::new().replica_of(&server).start().await;
    let proxy = Proxy::new(server.addr());
    let stand = Stand::with(server, 1, |config| {
        // Reads come back, whatever becomes of leases.
        let mut endpoint = at(proxy.addr());
        endpoint.replicas = vec![Server::Tcp {
            host: replica.addr().ip().to_string(),
            port: replica.addr().port(),
        }];
        config.endpoints.cache = Some(endpoint);
    })
    .await;
    let mut client = stand.client(0);
    eventually("the replica serves", async || {
        let before = replica.calls("get").await;
        busy_or_leased(&mut client, "warm").await;
        replica.calls("get").await > before
    })
    .await;
    let scripts = stand.server.calls("evalsha").await;
    proxy.set_open(Mode::SwallowReplies);
    let request = waiting("key", 0);
    let call = client.get_or_lease(within(Duration::from_millis(300), request)).await;
    let answer = call.unwrap().into_inner();
    assert_eq!(answer.outcome, None);
    assert_ne!(answer.degraded, 0);
    assert!(stand.server.calls("evalsha").await > scripts, "it was carried out");
    eventually("the lease is given up", async || {
        !stand.own_keys().await.iter().any(|key| key.ends_with("{key}"))
    })
    .await;
    proxy.cut(Cut::Reset).await;
    drop(client);
    stand.stop().await;
}

async fn busy_or_leased(client: &mut Client, key: &str) {
    let answer = ask(client, waiting(key, 0)).await.unwrap();
    if !matches!(answer.outcome, Some(Outcome::Lease(_))) {
        busy_in(answer);
    }
}

#[tokio::test]
async fn scripts_are_loaded_again_where_redis_lost_them() {
    let stand = Stand::new(2).await;
    for _ in 0..3 {
        let flush = async || stand.server.run::<()>(&["SCRIPT", "FLUSH"]).await;
        flush().await;
        let token = leased(&mut stand.client(0), "key").await;
        flush().await;
        filled(&mut stand.client(1), "key", &token, "1").await;
        flush().await;
        assert!(delete(&mut stand.client(0), "key").await);
    }
    stand.stop().await;
}
