//! Appends run once, whatever becomes of their answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use rand::Rng as _;
use redis_gateway::redis::{Endpoint, Error, Once, Script, command};
use tokio::{task::JoinSet, time::sleep};

use super::{close, push, serving, standing, told, within_ms};
use crate::harness::{Counts, Cut, Ledger, Mode, Proxy, RedisServer, Told, at, eventually, heavy, seeded, soak};

static PUSH: Script<Once> = Script::new(
    "push-1",
    "return redis.call('RPUSH', KEYS[1], ARGV[1])",
    "b9705020f551c492b7692cdba607bbdb64837972",
);

/// The ways to append.
#[derive(Debug, Clone, Copy)]
enum Way {
    Command,
    Script,
    Pipeline,
}

impl Way {
    async fn append(self, endpoint: &Endpoint, list: &str, number: usize) -> Result<i64, Error> {
        let deadline = within_ms(2_000);
        let key = Bytes::copy_from_slice(list.as_bytes());
        match self {
            Way::Command => endpoint.primary(push(list, number), deadline).await,
            Way::Script => {
                endpoint
                    .eval(&PUSH, vec![key], vec![Bytes::from(number.to_string())], deadline)
                    .await
            }
            Way::Pipeline => {
                let both = endpoint.pipeline(command::expire(key, 60), push(list, number), deadline);
                both.await.1
            }
        }
    }
}

/// Appends until told to stop, one after the other.
async fn appender(endpoint: Arc<Endpoint>, way: Way, list: String, stop: Arc<AtomicBool>) -> (String, Ledger) {
    let mut ledger = Ledger::default();
    while !stop.load(Relaxed) {
        let result = way.append(&endpoint, &list, ledger.next()).await;
        ledger.note(told(&result));
        if result.is_err() {
            // A caller that is refused at once does not spin.
            sleep(Duration::from_millis(2)).await;
        }
    }
    (list, ledger)
}

/// Starts 12 appenders for each way, each on a list of its own.
fn appenders(endpoint: &Arc<Endpoint>, stop: &Arc<AtomicBool>) -> JoinSet<(String, Ledger)> {
    let mut appenders = JoinSet::new();
    for way in [Way::Command, Way::Script, Way::Pipeline] {
        for n in 0..12 {
            appenders.spawn(appender(endpoint.clone(), way, format!("{way:?}-{n}"), stop.clone()));
        }
    }
    appenders
}

/// Holds all ledgers against what stands.
async fn check(server: &RedisServer, ledgers: Vec<(String, Ledger)>) -> Counts {
    let mut counts = Counts::default();
    for (list, ledger) in ledgers {
        counts += ledger.check(&list, &standing(server, &list).await);
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn append_not_doubled_under_reply_loss() {
    let _one = heavy().await;
    let mut random = seeded();
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let mut config = at(proxy.addr());
    // A connection that is cut soon after it was made is made again ever later: with the default, a long run mostly waits.
    config.reconnect_max_delay = Duration::from_millis(50);
    let endpoint = serving(&config).await;
    let stop = Arc::new(AtomicBool::new(false));
    let running = appenders(&endpoint, &stop);

    let cuts = if soak() { 1_000 } else { 60 };
    let (mut cut, mut swallowed) = (0, 0);
    for n in 0..cuts {
        sleep(Duration::from_millis(random.random_range(5..40))).await;
        let connections = proxy.accepted();
        let how = if random.random() { Cut::Reset } else { Cut::Fin };
        if n % 2 == 0 {
            swallowed += usize::from(proxy.swallow_and_cut(Duration::from_secs(2), how).await > 0);
        } else {
            proxy.cut(how).await;
        }
        cut += 1;
        eventually("the endpoint connects again", async || proxy.accepted() > connections).await;
    }
    stop.store(true, Relaxed);
    let counts = check(&server, running.join_all().await).await;
    println!("{cut} cuts, {swallowed} with replies swallowed: {counts:?}");

    assert!(swallowed >= cuts * 9 / 20, "only {swallowed} cuts swallowed replies");
    assert!(
        counts.unknown_standing >= swallowed / 2,
        "commands ran without an answer: {counts:?}"
    );
    assert!(counts.done >= 20 * cuts, "too little traffic: {counts:?}");
    close(endpoint, &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_for_a_second_no_append_is_unknown() {
    let _one = heavy().await;
    let server = RedisServer::new().start().await;
    let endpoint = serving(&at(server.addr())).await;
    let stop = Arc::new(AtomicBool::new(false));
    let running = appenders(&endpoint, &stop);
    let rounds = if soak() { 20 } else { 3 };
    for _ in 0..rounds {
        sleep(Duration::from_millis(200)).await;
        server.pause();
        sleep(Duration::from_secs(1)).await;
        server.resume();
        let before = server.info("total_commands_processed").await;
        eventually("appends go on", async || {
            server.info("total_commands_processed").await > before + 100
        })
        .await;
    }
    stop.store(true, Relaxed);
    let counts = check(&server, running.join_all().await).await;
    println!("{rounds} stops of 1 s: {counts:?}");

    assert_eq!(counts.unknown, 0, "the deadline was 2 s: {counts:?}");
    assert!(counts.done >= 1_000 * rounds, "too little traffic: {counts:?}");
    close(endpoint, &server).await;
}

#[tokio::test]
async fn abandoned_appends_run_to_their_end() {
    let server = RedisServer::new().start().await;
    let proxy = Proxy::new(server.addr());
    let endpoint = serving(&at(proxy.addr())).await;
    // All are sent and none answered when their callers go away. The script is not known yet: it takes three steps.
    proxy.set(Mode::Stall);
    let ways = [Way::Command, Way::Script, Way::Pipeline];
    for number in 0..500 {
        for way in ways {
            let list = format!("{way:?}");
            tokio::select! {
                biased;
                _ = way.append(&endpoint, &list, number) => panic!("answered through a stalled proxy"),
                () = std::future::ready(()) => {}
            }
        }
    }
    proxy.set(Mode::Pass);
    endpoint.settled().await;
    for way in ways {
        let mut ledger = Ledger::default();
        (0..500).for_each(|_| ledger.note(Told::Done));
        let mut numbers = standing(&server, &format!("{way:?}")).await;
        // Scripts are sent again in any order.
        numbers.sort_unstable();
        ledger.check(&format!("{way:?}"), &numbers);
    }
    close(endpoint, &server).await;
}
