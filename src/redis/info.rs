//! What a server says of itself.

use bytes::Bytes;
use fred::types::Resp3Frame as Frame;

use super::reply::FromReply;

/// An answer to `INFO`, or to `CLUSTER INFO`: lines of `name:value`.
#[derive(Debug, Clone, Default)]
pub struct Info(pub(super) Bytes);

impl Info {
    /// All names and values, in their order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.0.split(|byte| *byte == b'\n');
        lines.filter_map(|line| {
            let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
            Some((name, value.trim_end()))
        })
    }

    /// The value of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields()
            .find_map(|(known, value)| (known == name).then_some(value))
    }

    /// What the server is, and of which version. Valkey says that beside the version of Redis that it is like.
    pub fn product(&self) -> Option<(&'static str, &str)> {
        let valkey = self.get("valkey_version").map(|version| ("Valkey", version));
        valkey.or_else(|| Some(("Redis", self.get("redis_version")?)))
    }
}

impl FromReply for Info {
    fn from_frame(frame: Frame) -> Option<Self> {
        Bytes::from_frame(frame).map(Info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_products_told_apart() {
        let info = |text: &'static str| Info(Bytes::from_static(text.as_bytes()));
        let redis =
            info("# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n# Keyspace\r\ndb0:keys=1,expires=0\r\n");
        assert_eq!(redis.get("redis_mode"), Some("standalone"));
        assert_eq!((redis.get("redis"), redis.get("db0")), (None, Some("keys=1,expires=0")));
        assert_eq!(redis.product(), Some(("Redis", "7.0.15")));
        let valkey = info("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n");
        assert_eq!(valkey.product(), Some(("Valkey", "8.0.1")));
        assert_eq!(info("").product(), None);
    }
}
