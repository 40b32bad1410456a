//! How far servers are: what their primary had written when, and what a replica has of it.
//!
//! Time is the gateway's own alone. The primary is asked how far it is at a point in time; a replica that is as far has all that
//! was written before, whatever the clocks of the servers say.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

use super::command;
use super::connection::Connection;
use super::error::{Error, Reply};
use super::metrics::ReplicaMetrics;
use super::position::{Position, Said};
use crate::deadline::Deadline;

/// What is kept of the primary's past. At the bound the point goes that is missed least, so that all of the past stays known, more
/// coarsely the longer ago.
const POINTS: usize = 64;

/// How far the primary was when, under one replication id.
#[derive(Debug, Default)]
pub(super) struct History {
    points: Mutex<VecDeque<(Instant, Position)>>,
    /// Whether it was logged that servers may not be asked.
    denied: AtomicBool,
}

impl History {
    /// The primary was no further than `position` before `at`.
    fn record(&self, at: Instant, position: Position) {
        let mut points = self.lock();
        match points.back_mut() {
            Some((latest, last)) if *last == position => return *latest = at,
            Some((_, last)) if !last.is_reached_at(&position) => points.clear(),
            _ => {}
        }
        if points.len() == POINTS {
            // How far apart its neighbours are, for how long ago they are.
            let gap = |n: usize| (points[n + 1].0 - points[n - 1].0).div_duration_f64(at - points[n - 1].0);
            let least = (1..POINTS - 1).min_by(|a, b| gap(*a).total_cmp(&gap(*b)));
            points.remove(least.unwrap_or_default());
        }
        points.push_back((at, position));
    }

    /// The latest time up to which who is at `position` has all that was written.
    fn as_of(&self, position: &Position) -> Option<Instant> {
        let points = self.lock();
        let reached = points.iter().rev().find(|(_, point)| point.is_reached_at(position));
        reached.map(|(at, _)| *at)
    }

    /// Bytes that who is at `position` lacks; None under another id.
    fn bytes_behind(&self, position: &Position) -> Option<u64> {
        self.lock().back()?.1.bytes_before(position)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, Position)>> {
        // Nothing that is done under it can panic halfway.
        self.points.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of the data behind a connection to a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    position: Position,
    /// All is there that was written before.
    as_of: Instant,
    /// Whether it gets what is written now.
    linked: bool,
}

/// Why a replica will not do; what is said of several is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shortfall {
    /// It is not connected.
    Down,
    /// Nobody knows how far it is.
    Unknown,
    /// It lags more than is accepted.
    Stale,
    /// It has not come as far as the write that is to be seen.
    Behind,
    /// It would do, but its link to its primary is down.
    Unlinked,
}

impl Standing {
    /// Whether what is read `now` lacks nothing that was written longer ago than `within`, or up to `after`.
    pub(super) fn suffices(&self, now: Instant, within: Duration, after: Option<&Position>) -> Result<(), Shortfall> {
        if after.is_some_and(|after| !after.is_reached_at(&self.position)) {
            Err(Shortfall::Behind)
        } else if now.saturating_duration_since(self.as_of) > within {
            Err(Shortfall::Stale)
        } else if !self.linked {
            Err(Shortfall::Unlinked)
        } else {
            Ok(())
        }
    }
}

/// What a connection is asked in each probe, beside whether it answers.
pub(super) enum Watch {
    /// Nothing.
    Nothing,
    /// How far the primary is.
    Primary(Arc<History>),
    /// Nothing, on a connection that tracks keys; tells when the latest probe that was answered had been sent.
    Tracked(watch::Sender<Instant>),
    /// How far the replica is, against its primary.
    Replica(Arc<History>, ReplicaMetrics),
}

impl Watch {
    /// Probes a connection.
    pub(super) async fn probe(&self, connection: &Connection, deadline: Deadline) -> Result<(), Error> {
        let history = match self {
            Watch::Nothing => return connection.ask(command::ping(), deadline).await.map(drop),
            Watch::Tracked(answered) => {
                let at = Instant::now();
                connection.ask(command::subscribed_ping(), deadline).await?;
                answered.send_replace(at);
                return Ok(());
            }
            Watch::Primary(history) | Watch::Replica(history, _) => history,
        };
        let at = Instant::now();
        let ping = connection.ask(command::ping(), deadline);
        let info = connection.ask(command::info("replication"), deadline);
        let (answered, info) = tokio::join!(ping, info);
        match (self, info.map(|info| Said::read(&info))) {
            (Watch::Primary(_), Ok(Some(said))) if said.primary => history.record(at, said.position),
            (Watch::Replica(_, metrics), Ok(Some(said))) => {
                let had = connection.standing.load().as_deref().copied();
                let standing = stands(history, &said, had);
                let bytes = standing.and_then(|standing| history.bytes_behind(&standing.position));
                metrics.observe(standing.map(|standing| unix(standing.as_of)), bytes);
                connection.standing.store(standing.map(Arc::new));
            }
            (_, Err(Error::Reply(Reply::Denied(_)))) if !history.denied.swap(true, Ordering::Relaxed) => {
                tracing::warn!("redis denies INFO: nothing is read from replicas, since nobody knows how far they are");
            }
            _ => {}
        }
        answered.map(drop)
    }
}

