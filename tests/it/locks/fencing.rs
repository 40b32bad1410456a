//! Tokens grow with each acquisition, whatever becomes of Redis.

use redis_gateway::proto::{AcquireResponse, locks_client::LocksClient};
use tonic::transport::Channel;

use super::{Stand, acquire, asking, got, release, serving};
use crate::harness::{Cut, Proxy, RedisServer, at, config, eventually};

/// Acquires and releases a lock as soon as its Redis serves.
async fn token(locks: &mut LocksClient<Channel>, name: &str) -> i64 {
    let mut held = AcquireResponse::default();
    eventually("the lock is acquired", async || {
        match acquire(locks, asking(name)).await {
            Ok(answer) => {
                held = answer;
                held.acquired
            }
            Err(_) => false,
        }
    })
    .await;
    release(locks, name, &held.holder_id).await.unwrap();
    held.fencing_token
}

#[tokio::test]
async fn tokens_grow_over_gateways_and_locks() {
    let mut stand = Stand::new().await;
    let (another, mut others) = stand.another().await;
    let mut latest = 0;
    for round in 0..100 {
        let locks = if round % 2 == 0 { &mut stand.locks } else { &mut others };
        let token = token(locks, &format!("a{}", round % 3)).await;
        assert!(token > latest, "{token} after {latest}");
        latest = token;
    }
    // Microseconds of Redis' clock, in all their digits.
    let time: Vec<i64> = stand.server.run(&["TIME"]).await;
    assert!((0..60_000_000).contains(&(time[0] * 1_000_000 + time[1] - latest)));

    // A clock behind the last token does not lead back.
    let ahead = latest + 3_600_000_000;
    stand
        .server
        .run::<()>(&["SET", "redis-gateway:v1:locks:token", &ahead.to_string()])
        .await;
    assert_eq!(token(&mut stand.locks, "a").await, ahead + 1);
    assert_eq!(token(&mut others, "b").await, ahead + 2);
    drop(others);
    another.stop().await;
    stand.stop().await;
}

#[tokio::test]
async fn tokens_grow_over_restart_and_loss_of_the_last_one() {
    let server = RedisServer::new().append_only().start().await;
    let mut stand = Stand::with(server, |_| {}).await;
    let mut latest = 0;
    for round in 0..6 {
        match round % 3 {
            0 => {}
            1 => {
                stand.server.kill();
                stand.server.restart().await;
            }
            _ => stand.server.run(&["FLUSHALL"]).await,
        }
        let token = token(&mut stand.locks, "a").await;
        assert!(token > latest, "{token} after {latest} in round {round}");
        latest = token;
    }
    stand.stop().await;
}

#[tokio::test]
async fn fencing_rises_over_failover() {
    let primary = RedisServer::new().start().await;
    let replica = RedisServer::new().replica_of(&primary).start().await;
    let proxy = Proxy::new(primary.addr());
    let mut config = config();
    config.endpoints.user_events = Some(at(proxy.addr()));
    let (gateway, mut locks) = serving(config).await;
    let mut latest = 0;
    for _ in 0..20 {
        latest = token(&mut locks, "a").await;
    }
    let kept = got(&mut locks, "kept").await;
    // Nothing of the latest acquisitions reaches the replica: the worst that a failover can lose.
    replica.run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    replica.run::<()>(&["FLUSHALL"]).await;
    proxy.lead_to(replica.addr());
    proxy.cut(Cut::Reset).await;
    let after = token(&mut locks, "a").await;
    assert!(after > latest.max(kept.fencing_token), "{after} after {latest}");
    // Two holders are possible now, and the token tells which one is the later.
    let second = got(&mut locks, "kept").await;
    assert!(second.holder_id != kept.holder_id && second.fencing_token > kept.fencing_token);
    drop(locks);
    gateway.stop().await;
}
