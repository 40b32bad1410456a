//! Which shard has which slots: as a server says, and as links that stand.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::CLUSTER;
use crate::config::Server;
use crate::redis::info::Info;
use crate::redis::link::Link;
use crate::redis::shard::{Plan, Shard};
use crate::redis::slot::{Range, SLOTS};
use crate::redis::state::Seen;

/// What a server says of the cluster.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::redis) struct View {
    /// Whether the cluster serves, as that server sees it; who is cut off from the others says no.
    pub(super) serving: bool,
    /// The greatest configuration epoch that it knows: of two views the one with the greater is the newer one.
    pub(super) epoch: u64,
    holdings: Vec<Holding>,
}

/// A primary with its replicas and its slots.
#[derive(Debug, PartialEq, Eq)]
struct Holding {
    primary: Server,
    replicas: Vec<Server>,
    slots: Vec<RangeInclusive<usize>>,
}

impl View {
    /// Reads the answers of `by` to `CLUSTER SLOTS` and `CLUSTER INFO`.
    pub(in crate::redis) fn read(ranges: Vec<Range>, info: &Info, by: &Server) -> Self {
        let mut holdings: Vec<Holding> = Vec::new();
        for range in ranges {
            let mut servers = range.servers.iter();
            let mut next = || Some(servers.next()?.named_by(by));
            let Some(Some(primary)) = next() else { continue };
            let mut replicas: Vec<Server> = std::iter::from_fn(next).flatten().collect();
            // Each server lists them in an order of its own.
            replicas.sort_unstable();
            let slots = range.first..=range.last;
            match holdings.iter_mut().find(|holding| holding.primary == primary) {
                Some(holding) => holding.slots.push(slots),
                None => holdings.push(Holding {
                    primary,
                    replicas,
                    slots: vec![slots],
                }),
            }
        }
        View {
            serving: info.get("cluster_state") == Some("ok"),
            epoch: info
                .get("cluster_current_epoch")
                .and_then(|epoch| epoch.parse().ok())
                .unwrap_or_default(),
            holdings,
        }
    }

    /// Each primary that has slots, and its replicas.
    pub(in crate::redis) fn shards(&self) -> impl Iterator<Item = (&Server, &[Server])> {
        self.holdings
            .iter()
            .map(|holding| (&holding.primary, &holding.replicas[..]))
    }
}

/// Links to all shards, by slot.
#[derive(Default)]
pub(super) struct Map {
    members: Vec<Member>,
    /// The number of the slot's shard in `members`, or one past the last.
    by_slot: Vec<u16>,
}

struct Member {
    /// Its number in metrics, for as long as one of its servers is its primary.
    number: usize,
    primary: Server,
    replicas: Vec<Server>,
    shard: Arc<Shard>,
}

impl Map {
    /// The map by a new view. What stays is kept, and nothing is told of what does not. `strangers` are servers that have no slots
    /// yet, but are asked for some.
    pub(super) fn next(&self, view: &View, strangers: &[Server], plan: &Plan) -> Self {
        let known = |server: &Server| view.holdings.iter().any(|holding| holding.primary == *server);
        let strangers = strangers.iter().filter(|server| !known(server));
        let holdings = view
            .holdings
            .iter()
            .map(|holding| (&holding.primary, &holding.replicas[..]));
        let mut wanted: Vec<_> = holdings
            .chain(strangers.map(|server| (server, &[][..])))
            .enumerate()
            .collect();
        // Who has led a shard before goes on leading it; the others take their numbers after that.
        let led = |server: &Server| self.members.iter().find(|member| member.primary == *server);
        wanted.sort_by_key(|(n, (primary, _))| (led(primary).is_none(), *n));
        let mut members: Vec<(usize, Member)> = Vec::new();
        for (n, (primary, replicas)) in wanted {
            let free = |number: usize| !members.iter().any(|(_, member)| member.number == number);
            let followed = |member: &&Member| free(member.number) && member.replicas.contains(primary);
            let before = led(primary).or_else(|| self.members.iter().find(followed));
            let member = next_member(before, primary, replicas, plan, || {
                let taken = |number: &usize| self.members.iter().any(|member| member.number == *number);
                let most = self.members.len() + members.len();
                (0..=most)
                    .find(|number| free(*number) && !taken(number))
                    .unwrap_or(most)
            });
            members.push((n, member));
        }
        members.sort_by_key(|(n, _)| *n);
        let members: Vec<Member> = members.into_iter().map(|(_, member)| member).collect();
        // There are no more shards than slots, which are fewer than this can count.
        let index = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        let mut by_slot = vec![u16::MAX; SLOTS];
        for (n, holding) in view.holdings.iter().enumerate() {
            for slots in &holding.slots {
                by_slot[slots.clone()].fill(index(n));
            }
        }
        let map = Map { members, by_slot };
        let stay: HashSet<String> = map.seen().map(|seen| seen.label).collect();
        for gone in self.seen().filter(|seen| !stay.contains(&seen.label)) {
            plan.metrics.forget(plan.name.as_str(), &gone.label);
        }
        if map.is_empty() {
            plan.metrics.unknown(plan.name.as_str(), CLUSTER);
        } else if self.is_empty() {
            plan.metrics.forget(plan.name.as_str(), CLUSTER);
        }
        map
    }

