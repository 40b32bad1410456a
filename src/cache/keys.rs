//! Keys of the gateway's own, beside those of its callers.

use bytes::Bytes;

/// What the names of leases begin with.
pub(super) const LEASE: &str = "redis-gateway:v1:cache:lease";
/// What the names of load times begin with.
pub(super) const LOAD: &str = "redis-gateway:v1:cache:load_ms";

/// The lease of a key: a hash with the TTL of the lease. `token` is that of who has it, `wanted` is there once somebody waits for it,
/// `voided` is the token that the latest Delete has taken it from. `given` is when it was given, by Redis' clock in milliseconds, if
/// the load is timed; `saw` is there if it is to refresh a value: the value's SHA-1, and when it was to end by the same clock. Both
/// belong to `token`, are empty where they say nothing, and are written with it; a release that does not know them leaves them be.
pub(super) fn lease_key(key: &Bytes) -> Bytes {
    beside(LEASE, "-has-keys-tagged:", key)
}

/// How long a value took to load, in milliseconds: a string with the TTL of the value.
pub(super) fn load_key(key: &Bytes) -> Bytes {
    beside(LOAD, "-value-with-braces-tags:", key)
}

/// A key of the gateway's own for one of its callers', in the same slot on a Cluster: a key with braces brings its own hash tag, or is
/// hashed whole, and behind `tagged` it is hashed as alone, since the CRC16 of what it then has in front is 0.
fn beside(what: &str, tagged: &str, key: &Bytes) -> Bytes {
    let braced = key.iter().any(|byte| matches!(byte, b'{' | b'}'));
    let (of, after) = if braced { (tagged, "") } else { (":{", "}") };
    [what.as_bytes(), of.as_bytes(), key, after.as_bytes()].concat().into()
}

/// Where the keys are named whose leases ended while somebody waited.
pub(super) fn wake_channel() -> Bytes {
    Bytes::from_static(b"redis-gateway:v1:cache:wake")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::slot;

    #[test]
    fn keys_of_the_gateways_own_are_told_apart() {
        let lease = |key: &'static str| lease_key(&key.into());
        let load = |key: &'static str| load_key(&key.into());
        assert_eq!(
            lease("security_report__x"),
            "redis-gateway:v1:cache:lease:{security_report__x}"
        );
        assert_eq!(lease("a{b}c"), "redis-gateway:v1:cache:lease-has-keys-tagged:a{b}c");
        assert_eq!(
            load("catalog_page__x"),
            "redis-gateway:v1:cache:load_ms:{catalog_page__x}"
        );
        assert_eq!(
            load("a{b}c"),
            "redis-gateway:v1:cache:load_ms-value-with-braces-tags:a{b}c"
        );
        let keys = [
            "a", "{a}", "a}", "{a", "of:a", "{of:a}", "{{a}}", "{}", "{}a", "a{}{b}", "a}b{c", "}{", "{a}b}", "{",
        ];
        let own = keys.into_iter().flat_map(|key| [lease(key), load(key)]);
        let own: std::collections::HashSet<Bytes> = own.collect();
        assert_eq!(own.len(), 2 * keys.len());
        for key in keys {
            assert_eq!(slot(&lease(key)), slot(key.as_bytes()), "{key}");
            assert_eq!(slot(&load(key)), slot(key.as_bytes()), "{key}");
        }
    }
}
