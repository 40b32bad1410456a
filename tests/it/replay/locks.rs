//! The locks' part of the recording. Holders bear the ids that were recorded, so what stands is compared to the byte.

use redis_gateway::proto::{AcquireRequest, ReleaseRequest, RenewRequest, locks_client::LocksClient};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::Instant};
use tonic::transport::Channel;

use super::{check_keys, scenarios, steps};
use crate::harness::{Gateway, RedisServer, at, config, eventually, patience, reason, within};

#[tokio::test]
async fn locks_leave_what_the_reference_left() {
    let mut replayed = 0;
    for scenario in scenarios("locks") {
        let server = RedisServer::new().start().await;
        let mut config = config();
        config.endpoints.user_events = Some(at(server.addr()));
        let gateway = Gateway::start(config).await;
        let mut run = Replay {
            locks: LocksClient::new(gateway.channel().await),
            server,
            waiter: None,
        };
        let began = Instant::now();
        for (n, step) in steps(&scenario).iter().enumerate() {
            let at = format!("{}, step {n}: {}", scenario["name"], step["op"]);
            let result = run.step(step).await;
            assert_eq!(result, step["result"]["value"], "{at}");
            if let Some(keys) = step.get("keys_after") {
                check_keys(&at, &run.server, keys, began.elapsed()).await;
                run.outlast(keys).await;
            }
            replayed += 1;
        }
        drop(run.locks);
        gateway.stop().await;
    }
    assert_eq!(replayed, 11);
}

struct Replay {
    server: RedisServer,
    locks: LocksClient<Channel>,
    /// One who waits until a later step releases.
    waiter: Option<JoinHandle<bool>>,
}

impl Replay {
    /// Runs one step and answers what the reference's method would have answered.
    async fn step(&mut self, step: &Value) -> Value {
        let args = &step["args"];
        let name = args["name"].as_str().unwrap_or_default();
        match step["op"].as_str().unwrap() {
            "redis" => {
                let words = args["command"].as_array().unwrap().iter();
                let words: Vec<&str> = words.map(|word| word.as_str().unwrap()).collect();
                self.server.run::<()>(&words).await;
                Value::Null
            }
            "acquire" if args["held_by_another"].is_null() => {
                let id = word(step, "SET", 2);
                acquire(&mut self.locks, name, &id, args["lock_ttl"].as_i64().unwrap(), 0)
                    .await
                    .into()
            }
            "acquire" => {
                let id = word(step, "SET", 2);
                let acquired = acquire(&mut self.locks, name, &id, 30, 500).await;
                self.nobody_listens().await;
                // The reference gave up after 25 s, of which this does not wait for all.
                self.server.run::<()>(&["EXPIRE", &format!("lock:{name}"), "575"]).await;
                json!({"acquired": acquired, "seconds": 25})
            }
            "wait" => {
                let id = word(step, "EVALSHA", 5);
                assert!(acquire(&mut self.locks, name_of(step), &id, 3, 0).await);
                for renewal in step["commands"].as_array().unwrap() {
                    if renewal["command"].as_str().unwrap().starts_with("EVALSHA ") {
                        self.renew(name_of(step), &id).await;
                    }
                }
                true.into()
            }
            "release" => {
                let name = args["name"].as_str().unwrap();
                let id = word(step, "EVALSHA", 5);
                if !args["while"].is_null() {
                    self.contend(name, &id, &word(step, "SET", 2)).await;
                }
                self.release(name, &id, args["lost"] == true).await;
                if !args["while"].is_null() {
                    eventually("the waiter has it", async || {
                        self.waiter.as_ref().unwrap().is_finished()
                    })
                    .await;
                }
                Value::Null
            }
            "waiter" => {
                let acquired = self.waiter.take().unwrap().await.unwrap();
                self.nobody_listens().await;
                json!({"acquired": acquired, "seconds": 1.0})
            }
            other => panic!("nobody knows how to replay {other}"),
        }
    }

    /// One holds the lock, the other waits for it.
    async fn contend(&mut self, name: &str, holder: &str, waiter: &str) {
        assert!(acquire(&mut self.locks, name, holder, 600, 0).await);
        let (mut locks, name, id) = (self.locks.clone(), name.to_owned(), waiter.to_owned());
        self.waiter = Some(tokio::spawn(async move {
            acquire(&mut locks, &name, &id, 600, 10_000).await
        }));
        eventually("the waiter waits", async || {
            self.server.info("blocked_clients").await == 1
        })
        .await;
    }

    /// Until then the next wake-up is taken, and given back a moment later.
    async fn nobody_listens(&self) {
        eventually("nobody listens", async || {
            self.server.info("blocked_clients").await == 0
        })
        .await;
    }

    async fn release(&mut self, name: &str, id: &str, lost: bool) {
        let request = ReleaseRequest {
            name: name.into(),
            holder_id: id.into(),
        };
        let released = self.locks.release(request).await;
        // The reference logs this, and raises nothing.
        assert_eq!(released.is_err(), lost);
        if let Err(status) = released {
            assert_eq!(reason(&status).as_deref(), Some("LOCK_LOST"));
        }
    }

    async fn renew(&mut self, name: &str, id: &str) {
        let request = RenewRequest {
            name: name.into(),
            holder_id: id.into(),
            ttl_ms: 3_000,
        };
        self.locks.renew(request).await.unwrap();
    }

    /// A signal that was recorded with a second to live has it in the next step too.
    async fn outlast(&self, keys: &Value) {
        for key in keys.as_object().unwrap().keys() {
            if let Some(signal) = key.strip_prefix("0|").filter(|name| name.starts_with("lock-signal:")) {
                self.server.run::<()>(&["PEXPIRE", signal, "1400"]).await;
            }
        }
    }
}

async fn acquire(locks: &mut LocksClient<Channel>, name: &str, id: &str, ttl: i64, wait_ms: i64) -> bool {
    let request = AcquireRequest {
        name: name.into(),
        ttl_ms: ttl * 1_000,
        wait_ms,
        holder_id: id.into(),
    };
    let answer = locks.acquire(within(patience(), request)).await.unwrap().into_inner();
    assert!(!answer.acquired || answer.holder_id == id);
    answer.acquired
}

/// A word of the first command of that name that was recorded.
fn word(step: &Value, command: &str, at: usize) -> String {
    let commands = step["commands"].as_array().unwrap().iter();
    let mut texts = commands.map(|command| command["command"].as_str().unwrap());
    let found = texts.find(|text| text.starts_with(&format!("{command} ")));
    found.unwrap().split(' ').nth(at).unwrap().to_owned()
}

/// The lock that a step without a name is about.
fn name_of(step: &Value) -> &str {
    let keys = step["keys_after"].as_object().unwrap();
    keys.keys().next().unwrap().strip_prefix("0|lock:").unwrap()
}