    /// Whether nothing has been learned yet.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The shard that has a slot. None: nobody has.
    pub(super) fn shard(&self, slot: u16) -> Option<&Arc<Shard>> {
        self.members.get(self.place(slot)?).map(|member| &member.shard)
    }

    /// Where its primary is among [`Map::primaries`].
    pub(super) fn place(&self, slot: u16) -> Option<usize> {
        let place = usize::from(*self.by_slot.get(usize::from(slot))?);
        (place < self.members.len()).then_some(place)
    }

    /// Whether each slot has a primary that is connected.
    pub(super) fn is_whole(&self) -> bool {
        let slots = self.by_slot.iter().all(|n| usize::from(*n) < self.members.len());
        !self.is_empty() && slots && self.primaries().all(|link| link.is_up())
    }

    /// All servers as they are seen now.
    pub(super) fn seen(&self) -> impl Iterator<Item = Seen> {
        self.members.iter().flat_map(|member| member.shard.seen())
    }

    /// The links to all primaries.
    pub(super) fn primaries(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.members.iter().map(|member| &member.shard.primary)
    }

    /// The link to a primary.
    pub(super) fn primary(&self, server: &Server) -> Option<&Arc<Link>> {
        self.primaries().find(|link| link.server() == server)
    }
}

fn next_member(
    before: Option<&Member>,
    primary: &Server,
    replicas: &[Server],
    plan: &Plan,
    number: impl FnOnce() -> usize,
) -> Member {
    let number = before.map_or_else(number, |before| before.number);
    let shard = match before {
        Some(before) if before.primary == *primary && before.replicas == replicas => before.shard.clone(),
        _ => {
            let read = plan
                .config
                .cluster
                .as_ref()
                .is_some_and(|cluster| cluster.read_from_replicas);
            let read: &[Server] = if read { replicas } else { &[] };
            let prefix = format!("shard-{number}-");
            let before = before.map(|before| &*before.shard);
            Arc::new(Shard::open(plan, &prefix, primary, read, before))
        }
    };
    Member {
        number,
        primary: primary.clone(),
        replicas: replicas.to_vec(),
        shard,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prometheus::Registry;

    use super::*;
    use crate::config::{Config, EndpointName};
    use crate::redis::Metrics;
    use crate::redis::slot::Address;

    fn tcp(port: u16) -> Server {
        let host = "nowhere.invalid".into();
        Server::Tcp { host, port }
    }

    /// What a server says of shards, each the ports of its primary and of its replicas, and its slots.
    fn view(shards: &[(&[u16], RangeInclusive<usize>)]) -> View {
        let address = |port: &u16| Address::new("nowhere.invalid", *port);
        let range = |(ports, slots): &(&[u16], RangeInclusive<usize>)| Range {
            first: *slots.start(),
            last: *slots.end(),
            servers: ports.iter().map(address).collect(),
        };
        let info = Info(Bytes::from_static(b"cluster_state:ok\r\ncluster_current_epoch:7\r\n"));
        View::read(shards.iter().map(range).collect(), &info, &tcp(1))
    }

    fn plan(registry: &Registry) -> Plan {
        let config =
            Config::from_yaml("endpoints: {cache: {cluster: [nowhere.invalid], read_from_replicas: true}}").unwrap();
        Plan {
            name: EndpointName::Cache,
            config: config.endpoints.cache.unwrap(),
            metrics: Metrics::new(registry),
        }
    }

    #[test]
    fn a_view_has_one_shard_for_all_ranges_of_a_primary() {
        let view = view(&[(&[1, 3, 2], 0..=5), (&[4], 6..=9), (&[1, 2, 3], 10..=11)]);
        assert_eq!((view.serving, view.epoch, view.holdings.len()), (true, 7, 2));
        assert_eq!(view.holdings[0].slots, [0..=5, 10..=11]);
        assert_eq!(view.holdings[0].replicas, [tcp(2), tcp(3)]);
        let fails = Info(Bytes::from_static(b"cluster_state:fail\r\n"));
        let cut_off = View::read(Vec::new(), &fails, &tcp(1));
        assert!(!cut_off.serving && cut_off.holdings.is_empty());
    }

    #[tokio::test]
    async fn what_stays_is_kept_and_numbers_follow_their_shards() {
        let registry = Registry::new();
        let plan = plan(&registry);
        // The servers that are told of.
        let told = || {
            let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather());
            let text = text.unwrap();
            let up = text.lines().filter(|line| line.starts_with("redis_gateway_redis_up{"));
            up.map(|line| line.split('"').nth(3).unwrap().to_owned() + " ")
                .collect::<String>()
        };
        let label = |map: &Map, slot| map.shard(slot).unwrap().primary.label().to_owned();
        let first = Map::default().next(&view(&[(&[1, 2], 0..=99), (&[3, 4], 100..=16_383)]), &[], &plan);
        assert_eq!(
            (label(&first, 0), label(&first, 100)),
            ("shard-0-primary".into(), "shard-1-primary".into())
        );
        assert!(!first.is_whole(), "nobody is connected");

        // A slot moves, and a server comes that has none yet.
        let moved = first.next(
            &view(&[(&[3, 4], 99..=16_383), (&[1, 2], 0..=98)]),
            &[tcp(9), tcp(3)],
            &plan,
        );
        assert_eq!(
            (label(&moved, 99), label(&moved, 98)),
            ("shard-1-primary".into(), "shard-0-primary".into())
        );
        for (slot, before) in [(0, 0), (100, 100), (99, 100)] {
            assert!(
                Arc::ptr_eq(moved.shard(slot).unwrap(), first.shard(before).unwrap()),
                "{slot}"
            );
        }
        assert_eq!(moved.primary(&tcp(9)).unwrap().label(), "shard-2-primary");
        assert_eq!(moved.primaries().count(), 3);

        // A failover: the shard has its number, the other one its links; nobody has one slot.
        let all = "shard-0-primary shard-0-replica-0 shard-1-primary shard-1-replica-0 shard-2-primary ";
        assert_eq!(told(), all);
        let failed = moved.next(&view(&[(&[2], 0..=97), (&[3, 4], 99..=16_383)]), &[], &plan);
        assert_eq!(told(), "shard-0-primary shard-1-primary shard-1-replica-0 ");
        assert_eq!(label(&failed, 0), "shard-0-primary");
        assert_eq!(failed.shard(0).unwrap().primary.server(), &tcp(2));
        assert!(Arc::ptr_eq(failed.shard(99).unwrap(), first.shard(100).unwrap()));
        assert!(failed.shard(98).is_none() && failed.primary(&tcp(9)).is_none());

        // Nobody has any slot: there is still something to be told as down.
        let gone = failed.next(&view(&[]), &[], &plan);
        assert_eq!(told(), "cluster ");
        drop(gone.next(&view(&[(&[1], 0..=16_383)]), &[], &plan));
        assert_eq!(told(), "shard-0-primary ");
    }
}
