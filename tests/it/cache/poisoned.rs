//! Values that are of no use to readers, as direct clients leave them.

use redis_gateway::proto::{DegradedReason, cache_fill_response::Refusal};

use super::{Stand, ask, asking, fill, fresh, leased, refused, set, value_in};
use crate::harness::python_says;

/// As redis-py plants it, for five minutes.
const PLANT: &str = "
import redis, sys
client = redis.Redis(port=int(sys.argv[1]))
client.set('text', b'\\xff no json', ex=300)
client.hset('hash', 'field', 'value')
client.expire('hash', 300)
";

/// As redis-py sees it.
const LOOK: &str = "
import redis, sys
client = redis.Redis(port=int(sys.argv[1]))
print([(client.type(key), client.get(key), 50 < client.ttl(key) <= 60) for key in ('text', 'hash')])
";

#[tokio::test]
async fn what_is_of_no_use_stays_until_it_is_overwritten() {
    let stand = Stand::new(1).await;
    let mut client = stand.client(0);
    let port = stand.server.addr().port().to_string();
    // Its loader began before.
    let token = leased(&mut client, "text").await;
    python_says(PLANT, &[&port]).await;

    // What is no JSON is a value: it stays, nobody gets a lease for it, and nothing is filled over it.
    assert!(!set(&mut client, "text", "\"json\"", false).await);
    refused(&mut client, "text", &token, Refusal::Written).await;
    let got = client.get(fresh("text")).await.unwrap().into_inner();
    assert_eq!((got.value.as_deref(), got.degraded), (Some(&b"\xff no json"[..]), 0));
    assert_eq!(
        value_in(ask(&mut client, asking("text")).await.unwrap()),
        b"\xff no json"
    );
    let ttl: i64 = stand.server.run(&["TTL", "text"]).await;
    assert!((250..=300).contains(&ttl), "{ttl}");

    // A key of another type is a degraded miss, which a Set without `overwrite` leaves too.
    let got = client.get(fresh("hash")).await.unwrap().into_inner();
    assert_eq!(
        (got.value.as_deref(), got.degraded()),
        (None, DegradedReason::WrongType)
    );
    let answer = ask(&mut client, asking("hash")).await.unwrap();
    assert_eq!((&answer.outcome, answer.degraded()), (&None, DegradedReason::WrongType));
    assert!(!set(&mut client, "hash", "\"json\"", false).await);
    assert_eq!(stand.server.run::<String>(&["TYPE", "hash"]).await, "hash");

    for key in ["text", "hash"] {
        assert!(set(&mut client, key, "\"json\"", true).await);
    }
    let each = "(b'string', b'\"json\"', True)";
    assert_eq!(python_says(LOOK, &[&port]).await, format!("[{each}, {each}]"));
    assert_eq!(value_in(ask(&mut client, asking("hash")).await.unwrap()), b"\"json\"");
    drop(client);
    stand.stop().await;
}

#[tokio::test]
async fn lease_for_a_key_that_became_another_type_is_refused_and_leaves_it() {
    let stand = Stand::new(1).await;
    let mut client = stand.client(0);
    let token = leased(&mut client, "key").await;
    stand.server.run::<()>(&["RPUSH", "key", "x"]).await;
    let answer = fill(&mut client, "key", &token, "1").await;
    assert_eq!(
        (answer.stored, answer.refusal(), answer.degraded),
        (false, Refusal::Written, 0)
    );
    assert_eq!(stand.server.run::<i64>(&["LLEN", "key"]).await, 1);
    drop(client);
    stand.stop().await;
}
