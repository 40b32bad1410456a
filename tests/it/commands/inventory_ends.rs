//! `inventory`, ended before it is through: what it has by then is told.

use super::{Ran, begin, ended, logged_in, placed, secret};
use crate::harness::{RedisServer, eventually, signal};

/// Begins to look at 50,000 keys for a minute, lets `end` do something in the middle of it, and waits for the end.
async fn in_the_middle(server: &mut RedisServer, words: &str, end: impl FnOnce(&mut RedisServer, u32)) -> Ran {
    let endpoints = placed(&["cache"], server.addr());
    in_the_middle_at(server, words, &endpoints, end).await
}

/// The same, with more than the place of its endpoint.
async fn in_the_middle_at(
    server: &mut RedisServer,
    words: &str,
    endpoints: &[String],
    end: impl FnOnce(&mut RedisServer, u32),
) -> Ran {
    server.run::<()>(&["DEBUG", "POPULATE", "50000", "key", "10"]).await;
    let command = begin(&[words, "--rate 1000"], endpoints);
    eventually("some keys have been looked at", async || server.calls("scan").await > 1).await;
    end(server, command.id().unwrap());
    ended(command).await
}

/// How many keys it had looked at by then, as its report says.
fn looked(ran: &Ran, how: &str) -> u64 {
    let line = ran
        .out
        .lines()
        .find_map(|line| line.strip_prefix(how)?.strip_prefix(" after "));
    let count = line.and_then(|line| {
        line.strip_suffix(" of about 50000 keys")
            .or(line.split(" of about 50000 keys: ").next())
    });
    count
        .and_then(|count| count.parse().ok())
        .unwrap_or_else(|| panic!("{ran}"))
}

#[tokio::test]
async fn ctrl_c_ends_it_with_what_it_has() {
    let mut server = RedisServer::new().start().await;
    let ran = in_the_middle(&mut server, "inventory", |_, pid| signal("INT", pid)).await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(130), ""), "{ran}");
    let looked = looked(&ran, "interrupted");
    assert!(looked < 50_000, "{ran}");
    assert!(ran.out.contains("KIND") || looked == 0, "{ran}");
}

#[tokio::test]
async fn interrupted_it_says_what_it_could_not_look_at() {
    let mut server = RedisServer::new()
        .user("narrow", "on >secret ~key:1* +@all")
        .start()
        .await;
    let file = secret();
    let endpoints = [
        placed(&["cache"], server.addr()),
        logged_in(&["cache"], "narrow", &file),
    ];
    let ran = in_the_middle_at(&mut server, "inventory", &endpoints.concat(), |_, pid| {
        signal("INT", pid);
    })
    .await;
    assert_eq!(ran.code, Some(69), "{ran}");
    assert!(looked(&ran, "interrupted") < 50_000, "{ran}");
    assert!(ran.out.contains(" keys were not looked at: not permitted\n"), "{ran}");
}

#[tokio::test]
async fn redis_that_is_killed_meanwhile_is_named() {
    let mut server = RedisServer::new().start().await;
    let ran = in_the_middle(&mut server, "inventory", |server, _| server.kill()).await;
    assert_eq!(ran.code, Some(69), "{ran}");
    assert!(looked(&ran, "failed") < 50_000, "{ran}");
    assert_eq!(ran.err, format!("{}, db 0: redis is unavailable\n", server.addr()));
}

#[tokio::test]
async fn redis_that_falls_silent_meanwhile_is_not_waited_for() {
    let mut server = RedisServer::new().start().await;
    let ran = in_the_middle(&mut server, "inventory --json", |server, _| server.pause()).await;
    assert_eq!(ran.code, Some(69), "{ran}");
    let database = &ran.json()["databases"][0];
    assert_eq!(database["ended"], "failed", "{ran}");
    assert_eq!(database["error"], "no answer from redis in time", "{ran}");
    assert!(database["keys"].as_u64().unwrap() < 50_000, "{ran}");
}
