//! Subscriptions are confirmed or refused, on a connection that carries nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use redis_gateway::{
    config::{self, Password},
    redis::{Error, Event, Existing, Reply, Subscriber, command},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{close, serving, within_ms};
use crate::harness::{Cut, MachineLag, Mode, Proxy, RedisServer, at, eventually, heavy, patience, soak};

fn channel(name: &'static str) -> Bytes {
    Bytes::from_static(name.as_bytes())
}

/// A server that lets its user `limited` subscribe to channels that begin with `allowed`, and a configuration for that user.
async fn limited() -> (RedisServer, config::Endpoint) {
    let server = RedisServer::new()
        .user("limited", "on >secret ~* resetchannels &allowed* +@all")
        .start()
        .await;
    let mut config = at(server.addr());
    config.username = Some("limited".into());
    config.password = Some(Password::Inline("secret".into()));
    (server, config)
}

fn denied() -> Result<(), Error> {
    Err(Error::Reply(Reply::Denied("SUBSCRIBE")))
}

/// Waits for a message on `channel` that is published until it comes.
async fn hears(subscriber: &Subscriber, server: &RedisServer, channel: &str) {
    let mut events = subscriber.events();
    let publish = async {
        loop {
            server.run::<i64>(&["PUBLISH", channel, "hello"]).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let hear = async {
        loop {
            if let Event::Message { channel: from, payload } = events.recv().await.unwrap() {
                assert_eq!((&from[..], &payload[..]), (channel.as_bytes(), &b"hello"[..]));
                return;
            }
        }
    };
    tokio::select! {
        () = publish => {}
        heard = timeout(patience(), hear) => heard.expect("a message"),
    }
}

#[tokio::test]
async fn subscribe_fails_at_once_when_denied() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let (server, config) = limited().await;
    let endpoint = serving(&config).await;
    let subscriber = endpoint.subscriber();
    let _kept = subscriber
        .subscribe(channel("allowed-0"), within_ms(2_000))
        .await
        .unwrap();
    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(
            subscriber
                .subscribe(channel("forbidden"), within_ms(2_000))
                .await
                .map(drop),
            denied()
        );
        lag.assert_within("a refusal", asked.elapsed(), Duration::from_millis(100));
        let subscription = subscriber
            .subscribe(channel("allowed-1"), within_ms(2_000))
            .await
            .unwrap();
        hears(&subscriber, &server, "allowed-1").await;
        drop(subscription);
        eventually("it is unsubscribed from", async || {
            server.run::<Vec<String>>(&["PUBSUB", "CHANNELS"]).await == ["allowed-0"]
        })
        .await;
        hears(&subscriber, &server, "allowed-0").await;
    }
    drop(subscriber);
    close(endpoint, &server).await;
}

#[tokio::test]
async fn subscribe_times_out_on_a_silent_server() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = serving(&at(proxy.addr())).await;
    for (mode, connected) in [(Mode::BlackHole, false), (Mode::BlackHole, true), (Mode::Stall, true)] {
        let subscriber = endpoint.subscriber();
        let mut kept = Vec::new();
        if connected {
            kept.push(subscriber.subscribe(channel("first"), within_ms(2_000)).await.unwrap());
        }
        proxy.set(mode);
        let asked = Instant::now();
        let result = subscriber.subscribe(channel("second"), within_ms(400)).await;
        assert!(
            matches!(result, Err(Error::Timeout | Error::Unavailable)),
            "{mode:?}: {result:?}"
        );
        lag.assert_within("a subscription", asked.elapsed(), Duration::from_millis(450));
        proxy.set(Mode::Pass);
        proxy.cut(Cut::Reset).await;
        eventually("the subscription is made", async || {
            let second = subscriber.subscribe(channel("second"), within_ms(400)).await;
            kept.extend(second);
            !kept.is_empty() && kept.len() > usize::from(connected)
        })
        .await;
        hears(&subscriber, &server, "second").await;
    }
    close(endpoint, &server).await;
}

#[tokio::test]
async fn gap_told_after_reconnect() {
    let mut server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = serving(&at(proxy.addr())).await;
    let subscriber = endpoint.subscriber();
    let mut kept = Vec::new();
    for name in ["a", "b", "a"] {
        kept.push(subscriber.subscribe(channel(name), within_ms(2_000)).await.unwrap());
    }
    // The other one holds the channel.
    kept.pop();
    for fault in 0..4 {
        let mut events = subscriber.events();
        match fault {
            0 => drop(proxy.cut(Cut::Reset).await),
            1 => drop(proxy.cut(Cut::Fin).await),
            // No traffic: only the probe can notice.
            2 => proxy.set_open(Mode::BlackHole),
            _ => {
                server.kill();
                server.restart().await;
            }
        }
        for expected in [Event::Lost, Event::Reconnected] {
            let told = timeout(patience(), events.recv()).await.expect("news").unwrap();
            assert_eq!(told, expected, "fault {fault}");
        }
        for name in ["a", "b"] {
            hears(&subscriber, &server, name).await;
        }
    }
    drop(subscriber);
    close(endpoint, &server).await;
}

