//! Ways to reach a server: Unix socket, TLS, users, passwords, databases.

use std::fs;

use bytes::Bytes;
use redis_gateway::{
    config::{Password, Server},
    redis::{Existing, State, command},
};

use super::{close, down, open, serving, up, within_ms};
use crate::harness::{Certs, Cut, Proxy, RedisServer, at, endpoint};

fn key() -> Bytes {
    Bytes::from_static(b"key")
}

async fn set(endpoint: &redis_gateway::redis::Endpoint) {
    let set = command::set(key(), Bytes::from_static(b"value"), Existing::Replace, None);
    endpoint.primary(set, within_ms(2_000)).await.unwrap();
}

#[tokio::test]
async fn serves_over_a_unix_socket() {
    let mut server = RedisServer::new().append_only().start().await;
    let endpoint = serving(&endpoint(Server::Unix(server.socket()))).await;
    set(&endpoint).await;
    server.kill();
    server.restart().await;
    up(&endpoint).await;
    let value = endpoint.primary(command::get(key()), within_ms(2_000)).await.unwrap();
    assert_eq!(value.unwrap(), "value");
    close(endpoint, &server).await;
}

#[tokio::test]
async fn serves_with_tls_password_and_db() {
    let certs = Certs::new();
    let server = RedisServer::new().tls(&certs).password("secret").start().await;
    let mut config = at(server.tls_addr());
    config.db = 3;
    config.password = Some(Password::Inline("secret".into()));
    config.tls = Some(certs.client());
    let endpoint = serving(&config).await;
    set(&endpoint).await;
    let mut direct = server.client_of(3).await;
    let stored: String = redis::cmd("GET").arg("key").query_async(&mut direct).await.unwrap();
    assert_eq!(stored, "value");
    drop(direct);
    close(endpoint, &server).await;
}

#[tokio::test]
async fn foreign_authority_is_not_trusted() {
    let (certs, others) = (Certs::new(), Certs::new());
    let server = RedisServer::new().tls(&certs).start().await;
    let mut config = at(server.tls_addr());
    config.tls = Some(others.client());
    let refused = open(&config);
    down(&refused).await;

    // Unless told not to care; the server still does, so the client's own certificate is the right one here.
    let mut tls = certs.client();
    tls.ca_file = Some(others.ca());
    tls.insecure = true;
    config.tls = Some(tls);
    close(serving(&config).await, &server).await;
    assert_eq!(*refused.state().borrow(), State::Down);
}

#[tokio::test]
async fn serves_an_acl_user() {
    let server = RedisServer::new()
        .user("gateway", "on >secret ~key* &* +@all -@dangerous")
        .start()
        .await;
    let mut config = at(server.addr());
    config.username = Some("gateway".into());
    config.password = Some(Password::Inline("secret".into()));
    let endpoint = serving(&config).await;
    set(&endpoint).await;
    close(endpoint, &server).await;
}

#[tokio::test]
async fn connections_bear_the_gateways_name_where_they_may() {
    for (rights, named) in [("+@all", true), ("+@all -client|setname", false)] {
        let user = format!("on >secret ~key* &* {rights}");
        let server = RedisServer::new().user("gateway", &user).start().await;
        let mut config = at(server.addr());
        config.username = Some("gateway".into());
        config.password = Some(Password::Inline("secret".into()));
        let endpoint = serving(&config).await;
        let subscriber = endpoint.subscriber();
        let channel = Bytes::from_static(b"channel");
        let subscription = subscriber.subscribe(channel, within_ms(2_000)).await.unwrap();
        let connections = server.connections().await;
        assert_eq!(connections.len(), 2);
        for connection in connections {
            assert_eq!(connection.contains(" name=redis-gateway "), named, "{connection}");
        }
        drop((subscription, subscriber));
        close(endpoint, &server).await;
    }
}

#[tokio::test]
async fn password_file_is_read_again() {
    let server = RedisServer::new()
        .user("gateway", "on >first ~* &* +@all")
        .start()
        .await;
    let proxy = Proxy::new(server.addr());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "first\n").unwrap();
    let mut config = at(proxy.addr());
    config.username = Some("gateway".into());
    config.password = Some(Password::File(file.clone()));
    let endpoint = serving(&config).await;
    set(&endpoint).await;

    // The server's password changes first: the connection stays, a new one cannot be made until the file follows.
    server
        .run::<()>(&["ACL", "SETUSER", "gateway", "resetpass", ">second"])
        .await;
    set(&endpoint).await;
    proxy.cut(Cut::Fin).await;
    down(&endpoint).await;
    fs::write(&file, "second\n").unwrap();
    up(&endpoint).await;
    set(&endpoint).await;

    fs::remove_file(&file).unwrap();
    proxy.cut(Cut::Fin).await;
    down(&endpoint).await;
    fs::write(&file, "second").unwrap();
    up(&endpoint).await;
    close(endpoint, &server).await;
}
