//! Faults under load, through the RPCs: short and seeded in each test run, whole with `REDIS_GATEWAY_SOAK=1`. They print what
//! they counted.

mod appends;
mod crash;
mod events;
mod flush;
mod locks;
mod measure;
mod orchestrator;
mod pulls;
mod silence;
mod tail;

use std::{fmt, time::Duration};

use rand::{Rng as _, rngs::StdRng, seq::SliceRandom as _};
use redis_gateway::proto::{LogEntry, log_entry::Kind};
use tokio::time::sleep;

use crate::harness::{Cut, Gateway, Proxy, RedisServer, at, config, eventually, soak};

/// A gateway that reaches Redis through a proxy; Redis keeps what it acknowledges.
struct Stand {
    server: RedisServer,
    proxy: Proxy,
    gateway: Gateway,
}

impl Stand {
    async fn new() -> Self {
        let server = RedisServer::new().append_only().start().await;
        let proxy = Proxy::new(server.addr());
        let mut endpoint = at(proxy.addr());
        // A connection that is cut soon after it was made is made again ever later: with the default, a long run mostly waits.
        endpoint.reconnect_max_delay = Duration::from_millis(50);
        let mut config = config();
        config.endpoints.build_logs = Some(endpoint.clone());
        config.endpoints.cache = Some(endpoint);
        Stand {
            gateway: Gateway::start(config).await,
            server,
            proxy,
        }
    }

    /// Ends the gateway, whose clients must be gone, and checks that it leaves no connection behind.
    async fn stop(self) {
        self.gateway.stop().await;
        eventually("no connection is left", async || {
            self.server.connections().await.is_empty()
        })
        .await;
    }
}

/// What was done to the connections and to Redis.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    cuts: usize,
    /// Those of `cuts` that swallowed replies first.
    swallowed: usize,
    kills: usize,
}

impl Faults {
    /// As many as asked for in a whole run, or a share of them.
    fn wanted(cuts: usize, kills: usize) -> Self {
        let share = if soak() { 1 } else { 10 };
        Faults {
            cuts: cuts / share,
            swallowed: 0,
            kills: kills / share,
        }
    }

    /// Cuts all connections so often, every second time after swallowing the last replies, and kills Redis so often, in a
    /// random order; each time waits until replies flow again.
    async fn cause(self, stand: &mut Stand, random: &mut StdRng) -> Faults {
        let mut kills = vec![true; self.kills];
        kills.resize(self.kills + self.cuts, false);
        kills.shuffle(random);
        let mut done = Faults::default();
        for kill in kills {
            sleep(Duration::from_millis(random.random_range(5..40))).await;
            if kill {
                stand.server.kill();
                stand.server.restart().await;
                done.kills += 1;
            } else {
                let how = if random.random() { Cut::Reset } else { Cut::Fin };
                if done.cuts % 2 == 0 {
                    let swallowed = stand.proxy.swallow_and_cut(Duration::from_secs(2), how).await;
                    done.swallowed += usize::from(swallowed > 0);
                } else {
                    stand.proxy.cut(how).await;
                }
                done.cuts += 1;
            }
            let before = stand.proxy.replies();
            eventually("replies flow again", async || stand.proxy.replies() > before + 500).await;
        }
        assert!(
            done.swallowed * 20 >= done.cuts * 9,
            "too few cuts swallowed replies: {done}"
        );
        done
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cuts ({} after swallowed replies), {} kills",
            self.cuts, self.swallowed, self.kills
        )
    }
}

/// Entries that are numbers.
fn numbers(from: usize, count: usize) -> Vec<LogEntry> {
    let entry = |n: usize| LogEntry {
        kind: Some(Kind::Json(n.to_string().into())),
    };
    (from..from + count).map(entry).collect()
}

/// The numbers that stand in a build's log.
async fn standing(server: &RedisServer, build_id: &str) -> Vec<usize> {
    server
        .run(&["LRANGE", &format!("builds/{build_id}/logs"), "0", "-1"])
        .await
}
