//! Error replies are told apart, and scripts that a server has lost are given to it again.

use bytes::Bytes;
use redis_gateway::{
    config::Password,
    redis::{Endpoint, Error, Existing, Once, Reply, Script, command},
};

use super::{close, down, push, serving, up, within_ms};
use crate::harness::{RedisServer, at, eventually};

static PUSH: Script<Once> = Script::new(
    "push-1",
    "return redis.call('RPUSH', KEYS[1], ARGV[1])",
    "b9705020f551c492b7692cdba607bbdb64837972",
);

async fn push_by_script(endpoint: &Endpoint) -> Result<i64, Error> {
    let (keys, args) = (vec![Bytes::from_static(b"list")], vec![Bytes::from_static(b"0")]);
    endpoint.eval(&PUSH, keys, args, within_ms(2_000)).await
}

async fn push_by_command(endpoint: &Endpoint) -> Result<i64, Error> {
    endpoint.primary(push("list", 0), within_ms(2_000)).await
}

/// Both ways to append are refused with `reply`; nothing stands afterwards.
async fn refused(endpoint: &Endpoint, reply: impl Fn(&'static str) -> Reply) {
    assert_eq!(push_by_command(endpoint).await, Err(Error::Reply(reply("RPUSH"))));
    assert_eq!(push_by_script(endpoint).await, Err(Error::Reply(reply("EVALSHA"))));
}

#[tokio::test]
async fn wrong_type_is_told() {
    let server = RedisServer::new().start().await;
    let endpoint = serving(&at(server.addr())).await;
    server.run::<()>(&["SET", "list", "text"]).await;
    refused(&endpoint, |_| Reply::WrongType).await;
    close(endpoint, &server).await;
}

#[tokio::test]
async fn out_of_memory_is_told() {
    let server = RedisServer::new().start().await;
    let endpoint = serving(&at(server.addr())).await;
    push_by_script(&endpoint).await.unwrap();
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    refused(&endpoint, |_| Reply::OutOfMemory).await;
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(push_by_command(&endpoint).await, Ok(2));
    close(endpoint, &server).await;
}

#[tokio::test]
async fn read_only_replica_is_told() {
    let server = RedisServer::new().start().await;
    let endpoint = serving(&at(server.addr())).await;
    push_by_script(&endpoint).await.unwrap();
    // Nobody serves there, and this server goes on serving what it has.
    server.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    refused(&endpoint, |_| Reply::NotServing("READONLY")).await;
    assert!(
        endpoint
            .primary(command::ttl(Bytes::from_static(b"list")), within_ms(2_000))
            .await
            .is_ok()
    );
    server.run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(push_by_command(&endpoint).await, Ok(2));
    close(endpoint, &server).await;
}

#[tokio::test]
async fn denied_command_is_named() {
    let server = RedisServer::new()
        .user("reader", "on >secret ~* &* +@all -rpush")
        .start()
        .await;
    let mut config = at(server.addr());
    config.username = Some("reader".into());
    config.password = Some(Password::Inline("secret".into()));
    let endpoint = serving(&config).await;
    refused(&endpoint, Reply::Denied).await;

    server
        .run::<()>(&["ACL", "SETUSER", "reader", "+rpush", "resetkeys", "~other"])
        .await;
    refused(&endpoint, Reply::Denied).await;
    assert_eq!(server.run::<i64>(&["EXISTS", "list"]).await, 0);
    close(endpoint, &server).await;
}

#[tokio::test]
async fn loading_server_is_not_serving() {
    let mut server = RedisServer::new()
        .setting("loading-process-events-interval-bytes 1024")
        .start()
        .await;
    let endpoint = serving(&at(server.addr())).await;
    for n in 0..400 {
        let key = Bytes::from(format!("key-{n}"));
        let set = command::set(key, Bytes::from(vec![b'x'; 1_000]), Existing::Replace, None);
        endpoint.primary(set, within_ms(2_000)).await.unwrap();
    }
    server.run::<()>(&["SAVE"]).await;
    server.kill();
    // 5 ms a key: it loads for two seconds.
    let server = server.setting("key-load-delay 5000").launched();
    down(&endpoint).await;
    assert_eq!(push_by_command(&endpoint).await, Err(Error::Unavailable));
    up(&endpoint).await;
    assert_eq!(push_by_command(&endpoint).await, Ok(1));
    eventually("the server serves", async || server.info("loading").await == 0).await;
    close(endpoint, &server).await;
}

#[tokio::test]
async fn script_loaded_again_after_flush_and_restart() {
    let mut server = RedisServer::new().append_only().start().await;
    let endpoint = serving(&at(server.addr())).await;
    assert_eq!(push_by_script(&endpoint).await, Ok(1));
    server.run::<()>(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(push_by_script(&endpoint).await, Ok(2));
    server.kill();
    server.restart().await;
    up(&endpoint).await;
    assert_eq!(push_by_script(&endpoint).await, Ok(3));
    // Many at once, none of them twice.
    server.run::<()>(&["SCRIPT", "FLUSH"]).await;
    let pushed = futures_util::future::join_all((0..100).map(|_| push_by_script(&endpoint))).await;
    let mut lengths: Vec<i64> = pushed.into_iter().map(Result::unwrap).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, (4..104).collect::<Vec<i64>>());
    close(endpoint, &server).await;
}
