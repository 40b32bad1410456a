//! A holder without the gateway, step by step as python-redis-lock does it.

use redis::aio::MultiplexedConnection;

use crate::harness::RedisServer;

/// The commands of python-redis-lock's release, in one step.
const RELEASE: &str = "
    if redis.call('get', KEYS[1]) ~= ARGV[1] then return 1 end
    redis.call('del', KEYS[2])
    redis.call('lpush', KEYS[2], 1)
    redis.call('pexpire', KEYS[2], 1000)
    redis.call('del', KEYS[1])
    return 0";

/// A lock of a direct client.
pub(super) struct Direct {
    connection: MultiplexedConnection,
    name: String,
    id: String,
}

impl Direct {
    pub(super) async fn new(server: &RedisServer, name: &str, id: &str) -> Self {
        let mut connection = server.client().await;
        let mut named = redis::cmd("CLIENT");
        named.arg("SETNAME").arg("direct");
        named.query_async::<()>(&mut connection).await.unwrap();
        Direct {
            connection,
            name: name.into(),
            id: id.into(),
        }
    }

    /// `SET NX EX`.
    pub(super) async fn try_acquire(&mut self, ttl: u64) -> bool {
        let mut set = redis::cmd("SET");
        set.arg(format!("lock:{}", self.name))
            .arg(&self.id)
            .arg("NX")
            .arg("EX")
            .arg(ttl);
        let set: Option<String> = set.query_async(&mut self.connection).await.unwrap();
        set.is_some()
    }

    /// `BLPOP` for at most `seconds`: whether a wake-up came.
    pub(super) async fn woken(&mut self, seconds: f64) -> bool {
        let mut pop = redis::cmd("BLPOP");
        pop.arg(format!("lock-signal:{}", self.name)).arg(seconds);
        let popped: Option<(String, String)> = pop.query_async(&mut self.connection).await.unwrap();
        popped.is_some()
    }

    /// Waits as python-redis-lock does: woken, then tried again.
    pub(super) async fn acquire(&mut self, ttl: u64) {
        while !self.try_acquire(ttl).await {
            self.woken(15.0).await;
        }
    }

    /// Whether it was held.
    pub(super) async fn release(&mut self) -> bool {
        let mut eval = redis::cmd("EVAL");
        eval.arg(RELEASE).arg(2);
        eval.arg(format!("lock:{}", self.name))
            .arg(format!("lock-signal:{}", self.name))
            .arg(&self.id);
        eval.query_async::<i64>(&mut self.connection).await.unwrap() == 0
    }
}
