//! Slots of a Cluster, and which servers have them.

use fred::types::Resp3Frame as Frame;
use fred::util::redis_keyslot;

use super::reply::FromReply;
use crate::config::Server;

/// The number of slots.
pub(super) const SLOTS: usize = 16_384;

/// The slot of a key: that of its hash tag, or of all of it.
pub fn slot(key: &[u8]) -> u16 {
    redis_keyslot(key)
}

/// A server as another one names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Empty: the host of who says so. `?`: who says so does not know it.
    host: String,
    port: u16,
}

impl Address {
    pub(super) fn new(host: &str, port: u16) -> Self {
        let host = host.to_owned();
        Address { host, port }
    }

    /// The server, as `by` has named it. None: nobody knows its host.
    pub(super) fn named_by(&self, by: &Server) -> Option<Server> {
        let host = match (self.host.as_str(), by) {
            ("?", _) | ("", Server::Unix(_)) => return None,
            ("", Server::Tcp { host, .. }) => host,
            (host, _) => host,
        };
        Some(Server::Tcp {
            host: host.to_owned(),
            port: self.port,
        })
    }
}

/// Slots that follow one another and are in one place, of the answer to `CLUSTER SLOTS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: usize,
    pub(super) last: usize,
    /// The primary, then its replicas.
    pub(super) servers: Vec<Address>,
}

impl FromReply for Range {
    fn from_frame(frame: Frame) -> Option<Self> {
        let mut parts = array(frame)?.into_iter();
        let mut number = || usize::try_from(i64::from_frame(parts.next()?)?).ok();
        let (first, last) = (number()?, number()?);
        if first > last || last >= SLOTS {
            return None;
        }
        Some(Range {
            first,
            last,
            servers: parts.map(Address::from_frame).collect::<Option<_>>()?,
        })
    }
}

impl FromReply for Address {
    /// `[host, port, id, …]`
    fn from_frame(frame: Frame) -> Option<Self> {
        let mut parts = array(frame)?.into_iter();
        let host = Option::<bytes::Bytes>::from_frame(parts.next()?)?.unwrap_or_default();
        let port = u16::try_from(i64::from_frame(parts.next()?)?).ok()?;
        Some(Address::new(std::str::from_utf8(&host).ok()?, port))
    }
}

fn array(frame: Frame) -> Option<Vec<Frame>> {
    match frame {
        Frame::Array { data, .. } => Some(data),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_tag_names_the_slot() {
        // The example of Redis' own specification.
        assert_eq!(slot(b"123456789"), 0x31c3);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{}{bar}"), 0x20ab);
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
    }

    #[test]
    fn an_answer_is_read_whatever_form_hosts_have() {
        let text = |text: &'static str| Frame::BlobString {
            data: text.into(),
            attributes: None,
        };
        let number = |data| Frame::Number { data, attributes: None };
        let array = |data| Frame::Array { data, attributes: None };
        let node = |host, port| array(vec![host, number(port), text("id"), array(Vec::new())]);
        let nodes = [
            node(text("10.0.0.1"), 7000),
            node(Frame::Null, 7001),
            node(text(""), 7002),
            node(text("?"), 7003),
        ];
        let range = |first, last| array([number(first), number(last)].into_iter().chain(nodes.clone()).collect());
        let read = Range::from_frame(range(0, 5)).unwrap();
        assert_eq!((read.first, read.last), (0, 5));
        let by = Server::Tcp {
            host: "seed".into(),
            port: 1,
        };
        let named: Vec<_> = read.servers.iter().map(|server| server.named_by(&by)).collect();
        let tcp = |host: &str, port| {
            Some(Server::Tcp {
                host: host.into(),
                port,
            })
        };
        assert_eq!(
            named,
            [tcp("10.0.0.1", 7000), tcp("seed", 7001), tcp("seed", 7002), None]
        );
        let by = Server::Unix("/run/redis".into());
        assert_eq!(read.servers[1].named_by(&by), None);
        for bad in [range(1, 0), range(0, 16_384), number(1), array(vec![number(0)])] {
            assert_eq!(Range::from_frame(bad), None);
        }
    }
}
