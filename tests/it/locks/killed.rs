//! A holder whose process is killed, with python-redis-lock behind it.

use std::time::Duration;

use tokio::time::Instant;

use super::Stand;
use crate::harness::{MachineLag, Peer, eventually, heavy, python_says};

/// How long the lock stays after its holder's stream.
const GRACE: Duration = Duration::from_secs(1);

/// Waits as the registry does; prints the holder's id that stands then.
const WAITER: &str = "
import sys, redis, redis_lock
client = redis.Redis.from_url(sys.argv[1], socket_timeout=5)
lock = redis_lock.Lock(client, sys.argv[2], expire=60)
assert lock.acquire()
assert client.get('lock:' + sys.argv[2]).decode() == lock.id
assert client.ttl('lock:' + sys.argv[2]) > 55
lock.release()
print('acquired')";

#[tokio::test]
async fn killed_process_leaves_its_lock_to_python_redis_lock_after_its_grace() {
    let _one = heavy().await;
    let lag = MachineLag::watch();
    let stand = Stand::new().await;
    let gateway = Some(stand.gateway.grpc().to_string());
    let args = ["--grace=1", "a", "sh", "-c", "echo ready; exec sleep 10"].map(Into::into);
    let holder = Peer::start("../../examples/python/lock.py", gateway, &args).await;
    let held = stand.value("a").await.expect("a holder");

    let redis = format!("redis://{}", stand.server.addr());
    let waiter = tokio::spawn(async move { (python_says(WAITER, &[&redis, "a"]).await, Instant::now()) });
    eventually("python-redis-lock waits", async || stand.blocked().await == 1).await;
    let killed = Instant::now();
    drop(holder);
    let (said, at) = waiter.await.unwrap();
    assert_eq!(said, "acquired");
    assert!(
        at - killed >= GRACE,
        "before the grace of {held} ended: {:?}",
        at - killed
    );
    lag.assert_within("the next holder", at - killed, GRACE + Duration::from_secs(1));
    println!("{:?} after its holder was killed", at - killed);
    stand.stop().await;
}