/// Notifications of keys come by a pattern, which is taken up again; a mark comes after what was published before it.
#[tokio::test]
async fn patterns_are_heard_before_and_after_a_cut_and_marks_in_their_place() {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = serving(&at(proxy.addr())).await;
    let subscriber = endpoint.subscriber();
    let mut events = subscriber.events();
    let mut kept = vec![subscriber.subscribe(channel("a"), within_ms(2_000)).await.unwrap()];
    for pattern in ["__keyspace@0__:*/x", "p*", "p*"] {
        let held = subscriber.subscribe_pattern(channel(pattern), within_ms(2_000)).await;
        kept.push(held.unwrap());
    }
    kept.pop();
    let message = |name: &'static str, payload: &'static str| Event::Message {
        channel: channel(name),
        payload: channel(payload),
    };
    for cut in [false, true] {
        if cut {
            proxy.cut(Cut::Reset).await;
            for expected in [Event::Lost, Event::Reconnected] {
                assert_eq!(timeout(patience(), events.recv()).await.unwrap().unwrap(), expected);
            }
        }
        for (name, payload) in [
            ("__keyspace@0__:k/x", "expired"),
            ("p1", "v"),
            ("a", "w"),
            ("b", "nobody's"),
        ] {
            server.run::<()>(&["PUBLISH", name, payload]).await;
        }
        subscriber.mark(7).await;
        let mut heard = Vec::new();
        while heard.len() < 4 {
            heard.push(timeout(patience(), events.recv()).await.unwrap().unwrap());
        }
        for expected in [
            message("__keyspace@0__:k/x", "expired"),
            message("p1", "v"),
            message("a", "w"),
        ] {
            assert!(heard.contains(&expected), "{expected:?} in {heard:?}");
        }
        let place = |event: Event| heard.iter().position(|heard| *heard == event);
        assert!(place(message("a", "w")) < place(Event::Mark(7)), "{heard:?}");
    }
    kept.clear();
    eventually("the patterns are given up", async || {
        server.run::<i64>(&["PUBSUB", "NUMPAT"]).await == 0
    })
    .await;
    drop(subscriber);
    close(endpoint, &server).await;
}

/// Asked for while the connection is away, a channel is taken up by being subscribed to again; asking twice is no refusal.
#[tokio::test]
async fn channel_subscribed_to_before_a_cut_can_be_asked_for_again() {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = serving(&at(proxy.addr())).await;
    let subscriber = endpoint.subscriber();
    let _kept = subscriber.subscribe(channel("a"), within_ms(2_000)).await.unwrap();
    for round in 0..20 {
        let mut events = subscriber.events();
        proxy.cut(Cut::Reset).await;
        // Until the loss is told of, which is when the channel is subscribed to again.
        while events.is_empty() {
            let again = subscriber.subscribe(channel("a"), within_ms(2_000)).await;
            assert!(
                matches!(again, Ok(_) | Err(Error::Unavailable)),
                "round {round}: {again:?}"
            );
        }
        for expected in [Event::Lost, Event::Reconnected] {
            assert_eq!(events.recv().await.unwrap(), expected, "round {round}");
        }
        hears(&subscriber, &server, "a").await;
    }
    drop(subscriber);
    close(endpoint, &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reply_mixed_up_after_denied_subscribe() {
    const READERS: usize = 32;
    let _one = heavy().await;
    let wanted = if soak() { 1_000_000 } else { 100_000 };
    let (server, config) = limited().await;
    let endpoint = serving(&config).await;
    for n in 0..READERS {
        let (key, value) = (Bytes::from(format!("key-{n}")), Bytes::from(format!("value-{n}")));
        endpoint
            .primary(command::set(key, value, Existing::Replace, None), within_ms(2_000))
            .await
            .unwrap();
    }

    let (calls, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut readers = JoinSet::new();
    for n in 0..READERS {
        let (endpoint, calls) = (endpoint.clone(), calls.clone());
        readers.spawn(async move {
            while calls.fetch_add(1, Relaxed) < wanted {
                let value = endpoint
                    .primary(command::get(Bytes::from(format!("key-{n}"))), within_ms(2_000))
                    .await;
                assert_eq!(value, Ok(Some(Bytes::from(format!("value-{n}")))));
            }
        });
    }
    let subscriber = endpoint.subscriber();
    let denials = async {
        let mut denials = 0;
        while !stop.load(Relaxed) {
            assert_eq!(
                subscriber
                    .subscribe(channel("forbidden"), within_ms(2_000))
                    .await
                    .map(drop),
                denied()
            );
            denials += 1;
        }
        denials
    };
    let reading = async {
        readers.join_all().await;
        stop.store(true, Relaxed);
    };
    let (denials, ()) = tokio::join!(denials, reading);
    println!("{wanted} reads beside {denials} denied subscriptions");
    assert!(denials >= 100, "only {denials} denials");
    drop(subscriber);
    close(endpoint, &server).await;
}
