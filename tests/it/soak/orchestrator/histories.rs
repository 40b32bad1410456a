//! Random histories: what watchers know of the keys at the end is what stands in Redis, whoever changed them, and whatever was cut.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use redis::aio::MultiplexedConnection;
use redis_gateway::proto::{
    OrchestratorDeleteRequest, OrchestratorLockRequest, OrchestratorSetRequest, OrchestratorUnlockRequest,
    OrchestratorWatchAcknowledge, orchestrator_client::OrchestratorClient, orchestrator_watch_open::Expiries,
    orchestrator_watch_request::Message, orchestrator_watch_response::Event,
};
use serde_json::json;
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, transport::Channel};

use super::watcher::{asking, open};
use crate::harness::{Cut, GatewayProcess, Peer, Proxy, RedisServer, heavy, patience, seeded, soak, within};

const GATEWAYS: usize = 2;
/// Which expiries those who watch are told, two on each gateway.
const WATCHERS: [Expiries; 4] = [Expiries::One, Expiries::One, Expiries::All, Expiries::Unspecified];
/// Histories at a time.
const AT_ONCE: usize = 20;
const STEPS: usize = 25;
const KEYS: usize = 5;

/// What a watcher knows: keys and their values.
type Picture = BTreeMap<String, String>;

/// What is done in a history.
#[derive(Debug, Default, Clone, Copy)]
struct Done {
    by_gateways: usize,
    failed: usize,
    by_manager: usize,
    told_expiries: usize,
    reopened: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_picture_ends_equal_to_redis() {
    let _one = heavy().await;
    let mut random = seeded();
    let histories = if soak() { 200 } else { AT_ONCE };
    let server = RedisServer::new().start().await;
    let (mut proxies, mut gateways) = (Vec::new(), Vec::new());
    for _ in 0..GATEWAYS {
        let proxy = Proxy::new(server.addr());
        gateways.push(GatewayProcess::start(proxy.addr()).await);
        proxies.push(proxy);
    }
    let args = [format!("--redis=redis://{}", server.addr())];
    let manager = Peer::start("build_steps.py", None, &args).await;
    let (mut cuts, mut done) = (0, Done::default());
    for first in (0..histories).step_by(AT_ONCE) {
        let mut running = JoinSet::new();
        for n in first..histories.min(first + AT_ONCE) {
            let clients: Vec<_> = gateways.iter().map(GatewayProcess::orchestrator).collect();
            let history = History {
                prefix: format!("h{n}/"),
                direct: server.client().await,
                clients,
                random: StdRng::from_rng(&mut random),
                done: Done::default(),
            };
            running.spawn(history.run());
        }
        let mut over = Vec::new();
        while !running.is_empty() {
            tokio::select! {
                Some(history) = running.join_next() => over.push(history.unwrap()),
                () = sleep(Duration::from_millis(random.random_range(50..400))) => {
                    proxies[random.random_range(0..GATEWAYS)].cut(Cut::Reset).await;
                    cuts += 1;
                }
            }
        }
        for (history, watchers) in over {
            let one = history.agree(&watchers).await;
            done = Done {
                by_gateways: done.by_gateways + one.by_gateways,
                failed: done.failed + one.failed,
                by_manager: done.by_manager + one.by_manager,
                told_expiries: done.told_expiries + one.told_expiries,
                reopened: done.reopened + one.reopened,
            };
        }
    }
    println!(
        "{histories} histories, {cuts} cuts: {done:?}; the manager: {}",
        manager.terminate().await
    );
    assert!(done.told_expiries > histories / 2 && done.by_manager > histories && done.by_gateways > histories);
}

struct History {
    prefix: String,
    direct: MultiplexedConnection,
    clients: Vec<OrchestratorClient<Channel>>,
    random: StdRng,
    done: Done,
}

impl History {
    /// Changes keys step by step, while some watch.
    async fn run(mut self) -> (Self, Vec<Watching>) {
        let mut watchers: Vec<Watching> = Vec::new();
        for (client, expiries) in self.clients.iter().cycle().zip(WATCHERS) {
            watchers.push(Watching::start(client.clone(), &self.prefix, expiries));
        }
        for _ in 0..STEPS {
            self.step().await;
            if self.random.random_bool(0.3) {
                sleep(Duration::from_millis(self.random.random_range(0..400))).await;
            }
            if self.random.random_bool(0.05) {
                let which = self.random.random_range(0..watchers.len());
                let expiries = watchers[which].expiries;
                let client = self.clients[which % GATEWAYS].clone();
                self.done.told_expiries += watchers[which].told_expiries();
                watchers[which] = Watching::start(client, &self.prefix, expiries);
                self.done.reopened += 1;
            }
        }
        (self, watchers)
    }

    /// Waits until all who watch know what stands.
    async fn agree(mut self, watchers: &[Watching]) -> Done {
        let end = tokio::time::Instant::now() + patience();
        loop {
            let standing = self.standing().await;
            let pictures: Vec<Picture> = watchers.iter().map(Watching::picture).collect();
            if standing
                .as_ref()
                .is_some_and(|standing| pictures.iter().all(|picture| picture == standing))
            {
                break;
            }
            assert!(
                tokio::time::Instant::now() < end,
                "{}: Redis, and what watchers know: {standing:#?} {pictures:#?}",
                self.prefix
            );
            sleep(Duration::from_millis(20)).await;
        }
        self.done.told_expiries += watchers.iter().map(Watching::told_expiries).sum::<usize>();
        self.done
    }

