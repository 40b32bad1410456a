//! `locks`: who holds which, and a lock taken from a holder that is gone.

use std::path::Path;

use redis_gateway::proto::{
    AcquireRequest, AcquireResponse, HoldRequest, hold_lost::Cause, hold_response::Event, locks_client::LocksClient,
};
use serde_json::Value;
use tonic::{Code, transport::Channel};

use super::{Ran, logged_in, placed, run, secret};
use crate::harness::{Gateway, Peer, RedisServer, at, config, eventually, patience, unused_port, within};

/// A holder as python-redis-lock names them.
pub(super) const ANOTHER: &str = "AAAAAAAAAAAAAAAAAAAAAAAA";

/// A gateway on a Redis of its own, and what tells a command where that is.
pub(super) struct Stand {
    pub(super) server: RedisServer,
    gateway: Gateway,
    locks: LocksClient<Channel>,
    endpoints: Vec<String>,
}

impl Stand {
    pub(super) async fn new() -> Self {
        let server = RedisServer::new().start().await;
        let mut settings = config();
        settings.endpoints.user_events = Some(at(server.addr()));
        let gateway = Gateway::start(settings).await;
        let locks = LocksClient::new(gateway.channel().await);
        let endpoints = placed(&["user_events"], server.addr());
        Stand {
            server,
            gateway,
            locks,
            endpoints,
        }
    }

    /// Acquires a lock by the gateway, as soon as that is connected.
    async fn acquire(&mut self, name: &str) -> AcquireResponse {
        let mut got = None;
        eventually("the lock is acquired", async || {
            let request = AcquireRequest {
                name: name.into(),
                ttl_ms: 600_000,
                ..AcquireRequest::default()
            };
            match self.locks.acquire(within(patience(), request)).await {
                Err(status) if status.code() == Code::Unavailable => {}
                answer => got = Some(answer.unwrap().into_inner()),
            }
            got.is_some()
        })
        .await;
        got.unwrap()
    }

    pub(super) async fn value(&self, name: &str) -> Option<String> {
        self.server.run(&["GET", &format!("lock:{name}")]).await
    }

    async fn run(&self, args: &[&str]) -> Ran {
        run(args, &self.endpoints).await
    }
}

/// The arguments of python-redis-lock's holders of the one lock `m0`.
fn holders(server: &RedisServer, journal: &Path, count: &str) -> Vec<String> {
    let url = format!("redis://{}", server.addr());
    let journal = journal.to_str().unwrap();
    let all = [
        ["--redis", &url],
        ["--journal", journal],
        ["--holders", count],
        ["--locks", "1"],
        ["--ttl", "600"],
        ["--hold", "100000"],
    ];
    all.concat().into_iter().map(str::to_owned).collect()
}

/// The holders that got a lock, in their order, as the journal of a peer tells.
fn entered(journal: &Path) -> Vec<String> {
    let lines = std::fs::read_to_string(journal).unwrap_or_default();
    let entered = lines.lines().filter(|line| line.starts_with("enter "));
    entered.map(|line| line.split(' ').nth(3).unwrap().to_owned()).collect()
}