/// What a replica has, by what it says, by its primary's past, and by what it had.
fn stands(history: &History, said: &Said, had: Option<Standing>) -> Option<Standing> {
    if !said.linked {
        // It keeps what it has, whatever it says of that.
        return had.map(|had| Standing { linked: false, ..had });
    }
    Some(Standing {
        position: said.position,
        as_of: history.as_of(&said.position)?,
        linked: true,
    })
}

/// Seconds since 1970.
fn unix(at: Instant) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(at.elapsed()).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(id: u8, offset: u64) -> Position {
        let id = char::from(id).to_string().repeat(40);
        Position::parse(&format!("{id}-{offset}")).unwrap()
    }

    #[test]
    fn a_replica_is_as_old_as_the_latest_point_that_it_has_reached() {
        let history = History::default();
        let start = Instant::now();
        let second = |n: u64| start + Duration::from_secs(n);
        assert_eq!(history.as_of(&position(b'a', 10)), None);
        for n in 1..=3 {
            history.record(second(n), position(b'a', 10 * n));
        }
        assert_eq!(history.as_of(&position(b'a', 9)), None);
        assert_eq!(history.as_of(&position(b'a', 29)), Some(second(2)));
        assert_eq!(history.as_of(&position(b'a', 99)), Some(second(3)));
        assert_eq!(history.bytes_behind(&position(b'a', 25)), Some(5));
        // Nothing was written since: who had all has all.
        history.record(second(9), position(b'a', 30));
        assert_eq!(history.as_of(&position(b'a', 30)), Some(second(9)));
        // Another primary: nobody knows what the replicas of the old one have.
        history.record(second(10), position(b'b', 30));
        assert_eq!(history.as_of(&position(b'a', 99)), None);
        assert_eq!(history.bytes_behind(&position(b'a', 25)), None);
        assert_eq!(history.as_of(&position(b'b', 30)), Some(second(10)));
    }

    #[test]
    fn the_past_stays_known_in_bounded_memory_and_never_looks_newer() {
        let history = History::default();
        let start = Instant::now();
        let at = |n: u64| start + Duration::from_millis(250 * n);
        for n in 1..=10_000_u64 {
            history.record(at(n), position(b'a', n));
            assert!(history.lock().len() <= POINTS);
        }
        for lag in [0, 1, 10, 100, 1_000, 9_000] {
            let known = history.as_of(&position(b'a', 10_000 - lag)).unwrap();
            assert!(known <= at(10_000 - lag), "lag {lag}");
            assert!(
                known >= at((10_000_u64 - lag).saturating_sub(lag / 2 + 1).max(1)),
                "lag {lag}: {:?}",
                at(10_000) - known
            );
        }
    }

    #[test]
    fn what_a_cut_off_replica_has_grows_old_and_what_nobody_knows_is_nothing() {
        let history = History::default();
        let now = Instant::now();
        history.record(now, position(b'a', 10));
        let said = |id, offset, linked| Said {
            position: position(id, offset),
            primary: false,
            linked,
        };
        let standing = stands(&history, &said(b'a', 10, true), None).unwrap();
        let (within, later) = (Duration::from_millis(7), now + Duration::from_millis(8));
        assert_eq!(standing.suffices(now, within, None), Ok(()));
        assert_eq!(standing.suffices(later, within, None), Err(Shortfall::Stale));
        assert_eq!(standing.suffices(now, within, Some(&position(b'a', 10))), Ok(()));
        for unreached in [position(b'a', 11), position(b'b', 1), Position::NEVER] {
            assert_eq!(standing.suffices(now, within, Some(&unreached)), Err(Shortfall::Behind));
        }
        let cut_off = stands(&history, &said(b'a', 0, false), Some(standing)).unwrap();
        assert_eq!((cut_off.as_of, cut_off.position), (now, standing.position));
        assert_eq!(cut_off.suffices(now, within, None), Err(Shortfall::Unlinked));
        assert_eq!(stands(&history, &said(b'a', 0, false), None), None);
        assert_eq!(stands(&history, &said(b'b', 10, true), Some(standing)), None);
        assert_eq!(stands(&history, &said(b'a', 9, true), Some(standing)), None);
    }
}
