//! A stream that keeps a lock: pulled by its caller, while a keeper renews the lock whether or not it is pulled.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::acquiring::{Acquiring, Waited};
use super::desk::Core;
use super::keeper::{Cause, Keepers, Kept};
use super::metrics::Outcome;
use super::store::Want;
use super::waiters::Waiters;
use super::{Holder, Token};
use crate::deadline::Deadline;
use crate::redis::Error;

/// What a stream wants.
pub(super) struct Opening {
    pub want: Want,
    /// How long it waits while the lock is busy.
    pub patience: Duration,
    /// How long the lock stays after the stream's end.
    pub grace: Duration,
    /// The token of the acquisition that is taken up again. None: a new one.
    pub taken_up: Option<Token>,
    /// By when the stream ends.
    pub by: Option<Deadline>,
}

/// What a stream tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The lock is busy.
    Waiting,
    /// It is the caller's.
    Acquired { holder: Holder, token: Token },
    /// It was renewed.
    Renewed,
    /// It is the caller's no more. The last one.
    Lost(Cause),
    /// It was busy for as long as the caller would wait. The last one.
    Busy,
}

/// A stream: what it has to tell first, and what it does then.
pub(super) struct Holding {
    first: Option<Event>,
    state: State,
}

enum State {
    /// In a task, whether or not the caller reads: it may be the first in the line, and others are behind it.
    Waiting(AbortOnDropHandle<Result<(Event, State), Error>>),
    Kept(Kept),
    Ended,
}

/// How a lock is kept once it is got.
struct Keep {
    core: Arc<Core>,
    keepers: Arc<Keepers>,
    grace: Duration,
}

impl Holding {
    /// Asks for the lock, or takes it up again.
    pub(super) async fn open(
        core: Arc<Core>,
        waiters: &Waiters,
        keepers: Arc<Keepers>,
        opening: Opening,
    ) -> Result<Self, Error> {
        let Opening {
            want,
            patience,
            grace,
            taken_up,
            by,
        } = opening;
        let keep = Keep {
            core: core.clone(),
            keepers,
            grace,
        };
        let opened = match taken_up {
            Some(token) => take_up(want, token, by, keep).await,
            None => ask(Acquiring::new(core.clone(), waiters, want, by), patience, keep).await,
        };
        let (first, state) = opened?;
        Ok(Holding {
            first: Some(first),
            state,
        })
    }

    /// What there is to tell next. None: the stream has ended.
    pub(super) async fn next(&mut self) -> Option<Result<Event, Error>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => None,
            // Should it have panicked, nobody knows what it did before.
            State::Waiting(waiting) => match waiting.await.unwrap_or(Err(Error::Unknown)) {
                Ok((event, state)) => {
                    self.state = state;
                    Some(Ok(event))
                }
                Err(error) => Some(Err(error)),
            },
            State::Kept(mut kept) => {
                // Who keeps it tells before it ends; should it have panicked, nobody renews the lock any more.
                let lost = match kept.news.changed().await {
                    Ok(()) => kept.news.borrow_and_update().lost,
                    Err(_) => Some(Cause::Unknown),
                };
                if let Some(cause) = lost {
                    return Some(Ok(Event::Lost(cause)));
                }
                self.state = State::Kept(kept);
                Some(Ok(Event::Renewed))
            }
        }
    }
}

async fn ask(mut acquiring: Acquiring, patience: Duration, keep: Keep) -> Result<(Event, State), Error> {
    match acquiring.ask().await {
        Ok(Waited::Busy(_)) if !patience.is_zero() => {
            let until = Instant::now() + patience;
            let wait = async move { keep.waited(acquiring.wait(until).await) };
            let waiting = tokio::spawn(wait.instrument(tracing::Span::current()));
            Ok((Event::Waiting, State::Waiting(AbortOnDropHandle::new(waiting))))
        }
        asked => keep.waited(asked),
    }
}

/// Takes a lock up again, in a task that comes to its end: nobody else may give it up then, so one whose caller is gone is kept
/// for its grace.
async fn take_up(want: Want, token: Token, by: Option<Deadline>, keep: Keep) -> Result<(Event, State), Error> {
    let soon = keep.core.store.soon();
    let by = by.map_or(soon, |by| by.min(soon));
    let (tell, told) = oneshot::channel();
    let core = keep.core.clone();
    core.clone().spawn(async move {
        let lives_until = Instant::now() + want.ttl.length();
        let opened = match core.store.take_up(&want, token, by).await {
            Ok(Ok(())) => {
                core.metrics.asked(Outcome::Again);
                Ok(keep.kept(want, token, lives_until))
            }
            Ok(Err(refused)) => Ok((Event::Lost(refused.into()), State::Ended)),
            Err(error) => {
                core.metrics.asked(Outcome::Failed);
                if error == Error::Unknown {
                    drop(keep.kept(want, token, lives_until));
                }
                Err(error)
            }
        };
        drop(tell.send(opened));
    });
    // The task tells before it ends; should it have panicked, nobody knows what it did before.
    told.await.unwrap_or(Err(Error::Unknown))
}

impl Keep {
    fn waited(self, waited: Result<Waited, Error>) -> Result<(Event, State), Error> {
        match waited {
            Ok(Waited::Granted(grant)) => {
                let (token, lives_until) = (grant.token, grant.lives_until);
                Ok(self.kept(grant.keep(), token, lives_until))
            }
            Ok(Waited::Busy(_)) => {
                self.core.metrics.asked(Outcome::Busy);
                Ok((Event::Busy, State::Ended))
            }
            Err(error) => {
                self.core.metrics.asked(Outcome::Failed);
                Err(error)
            }
        }
    }

    fn kept(self, want: Want, token: Token, lives_until: Instant) -> (Event, State) {
        let holder = want.holder.clone();
        let kept = self.keepers.keep(want, self.grace, lives_until);
        (Event::Acquired { holder, token }, State::Kept(kept))
    }
}
