//! What is known of a list that is followed, and what a look at it means. Decides only: it is told what Redis answered.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

use bytes::Bytes;

use super::recent::{self, Recent};
use super::store::Page;

/// Entries of one look: as many as are remembered, so that one look can go over all of them.
const LOOK_ENTRIES: usize = recent::MAX_ITEMS;

/// Entries read when a list is met: enough to tell, soon after, a list that was cut from another one.
const START_ENTRIES: u16 = 256;

/// Resets that are remembered. A reader that has missed more begins again at the first entry.
const RESETS: usize = 16;

/// What is kept of an entry to tell it from another: a keyed hash of 64 bits, so that no payload is held for the sake of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Print(u64);

impl Print {
    /// The print of an entry, the same for as long as the process lives.
    pub(super) fn of(entry: &[u8]) -> Self {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Print(KEYS.hash_one(entry))
    }
}

/// Why what was read is no longer what stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Redis lost the end of the list; what is before is the same.
    Shortened,
    /// The list is gone.
    Deleted,
    /// The list is gone, and the status ends within a day.
    Archived,
    /// Other entries stand there.
    Replaced,
}

/// A cut through a list: what was read from index `at` on is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reset {
    /// The list's revision from this reset on.
    pub revision: u64,
    pub cause: Cause,
    /// 0 unless the list was shortened.
    pub at: i64,
    /// Print of the entry before `at`, if there is one.
    pub last: Option<Print>,
}

/// What to ask Redis next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// A page of the list.
    Page { start: i64, most: usize },
    /// Whether the build is archived; the list is gone.
    Archived,
}

/// What Redis answered.
#[derive(Debug)]
pub(super) enum Answer {
    Page(Page),
    Archived(bool),
}

/// What an answer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// There is more to ask before anything can be said.
    Asking,
    /// The look is done.
    Done {
        /// Whether readers have something to do.
        changed: bool,
        /// Whether more entries stand there than were looked at.
        behind: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The list is met for the first time.
    Start,
    /// From the last entry known on: the same one, and what follows it.
    Follow,
    /// All that is remembered, since the list is shorter, another entry stands in the last one's place, or a reader found
    /// another one where it had read.
    Verify { doubted: bool },
    /// Another list stands there.
    Restart,
    /// No list stands there.
    Gone,
}

/// What is known of a list, as far as it was followed.
#[derive(Debug)]
pub(super) struct Known {
    phase: Phase,
    started: bool,
    revision: u64,
    length: i64,
    archived: bool,
    /// The prints of the last entries: a list that Redis cut by more than is here is taken for another one.
    memory: Recent<Print>,
    /// Those of the last entries that came a moment ago.
    window: Recent<Bytes>,
    /// The list's length when the window was aged last.
    aged: i64,
    resets: VecDeque<Reset>,
}

impl Known {
    pub(super) fn new() -> Self {
        Known {
            phase: Phase::Start,
            started: false,
            revision: 0,
            length: 0,
            archived: false,
            memory: Recent::new(0),
            window: Recent::new(0),
            aged: 0,
            resets: VecDeque::new(),
        }
    }

    /// Grows with each reset.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// The list's length, as far as it was followed.
    pub(super) fn length(&self) -> i64 {
        self.length
    }

    /// Whether the list is gone and the build archived.
    pub(super) fn is_archived(&self) -> bool {
        self.archived
    }

    /// The print of the entry at `index`, if it is remembered.
    pub(super) fn print_at(&self, index: i64) -> Option<Print> {
        self.memory.at(index).copied()
    }

    /// The entries from `index` on, if all of them are at hand.
    pub(super) fn entries_from(&self, index: i64) -> Option<impl Iterator<Item = &Bytes>> {
        self.window.from(index)
    }

    /// The resets after `revision`; none if they are no longer remembered.
    pub(super) fn resets_after(&self, revision: u64) -> Option<impl Iterator<Item = &Reset>> {
        let missed = usize::try_from(self.revision - revision).ok()?;
        let skip = self.resets.len().checked_sub(missed)?;
        Some(self.resets.range(skip..))
    }

    /// Begins a look. `doubted`: a reader found another entry where it had read.
    pub(super) fn begin(&mut self, doubted: bool) {
        self.phase = match (self.started, doubted) {
            (false, _) => Phase::Start,
            (true, false) => Phase::Follow,
            (true, true) => Phase::Verify { doubted },
        };
    }

