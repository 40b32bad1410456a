//! Nothing is answered from memory past the moment in which the loss of tracking is noticed.

use std::time::Duration;

use redis_gateway::config::Password;
use tokio::time::Instant;

use super::{Stand, behind_proxy, get, keep, metric, plain, reads, stand, tracks, tracks_no_more};
use crate::harness::{MachineLag, Mode, RedisServer, at, config, eventually, heavy, patience, within};

/// A dead connection is noticed within this: a probe interval and two missed probes, 850 ms by the defaults; and a part more, since
/// three timers in a row are each late.
const NOTICE: Duration = Duration::from_millis(1_050);

#[tokio::test]
async fn change_while_tracking_is_cut_is_seen_and_nothing_from_before_is_trusted() {
    let _one = heavy().await;
    let stand = stand(1).await;
    let mut client = stand.client(0);
    let mut direct = stand.server.client().await;
    let lag = MachineLag::watch();
    let mut worst = Duration::ZERO;
    for round in 0..20 {
        let key = format!("near:{round}");
        for key in [&*key, "near:other"] {
            redis::cmd("SET")
                .arg(key)
                .arg("old")
                .exec_async(&mut direct)
                .await
                .unwrap();
            keep(&stand, 0, key).await;
        }
        let mut both = redis::pipe();
        both.cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).ignore();
        both.cmd("DEL").arg(&[&*key, "near:other"]).ignore();
        both.exec_async(&mut direct).await.unwrap();
        let changed = Instant::now();
        while get(&mut client, &key).await.is_some() {
            assert!(changed.elapsed() < patience(), "never seen");
        }
        worst = worst.max(changed.elapsed());
        tracks(&stand, 0).await;
        assert_eq!(get(&mut client, "near:other").await, None, "trusted over the cut");
    }
    println!("seen after at most {worst:?}");
    lag.assert_within("a change while tracking is cut", worst, Duration::from_millis(50));
    drop((client, direct));
    stand.stop().await;
}

#[tokio::test]
async fn change_while_tracking_is_silent_is_seen_within_the_notice_time() {
    let _one = heavy().await;
    let (stand, proxy) = behind_proxy(|_| {}).await;
    let mut client = stand.client(0);
    for key in ["near:a", "near:b"] {
        stand.server.run::<()>(&["SET", key, "old"]).await;
        keep(&stand, 0, key).await;
    }
    let lag = MachineLag::watch();
    proxy.split(1, Mode::Pass, Mode::BlackHole);
    stand
        .server
        .run::<()>(&["MSET", "near:a", "new", "near:b", "new"])
        .await;
    let changed = Instant::now();
    let mut stale = 0;
    while get(&mut client, "near:a").await.unwrap() == "old" {
        stale += 1;
        assert!(changed.elapsed() < patience(), "never seen");
    }
    let took = changed.elapsed();
    println!("{stale} reads of what was, for {took:?}");
    assert!(stale > 0, "it was not silent");
    lag.assert_within("a change while tracking is silent", took, NOTICE);
    tracks_no_more(&stand, 0).await;
    for _ in 0..100 {
        assert_eq!(get(&mut client, "near:a").await.unwrap(), "new");
    }
    proxy.split(1, Mode::Pass, Mode::Pass);
    tracks(&stand, 0).await;
    assert_eq!(
        get(&mut client, "near:b").await.unwrap(),
        "new",
        "trusted over the loss"
    );
    keep(&stand, 0, "near:b").await;
    drop((client, proxy));
    stand.stop().await;
}

