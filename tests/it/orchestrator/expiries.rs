//! Keys that expire: in time, once, and never those that should not.

use std::time::Duration;

use redis_gateway::proto::{orchestrator_watch_open::Expiries, orchestrator_watch_response::Event};
use tokio::time::Instant;

use super::{DAY_MS, Stand, short};
use crate::harness::{MachineLag, RedisServer, at, eventually, heavy, soak};

#[tokio::test]
async fn an_expiry_is_told_in_time_beside_many_other_keys() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let stand = Stand::new().await;
    stand.ready().await;
    let mut client = stand.server.client().await;
    let others = if soak() { 100_000 } else { 10_000 };
    for chunk in 0..others / 500 {
        let mut pipe = redis::pipe();
        for n in 0..500 {
            let key = format!("other/{}", chunk * 500 + n);
            pipe.cmd("SET").arg(key).arg("v").arg("EX").arg(100_000).ignore();
        }
        pipe.query_async::<()>(&mut client).await.unwrap();
    }
    let mut watching = stand.watch("building/", false, Expiries::One).await;
    let mut due = Vec::new();
    for n in 0..50 {
        let key = format!("building/{n}");
        // Half of them by a manager without the gateway.
        if n % 2 == 0 {
            stand.create(&key, "v", 1).await;
        } else {
            stand.direct(&key, "v", 1).await;
            stand.publish(1, &key, "v").await;
        }
        due.push(Instant::now() + Duration::from_secs(1));
    }
    let (mut late, mut told) = (Vec::new(), 0);
    while told < 50 {
        match watching.next().await {
            Event::Create(_) => {}
            Event::Expire(expired) => {
                let n: usize = expired.key.strip_prefix("building/").unwrap().parse().unwrap();
                late.push(due[n].elapsed());
                watching.acknowledge(&expired).await;
                told += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    late.sort();
    println!("late by {:?} in the middle, {:?} at most", late[25], late[49]);
    lag.assert_within("the latest of 50 expiries", late[49], Duration::from_millis(250));
    drop((watching, client));
    stand.stop().await;
}

#[tokio::test]
async fn managers_without_the_gateway_hear_in_time_though_nobody_watches_here() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let stand = Stand::new().await;
    stand.ready().await;
    let direct = redis::Client::open(format!("unix://{}", stand.server.socket().display())).unwrap();
    let mut heard = direct.get_async_pubsub().await.unwrap();
    heard.psubscribe("__keyspace@0__:*/expiring").await.unwrap();
    let mut heard = heard.into_on_message();
    let mut client = stand.server.client().await;
    let mut pipe = redis::pipe();
    for n in 0..10_000 {
        pipe.cmd("SET")
            .arg(format!("other/{n}"))
            .arg("v")
            .arg("EX")
            .arg(100_000)
            .ignore();
    }
    pipe.query_async::<()>(&mut client).await.unwrap();
    for n in 0..20 {
        stand.create(&format!("building/{n}"), "v", 1).await;
    }
    let due = Instant::now() + Duration::from_secs(1);
    for _ in 0..20 {
        let message = tokio_stream::StreamExt::next(&mut heard).await.unwrap();
        assert_eq!(message.get_payload::<String>().unwrap(), "expired");
        lag.assert_within("a notification", due.elapsed(), Duration::from_millis(250));
    }
    for n in 0..20 {
        assert_eq!(
            stand.get(&format!("building/{n}")).await.unwrap(),
            "v",
            "it is for those to take"
        );
    }
    drop((heard, client));
    stand.stop().await;
}

#[tokio::test]
async fn what_expired_while_nobody_watched_is_found_at_the_start() {
    let server = RedisServer::new().start().await;
    let endpoint = at(server.addr());
    for (key, value) in [("building/1", "v"), ("building/2", ""), ("other/1", "v")] {
        server.run::<()>(&["SET", key, value, "PX", "86000000"]).await;
    }
    let stand = Stand::on(server, endpoint, |_| {}).await;
    stand.ready().await;
    assert_eq!(stand.get("building/1").await.unwrap(), "v", "nobody watches it yet");
    let mut watching = stand.watch("building/", false, Expiries::One).await;
    let mut told = [short(&watching.next().await), short(&watching.next().await)];
    told.sort();
    assert_eq!(told, ["expire building/1 v", "expire building/2 "]);
    assert_eq!(stand.server.run::<String>(&["GET", "building/1/expired"]).await, "v");
    assert_eq!(stand.server.run::<i64>(&["TTL", "building/1/expired"]).await, -1);
    assert_eq!(
        stand
            .server
            .run::<i64>(&["EXISTS", "building/1", "building/2", "building/2/expired"])
            .await,
        1
    );
    assert_eq!(stand.get("other/1").await.unwrap(), "v", "nobody watches it");
    drop(watching);
    stand.stop().await;
}

#[tokio::test]
async fn keys_without_an_expiration_and_those_not_due_never_expire() {
    let server = RedisServer::new().start().await;
    let endpoint = at(server.addr());
    let stand = Stand::on(server, endpoint, |config| {
        config.orchestrator.look_interval = Duration::from_millis(100);
    })
    .await;
    stand.create("building/live", "v", 0).await;
    stand.create("building/later", "v", 1_000).await;
    // What a manager without the gateway has done halfway.
    stand
        .server
        .run::<()>(&["SET", "building/half", "v", "EX", "86500"])
        .await;
    // One whose expiration was taken away, and runs out all the same.
    stand.create("building/kept", "v", 1).await;
    assert!(stand.set("building/kept", "w", true, 0).await.unwrap());
    let mut watching = stand.watch("building/", false, Expiries::One).await;
    eventually("the old expiration is over", async || {
        stand.server.run::<i64>(&["EXISTS", "building/kept/expiring"]).await == 0
    })
    .await;
    let looks = stand.metric("looks_total").await;
    eventually("it has looked often since", async || {
        stand.metric("looks_total").await > looks + 5
    })
    .await;
    // The next thing that is told is this.
    stand.left_behind("building/over", "v").await;
    assert_eq!(short(&watching.next().await), "expire building/over v");
    for (key, value) in [("live", "v"), ("later", "v"), ("half", "v"), ("kept", "w")] {
        assert_eq!(stand.get(&format!("building/{key}")).await.unwrap(), value);
    }
    drop(watching);
    stand.stop().await;
}

#[tokio::test]
async fn an_empty_value_expires_once_in_each_of_its_lives() {
    let server = RedisServer::new().start().await;
    let endpoint = at(server.addr());
    let stand = Stand::on(server, endpoint, |config| {
        config.orchestrator.look_interval = Duration::from_millis(50);
    })
    .await;
    let mut watching = stand.watch("lock/", false, Expiries::One).await;
    for life in 0..3 {
        // By this gateway, by a manager without it, and by one that nobody tells of.
        match life {
            0 => stand.create("lock/1", "", 1).await,
            _ => stand.direct("lock/1", "", 1).await,
        }
        if life == 1 {
            stand.publish(2, "lock/1", "").await;
        }
        let mut event = watching.next().await;
        if life < 2 {
            assert!(matches!(event, Event::Create(_) | Event::Set(_)), "{event:?}");
            event = watching.next().await;
        }
        let Event::Expire(expired) = event else {
            panic!("{event:?}")
        };
        assert_eq!((expired.key.as_str(), expired.value.len()), ("lock/1", 0));
        watching.acknowledge(&expired).await;
        let left: i64 = stand.server.run(&["PTTL", "lock/1"]).await;
        assert!((1..=DAY_MS).contains(&left), "it stays for a day: {left}");
        let looks = stand.metric("looks_total").await;
        eventually("it has looked often since", async || {
            stand.metric("looks_total").await > looks + 5
        })
        .await;
        assert_eq!(stand.metric("expiries_claimed_total").await, life + 1);
    }
    drop(watching);
    stand.stop().await;
}

#[tokio::test]
async fn a_key_that_is_set_again_in_time_does_not_expire() {
    let stand = Stand::new().await;
    let mut watching = stand.watch("building/", false, Expiries::One).await;
    stand.create("building/1", "0", 1).await;
    assert_eq!(short(&watching.next().await), "create building/1 0");
    let began = Instant::now();
    let mut beats = 0;
    while began.elapsed() < Duration::from_millis(2_500) {
        beats += 1;
        assert!(stand.set("building/1", &beats.to_string(), true, 1).await.unwrap());
        assert_eq!(short(&watching.next().await), format!("set building/1 {beats}"));
    }
    assert_eq!(short(&watching.next().await), format!("expire building/1 {beats}"));
    drop(watching);
    stand.stop().await;
}

#[tokio::test]
async fn who_asks_for_all_hears_what_any_gateway_takes_and_who_asks_for_none_takes_nothing() {
    let stand = Stand::new().await;
    let other = super::gateway(at(stand.server.addr()), |_| {}).await;
    let elsewhere = redis_gateway::proto::orchestrator_client::OrchestratorClient::new(other.channel().await);
    let mut none = stand.watch("building/", false, Expiries::Unspecified).await;
    stand.left_behind("building/1", "v").await;
    let looks = stand.metric("looks_total").await;
    let mut all = stand.watch("building/", false, Expiries::All).await;
    let expired = all.expiry().await;
    assert_eq!((expired.key.as_str(), expired.ack_id.as_str()), ("building/1", ""));
    assert!(stand.metric("looks_total").await >= looks);

    let mut one = super::watch(&elsewhere, "", "building/", false, Expiries::One)
        .await
        .unwrap();
    // What was taken for all is owed to one.
    let owed = one.expiry().await;
    assert_eq!(owed.key, "building/1");
    one.acknowledge(&owed).await;
    stand.create("building/2", "w", 1).await;
    for watching in [&mut all, &mut one, &mut none] {
        assert_eq!(short(&watching.next().await), "create building/2 w");
    }
    assert_eq!(short(&all.next().await), "expire building/2 w");
    // Whichever gateway comes first takes it; if that was for all, `one` is told that it is gone, and is given it.
    let mut told = short(&one.next().await);
    if told == "delete building/2 w" {
        told = short(&one.next().await);
    }
    assert_eq!(told, "expire building/2 w");
    match none.next().await {
        Event::Delete(gone) => assert!(gone.expired && gone.value.is_some_and(|value| *value == *b"w")),
        other => panic!("{other:?} instead of a key that is gone"),
    }
    none.silent(Duration::from_millis(200)).await;
    all.silent(Duration::from_millis(200)).await;
    drop((none, all, one, elsewhere));
    other.stop().await;
    stand.stop().await;
}
