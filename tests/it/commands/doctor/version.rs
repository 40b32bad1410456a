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

/// Something before a server that may alter each piece of what that answers. Once `alter` says no, the rest of the connection's
/// answers is lost.
pub(super) async fn altered(
    server: SocketAddr,
    alter: impl FnMut(&mut [u8]) -> bool + Clone + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut alter = alter.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let answers = async {
                    let mut some = vec![0; 64 << 10];
                    let mut passes = true;
                    while let Ok(count @ 1..) = from_server.read(&mut some).await {
                        if !passes {
                            continue;
                        }
                        passes = alter(&mut some[..count]);
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

/// Says that the server is Redis 5.
fn older(answer: &mut [u8]) -> bool {
    // It stands in the first line of an answer's own, so never at the end of what is read.
    if let Some(at) = answer.windows(VERSION.len()).position(|part| part == VERSION) {
        answer[at + VERSION.len()] = b'5';
    }
    true
}

#[tokio::test]
async fn an_old_server_is_found() {
    let server = RedisServer::new().start().await;
    let said = Said::of(&placed(&["user_events"], altered(server.addr(), older).await)).await;
    let (level, what, fix) = said.only("version");
    assert_eq!((said.code(), level), (Some(1), "error"));
    assert!(what.starts_with("is Redis 5."), "{what}");
    assert!(fix.starts_with("upgrade it to Redis 6.2"), "{fix}");
    // What is newer is fine.
    Said::of(&placed(&["user_events"], server.addr())).await.assert_fine();
}
