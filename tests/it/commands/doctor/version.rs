//! A server that is too old.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
};

use super::super::placed;
use super::Said;
use crate::harness::RedisServer;

const VERSION: &[u8] = b"redis_version:";

/// Something before a server that says that the server is Redis 5.
async fn older(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let answers = async {
                    let mut some = vec![0; 64 << 10];
                    // It stands in the first line of an answer's own, so never at the end of what is read.
                    while let Ok(count @ 1..) = from_server.read(&mut some).await {
                        let at = some[..count].windows(VERSION.len()).position(|part| part == VERSION);
                        if let Some(at) = at {
                            some[at + VERSION.len()] = b'5';
                        }
                        if to_client.write_all(&some[..count]).await.is_err() {
                            break;
                        }
                    }
                };
                tokio::select! {
                    _ = copy(&mut from_client, &mut to_server) => {}
                    () = answers => {}
                }
            });
        }
    });
    at
}

#[tokio::test]
async fn an_old_server_is_found() {
    let server = RedisServer::new().start().await;
    let said = Said::of(&placed(&["user_events"], older(server.addr()).await)).await;
    let (level, what, fix) = said.only("version");
    assert_eq!((said.code(), level), (Some(1), "error"));
    assert!(what.starts_with("is Redis 5."), "{what}");
    assert!(fix.starts_with("upgrade it to Redis 6.2"), "{fix}");
    // What is newer is fine.
    Said::of(&placed(&["user_events"], server.addr())).await.assert_fine();
}