    /// The keys in Redis; none while some may yet expire.
    async fn standing(&mut self) -> Option<Picture> {
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(format!("{}*", self.prefix))
            .query_async(&mut self.direct)
            .await
            .unwrap();
        if keys.iter().any(|key| key.ends_with("/expiring")) {
            return None;
        }
        let mut standing = Picture::new();
        for key in keys.into_iter().filter(|key| !key.ends_with("/expired")) {
            let value: Option<String> = redis::cmd("GET").arg(&key).query_async(&mut self.direct).await.unwrap();
            standing.insert(key, value?);
        }
        Some(standing)
    }

    async fn step(&mut self) {
        let key = format!("{}k{}", self.prefix, self.random.random_range(0..KEYS));
        let what = *["set", "set", "set", "delete", "lock", "unlock"]
            .choose(&mut self.random)
            .unwrap();
        let value = if self.random.random_bool(0.2) {
            String::new()
        } else {
            self.random.random::<u32>().to_string()
        };
        let overwrite = self.random.random_bool(0.5);
        let expiration = self.random.random_range(0..=2_u64);
        let which = self.random.random_range(0..=self.clients.len());
        let Some(client) = self.clients.get_mut(which) else {
            self.done.by_manager += 1;
            let step = json!({
                "do": what, "key": key, "value": value, "overwrite": overwrite, "expiration": expiration, "answer": self.prefix,
            });
            let mut both = redis::pipe();
            both.cmd("RPUSH").arg("steps").arg(step.to_string()).ignore();
            both.cmd("BLPOP").arg(format!("done:{}", self.prefix)).arg(0);
            both.query_async::<()>(&mut self.direct).await.unwrap();
            return;
        };
        self.done.by_gateways += 1;
        let result = match what {
            "set" => client
                .set(within(
                    patience(),
                    OrchestratorSetRequest {
                        key,
                        value: value.into(),
                        overwrite,
                        expiration_seconds: i64::try_from(expiration).unwrap(),
                    },
                ))
                .await
                .map(drop),
            "delete" => client
                .delete(within(patience(), OrchestratorDeleteRequest { key }))
                .await
                .map(drop),
            "lock" => client
                .lock(within(
                    patience(),
                    OrchestratorLockRequest {
                        key,
                        expiration_seconds: 1,
                    },
                ))
                .await
                .map(drop),
            _ => client
                .unlock(within(patience(), OrchestratorUnlockRequest { key }))
                .await
                .map(drop),
        };
        // There already, or not there at all, is an answer too.
        let answered = |status: &Status| [tonic::Code::AlreadyExists, tonic::Code::NotFound].contains(&status.code());
        self.done.failed += usize::from(result.is_err_and(|status| !answered(&status)));
    }
}

/// One who watches, and opens again what ends.
struct Watching {
    expiries: Expiries,
    known: watch::Receiver<Known>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default, Clone)]
struct Known {
    picture: Picture,
    told_expiries: usize,
}

impl Watching {
    fn start(client: OrchestratorClient<Channel>, prefix: &str, expiries: Expiries) -> Self {
        let (tell, known) = watch::channel(Known::default());
        let prefix = prefix.to_owned();
        let task = tokio::spawn(async move {
            loop {
                // However it ended.
                drop(picture(client.clone(), &prefix, expiries, &tell).await);
                sleep(Duration::from_millis(20)).await;
            }
        });
        Watching {
            expiries,
            known,
            _task: AbortOnDropHandle::new(task),
        }
    }

    fn picture(&self) -> Picture {
        self.known.borrow().picture.clone()
    }

    fn told_expiries(&self) -> usize {
        self.known.borrow().told_expiries
    }
}

async fn picture(
    mut client: OrchestratorClient<Channel>,
    prefix: &str,
    expiries: Expiries,
    tell: &watch::Sender<Known>,
) -> Result<(), Status> {
    let (asks, mut stream) = open(&mut client, prefix, expiries, "").await?;
    tell.send_modify(|known| known.picture.clear());
    while let Some(answer) = stream.message().await? {
        match answer.event.unwrap() {
            Event::Entry(entry) | Event::Create(entry) | Event::Set(entry) => {
                let value = String::from_utf8(entry.value.into()).unwrap();
                tell.send_modify(|known| drop(known.picture.insert(entry.key, value)));
            }
            Event::Delete(deleted) => tell.send_modify(|known| drop(known.picture.remove(&deleted.key))),
            Event::Expire(expired) => {
                tell.send_modify(|known| {
                    known.told_expiries += 1;
                    // One without a value stays.
                    if !expired.value.is_empty() {
                        known.picture.remove(&expired.key);
                    }
                });
                if !expired.ack_id.is_empty() {
                    let acknowledge = OrchestratorWatchAcknowledge { ack_id: expired.ack_id };
                    drop(asks.send(asking(Message::Acknowledge(acknowledge))).await);
                }
            }
            Event::Confirmed(_) | Event::Synced(_) | Event::Heartbeat(_) | Event::Gap(_) => {}
        }
    }
    Ok(())
}