/// The lines of JSON on standard error.
fn audit(err: &str) -> Vec<Value> {
    let lines = err.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn holders_with_and_without_a_gateway_are_listed_and_shown() {
    let mut stand = Stand::new().await;
    let none = stand.run(&["locks list"]).await;
    assert!(none.code == Some(0) && none.out == "no lock is held\n", "{none}");
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let peer = Peer::start("lock_holders.py", None, &holders(&stand.server, &journal, "1")).await;
    eventually("the peer holds its lock", async || !entered(&journal).is_empty()).await;
    let got = stand.acquire("by gateway").await;
    stand.server.run::<()>(&["RPUSH", "lock:odd", "no lock"]).await;
    // A thousand keys beside them, so that the walk takes several steps.
    stand
        .server
        .run::<()>(&["DEBUG", "POPULATE", "1000", "key", "10"])
        .await;

    let ran = stand.run(&["locks list --json"]).await;
    let answer = ran.json();
    assert_eq!(
        (ran.code, answer["endpoint"].as_str()),
        (Some(0), Some("user_events")),
        "{ran}"
    );
    let locks = answer["locks"].as_array().unwrap();
    let names: Vec<_> = locks.iter().map(|lock| lock["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["by gateway", "m0", "odd"], "{ran}");
    assert_eq!(locks[0]["holder"], *got.holder_id, "{ran}");
    assert_eq!(
        (&locks[0]["by_gateway"], &locks[0]["fencing_token"]),
        (&true.into(), &got.fencing_token.into())
    );
    assert!(locks[0]["acquired_at"].as_str().unwrap().ends_with('Z'), "{ran}");
    assert_eq!(locks[1]["holder"], *entered(&journal)[0], "{ran}");
    assert_eq!(
        (&locks[1]["by_gateway"], &locks[1]["fencing_token"]),
        (&false.into(), &Value::Null),
        "{ran}"
    );
    let left = locks[1]["ttl_ms"].as_u64().unwrap();
    assert!((1..=600_000).contains(&left), "{ran}");
    assert_eq!(locks[2]["error"], "the key holds another type", "{ran}");
    let table = stand.run(&["locks list"]).await;
    let row = |name: &str, holder: &str| {
        table
            .out
            .lines()
            .any(|line| line.starts_with(name) && line.contains(holder))
    };
    assert!(
        row("by gateway", &got.holder_id) && row("m0 ", &entered(&journal)[0]),
        "{table}"
    );

    let ran = stand.run(&["locks show m0 --json"]).await;
    let shown = ran.json();
    assert!(ran.code == Some(0) && shown["holder"] == *entered(&journal)[0], "{ran}");
    assert!(shown["waiting_for_any_lock"].is_u64(), "{ran}");
    let ran = stand.run(&["locks show free"]).await;
    assert!(
        ran.code == Some(1) && ran.out.starts_with("nobody holds free\n"),
        "{ran}"
    );
    peer.terminate().await;
}

#[tokio::test]
async fn lock_is_taken_from_the_holder_that_is_named_alone_and_who_waits_is_woken() {
    let stand = Stand::new().await;
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    // Two want the one lock, and who waits looks again after ten minutes unless it is woken.
    let peer = Peer::start("lock_holders.py", None, &holders(&stand.server, &journal, "2")).await;
    eventually("one holds, one waits", async || {
        let lines = stand.server.connections().await;
        !entered(&journal).is_empty() && lines.iter().any(|line| line.contains(" cmd=blpop "))
    })
    .await;
    let holder = entered(&journal)[0].clone();

    let words = format!("locks release m0 --yes --reason mistaken --holder {ANOTHER}");
    let ran = stand.run(&[&words]).await;
    assert!(
        ran.code == Some(1) && ran.out == "m0: another holds it\n" && ran.err.is_empty(),
        "{ran}"
    );
    assert_eq!(stand.value("m0").await.as_ref(), Some(&holder));
    assert_eq!(entered(&journal).len(), 1);

    let words = format!("locks release m0 --yes --reason gone --json --holder {holder}");
    let ran = stand.run(&[&words]).await;
    assert!(ran.code == Some(0) && ran.json()["outcome"] == "released", "{ran}");
    eventually("who waited has it", async || entered(&journal).len() == 2).await;
    let next = entered(&journal)[1].clone();
    assert_ne!(next, holder);
    assert_eq!(stand.value("m0").await, Some(next));
    let lines = audit(&ran.err);
    let outcomes: Vec<_> = lines.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["begins", "released"], "{ran}");
    for line in &lines {
        assert_eq!(line["audit"], "locks release");
        assert_eq!(line["uid"], rustix::process::getuid().as_raw());
        assert_eq!(line["host"], *rustix::system::uname().nodename().to_string_lossy());
        assert_eq!(
            (&line["lock"], &line["holder"]),
            (&"m0".into(), &holder.as_str().into())
        );
        assert_eq!(
            (&line["reason"], &line["server"]),
            (&"gone".into(), &stand.server.addr().to_string().into())
        );
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    }

    // It is another's by now.
    let ran = stand.run(&[&words]).await;
    assert!(
        ran.code == Some(1) && ran.json()["outcome"] == "another holds it",
        "{ran}"
    );
    let ran = stand.run(&[&words.replace("m0", "free")]).await;
    assert!(
        ran.code == Some(1) && ran.json()["outcome"] == "nobody holds it",
        "{ran}"
    );
    peer.terminate().await;
}

#[tokio::test]
async fn holder_through_a_gateway_hears_that_its_lock_is_lost() {
    let mut stand = Stand::new().await;
    stand.acquire("first").await;
    let request = HoldRequest {
        name: "job".into(),
        ttl_ms: 600_000,
        ..HoldRequest::default()
    };
    let mut stream = stand.locks.hold(request).await.unwrap().into_inner();
    let acquired = match stream.message().await.unwrap().unwrap().event.unwrap() {
        Event::Acquired(acquired) => acquired,
        other => panic!("{other:?}"),
    };
    let words = format!("locks release job --yes --reason test --holder {}", acquired.holder_id);
    let ran = stand.run(&[&words]).await;
    assert_eq!(ran.code, Some(0), "{ran}");
    assert_eq!(audit(&ran.err)[1]["fencing_token"], acquired.fencing_token, "{ran}");
    match stream.message().await.unwrap().unwrap().event.unwrap() {
        Event::Lost(lost) => assert_eq!(lost.cause(), Cause::Gone),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        stand.server.run::<Vec<String>>(&["KEYS", "*holding:job"]).await,
        [""; 0]
    );
    drop(stream);
    stand.gateway.stop().await;
}

#[tokio::test]
async fn the_rights_that_their_page_lists_are_enough() {
    // Those of docs/locks.md, and two more.
    let rights = "on >secret ~lock:* ~lock-signal:* ~redis-gateway:v1:locks:* +ping +client|setname +get +set +del +exists +lpush \
                  +pexpire +expire +ttl +pttl +time +mget +blpop +evalsha +script|load +scan +client|list";
    let server = RedisServer::new().user("looks", rights).start().await;
    server.run::<()>(&["SET", "lock:job", ANOTHER]).await;
    let file = secret();
    let names = ["user_events"];
    let endpoints = [placed(&names, server.addr()), logged_in(&names, "looks", &file)].concat();
    let ran = run(&["locks list"], &endpoints).await;
    assert!(ran.code == Some(0) && ran.out.contains(ANOTHER), "{ran}");
    let ran = run(&["locks show job"], &endpoints).await;
    assert!(ran.code == Some(0) && ran.out.ends_with("on this server: 0\n"), "{ran}");
    let words = format!("locks release job --yes --reason test --holder {ANOTHER}");
    let ran = run(&[&words], &endpoints).await;
    assert!(ran.code == Some(0) && ran.out == "job: released\n", "{ran}");
}

#[tokio::test]
async fn what_is_missing_is_named_before_anything_is_released() {
    let server = RedisServer::new().start().await;
    server.run::<()>(&["SET", "lock:job", ANOTHER]).await;
    let endpoints = placed(&["user_events"], server.addr());
    let whole = format!("locks release job --holder {ANOTHER} --reason stuck");
    for (words, missing) in [
        (whole.clone(), "there is no terminal to ask on: say --yes"),
        ("locks release job --yes --reason stuck".to_owned(), "--holder <ID>"),
        (format!("locks release job --yes --holder {ANOTHER}"), "--reason <TEXT>"),
        ("locks".to_owned(), "subcommand"),
    ] {
        let ran = run(&[&words], &endpoints).await;
        assert!(ran.code == Some(64) && ran.err.contains(missing), "{words}: {ran}");
    }
    assert_eq!(server.run::<String>(&["GET", "lock:job"]).await, ANOTHER);

    let nowhere = placed(&["cache"], server.addr());
    let ran = run(&["locks list"], &nowhere).await;
    assert!(
        ran.code == Some(64) && ran.err.contains("configure endpoints.user_events"),
        "{ran}"
    );
    let away = placed(&["user_events"], ([127, 0, 0, 1], unused_port()).into());
    for words in ["locks list", "locks show job", &format!("{whole} --yes")] {
        let ran = run(&[words], &away).await;
        assert!(
            ran.code == Some(69) && ran.err.contains("user_events 127.0.0.1:"),
            "{words}: {ran}"
        );
    }
}
