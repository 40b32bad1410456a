//! Servers that are away, hang, or let nobody in.

use std::{fs, time::Duration};

use tokio::time::{Instant, timeout};

use super::super::placed;
use super::{Said, version::altered};
use crate::harness::{Mode, Proxy, RedisServer, patience, unused_port};

const PASSWORD: &str = "a-secret-of-the-server";

#[tokio::test]
async fn passwords_that_lack_or_are_wrong_are_found_and_never_shown() {
    let server = RedisServer::new().password(PASSWORD).start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let mut endpoints = placed(&["locks"], server.addr());
    let said = Said::of(&endpoints).await;
    let (level, what, fix) = said.only("login");
    assert_eq!((said.code(), level), (Some(1), "error"), "{}", said.ran);
    assert!(
        what.contains("wants a password") && fix.contains("endpoints.locks.password_file"),
        "{}",
        said.ran
    );

    fs::write(&file, "another-secret").unwrap();
    endpoints.push(format!("--endpoints-locks-password-file={}", file.display()));
    let said = Said::of(&endpoints).await;
    let (level, what, fix) = said.only("login");
    assert_eq!((said.code(), level), (Some(1), "error"), "{}", said.ran);
    assert!(
        what.contains("refuses the password") && fix.contains("endpoints.locks.password_file"),
        "{}",
        said.ran
    );
    assert!(!said.ran.to_string().contains("another-secret"), "{}", said.ran);

    fs::write(&file, PASSWORD).unwrap();
    let said = Said::of(&endpoints).await;
    said.assert_fine();
    assert!(!said.ran.to_string().contains(PASSWORD), "{}", said.ran);
}

#[tokio::test]
async fn a_server_that_is_away_is_told_in_time_and_hides_no_other() {
    let server = RedisServer::new().setting("maxmemory-policy allkeys-lru").start().await;
    let mut endpoints = placed(&["locks"], server.addr());
    endpoints.push("--endpoints-cache-host=127.0.0.1".to_owned());
    endpoints.push(format!("--endpoints-cache-port={}", unused_port()));
    let began = Instant::now();
    let said = Said::of(&endpoints).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(said.code(), Some(69), "{}", said.ran);
    assert!(
        said.ran.err.starts_with("cache 127.0.0.1:") && said.ran.err.contains("takes no connection"),
        "{}",
        said.ran
    );
    assert_eq!(said.only("eviction").0, "warning");
    let away = said
        .servers()
        .iter()
        .find(|server| server["endpoint"] == "cache")
        .unwrap();
    assert!(away["unreachable"].is_string());
}

#[tokio::test]
async fn a_server_that_hangs_does_not_hang_the_doctor() {
    let server = RedisServer::new().start().await;
    let endpoints = placed(&["locks", "cache", "build_logs"], server.addr());
    server.pause();
    let said = timeout(patience(), Said::of(&endpoints)).await.expect("an answer");
    server.resume();
    assert_eq!(said.code(), Some(69), "{}", said.ran);
    assert_eq!(said.ran.err.lines().count(), 3, "{}", said.ran);
    assert!(said.ran.err.contains("no answer within 1s"), "{}", said.ran);
}

#[tokio::test]
async fn a_server_that_stops_to_answer_halfway_is_told() {
    let server = RedisServer::new().start().await;
    let between = Proxy::new(server.addr());
    let mut endpoints = placed(&["locks"], between.addr());
    endpoints.push("--endpoints-locks-command-timeout=300ms".to_owned());
    let said = Said::of(&endpoints);
    let stall = async {
        // The greeting is short, the answer to INFO is not.
        while between.replies() < 2_000 {
            tokio::task::yield_now().await;
        }
        between.set(Mode::BlackHole);
    };
    let (said, ()) = timeout(patience(), async { tokio::join!(said, stall) })
        .await
        .expect("an answer");
    assert_eq!(said.code(), Some(69), "{}", said.ran);
    assert!(
        said.ran.err.contains("it answered at first, and then: "),
        "{}",
        said.ran
    );
}

#[tokio::test]
async fn a_server_that_is_silent_after_its_greeting_does_not_answer() {
    let server = RedisServer::new().start().await;
    // The library greets, and so does the gateway.
    let mut pongs = 0;
    let greeting = move |answer: &mut [u8]| {
        pongs += answer.windows(4).filter(|part| *part == b"PONG").count();
        pongs < 2
    };
    let said = Said::of(&placed(&["locks"], altered(server.addr(), greeting).await)).await;
    assert!(
        said.code() == Some(69) && said.ran.err.contains(": no answer within "),
        "{}",
        said.ran
    );
}

#[tokio::test]
async fn wrong_arguments_are_told_as_such() {
    let ran = super::super::run(
        &["doctor --endpoint cache"],
        &placed(&["locks"], ([127, 0, 0, 1], 1).into()),
    )
    .await;
    assert!(
        ran.code == Some(64) && ran.err.contains("cache is not configured"),
        "{ran}"
    );
}
