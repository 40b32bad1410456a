//! One who asks for a lock, waits for it, and gives up what nobody takes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::Token;
use super::desk::{Core, RETRY};
use super::metrics::Outcome;
use super::store::{Answer, Want};
use super::waiters::{Place, Waiters};
use crate::deadline::Deadline;
use crate::redis::Error;

/// A question and its answer take no longer, where all is well.
const MARGIN: Duration = Duration::from_millis(20);

/// A lock that is held. Given up when it is dropped, unless it is kept.
pub(super) struct Grant {
    pub token: Token,
    /// Until it ends. None: without end.
    pub left: Option<Duration>,
    /// Until then it is the holder's for sure: without a time to live, for as long as was wanted.
    pub lives_until: Instant,
    core: Arc<Core>,
    want: Want,
    /// None: the holder had it before, so it is not to be given up.
    claim: Option<Claim>,
}

/// What a session has got, or may get by a question that was not answered. Given up when it is dropped, unless it is kept.
struct Claim {
    core: Arc<Core>,
    /// None once it is kept.
    want: Option<Want>,
}

/// How a wait ended.
pub(super) enum Waited {
    /// The lock is held.
    Granted(Grant),
    /// It was busy to the end; when it is free, if that is known.
    Busy(Option<Duration>),
}

impl Grant {
    /// Whoever asked has it.
    pub(super) fn keep(self) -> Want {
        let outcome = match self.claim {
            Some(claim) => {
                claim.keep();
                Outcome::Acquired
            }
            None => Outcome::Again,
        };
        self.core.metrics.asked(outcome);
        self.want
    }
}

impl Claim {
    fn new(core: &Arc<Core>, want: &Want) -> Self {
        Claim {
            core: core.clone(),
            want: Some(want.clone()),
        }
    }

    fn keep(mut self) {
        self.want = None;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(want) = self.want.take() {
            self.core.give_up(want);
        }
    }
}

/// One who asks, and waits its turn.
pub(super) struct Acquiring {
    core: Arc<Core>,
    want: Want,
    place: Place,
    /// By when its call is answered.
    by: Option<Deadline>,
    /// There if any question was not answered: the lock may become the holder's when nobody looks any more.
    doubt: Option<Claim>,
}

impl Acquiring {
    /// Behind all who wait for the lock already. Each question is answered by `by`.
    pub(super) fn new(core: Arc<Core>, waiters: &Waiters, want: Want, by: Option<Deadline>) -> Self {
        Acquiring {
            place: waiters.join(&want.name),
            core,
            want,
            by,
            doubt: None,
        }
    }

    /// Asks for the first time: without a wait, and without the lock if others came before.
    pub(super) async fn ask(&mut self) -> Result<Waited, Error> {
        if !self.place.is_first() {
            let held = self.core.store.get(&self.want.name, self.due()).await?;
            // A holder that asks again gets its answer, whoever waits.
            if held.as_ref().is_none_or(|held| held.holder != *self.want.holder.0) {
                return Ok(Waited::Busy(held.and_then(|held| held.left)));
            }
        }
        match self.attempt().await? {
            // Free: the question has got lost.
            Waited::Busy(Some(Duration::ZERO)) if self.doubt.is_some() => self.attempt().await,
            waited => Ok(waited),
        }
    }

    /// Waits for the lock, at most until `until`. While Redis is away it waits on; at the end it says so.
    pub(super) async fn wait(&mut self, until: Instant) -> Result<Waited, Error> {
        self.place.listen();
        // What is asked too late for an answer would only be in doubt.
        let last = self.by.map_or(until, |by| until.min(by.instant() - MARGIN));
        while Instant::now() < until {
            self.place.turn(until).await;
            if !self.place.is_first() || Instant::now() >= last {
                continue;
            }
            match self.attempt().await {
                Ok(Waited::Busy(_)) => {}
                Err(error) if error.is_transient() => {}
                ended => return ended,
            }
        }
        self.place.seen().map(Waited::Busy)
    }

    fn due(&self) -> Deadline {
        let soon = self.core.store.soon();
        self.by.map_or(soon, |by| by.min(soon))
    }

    /// Asks for the lock, in a task that comes to its end.
    async fn attempt(&mut self) -> Result<Waited, Error> {
        let (tell, told) = oneshot::channel();
        let (core, want, by) = (self.core.clone(), self.want.clone(), self.due());
        let began = Instant::now();
        let doubt = self.doubt.take();
        self.core.spawn(async move {
            // Nobody may wait for it any more: what is not taken is given up.
            drop(tell.send(acquire(core, want, by, doubt).await));
        });
        // The task tells before it ends; should it have panicked, nobody knows what it did before.
        let Asked { waited, doubt } = told.await.unwrap_or_else(|_| Asked {
            waited: Err(Error::Unknown),
            doubt: Some(Claim::new(&self.core, &self.want)),
        });
        self.doubt = doubt;
        let left = match &waited {
            Ok(Waited::Granted(grant)) => Ok(grant.left),
            Ok(Waited::Busy(left)) => Ok(*left),
            Err(error) => Err(error.clone()),
        };
        let woken = self.place.saw(began, left);
        if let (Ok(Waited::Granted(_)), Some(woken)) = (&waited, woken) {
            self.core.metrics.handed_over(woken.elapsed());
        }
        waited
    }
}

/// What Redis answered.
struct Asked {
    waited: Result<Waited, Error>,
    /// There if this question, or one before it, may still be carried out.
    doubt: Option<Claim>,
}

/// Asks for the lock in half of the time; without an answer, the other half is for reading back who holds it.
async fn acquire(core: Arc<Core>, want: Want, by: Deadline, mut doubt: Option<Claim>) -> Asked {
    let asked = Instant::now();
    let half = by.instant().saturating_duration_since(asked) / 2;
    let answer = match core.store.acquire(&want, Deadline::within(half)).await {
        Err(Error::Unknown) => {
            doubt.get_or_insert_with(|| Claim::new(&core, &want));
            read_back(&core, &want, by).await
        }
        answer => answer.map(|answer| (answer, asked)),
    };
    let waited = answer.map(|(answer, asked)| match answer {
        Answer::Busy(left) => Waited::Busy(left),
        Answer::Held { token, left, fresh } => {
            let claim = doubt.take().unwrap_or_else(|| Claim::new(&core, &want));
            let claim = if fresh {
                Some(claim)
            } else {
                claim.keep();
                None
            };
            Waited::Granted(Grant {
                token,
                left,
                lives_until: asked + left.unwrap_or(want.ttl.length()),
                core,
                want,
                claim,
            })
        }
    });
    Asked { waited, doubt }
}

/// What became of a question that was not answered, and when that was asked.
async fn read_back(core: &Core, want: &Want, by: Deadline) -> Result<(Answer, Instant), Error> {
    loop {
        let asked = Instant::now();
        if let Ok(held) = core.store.get(&want.name, by).await {
            let answer = match held {
                // Free: to be asked for again.
                None => Answer::Busy(Some(Duration::ZERO)),
                Some(held) if held.holder != *want.holder.0 => Answer::Busy(held.left),
                Some(held) => Answer::Held {
                    token: held.record.map_or(0, |record| record.token),
                    left: held.left,
                    fresh: held.record.is_some_and(|record| record.session == want.session),
                },
            };
            return Ok((answer, asked));
        }
        let again = Instant::now() + RETRY;
        if again >= by.instant() {
            return Err(Error::Unknown);
        }
        sleep_until(again).await;
    }
}
