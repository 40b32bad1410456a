//! An expiry goes to one client, and to the next one until it is acknowledged.

use std::{collections::BTreeMap, time::Duration};

use redis_gateway::proto::{
    orchestrator_client::OrchestratorClient, orchestrator_watch_open::Expiries, orchestrator_watch_response::Event,
};
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;

use super::{Stand, Watching, gateway, metric, short, watch};
use crate::harness::{Gateway, RedisServer, at, eventually, patience};

const CLAIMS: &str = "redis-gateway:v1:orchestrator:claims";

/// A second gateway on the same Redis.
struct Other {
    gateway: Gateway,
    keys: OrchestratorClient<Channel>,
}

impl Other {
    async fn beside(stand: &Stand, ack_timeout: Duration) -> Self {
        let gateway = gateway(at(stand.server.addr()), |config| {
            config.orchestrator.ack_timeout = ack_timeout;
        })
        .await;
        eventually("it has looked", async || metric(&gateway, "looks_total").await > 0).await;
        Other {
            keys: OrchestratorClient::new(gateway.channel().await),
            gateway,
        }
    }

    async fn watch(&self, client: &str) -> Watching {
        watch(&self.keys, client, "building/", false, Expiries::One)
            .await
            .unwrap()
    }

    async fn stop(self) {
        drop(self.keys);
        self.gateway.stop().await;
    }
}

async fn with_ack_timeout(ack_timeout: Duration) -> Stand {
    let server = RedisServer::new().start().await;
    let endpoint = at(server.addr());
    let stand = Stand::on(server, endpoint, |config| config.orchestrator.ack_timeout = ack_timeout).await;
    stand.ready().await;
    stand
}

