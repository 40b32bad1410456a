//! `locks release`: while a person thinks about it, and where it is not known what became of it.

use super::{
    locks::{ANOTHER, Stand},
    placed,
    terminal::Terminal,
};
use crate::harness::{Cut, Mode, Proxy, RedisServer, eventually};

#[tokio::test]
async fn person_on_a_terminal_is_asked_and_an_answer_that_is_lost_is_told_as_such() {
    let stand = Stand::new().await;
    let set = ["SET", "lock:job", ANOTHER, "EX", "600"];
    stand.server.run::<()>(&set).await;
    let proxy = Proxy::new(stand.server.addr());
    let endpoints = placed(&["user_events"], proxy.addr());
    let words = format!("locks release job --reason stuck --holder {ANOTHER}");
    let asked = format!("job is held by {ANOTHER}, ends in: ");

    let mut terminal = Terminal::run(&[&words], &endpoints, &[]);
    terminal.shows(&asked).await;
    terminal.type_in("no");
    let (code, shown) = terminal.ended().await;
    assert!(
        code == Some(1) && shown.contains("job: left as it is") && !shown.contains("begins"),
        "{shown}"
    );
    assert!(stand.value("job").await.is_some());

    let mut terminal = Terminal::run(&[&words], &endpoints, &[]);
    terminal.shows(&asked).await;
    terminal.type_in("y");
    let (code, shown) = terminal.ended().await;
    assert!(code == Some(0) && shown.contains("job: released"), "{shown}");
    assert!(stand.value("job").await.is_none());

    stand.server.run::<()>(&set).await;
    let mut terminal = Terminal::run(&[&words], &endpoints, &[]);
    terminal.shows(&asked).await;
    proxy.set(Mode::SwallowReplies);
    terminal.type_in("y");
    let (code, shown) = terminal.ended().await;
    assert!(
        code == Some(75) && shown.contains("unknown: sent, and no answer"),
        "{code:?} {shown}"
    );
    // As it happens, it was.
    assert!(stand.value("job").await.is_none());

    // Changed hands while the person thought about it.
    proxy.set(Mode::Pass);
    stand.server.run::<()>(&set).await;
    let mut terminal = Terminal::run(&[&words], &endpoints, &[]);
    terminal.shows(&asked).await;
    stand.server.run::<()>(&["SET", "lock:job", "next", "EX", "600"]).await;
    terminal.type_in("y");
    let (code, shown) = terminal.ended().await;
    assert!(
        code == Some(1) && shown.contains("its holder does not hold it any more"),
        "{shown}"
    );
    assert_eq!(stand.value("job").await.as_deref(), Some("next"));
}

/// The connection of the command's endpoint, and the one beside it.
#[tokio::test]
async fn connections_that_are_cut_while_a_person_thinks_are_made_anew() {
    let stand = Stand::new().await;
    stand.server.run::<()>(&["SET", "lock:job", ANOTHER, "EX", "600"]).await;
    let proxy = Proxy::new(stand.server.addr());
    let endpoints = placed(&["user_events"], proxy.addr());
    let words = format!("locks release job --reason stuck --holder {ANOTHER}");
    let mut terminal = Terminal::run(&[&words], &endpoints, &[]);
    terminal.shows("Release it? [y/N]").await;
    let before = proxy.accepted();
    proxy.cut(Cut::Reset).await;
    eventually("another connection is up", async || {
        let names = stand.server.connections().await;
        proxy.accepted() > before && names.iter().any(|line| line.contains(" cmd=ping "))
    })
    .await;
    terminal.type_in("y");
    let (code, shown) = terminal.ended().await;
    assert!(code == Some(0) && shown.contains("job: released"), "{code:?} {shown}");
    assert!(stand.value("job").await.is_none());
}

#[tokio::test]
async fn an_answer_that_is_none_of_a_release_leaves_it_unknown() {
    let stand = Stand::new().await;
    stand.server.run::<()>(&["SET", "lock:job", ANOTHER, "EX", "600"]).await;
    // Its EVALSHA says how the fields of a hash stand: something was done, and nobody knows what.
    let another = RedisServer::new()
        .setting("rename-command EVALSHA \"\"")
        .setting("rename-command HMGET EVALSHA")
        .start()
        .await;
    let proxy = Proxy::new(stand.server.addr());
    let endpoints = placed(&["user_events"], proxy.addr());
    let words = format!("locks release job --reason stuck --holder {ANOTHER}");
    let mut terminal = Terminal::run(&[&words], &endpoints, &[]);
    terminal.shows("Release it? [y/N]").await;
    proxy.lead_to(another.addr());
    proxy.cut(Cut::Reset).await;
    eventually("another connection is up", async || {
        let lines = another.connections().await;
        lines.iter().any(|line| line.contains(" cmd=ping "))
    })
    .await;
    terminal.type_in("y");
    let (code, shown) = terminal.ended().await;
    assert!(
        code == Some(75) && shown.contains("unknown: sent, and no answer"),
        "{code:?} {shown}"
    );
}
