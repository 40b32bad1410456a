//! What who watches is told when Redis fails, and what becomes of changes then.

use std::{collections::BTreeMap, time::Duration};

use rand::Rng as _;
use redis_gateway::{
    config::{Endpoint, Password},
    proto::{
        DegradedReason, orchestrator_gap::Cause, orchestrator_watch_open::Expiries, orchestrator_watch_response::Event,
    },
};
use tokio::time::{Instant, timeout};
use tonic::Code;

use super::{Stand, pair, short};
use crate::harness::{Cut, Mode, Proxy, RedisServer, at, eventually, patience, reason, seeded};

async fn behind_a_proxy() -> (Stand, Proxy) {
    let server = RedisServer::new().append_only().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = at(proxy.addr());
    let stand = Stand::on(server, endpoint, |config| {
        config.orchestrator.heartbeat = Duration::from_millis(200);
    })
    .await;
    (stand, proxy)
}

#[tokio::test]
async fn after_any_cut_the_difference_is_made_up_once() {
    let (mut stand, proxy) = behind_a_proxy().await;
    for (key, value) in [("k/same", "v"), ("k/set", "0"), ("k/deleted", "v")] {
        stand.create(key, value, 0).await;
    }
    let mut watching = stand.watch("k/", true, Expiries::One).await;
    let mut bare = stand.watch("k/", false, Expiries::Unspecified).await;
    watching.snapshot().await;
    for (n, fault) in ["reset", "end", "black hole", "restart"].into_iter().enumerate() {
        proxy.refuse(true).await;
        match fault {
            "reset" => drop(proxy.cut(Cut::Reset).await),
            "end" => drop(proxy.cut(Cut::Fin).await),
            "black hole" => proxy.set_open(Mode::BlackHole),
            _ => {
                stand.server.kill();
                stand.server.restart().await;
            }
        }
        // Past the gateway, while it hears nothing.
        let value = (n + 1).to_string();
        stand.server.run::<()>(&["SET", "k/set", "between"]).await;
        stand.server.run::<()>(&["SET", "k/set", &value]).await;
        stand
            .server
            .run::<()>(&["SET", &format!("k/new{n}"), "v", "EX", "86500"])
            .await;
        stand
            .server
            .run::<()>(&["SET", &format!("k/new{n}/expiring"), "", "EX", "100"])
            .await;
        stand.server.run::<()>(&["DEL", "k/deleted"]).await;
        proxy.refuse(false).await;
        for watching in [&mut watching, &mut bare] {
            assert_eq!(watching.gap().await.cause(), Cause::ConnectionLost, "{fault}");
            let mut told = [(); 3].map(|()| String::new());
            for told in &mut told {
                *told = short(&watching.next().await);
            }
            told.sort();
            let expected = [
                format!("create k/new{n} v"),
                "delete k/deleted".into(),
                format!("set k/set {value}"),
            ];
            assert_eq!(told, expected, "{fault}");
        }
        // And goes on as before.
        eventually("the endpoint is up", async || stand.get("k/same").await.is_ok()).await;
        stand.create("k/deleted", "v", 0).await;
        for watching in [&mut watching, &mut bare] {
            assert_eq!(short(&watching.next().await), "create k/deleted v", "{fault}");
        }
    }
    drop((watching, bare));
    stand.stop().await;
}

#[tokio::test]
async fn a_cut_that_changed_nothing_is_told_to_nobody() {
    let (stand, proxy) = behind_a_proxy().await;
    stand.create("k/1", "v", 0).await;
    let mut watching = stand.watch("k/", true, Expiries::One).await;
    watching.snapshot().await;
    for _ in 0..3 {
        let gaps = stand.metric("gaps_total").await;
        proxy.cut(Cut::Reset).await;
        eventually("it is there again", async || stand.metric("gaps_total").await > gaps).await;
    }
    eventually("the endpoint is up", async || stand.get("k/1").await.is_ok()).await;
    assert!(stand.set("k/1", "w", true, 0).await.unwrap());
    let event = watching.next().await;
    // If the look that the last cut has caused saw it first, it is a difference.
    let event = if matches!(event, Event::Gap(_)) {
        watching.next().await
    } else {
        event
    };
    assert_eq!(short(&event), "set k/1 w");
    drop(watching);
    stand.stop().await;
}