#[tokio::test]
async fn each_expiry_goes_to_one_client_of_two_gateways() {
    let stand = Stand::new().await;
    let other = Other::beside(&stand, Duration::from_secs(30)).await;
    let mut clients = Vec::new();
    for n in 0..6 {
        clients.push(if n % 2 == 0 {
            stand.watch("building/", false, Expiries::One).await
        } else {
            other.watch("").await
        });
    }
    for n in 0..100 {
        stand.create(&format!("building/{n}"), &n.to_string(), 1).await;
    }
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    let end = Instant::now() + patience();
    while taken.values().sum::<usize>() < 100 {
        assert!(Instant::now() < end, "only {} came", taken.len());
        for watching in &mut clients {
            while let Ok(event) = timeout(Duration::from_millis(20), watching.next()).await {
                match event {
                    Event::Create(_) => {}
                    Event::Delete(gone) => assert!(gone.expired, "{gone:?}"),
                    Event::Expire(expired) => {
                        watching.acknowledge(&expired).await;
                        *taken.entry(expired.key).or_default() += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    assert!(
        taken.len() == 100 && taken.values().all(|times| *times == 1),
        "{taken:?}"
    );
    eventually("all are acknowledged", async || {
        stand.server.run::<i64>(&["EXISTS", CLAIMS]).await == 0
    })
    .await;
    for watching in &mut clients {
        watching.silent(Duration::from_millis(20)).await;
    }
    drop(clients);
    other.stop().await;
    stand.stop().await;
}

#[tokio::test]
async fn all_streams_of_a_client_are_told_and_one_acknowledgement_is_enough() {
    let stand = with_ack_timeout(Duration::from_secs(1)).await;
    let other = Other::beside(&stand, Duration::from_secs(1)).await;
    let mut streams = vec![other.watch("manager-1").await];
    for prefix in ["building/", "building/1"] {
        let stream = stand.watch_as("manager-1", prefix, false, Expiries::One).await;
        streams.push(stream.unwrap());
    }
    stand.create("building/1", "v", 1).await;
    let mut given = Vec::new();
    for stream in &mut streams {
        assert_eq!(short(&stream.next().await), "create building/1 v");
        given.push(stream.expiry().await);
    }
    assert!(given.iter().all(|one| *one == given[0]), "{given:?}");
    streams[1].acknowledge(&given[1]).await;
    eventually("it is acknowledged", async || {
        stand.server.run::<i64>(&["EXISTS", CLAIMS]).await == 0
    })
    .await;
    for stream in &mut streams {
        stream.silent(Duration::from_millis(1_500)).await;
    }
    drop(streams);
    other.stop().await;
    stand.stop().await;
}

#[tokio::test]
async fn what_is_not_acknowledged_goes_to_the_next_client_after_its_time() {
    let stand = with_ack_timeout(Duration::from_millis(600)).await;
    let mut first = stand.watch("building/", false, Expiries::One).await;
    stand.left_behind("building/1", "v").await;
    stand
        .server
        .run::<()>(&["PUBLISH", "__keyspace@0__:building/1/expiring", "expired"])
        .await;
    let given = first.expiry().await;
    let other = Other::beside(&stand, Duration::from_millis(600)).await;
    let mut second = other.watch("").await;
    // One of the two, and not both at a time.
    let again = tokio::select! {
        again = first.expiry() => again,
        again = second.expiry() => again,
    };
    assert_eq!((again.key.as_str(), &again.value[..]), ("building/1", &b"v"[..]));
    assert_ne!(again.ack_id, given.ack_id);
    // An acknowledgement that comes too late ends nothing.
    let ends = stand.server.calls("evalsha").await;
    first.acknowledge(&given).await;
    eventually("it is taken", async || stand.server.calls("evalsha").await > ends).await;
    assert_eq!(stand.server.run::<i64>(&["HLEN", CLAIMS]).await, 1);
    // Any stream, on any gateway, may send one that stands.
    second.acknowledge(&again).await;
    eventually("it is acknowledged", async || {
        stand.server.run::<i64>(&["EXISTS", CLAIMS]).await == 0
    })
    .await;
    drop((first, second));
    other.stop().await;
    stand.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_its_expiry_to_the_next_one_at_once() {
    let stand = Stand::new().await;
    stand.left_behind("building/1", "v").await;
    let mut first = stand.watch("building/", false, Expiries::One).await;
    let given = first.expiry().await;
    let mut here = stand.watch("building/", false, Expiries::One).await;
    here.silent(Duration::from_millis(50)).await;
    drop(first);
    assert_eq!(here.expiry().await.key, given.key);
    let other = Other::beside(&stand, Duration::from_secs(30)).await;
    let mut there = other.watch("").await;
    drop(here);
    let given = there.expiry().await;
    assert_eq!((given.key.as_str(), &given.value[..]), ("building/1", &b"v"[..]));
    // Nobody is there: it waits for who comes, though the gateways are others.
    drop(there);
    other.stop().await;
    let mut later = stand.watch("building/", false, Expiries::One).await;
    let given = later.expiry().await;
    later.acknowledge(&given).await;
    eventually("it is acknowledged", async || {
        stand.server.run::<i64>(&["EXISTS", CLAIMS]).await == 0
    })
    .await;
    drop(later);
    stand.stop().await;
}

#[tokio::test]
async fn a_client_that_comes_back_is_given_again_what_its_killed_gateway_had() {
    let stand = Stand::new().await;
    let other = Other::beside(&stand, Duration::from_mins(5)).await;
    let mut lost = other.watch("manager-1").await;
    stand.left_behind("building/1", "v").await;
    stand
        .server
        .run::<()>(&["PUBLISH", "__keyspace@0__:building/1/expiring", "expired"])
        .await;
    let given = lost.expiry().await;
    // Killed: nothing is given back.
    drop(other.gateway);
    drop((lost, other.keys));
    let mut stranger = stand
        .watch_as("manager-2", "building/", false, Expiries::One)
        .await
        .unwrap();
    stranger.silent(Duration::from_millis(100)).await;
    let mut back = stand
        .watch_as("manager-1", "building/", false, Expiries::One)
        .await
        .unwrap();
    let again = back.expiry().await;
    assert_eq!((again.key.as_str(), &again.value[..]), ("building/1", &b"v"[..]));
    assert_ne!(again.ack_id, given.ack_id);
    stranger.silent(Duration::from_millis(100)).await;
    drop((stranger, back));
    stand.stop().await;
}

#[tokio::test]
async fn an_expiry_that_nobody_took_is_forgotten_when_its_key_is_set_or_deleted() {
    for by_gateway in [true, false] {
        for value in ["v", ""] {
            let stand = with_ack_timeout(Duration::from_millis(300)).await;
            let mut watching = stand.watch("building/", false, Expiries::One).await;
            stand.left_behind("building/1", value).await;
            stand
                .server
                .run::<()>(&["PUBLISH", "__keyspace@0__:building/1/expiring", "expired"])
                .await;
            assert_eq!(watching.expiry().await.key, "building/1");
            drop(watching);
            match (by_gateway, value) {
                (true, "") => drop(stand.delete("building/1").await.unwrap()),
                (true, _) => stand.create("building/1", "w", 100).await,
                (false, _) => stand.direct("building/1", "w", 100).await,
            }
            let mut next = stand.watch("building/", false, Expiries::One).await;
            stand.left_behind("building/2", "v").await;
            stand
                .server
                .run::<()>(&["PUBLISH", "__keyspace@0__:building/2/expiring", "expired"])
                .await;
            let given = next.expiry().await;
            assert_eq!(given.key, "building/2", "{by_gateway} {value}");
            next.acknowledge(&given).await;
            eventually("nothing is owed", async || {
                stand.server.run::<i64>(&["EXISTS", CLAIMS]).await == 0
            })
            .await;
            drop(next);
            stand.stop().await;
        }
    }
}
