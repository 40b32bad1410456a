//! What is open, held and waited for at this moment.

use prometheus::proto::MetricFamily;
use serde::Serialize;

use super::history::{Sample, label};
use super::tally::whole;
use crate::layer::METHODS;

/// Gauges by name and labels.
pub(super) struct Gauges<'a>(pub(super) &'a [MetricFamily]);

impl Gauges<'_> {
    /// The value of one. None: there is no such gauge, since its pattern is not configured.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let family = self.0.iter().find(|family| family.name() == name)?;
        let has =
            |metric: &&prometheus::proto::Metric| labels.iter().all(|(name, value)| label(metric, name) == *value);
        let metric = family.get_metric().iter().find(has)?;
        Some(metric.get_gauge().get_value())
    }

    fn count(&self, name: &str) -> Option<u64> {
        self.value(&format!("redis_gateway_{name}"), &[]).map(whole)
    }
}

/// All of it; a pattern that is not configured has none.
#[derive(Debug, Serialize)]
pub(super) struct Open {
    pub(super) streams: Vec<Stream>,
    pub(super) locks: Option<Locks>,
    pub(super) pull_metrics: Option<PullMetrics>,
    pub(super) cache: Option<Cache>,
    pub(super) orchestrator: Option<Orchestrator>,
    pub(super) user_events: Option<UserEvents>,
}

/// The streams of a method.
#[derive(Debug, Serialize)]
pub(super) struct Stream {
    pub(super) service: &'static str,
    pub(super) method: &'static str,
    pub(super) open: u64,
}

/// Locks at this gateway.
#[derive(Debug, Serialize)]
pub(super) struct Locks {
    /// Kept for streams.
    pub(super) held: u64,
    /// Calls and streams that wait for one.
    pub(super) waiting: u64,
}

/// Pulls and their flush.
#[derive(Debug, Serialize)]
pub(super) struct PullMetrics {
    /// Pulls that wait in memory for Redis.
    pub(super) buffered: u64,
    pub(super) buffered_bytes: u64,
    /// Claims made or extended here whose leases run.
    pub(super) open_claims: u64,
    /// Of the longest window: claims made and committed, keys that had been claimed before, and keys that claims have lost.
    pub(super) claimed: u64,
    pub(super) committed: u64,
    pub(super) orphan_keys: u64,
    pub(super) lost_keys: u64,
}

/// Values and those who wait for them.
#[derive(Debug, Serialize)]
pub(super) struct Cache {
    /// Calls that wait for a value or a lease.
    pub(super) waiting: u64,
    /// None: no prefix is configured.
    pub(super) near: Option<Near>,
}

/// Values in the gateway's own memory.
#[derive(Debug, Serialize)]
pub(super) struct Near {
    /// Whether Redis tells of changes; while it does not, nothing is answered from memory.
    pub(super) tracking: bool,
    pub(super) values: u64,
    pub(super) bytes: u64,
}

/// Keys of build managers.
#[derive(Debug, Serialize)]
pub(super) struct Orchestrator {
    pub(super) watches: u64,
    /// Keys whose expiration is known.
    pub(super) expirations: u64,
    /// Whether Redis tells of expirations. None: not known, or not asked.
    pub(super) notifications: Option<bool>,
}

/// Who listens.
#[derive(Debug, Serialize)]
pub(super) struct UserEvents {
    pub(super) listeners: u64,
    pub(super) channels: u64,
}

impl Open {
    /// By the gauges, and by what was counted before, for what has no gauge.
    pub(super) fn read(gauges: &Gauges<'_>, now: &Sample, before: Option<&Sample>) -> Self {
        let flush = now.flush.since(before.map(|before| &before.flush));
        let flushed = |name| flush.ended_as(&[name]);
        let stream = |method: &&'static crate::layer::Method| {
            let labels = [("service", method.service), ("method", method.name)];
            let open = gauges.value("redis_gateway_rpc_in_flight", &labels);
            Stream {
                service: method.service,
                method: method.name,
                open: open.map_or(0, whole),
            }
        };
        let streaming: Vec<_> = METHODS.iter().filter(|method| method.streaming).collect();
        let near = || {
            Some(Near {
                tracking: gauges.count("cache_near_tracking_up")? == 1,
                values: gauges.count("cache_near_entries")?,
                bytes: gauges.count("cache_near_bytes")?,
            })
        };
        let locks = || {
            Some(Locks {
                held: gauges.count("locks_held")?,
                waiting: gauges.count("locks_waiting")?,
            })
        };
        let pull_metrics = || {
            Some(PullMetrics {
                buffered: gauges.count("pull_metrics_buffer_pulls")?,
                buffered_bytes: gauges.count("pull_metrics_buffer_bytes")?,
                open_claims: gauges.count("pull_metrics_open_claims")?,
                claimed: flushed("claimed"),
                committed: flushed("committed"),
                orphan_keys: flushed("orphan"),
                lost_keys: flushed(""),
            })
        };
        let cache = gauges
            .count("cache_waiting")
            .map(|waiting| Cache { waiting, near: near() });
        let orchestrator = || {
            let notified = gauges.value("redis_gateway_orchestrator_keyspace_notifications", &[])?;
            Some(Orchestrator {
                watches: gauges.count("orchestrator_watches")?,
                expirations: gauges.count("orchestrator_dues")?,
                notifications: (notified >= 0.0).then_some(notified > 0.0),
            })
        };
        let user_events = || {
            Some(UserEvents {
                listeners: gauges.count("user_events_listeners")?,
                channels: gauges.count("user_events_channels")?,
            })
        };
        Open {
            streams: streaming.iter().map(stream).collect(),
            locks: locks(),
            pull_metrics: pull_metrics(),
            cache,
            orchestrator: orchestrator(),
            user_events: user_events(),
        }
    }

    /// How many streams are open.
    pub(super) fn streams_open(&self) -> u64 {
        self.streams.iter().map(|stream| stream.open).sum()
    }
}
