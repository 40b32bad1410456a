//! Holders by the gateway, as unruly as those whose processes are killed: they cancel waits, and go without a release.

use std::{
    fmt,
    ops::AddAssign,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::{Rng as _, rngs::StdRng};
use redis::aio::MultiplexedConnection;
use redis_gateway::proto::{
    AcquireRequest, HoldAcquired, HoldRequest, HoldResponse, ReleaseRequest, hold_response::Event,
    locks_client::LocksClient,
};
use tokio::time::{Instant, error::Elapsed, sleep, timeout, timeout_at};
use tonic::{Status, Streaming, transport::Channel};

use super::journal::Journal;
use super::{ABANDONED, HOLD, LOCKS, RENEWED, TTL};
use crate::harness::{reason, within};
use crate::soak::measure::{At, nanos, now};

/// How long a holder waits at most.
const WAIT: Duration = Duration::from_secs(5);
/// How long some streams keep their lock, as `lock_holders.py` does, and how long some leave it when they end.
const LONG: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_millis(300);
/// Before it tries again after a failure.
const PAUSE: Duration = Duration::from_millis(50);

/// What holders did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    pub acquired: usize,
    /// Waits that their callers broke off.
    pub cancelled: usize,
    /// Locks that were left to their end.
    pub abandoned: usize,
    /// Streams that outlived the time to live several times.
    pub renewed: usize,
    /// Locks that were lost before they were released.
    pub lost: usize,
    pub failed: usize,
}

pub(super) struct Holder {
    pub locks: LocksClient<Channel>,
    /// Says how long a lock lives; waits for as long as Redis is paused.
    pub direct: MultiplexedConnection,
    pub number: usize,
    pub journal: Journal,
    pub random: StdRng,
    pub stop: Arc<AtomicBool>,
    pub tried: usize,
    pub done: Done,
}

/// What a try is called by.
struct Label {
    name: String,
    kind: &'static str,
    id: String,
}

impl Holder {
    /// Acquires and releases until told to stop.
    pub(super) async fn acquire_and_release(mut self) -> Done {
        while !self.stop.load(Relaxed) {
            let label = self.tries("acquire");
            let request = AcquireRequest {
                name: label.name.clone(),
                ttl_ms: millis(TTL),
                wait_ms: millis(WAIT),
                ..AcquireRequest::default()
            };
            let patience = self.patience();
            let asked = timeout(patience, self.locks.acquire(within(2 * WAIT, request))).await;
            let Some(asked) = self.answered(asked, &label).await else {
                continue;
            };
            let answer = asked.into_inner();
            if !answer.acquired {
                self.quit(&label);
                continue;
            }
            self.enters(&label, &answer.holder_id, answer.fencing_token).await;
            sleep(HOLD.mul_f64(self.random.random())).await;
            if self.random.random_bool(ABANDONED) {
                self.done.abandoned += 1;
                continue;
            }
            self.leaves(&label, Duration::ZERO);
            let request = ReleaseRequest {
                name: label.name,
                holder_id: answer.holder_id,
            };
            match self.locks.release(within(WAIT, request)).await {
                Ok(_) => {}
                Err(status) if reason(&status).as_deref() == Some("LOCK_LOST") => self.done.lost += 1,
                Err(_) => self.fails().await,
            }
        }
        self.done
    }

    /// Holds by streams until told to stop, with a grace or without.
    pub(super) async fn hold_by_streams(mut self) -> Done {
        while !self.stop.load(Relaxed) {
            let label = self.tries("hold");
            let grace = if self.random.random_bool(0.1) {
                GRACE
            } else {
                Duration::ZERO
            };
            let request = HoldRequest {
                name: label.name.clone(),
                ttl_ms: millis(TTL),
                wait_ms: millis(WAIT),
                grace_ms: millis(grace),
                ..HoldRequest::default()
            };
            let patience = self.patience();
            let asked = timeout(patience, begun(&mut self.locks, request)).await;
            let Some(begun) = self.answered(asked, &label).await else {
                continue;
            };
            let Some((mut stream, acquired)) = begun else {
                self.quit(&label);
                continue;
            };
            self.enters(&label, &acquired.holder_id, acquired.fencing_token).await;
            let long = self.random.random_bool(RENEWED);
            let until = Instant::now() + if long { LONG } else { HOLD.mul_f64(self.random.random()) };
            let kept = self.keep(&mut stream, &label, &acquired.holder_id, until).await;
            self.done.renewed += usize::from(long && kept);
            self.leaves(&label, if kept { grace } else { Duration::ZERO });
        }
        self.done
    }

