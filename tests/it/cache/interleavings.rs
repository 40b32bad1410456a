//! Any order of calls on three gateways and of direct clients: whatever is read is no older than the last delete through a gateway.

use std::collections::HashMap;

use rand::{Rng as _, rngs::StdRng};
use redis_gateway::proto::{CacheBatchDeleteRequest, CacheFillRequest, CacheSetRequest, cache_fill_response::Refusal};

use super::{
    Client, Stand, ask, asking, busy_in, delete, filling, fresh, give_up, lease_in,
    refresh::{LONG, load_key},
    setting, value_in,
};
use crate::harness::{seeded, soak};

const GATEWAYS: usize = 3;
const KEYS: [&str; 2] = ["plain", "{braced}"];

/// What stands in Redis for one key, and what is true of it in the database.
#[derive(Default)]
struct Model {
    value: Option<Value>,
    lease: Option<Lease>,
    /// Values that ever stood there. Each has a TTL of its own.
    lives: u64,
    /// The version in the database.
    truth: u64,
    /// The version at the latest delete through a gateway.
    floor: u64,
}

#[derive(Clone, Copy)]
struct Value {
    version: u64,
    life: u64,
}

/// A lease, by number.
#[derive(Default)]
struct Lease {
    holder: Option<usize>,
    /// Who had it at the latest delete.
    voided: Option<usize>,
    /// The life of the value that it is to refresh.
    saw: Option<u64>,
}

impl Model {
    fn version(&self) -> Option<u64> {
        self.value.map(|value| value.version)
    }

    /// Seconds that the next value lives.
    fn ttl(&self) -> i64 {
        60 + i64::try_from(self.lives % 1_000).unwrap()
    }

    fn store(&mut self, version: u64) {
        let life = self.lives;
        self.value = Some(Value { version, life });
        self.lives += 1;
    }

    fn delete(&mut self) {
        self.truth += 1;
        self.floor = self.truth;
        self.value = None;
        if let Some(lease) = &mut self.lease
            && let Some(had) = lease.holder.take()
        {
            lease.voided = Some(had);
        }
    }

    fn fill(&mut self, lease: usize, loaded: u64) -> Result<(), Refusal> {
        let Some(ended) = self.lease.take_if(|stands| stands.holder == Some(lease)) else {
            let deleted = self.lease.as_ref().is_some_and(|stands| stands.voided == Some(lease));
            return Err(if deleted { Refusal::Deleted } else { Refusal::LeaseOver });
        };
        let life = self.value.map(|value| value.life);
        if life != ended.saw {
            return Err(if life.is_some() {
                Refusal::Written
            } else {
                Refusal::Deleted
            });
        }
        self.store(loaded);
        Ok(())
    }
}

/// A lease that somebody has, or had.
struct Held {
    key: usize,
    token: String,
    /// What its holder has loaded.
    loaded: u64,
}

/// All keys, and all leases that were ever given.
struct World {
    stand: Stand,
    models: [Model; KEYS.len()],
    held: Vec<Held>,
}

#[tokio::test]
async fn each_step_answers_as_the_model_says() {
    let mut rng = seeded();
    let mut world = World {
        stand: Stand::new(GATEWAYS).await,
        models: Default::default(),
        held: Vec::new(),
    };
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for _ in 0..if soak() { 100_000 } else { 3_000 } {
        let client = world.stand.client(rng.random_range(0..GATEWAYS));
        let key = rng.random_range(0..KEYS.len());
        let step = match rng.random_range(0..100) {
            0..50 => world.read(&mut rng, client, key).await,
            50..68 if !world.held.is_empty() => world.end(&mut rng, client).await,
            68..88 => world.write(&mut rng, client, key).await,
            _ => world.go_past(&mut rng, key).await,
        };
        *seen.entry(step).or_default() += 1;
        for model in &world.models {
            assert!(
                model.version().is_none_or(|version| version >= model.floor),
                "the model itself"
            );
        }
    }
    println!("{seen:?}");
    for step in [
        "filled",
        "written",
        "deleted",
        "over",
        "give up",
        "evicted",
        "refresh",
        "refreshed",
    ] {
        assert!(seen.contains_key(step), "no {step} in {seen:?}");
    }
    world.stand.stop().await;
}