#[tokio::test]
async fn stopped_redis_is_noticed_and_memory_falls_silent_too() {
    let _one = heavy().await;
    let stand = stand(1).await;
    let mut client = stand.client(0);
    stand.server.run::<()>(&["SET", "near:a", "1"]).await;
    keep(&stand, 0, "near:a").await;
    let lag = MachineLag::watch();
    stand.server.pause();
    let paused = Instant::now();
    let mut took = Duration::ZERO;
    let mut answered = async || {
        // Either clock may end it where Redis is asked.
        let read = client.get(within(Duration::from_millis(50), plain("near:a"))).await;
        read.is_ok_and(|read| read.into_inner().value.is_some())
    };
    while metric(&stand, 0, "tracking_up").await == 1 {
        if answered().await {
            took = paused.elapsed();
        }
        assert!(paused.elapsed() < patience(), "never noticed");
    }
    assert!(!took.is_zero(), "it was not in memory");
    assert!(!answered().await);
    stand.server.resume();
    println!("answered from memory for {took:?}");
    lag.assert_within("a Redis that is stopped", took, NOTICE);
    tracks(&stand, 0).await;
    keep(&stand, 0, "near:a").await;
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn other_server_behind_the_same_name_is_read_anew() {
    let (stand, proxy) = behind_proxy(|_| {}).await;
    let other = RedisServer::new().start().await;
    let mut client = stand.client(0);
    stand.server.run::<()>(&["SET", "near:a", "here"]).await;
    other.run::<()>(&["SET", "near:a", "there"]).await;
    keep(&stand, 0, "near:a").await;
    // Only the connection of commands ends, and is made to the other; what tracks the first one lives on.
    proxy.lead_to(other.addr());
    stand
        .server
        .run::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
        .await;
    eventually("the other is read", async || {
        get(&mut client, "near:a").await.as_deref() == Some("there")
    })
    .await;
    tracks(&stand, 0).await;
    keep(&stand, 0, "near:a").await;
    other.run::<()>(&["SET", "near:a", "changed"]).await;
    eventually("its changes are seen", async || {
        get(&mut client, "near:a").await.as_deref() == Some("changed")
    })
    .await;
    drop((client, proxy));
    stand.stop().await;
}

#[tokio::test]
async fn redis_that_denies_tracking_is_read_as_without_memory() {
    let rights = "+get +mget +set +del +evalsha +script|load +pttl +info +client|id ~* resetchannels";
    for missing in ["+subscribe &__redis__:invalidate", "+client|tracking"] {
        let rules = format!("on >secret +ping {rights} {missing}");
        let server = RedisServer::new().user("gateway", &rules).start().await;
        let stand = Stand::with(server, 1, |config| {
            config.cache.near_prefixes = vec!["near:".into()];
            let endpoint = config.endpoints.cache.as_mut().unwrap();
            endpoint.username = Some("gateway".into());
            endpoint.password = Some(Password::Inline("secret".into()));
        })
        .await;
        eventually("Redis has refused", async || {
            let denied: Vec<redis::Value> = stand.server.run(&["ACL", "LOG"]).await;
            !denied.is_empty()
        })
        .await;
        let mut client = stand.client(0);
        stand.server.run::<()>(&["SET", "near:a", "1"]).await;
        for _ in 0..10 {
            assert_eq!(get(&mut client, "near:a").await.unwrap(), "1");
        }
        assert_eq!(metric(&stand, 0, "tracking_up").await, 0);
        assert_eq!((reads(&stand, 0, "hit").await, reads(&stand, 0, "miss").await), (0, 10));
        drop(client);
        stand.stop().await;
    }
}

#[tokio::test]
async fn the_documented_rights_of_memory_are_enough() {
    let rights = "+get +mget +pttl +client|id +client|tracking +subscribe ~* resetchannels &__redis__:invalidate";
    let server = RedisServer::new()
        .user("gateway", &format!("on >secret +ping {rights}"))
        .start()
        .await;
    let mut gateway = config();
    let mut endpoint = at(server.addr());
    endpoint.username = Some("gateway".into());
    endpoint.password = Some(Password::Inline("secret".into()));
    gateway.endpoints.cache = Some(endpoint);
    gateway.cache.near_prefixes = vec![String::new()];
    let gateway = crate::harness::Gateway::start(gateway).await;
    let stand = Stand {
        clients: vec![gateway.cache().await],
        gateways: vec![gateway],
        server,
    };
    tracks(&stand, 0).await;
    stand.server.run::<()>(&["SET", "any", "1"]).await;
    // An empty beginning is that of all keys.
    keep(&stand, 0, "any").await;
    stand.server.run::<()>(&["DEL", "any"]).await;
    eventually("the change is seen", async || {
        get(&mut stand.client(0), "any").await.is_none()
    })
    .await;
    stand.stop().await;
}