    /// Whether the lock was kept until then.
    async fn keep(
        &mut self,
        stream: &mut Streaming<HoldResponse>,
        label: &Label,
        holder: &str,
        until: Instant,
    ) -> bool {
        while let Ok(event) = timeout_at(until, stream.message()).await {
            match event.map(|event| event.and_then(|event| event.event)) {
                Ok(Some(Event::Renewed(_))) => {
                    let until = self.lives_until(&label.name, holder).await;
                    self.note("keep", label, format_args!("{} {until}", now()));
                }
                Ok(Some(Event::Lost(_))) => {
                    self.done.lost += 1;
                    return false;
                }
                Ok(other) => panic!("{other:?} of a lock that is held"),
                Err(_) => {
                    self.fails().await;
                    return false;
                }
            }
        }
        true
    }

    /// How long the next try is not broken off.
    fn patience(&mut self) -> Duration {
        if self.random.random_bool(0.1) {
            self.random.random_range(Duration::ZERO..Duration::from_millis(100))
        } else {
            3 * WAIT
        }
    }

    fn tries(&mut self, kind: &'static str) -> Label {
        self.tried += 1;
        let label = Label {
            name: format!("m{}", self.random.random_range(0..LOCKS)),
            kind,
            id: format!("{}-{}", self.number, self.tried),
        };
        self.note("try", &label, format_args!("{}", now()));
        label
    }

    /// The answer, if one came.
    async fn answered<T>(&mut self, asked: Result<Result<T, Status>, Elapsed>, label: &Label) -> Option<T> {
        match asked {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(_)) => {
                self.quit(label);
                self.fails().await;
                None
            }
            Err(_) => {
                self.quit(label);
                self.done.cancelled += 1;
                None
            }
        }
    }

    fn quit(&self, label: &Label) {
        self.note("quit", label, format_args!("{}", now()));
    }

    async fn fails(&mut self) {
        self.done.failed += 1;
        sleep(PAUSE).await;
    }

    async fn enters(&mut self, label: &Label, holder: &str, token: i64) {
        self.done.acquired += 1;
        let entered = now();
        let until = self.lives_until(&label.name, holder).await;
        self.note("enter", label, format_args!("{entered} {until} {token}"));
    }

    fn leaves(&self, label: &Label, grace: Duration) {
        self.note("leave", label, format_args!("{}", now() + nanos(grace)));
    }

    /// Until when the lock is the holder's for sure, by Redis itself; the past if it is not.
    async fn lives_until(&self, name: &str, holder: &str) -> At {
        let asked = now();
        let key = format!("lock:{name}");
        let mut both = redis::pipe();
        both.atomic().get(&key).pttl(&key);
        let mut direct = self.direct.clone();
        let (standing, left): (Option<String>, At) = both.query_async(&mut direct).await.expect("an answer of Redis");
        if standing.as_deref() == Some(holder) {
            asked + left * 1_000_000
        } else {
            asked
        }
    }

    fn note(&self, what: &str, Label { name, kind, id }: &Label, at: fmt::Arguments<'_>) {
        self.journal.note(format_args!("{what} {name} {kind} {id} {at}"));
    }
}

/// A stream that has the lock. None: it was busy.
async fn begun(
    locks: &mut LocksClient<Channel>,
    request: HoldRequest,
) -> Result<Option<(Streaming<HoldResponse>, HoldAcquired)>, Status> {
    let mut stream = locks.hold(request).await?.into_inner();
    while let Some(answer) = stream.message().await? {
        match answer.event {
            Some(Event::Waiting(_)) => {}
            Some(Event::Acquired(acquired)) => return Ok(Some((stream, acquired))),
            Some(Event::Busy(_)) => return Ok(None),
            other => panic!("{other:?} before the lock is held"),
        }
    }
    Err(Status::unknown("the stream ended without a word"))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap()
}

impl AddAssign for Done {
    fn add_assign(&mut self, other: Done) {
        self.acquired += other.acquired;
        self.cancelled += other.cancelled;
        self.abandoned += other.abandoned;
        self.renewed += other.renewed;
        self.lost += other.lost;
        self.failed += other.failed;
    }
}
