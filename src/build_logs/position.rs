//! Where a reader is in a list, and what it does next. Decides only: it is told what is known and what Redis answered.

use bytes::Bytes;

use super::known::{Cause, Known, Print};
use super::store::{self, PAGE_BYTES, Page};

/// Entries that a reader is handed at once, at most; also bounded by [`PAGE_BYTES`].
const EVENT_ENTRIES: usize = 1_000;

/// What a reader is told of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// Entries that follow each other.
    Entries {
        /// Index of the first.
        start: i64,
        /// At least one.
        entries: Vec<Bytes>,
    },
    /// What was read from `next_start` on is void.
    Reset {
        cause: Cause,
        /// The list's length now.
        length: i64,
        /// Index of the entry that comes next.
        next_start: i64,
    },
}

/// What a reader does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Tells.
    Tell(News),
    /// Reads a page, with the entry before those that are wanted, to see that it is still there. Never past what is known: an
    /// entry that nobody knows could not be missed when the list is found cut.
    Read { start: i64, most: usize },
    /// Waits until more is known.
    Wait,
}

/// What a page came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// The entries that come next.
    Tell(News),
    /// It was read of a list that is known to be another one by now.
    Outdated,
    /// Something else stands there than was read, and nobody knows yet.
    Doubt,
}

/// How a reader begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// At this position, after telling where it is and perhaps that this is not where it wanted to be.
    At(Position, Option<News>),
    /// Once it is known which entry stands at this index.
    After(i64),
}

/// A reader's place in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    /// The revision of the list that was read.
    revision: u64,
    /// Index of the entry that comes next.
    pub(super) next: i64,
    /// The entry before it, if there is one.
    last: Option<Print>,
}

impl Position {
    /// The place that `start` means: negative from the end. `previous` is the entry before it, if the caller has one;
    /// `before` the one that stands at an index in Redis, where [`Opening::After`] asked for it.
    pub(super) fn open(start: i64, previous: Option<Print>, known: &Known, before: Option<(i64, Print)>) -> Opening {
        let length = known.length();
        let next = store::resolve(start, length);
        let at_first = |cause: Option<Cause>| {
            let first = Position {
                revision: known.revision(),
                next: 0,
                last: None,
            };
            let reset = cause.map(|cause| News::Reset {
                cause,
                length,
                next_start: 0,
            });
            Opening::At(first, reset)
        };
        if length == 0 && known.is_archived() {
            return at_first(Some(Cause::Archived));
        }
        if next > length {
            let gone = length == 0;
            return at_first(Some(if gone { Cause::Deleted } else { Cause::Replaced }));
        }
        if next == 0 {
            return at_first(None);
        }
        let read = before.filter(|(index, _)| *index == next - 1).map(|(_, print)| print);
        let Some(last) = known.print_at(next - 1).or(read) else {
            return Opening::After(next - 1);
        };
        if previous.is_some_and(|previous| previous != last) {
            return at_first(Some(Cause::Replaced));
        }
        let position = Position {
            revision: known.revision(),
            next,
            last: Some(last),
        };
        Opening::At(position, None)
    }

    /// The revision of the list that was read.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// What to do, by what is known.
    pub(super) fn advance(&mut self, known: &Known) -> Step {
        if let Some(reset) = self.catch_up(known) {
            return Step::Tell(reset);
        }
        if self.next >= known.length() {
            return Step::Wait;
        }
        let same = self.next == 0 || known.print_at(self.next - 1) == self.last;
        let Some(entries) = known.entries_from(self.next).filter(|_| same) else {
            let start = (self.next - 1).max(0);
            let most = usize::try_from(known.length() - start).unwrap_or(0);
            return Step::Read {
                start,
                most: most.min(EVENT_ENTRIES),
            };
        };
        let entries = bounded(entries.cloned());
        let start = self.next;
        self.next = start.saturating_add_unsigned(entries.len() as u64);
        // What is at hand is remembered too.
        self.last = known.print_at(self.next - 1);
        Step::Tell(News::Entries { start, entries })
    }

    /// Takes the page that [`Step::Read`] asked for.
    pub(super) fn read(&mut self, page: Page, known: &Known) -> Read {
        if self.revision != known.revision() {
            return Read::Outdated;
        }
        let mut entries = page.entries.into_iter();
        if self.next > 0 && entries.next().map(|entry| Print::of(&entry)) != self.last {
            return Read::Doubt;
        }
        let entries: Vec<Bytes> = entries.collect();
        let Some(last) = entries.last().map(|entry| Print::of(entry)) else {
            // Known entries are missing.
            return Read::Doubt;
        };
        let next = self.next.saturating_add_unsigned(entries.len() as u64);
        if known.print_at(next - 1).is_some_and(|print| print != last) {
            return Read::Doubt;
        }
        let start = std::mem::replace(&mut self.next, next);
        self.last = Some(last);
        Read::Tell(News::Entries { start, entries })
    }

    /// Goes back to where the list is still the one that was read, if resets say so.
    fn catch_up(&mut self, known: &Known) -> Option<News> {
        if self.revision == known.revision() {
            return None;
        }
        let mut cause = None;
        if let Some(resets) = known.resets_after(self.revision) {
            for reset in resets {
                if reset.at < self.next || reset.cause != Cause::Shortened {
                    (self.next, self.last) = (reset.at, reset.last);
                    cause = Some(reset.cause);
                }
            }
        } else {
            (self.next, self.last) = (0, None);
            cause = Some(Cause::Replaced);
        }
        self.revision = known.revision();
        cause.map(|cause| News::Reset {
            cause,
            length: known.length(),
            next_start: self.next,
        })
    }
}

/// As many as one event takes, at least one.
fn bounded(entries: impl Iterator<Item = Bytes>) -> Vec<Bytes> {
    let mut room = PAGE_BYTES;
    let mut first = true;
    let fits = |entry: &Bytes| {
        let fits = std::mem::take(&mut first) || entry.len() <= room;
        room = room.saturating_sub(entry.len());
        fits
    };
    entries.take(EVENT_ENTRIES).take_while(fits).collect()
}