#[tokio::test]
async fn who_is_told_under_cuts_knows_what_stands_in_the_end() {
    let (stand, proxy) = behind_a_proxy().await;
    let mut random = seeded();
    let mut watching = stand.watch("k/", true, Expiries::Unspecified).await;
    let changing = async {
        let mut client = stand.server.client().await;
        for n in 0..400 {
            let key = format!("k/{}", random.random_range(0..20));
            if random.random_range(0..4) == 0 {
                let mut pipe = redis::pipe();
                let payload = format!(r#"{{"event": 3, "key": "{key}", "value": ""}}"#);
                pipe.cmd("DEL")
                    .arg(&key)
                    .cmd("PUBLISH")
                    .arg("orchestrator_events")
                    .arg(payload);
                pipe.exec_async(&mut client).await.unwrap();
            } else {
                let payload = format!(r#"{{"event": 2, "key": "{key}", "value": "{n}"}}"#);
                let mut pipe = redis::pipe();
                pipe.cmd("SET")
                    .arg(&key)
                    .arg(n)
                    .cmd("PUBLISH")
                    .arg("orchestrator_events")
                    .arg(payload);
                pipe.exec_async(&mut client).await.unwrap();
            }
            if n % 40 == 39 {
                match random.random_range(0..3) {
                    0 => drop(proxy.cut(Cut::Reset).await),
                    1 => drop(proxy.swallow_and_cut(Duration::from_millis(20), Cut::Fin).await),
                    _ => proxy.set_open(Mode::BlackHole),
                }
            }
        }
        redis::cmd("SET")
            .arg("k/last")
            .arg("400")
            .exec_async(&mut client)
            .await
            .unwrap();
        proxy.cut(Cut::Reset).await;
    };
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut told = 0;
    let knowing = async {
        while !known.contains_key("k/last") {
            told += 1;
            match watching.next().await {
                Event::Entry(entry) | Event::Create(entry) | Event::Set(entry) => {
                    let (key, value) = pair(&entry);
                    let number = |value: &str| value.parse::<u64>().unwrap();
                    let before = known.insert(key.clone(), value.clone());
                    assert!(
                        before.is_none_or(|before| number(&before) <= number(&value)),
                        "{key} went back"
                    );
                }
                Event::Delete(deleted) => drop(known.remove(&deleted.key)),
                Event::Synced(_) | Event::Gap(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::join!(changing, knowing);
    // What else the last look has found comes with it.
    let end = Instant::now() + patience();
    loop {
        let mut stands = BTreeMap::new();
        for key in stand.server.run::<Vec<String>>(&["KEYS", "k/*"]).await {
            let value: String = stand.server.run(&["GET", &key]).await;
            stands.insert(key, value);
        }
        if stands == known {
            break;
        }
        assert!(Instant::now() < end, "in Redis {stands:?}, known {known:?}");
        let Ok(event) = timeout(Duration::from_secs(1), watching.next()).await else {
            continue;
        };
        match event {
            // The first look may have been cut too.
            Event::Entry(entry) | Event::Create(entry) | Event::Set(entry) => {
                let (key, value) = pair(&entry);
                known.insert(key, value);
            }
            Event::Delete(deleted) => drop(known.remove(&deleted.key)),
            _ => {}
        }
    }
    println!("{told} told of 400 changes, {} gaps", stand.metric("gaps_total").await);
    drop(watching);
    stand.stop().await;
}

#[tokio::test]
async fn heartbeats_say_while_redis_is_away_and_new_watches_are_refused() {
    let (stand, proxy) = behind_a_proxy().await;
    let mut watching = stand.watch("k/", false, Expiries::One).await;
    proxy.refuse(true).await;
    proxy.cut(Cut::Reset).await;
    loop {
        let told = timeout(patience(), watching.stream.message()).await.unwrap().unwrap();
        match told.unwrap().event.unwrap() {
            Event::Heartbeat(beat) if beat.degraded() == DegradedReason::RedisUnavailable => break,
            Event::Heartbeat(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let refused = stand
        .watch_as("", "k/", false, Expiries::One)
        .await
        .err()
        .expect("a refusal");
    assert_eq!(
        (refused.code(), reason(&refused).as_deref()),
        (Code::Unavailable, Some("REDIS_UNAVAILABLE"))
    );
    proxy.refuse(false).await;
    eventually("the endpoint is up", async || {
        stand.set("k/1", "v", false, 0).await.is_ok()
    })
    .await;
    let event = watching.next().await;
    let event = if matches!(event, Event::Gap(_)) {
        watching.next().await
    } else {
        event
    };
    assert_eq!(short(&event), "create k/1 v");
    drop(watching);
    stand.stop().await;
}

#[tokio::test]
async fn expiries_come_once_though_answers_are_lost() {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = Endpoint {
        command_timeout: Duration::from_millis(500),
        ..at(proxy.addr())
    };
    let stand = Stand::on(server, endpoint, |_| {}).await;
    let mut watching = stand.watch("building/", false, Expiries::One).await;
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for n in 0..60 {
        stand.direct(&format!("building/{n}"), "v", 1 + n / 20).await;
        stand.publish(1, &format!("building/{n}"), "v").await;
    }
    let breaking = async {
        for _ in 0..12 {
            proxy.swallow_and_cut(Duration::from_millis(200), Cut::Reset).await;
            tokio::time::sleep(Duration::from_millis(80)).await;
        }
    };
    let hearing = async {
        while told.len() < 60 {
            if let Event::Expire(expired) = watching.next().await {
                watching.acknowledge(&expired).await;
                *told.entry(expired.key).or_default() += 1;
            }
        }
    };
    tokio::join!(breaking, hearing);
    assert!(told.values().all(|times| *times == 1), "{told:?}");
    eventually("all are acknowledged", async || {
        stand
            .server
            .run::<i64>(&["EXISTS", "redis-gateway:v1:orchestrator:claims"])
            .await
            == 0
    })
    .await;
    drop(watching);
    stand.stop().await;
}

#[tokio::test]
async fn a_change_without_an_answer_is_said_to_be_unknown_and_a_denied_one_is_named() {
    let (stand, proxy) = behind_a_proxy().await;
    eventually("the endpoint is up", async || {
        stand.set("k/0", "v", false, 0).await.is_ok()
    })
    .await;
    proxy.set(Mode::SwallowReplies);
    let unknown = stand.set("k/1", "v", false, 0).await.unwrap_err();
    assert_eq!(
        (unknown.code(), reason(&unknown).as_deref()),
        (Code::Unknown, Some("OUTCOME_UNKNOWN"))
    );
    assert_eq!(stand.server.run::<String>(&["GET", "k/1"]).await, "v");
    proxy.set(Mode::Pass);
    proxy.cut(Cut::Reset).await;
    stand.stop().await;

    let server = RedisServer::new()
        .user("gateway", "on >secret ~* resetchannels +@all")
        .start()
        .await;
    let endpoint = Endpoint {
        username: Some("gateway".into()),
        password: Some(Password::Inline("secret".into())),
        ..at(server.addr())
    };
    let stand = Stand::on(server, endpoint, |_| {}).await;
    let denied = stand
        .watch_as("", "k/", false, Expiries::One)
        .await
        .err()
        .expect("a refusal");
    assert_eq!(
        (denied.code(), reason(&denied).as_deref()),
        (Code::FailedPrecondition, Some("REDIS_DENIED"))
    );
    stand.stop().await;
}
