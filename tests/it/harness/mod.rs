//! What the tests stand on: real servers of their own, a proxy that breaks connections, and patience.

mod certs;
mod cluster;
mod config;
mod gateway;
mod ledger;
mod peer;
mod process;
mod proxy;
mod server;
mod timing;

use std::{env, fmt::Display, str::FromStr, time::Duration};

use rand::{RngCore as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep},
};
use tracing_subscriber::EnvFilter;

pub(crate) use certs::Certs;
pub(crate) use cluster::RedisCluster;
pub(crate) use config::{at, config, endpoint};
pub(crate) use gateway::{Gateway, reason, told, within};
pub(crate) use ledger::{Counts, Ledger, Told};
pub(crate) use peer::{Peer, python_says};
pub(crate) use process::GatewayProcess;
pub(crate) use proxy::{Cut, Mode, Proxy};
pub(crate) use server::{RedisServer, signal, unused_port};
pub(crate) use timing::MachineLag;

/// How long a condition may take to come true: 20 s, or `REDIS_GATEWAY_TEST_PATIENCE` in seconds for a slow machine.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(variable("REDIS_GATEWAY_TEST_PATIENCE").unwrap_or(20))
}

/// Whether the long runs are wanted whole: `REDIS_GATEWAY_SOAK=1`.
pub(crate) fn soak() -> bool {
    variable("REDIS_GATEWAY_SOAK") == Some(1)
}

/// Waits until `condition` holds; panics with `what` when patience ends.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + patience();
    while !condition().await {
        assert!(Instant::now() < end, "not within {:?}: {what}", patience());
        sleep(Duration::from_millis(5)).await;
    }
}

/// A random generator from `REDIS_GATEWAY_TEST_SEED`, or from a fresh seed; either is printed, so that a failing run can be
/// repeated.
pub(crate) fn seeded() -> StdRng {
    let seed = variable("REDIS_GATEWAY_TEST_SEED").unwrap_or_else(|| rand::rng().next_u64());
    println!("REDIS_GATEWAY_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Shows the gateway's log lines of failing tests, if `RUST_LOG` asks for any.
pub(crate) fn logs() {
    let filter = EnvFilter::from_default_env();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer();
    // Whoever comes first has set it for all.
    drop(lines.try_init());
}

/// To be held by tests that load the machine or measure time: one at a time, so that they do not skew each other.
pub(crate) async fn heavy() -> SemaphorePermit<'static> {
    static ONE: Semaphore = Semaphore::const_new(1);
    // The semaphore is never closed.
    ONE.acquire().await.expect("never closed")
}

/// The environment variable `name`, if it is set; panics if it has another form.
fn variable<T: FromStr<Err: Display>>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => panic!("{name}={text}: {error}"),
    }
}