    /// What to ask.
    pub(super) fn ask(&self) -> Ask {
        match self.phase {
            Phase::Start | Phase::Restart => Ask::Page {
                start: -i64::from(START_ENTRIES),
                most: usize::from(START_ENTRIES),
            },
            Phase::Follow => Ask::Page {
                start: (self.length - 1).max(0),
                most: LOOK_ENTRIES,
            },
            Phase::Verify { .. } => Ask::Page {
                start: self.memory.start(),
                most: LOOK_ENTRIES,
            },
            Phase::Gone => Ask::Archived,
        }
    }

    /// Takes the answer to what [`Known::ask`] said.
    pub(super) fn answer(&mut self, answer: Answer) -> Progress {
        match answer {
            Answer::Archived(archived) => {
                if self.started {
                    let cause = if archived { Cause::Archived } else { Cause::Deleted };
                    self.reset(cause, 0);
                }
                self.started = true;
                self.archived = archived;
                Progress::Done {
                    changed: true,
                    behind: false,
                }
            }
            Answer::Page(page) => self.page(page),
        }
    }

    /// Lets go of the entries that were at hand when this was called last.
    pub(super) fn age(&mut self) {
        let old = usize::try_from(self.aged - self.window.start()).unwrap_or(0);
        self.window.drop_first(old);
        self.aged = self.length;
    }

    fn page(&mut self, page: Page) -> Progress {
        if page.length == 0 {
            if self.phase == Phase::Follow && self.length == 0 {
                return Progress::Done {
                    changed: false,
                    behind: false,
                };
            }
            self.phase = Phase::Gone;
            return Progress::Asking;
        }
        match self.phase {
            Phase::Start => {
                self.started = true;
                self.meet(page)
            }
            Phase::Restart => {
                self.reset(Cause::Replaced, 0);
                self.meet(page)
            }
            Phase::Follow => {
                let same = self.matching(&page);
                if same == 1 || self.length == 0 {
                    return self.grow(page, same);
                }
                self.phase = Phase::Verify { doubted: false };
                Progress::Asking
            }
            Phase::Verify { doubted } => {
                let same = self.matching(&page);
                let intact = same == self.memory.len();
                if intact && !doubted {
                    // It had been another one only for a moment: what stands there now counts.
                    return self.grow(page, same);
                }
                if intact || same == 0 {
                    // Nothing says that the list is the one that was read.
                    self.phase = Phase::Restart;
                    return Progress::Asking;
                }
                self.reset(Cause::Shortened, page.start.saturating_add_unsigned(same as u64));
                let behind = page.end() < page.length;
                self.grow(page, same);
                Progress::Done { changed: true, behind }
            }
            // It has asked for no page.
            Phase::Gone => Progress::Asking,
        }
    }

    /// How many entries of the page, from its first on, are those remembered.
    fn matching(&self, page: &Page) -> usize {
        page.entries
            .iter()
            .zip(page.start..)
            .take_while(|(entry, index)| self.print_at(*index) == Some(Print::of(entry)))
            .count()
    }

    /// Begins to know a list with this page of it.
    fn meet(&mut self, page: Page) -> Progress {
        self.length = page.start;
        self.memory = Recent::new(page.start);
        self.window = Recent::new(page.start);
        self.grow(page, 0)
    }

    /// Takes over the page's entries but the first `same`, with which the list ends as it is known.
    fn grow(&mut self, page: Page, same: usize) -> Progress {
        let changed = same < page.entries.len();
        let behind = page.end() < page.length;
        for entry in page.entries.into_iter().skip(same) {
            self.memory.push(Print::of(&entry), entry.len());
            let bytes = entry.len();
            self.window.push(entry, bytes);
            self.length += 1;
            self.archived = false;
        }
        Progress::Done { changed, behind }
    }

    fn reset(&mut self, cause: Cause, at: i64) {
        self.memory.truncate(at);
        self.window.truncate(at);
        self.aged = self.aged.min(at);
        self.length = at;
        self.revision += 1;
        if self.resets.len() == RESETS {
            self.resets.pop_front();
        }
        self.resets.push_back(Reset {
            revision: self.revision,
            cause,
            at,
            last: self.print_at(at - 1),
        });
    }
}