impl World {
    async fn read(&mut self, rng: &mut StdRng, mut client: Client, n: usize) -> &'static str {
        let (key, model) = (KEYS[n], &mut self.models[n]);
        if rng.random_bool(0.4) {
            let got = client.get(fresh(key)).await.unwrap().into_inner();
            assert_eq!(got.value.map(|value| version(&value)), model.version(), "{key}");
            return "get";
        }
        let mut request = asking(key);
        request.early_refresh = rng.random_bool(0.4);
        if request.early_refresh {
            self.stand.server.run::<()>(&["SET", &load_key(key), LONG]).await;
        }
        let refreshes = request.early_refresh && model.value.is_some();
        let answer = ask(&mut client, request).await.unwrap();
        let refresh = answer.refresh.clone();
        if let Some(value) = model.value {
            assert_eq!(version(&value_in(answer.clone())), value.version);
        }
        if model.lease.as_ref().is_some_and(|lease| lease.holder.is_some()) {
            assert_eq!(refresh, None, "a second lease");
            if model.value.is_none() {
                busy_in(answer);
            }
        } else if refreshes || model.value.is_none() {
            let lease = model.lease.get_or_insert_default();
            lease.holder = Some(self.held.len());
            lease.saw = model.value.map(|value| value.life);
            self.held.push(Held {
                key: n,
                token: refresh.map_or_else(|| lease_in(answer), |lease| lease.token),
                loaded: model.truth,
            });
            return if refreshes { "refresh" } else { "lease" };
        } else {
            assert_eq!(refresh, None, "a lease that nobody asked for");
        }
        "get or lease"
    }

    /// Ends one of the leases that were given lately, whether or not it is over.
    async fn end(&mut self, rng: &mut StdRng, mut client: Client) -> &'static str {
        let lease = self.held.len() - 1 - rng.random_range(0..self.held.len().min(4));
        let Held { key: n, token, loaded } = &self.held[lease];
        let (key, model) = (KEYS[*n], &mut self.models[*n]);
        if rng.random_bool(0.2) {
            let own = model.lease.take_if(|stands| stands.holder == Some(lease)).is_some();
            assert_eq!(give_up(&mut client, key, token).await, own);
            return "give up";
        }
        let request = CacheFillRequest {
            ttl_seconds: model.ttl(),
            ..filling(key, token, &loaded.to_string())
        };
        let stood = model.value.is_some();
        let expected = model.fill(lease, *loaded);
        let answer = client.fill(request).await.unwrap().into_inner();
        let refusal = expected.err().unwrap_or_default();
        assert_eq!((answer.stored, answer.refusal()), (expected.is_ok(), refusal));
        match refusal {
            Refusal::Unspecified if stood => "refreshed",
            Refusal::Unspecified => "filled",
            Refusal::Written => "written",
            Refusal::Deleted => "deleted",
            Refusal::LeaseOver => "over",
        }
    }

    async fn write(&mut self, rng: &mut StdRng, mut client: Client, n: usize) -> &'static str {
        let (key, model) = (KEYS[n], &mut self.models[n]);
        match rng.random_range(0..20) {
            0..5 => {
                let overwrite = rng.random();
                let stored = overwrite || model.value.is_none();
                let request = CacheSetRequest {
                    ttl_seconds: model.ttl(),
                    ..setting(key, &model.truth.to_string(), overwrite)
                };
                assert_eq!(client.set(request).await.unwrap().into_inner().stored, stored);
                if stored {
                    model.store(model.truth);
                }
                "set"
            }
            5..17 => {
                assert_eq!(delete(&mut client, key).await, model.value.is_some());
                model.delete();
                "delete"
            }
            _ => {
                let keys = KEYS.map(Into::into).to_vec();
                let answer = client
                    .batch_delete(CacheBatchDeleteRequest {
                        keys,
                        want_token: false,
                    })
                    .await
                    .unwrap();
                let there = self.models.iter().filter(|model| model.value.is_some()).count();
                assert_eq!(usize::try_from(answer.into_inner().deleted).unwrap(), there);
                self.models.iter_mut().for_each(Model::delete);
                "batch delete"
            }
        }
    }

    /// What happens without a gateway.
    async fn go_past(&mut self, rng: &mut StdRng, n: usize) -> &'static str {
        let (key, model) = (KEYS[n], &mut self.models[n]);
        match rng.random_range(0..12) {
            0..5 => {
                let (truth, ttl) = (model.truth.to_string(), model.ttl().to_string());
                let set = ["SET", key, &truth, "NX", "EX", &ttl];
                self.stand.server.run::<()>(&set).await;
                if model.value.is_none() {
                    model.store(model.truth);
                }
                "direct set"
            }
            5..10 => {
                // Voids no lease for a value that is absent: a load from before it is stored, but none from before a delete through a
                // gateway. What was to be refreshed is seen to be gone.
                self.stand.server.run::<()>(&["DEL", key]).await;
                model.truth += 1;
                model.value = None;
                "direct delete"
            }
            _ => {
                for own in self.stand.own_keys().await {
                    self.stand.server.run::<()>(&["DEL", &own]).await;
                }
                for model in &mut self.models {
                    model.lease = None;
                }
                "evicted"
            }
        }
    }
}

pub(super) fn version(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}
