//! One who reads a log as it grows: pulled by its caller, without a task or a queue of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::BuildId;
use super::feed::View;
use super::hub::{Follower, Hub};
use super::known::Print;
use super::position::{News, Opening, Position, Read, Step};
use crate::deadline::{Deadline, jittered};
use crate::redis::Error;

/// Before a tail reads again what could not be read, unless its feed has news before.
const RETRY: Duration = Duration::from_millis(250);

/// What a tail tells its caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The first one.
    Opened {
        /// Index where it was to begin.
        start: i64,
        /// The log's length.
        length: i64,
    },
    /// Of the log.
    News(News),
    /// Nothing came for a while; with the reason if the log cannot be read.
    Heartbeat(Option<Error>),
}

/// A reader of a log. Holds no entries: what its caller has not taken yet stays in Redis.
pub(super) struct Tail {
    follower: Follower,
    view: watch::Receiver<View>,
    position: Position,
    /// What was known when it opened.
    opening: VecDeque<Event>,
    heartbeat: Duration,
    /// Why it cannot read, if it cannot.
    trouble: Option<Error>,
}

impl Tail {
    /// Begins to read at `start`, as the log is after a look of now; `previous` is the entry before it, if the caller has one.
    pub(super) async fn open(
        hub: &Arc<Hub>,
        build: &BuildId,
        start: i64,
        previous: Option<Print>,
        heartbeat: Duration,
        by: Deadline,
    ) -> Result<Self, Error> {
        let follower = hub.follow(build);
        let view = follower.feed().view();
        let mut before = None;
        loop {
            follower.feed().fresh(by).await?;
            let (opening, length) = {
                let known = &view.borrow().known;
                (Position::open(start, previous, known, before), known.length())
            };
            match opening {
                Opening::At(position, reset) => {
                    let opened = Event::Opened {
                        start: super::store::resolve(start, length),
                        length,
                    };
                    let opening = [opened].into_iter().chain(reset.map(Event::News)).collect();
                    return Ok(Tail {
                        follower,
                        view,
                        position,
                        opening,
                        heartbeat,
                        trouble: None,
                    });
                }
                // If the list has changed meanwhile, another look will tell.
                Opening::After(index) => {
                    let page = follower.store().page(build, index, 1, by).await?;
                    before = page.entries.first().map(|entry| (index, Print::of(entry)));
                }
            }
        }
    }

    /// What comes next. Waits until there is something, at most for the time of a heartbeat.
    pub(super) async fn next(&mut self) -> Event {
        let event = self.come().await;
        if let Event::News(News::Reset { cause, .. }) = &event {
            self.follower.metrics().reset(*cause);
        }
        event
    }

    async fn come(&mut self) -> Event {
        if let Some(event) = self.opening.pop_front() {
            return event;
        }
        let beat = sleep(jittered(self.heartbeat));
        tokio::pin!(beat);
        loop {
            let step = self.position.advance(&self.view.borrow_and_update().known);
            tokio::select! {
                biased;
                news = self.take(step) => if let Some(news) = news {
                    return Event::News(news);
                },
                () = &mut beat => {
                    let feed = self.view.borrow().trouble.clone();
                    return Event::Heartbeat(feed.or_else(|| self.trouble.clone()));
                }
            }
        }
    }

    /// Does what is to be done. None if there is nothing to tell yet.
    async fn take(&mut self, step: Step) -> Option<News> {
        match step {
            Step::Tell(news) => return Some(news),
            Step::Wait => self.more().await,
            Step::Read { start, most } => {
                let store = self.follower.store();
                let by = Deadline::within(store.timeout());
                match store.page(self.follower.build(), start, most, by).await {
                    Ok(page) => {
                        self.trouble = None;
                        let read = self.position.read(page, &self.view.borrow().known);
                        match read {
                            Read::Tell(news) => return Some(news),
                            Read::Outdated => {}
                            Read::Doubt => {
                                self.follower.feed().doubt(self.position.revision());
                                self.more().await;
                            }
                        }
                    }
                    Err(error) => {
                        self.trouble = Some(error);
                        // Whichever comes first.
                        let _ = timeout(RETRY, self.more()).await;
                    }
                }
            }
        }
        None
    }

    /// Waits until more is known.
    async fn more(&mut self) {
        // The sender lives in the feed, which lives as long as its followers.
        let _ = self.view.changed().await;
    }
}
