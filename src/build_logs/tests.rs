//! What `known` and `position` decide together, against a model: a list that is appended to, cut, deleted and replaced at any
//! moment, and a reader that keeps what it is told.

use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::known::{Answer, Ask, Cause, Known, Print, Progress};
use super::position::{News, Opening, Position, Read, Step};
use super::recent;
use super::store::{self, Page};

#[derive(Debug, Clone)]
enum Happening {
    Append(usize),
    /// Redis lost the end, as a restart may have it.
    Lose(usize),
    Delete,
    Replace(usize),
    /// The next of the questions that make up a look.
    Look,
    Age,
    /// The reader does one thing: tells, asks for a page, or gets the one that it asked for.
    Reader,
}

impl Happening {
    fn ends_the_list(&self) -> bool {
        matches!(self, Happening::Delete | Happening::Replace(_))
    }
}

/// No two entries are equal: of equal ones nobody could say which was read.
#[derive(Default)]
struct List {
    entries: Vec<Bytes>,
    written: usize,
}

impl List {
    fn append(&mut self, count: usize) {
        for _ in 0..count {
            self.entries.push(self.written.to_string().into());
            self.written += 1;
        }
    }

    fn page(&self, start: i64, most: usize) -> Page {
        let length = i64::try_from(self.entries.len()).unwrap();
        let start = store::resolve(start, length);
        let skip = usize::try_from(start).unwrap();
        Page {
            length,
            start,
            entries: self.entries.iter().skip(skip).take(most).cloned().collect(),
        }
    }
}

struct World {
    list: List,
    archived: bool,
    known: Known,
    looking: bool,
    doubted: Option<u64>,
    position: Position,
    /// A page that was read, on its way to the reader.
    page: Option<Page>,
    got: Vec<Bytes>,
    resets: Vec<Cause>,
    ever_got: HashMap<Bytes, usize>,
}

impl World {
    fn new(entries: usize) -> Self {
        let mut list = List::default();
        list.append(entries);
        let mut world = World {
            list,
            archived: false,
            known: Known::new(),
            looking: false,
            doubted: None,
            position: at(Position::open(0, None, &Known::new(), None)),
            page: None,
            got: Vec::new(),
            resets: Vec::new(),
            ever_got: HashMap::new(),
        };
        world.look_whole();
        world.position = at(Position::open(0, None, &world.known, None));
        world
    }

    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Append(count) => self.list.append(*count),
            Happening::Lose(count) => {
                let keep = self.list.entries.len().saturating_sub(*count);
                self.list.entries.truncate(keep);
            }
            Happening::Delete => self.list.entries.clear(),
            Happening::Replace(count) => {
                self.list.entries.clear();
                self.list.append(*count);
            }
            Happening::Look => drop(self.look()),
            Happening::Age => self.known.age(),
            Happening::Reader => drop(self.reader()),
        }
    }

    /// One question and its answer. Whether the look is done, with everything there looked at.
    fn look(&mut self) -> bool {
        if !self.looking {
            self.known.begin(self.doubted == Some(self.known.revision()));
            self.looking = true;
        }
        let answer = match self.known.ask() {
            Ask::Page { start, most } => Answer::Page(self.list.page(start, most)),
            Ask::Archived => Answer::Archived(self.archived),
        };
        match self.known.answer(answer) {
            Progress::Asking => false,
            Progress::Done { behind, .. } => {
                self.looking = false;
                !behind
            }
        }
    }

    fn look_whole(&mut self) {
        while !self.look() {}
    }

    /// One step of the reader. Whether it only waits.
    fn reader(&mut self) -> bool {
        if let Some(page) = self.page.take() {
            match self.position.read(page, &self.known) {
                Read::Tell(news) => self.told(news),
                Read::Outdated => {}
                Read::Doubt => self.doubted = Some(self.position.revision()),
            }
            return false;
        }
        match self.position.advance(&self.known) {
            Step::Tell(news) => self.told(news),
            Step::Read { start, most } => self.page = Some(self.list.page(start, most)),
            Step::Wait => return true,
        }
        false
    }

    fn told(&mut self, news: News) {
        match news {
            News::Entries { start, entries } => {
                assert_eq!(start, self.got_len(), "a gap, or entries twice");
                assert!(!entries.is_empty());
                for entry in &entries {
                    *self.ever_got.entry(entry.clone()).or_default() += 1;
                }
                self.got.extend(entries);
            }
            News::Reset { cause, next_start, .. } => {
                assert!(next_start <= self.got_len(), "what was never read is void");
                self.got.truncate(usize::try_from(next_start).unwrap());
                self.resets.push(cause);
            }
        }
        assert_eq!(self.position.next, self.got_len());
    }

    fn got_len(&self) -> i64 {
        i64::try_from(self.got.len()).unwrap()
    }

    /// Nothing happens any more: looks and reads until the reader waits after a look.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            self.look_whole();
            let mut steps = 0;
            while !self.reader() && steps < 1_000 {
                steps += 1;
                if self.doubted == Some(self.known.revision()) {
                    self.look_whole();
                }
            }
            if steps == 0 && self.page.is_none() {
                return;
            }
        }
        panic!("no rest: {:?}", self.position);
    }
}

fn at(opening: Opening) -> Position {
    match opening {
        Opening::At(position, _) => position,
        Opening::After(index) => panic!("asks for entry {index}"),
    }
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        6 => (1..6_usize).prop_map(Happening::Append),
        2 => (1..8_usize).prop_map(Happening::Lose),
        1 => Just(Happening::Delete),
        1 => (1..30_usize).prop_map(Happening::Replace),
        6 => Just(Happening::Look),
        2 => Just(Happening::Age),
        10 => Just(Happening::Reader),
    ];
    prop::collection::vec(one, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever happens, a reader ends up with what stands in Redis.
    #[test]
    fn a_reader_ends_up_with_the_list(entries in 0..40_usize, happenings in happenings()) {
        let mut world = World::new(entries);
        for happening in &happenings {
            world.happen(happening);
        }
        world.settle();
        prop_assert_eq!(&world.got, &world.list.entries);
    }

    /// Where Redis only lost ends, and not all, no entry is told twice: none that it kept, and it has no others.
    #[test]
    fn no_entry_is_told_twice_of_a_list_that_was_cut(happenings in happenings()) {
        // So many that no sequence of losses reaches the first.
        let mut world = World::new(0);
        world.happen(&Happening::Append(1_000));
        world.settle();
        for happening in happenings.iter().filter(|happening| !happening.ends_the_list()) {
            world.happen(happening);
        }
        world.settle();
        prop_assert_eq!(&world.got, &world.list.entries);
        prop_assert!(world.resets.iter().all(|cause| *cause == Cause::Shortened), "{:?}", world.resets);
        prop_assert!(world.ever_got.values().all(|count| *count == 1));
    }

    #[test]
    fn appends_alone_reset_nothing(entries in 0..40_usize, happenings in happenings()) {
        let mut world = World::new(entries);
        let loses = |happening: &Happening| happening.ends_the_list() || matches!(happening, Happening::Lose(_));
        for happening in happenings.iter().filter(|happening| !loses(happening)) {
            world.happen(happening);
        }
        world.settle();
        prop_assert_eq!(&world.got, &world.list.entries);
        prop_assert_eq!(&world.resets, &[]);
    }
}

#[test]
fn a_list_that_is_gone_says_whether_it_was_archived() {
    for (archived, cause) in [(false, Cause::Deleted), (true, Cause::Archived)] {
        let mut world = World::new(3);
        world.settle();
        world.archived = archived;
        world.happen(&Happening::Delete);
        world.settle();
        assert_eq!(world.resets, [cause]);
        // Told once; and what is written next is read from the first entry on.
        world.happen(&Happening::Append(2));
        world.settle();
        assert_eq!((world.resets.len(), world.got.len()), (1, 2));
    }
}

#[test]
fn another_list_that_has_grown_past_the_reader_is_noticed() {
    let mut world = World::new(3);
    world.settle();
    world.happen(&Happening::Replace(10));
    world.settle();
    assert_eq!(world.resets, [Cause::Replaced]);
    assert_eq!(world.got, world.list.entries);
}

#[test]
fn a_cut_deeper_than_what_is_remembered_begins_again() {
    let mut world = World::new(0);
    for _ in 0..5 {
        world.happen(&Happening::Append(1_000));
        world.settle();
    }
    world.happen(&Happening::Lose(recent::MAX_ITEMS - 1));
    world.settle();
    assert_eq!(world.resets, [Cause::Shortened]);
    world.happen(&Happening::Lose(recent::MAX_ITEMS + 1));
    world.settle();
    assert_eq!(world.resets, [Cause::Shortened, Cause::Replaced]);
    assert_eq!(world.got, world.list.entries);
}

#[test]
fn a_reader_that_missed_too_many_resets_begins_again() {
    let mut world = World::new(10);
    world.settle();
    for _ in 0..20 {
        world.happen(&Happening::Lose(1));
        world.happen(&Happening::Append(1));
        world.look_whole();
    }
    world.settle();
    assert_eq!(world.resets, [Cause::Replaced]);
    assert_eq!(world.got, world.list.entries);
}

#[test]
fn an_entry_changed_where_nobody_looks_is_noticed_by_who_reads_it() {
    let mut world = World::new(1_500);
    // Two pages: the window is gone, the overlap is read from Redis.
    world.known.age();
    world.known.age();
    while world.got.is_empty() {
        world.reader();
    }
    let last = world.got.len() - 1;
    world.list.entries[last] = Bytes::from_static(b"\"other\"");
    world.settle();
    assert_eq!(world.resets, [Cause::Replaced]);
    assert_eq!(world.got, world.list.entries);
}

#[test]
fn a_page_that_a_look_has_overtaken_is_no_reason_for_doubt() {
    use Happening::{Age, Append, Look, Lose, Reader};
    let mut world = World::new(1_000);
    world.settle();
    let first = [Lose(1), Append(2), Look, Look, Age, Reader];
    let then = [Age, Append(1), Reader, Lose(1), Append(1), Look];
    for happening in first.iter().chain(&then) {
        world.happen(happening);
    }
    assert!(world.page.is_some());
    world.settle();
    assert_eq!(world.resets, [Cause::Shortened]);
    assert_eq!(world.got, world.list.entries);
}

#[test]
fn a_reader_opens_where_it_wants_to_be() {
    let known = |entries: usize, archived: bool| {
        let mut world = World::new(0);
        world.known = Known::new();
        world.archived = archived;
        world.list.append(entries);
        world.look_whole();
        world.known
    };
    let print = |text: &str| Some(Print::of(text.as_bytes()));
    let opened = |start, previous, known: &Known, before| match Position::open(start, previous, known, before) {
        Opening::At(position, None) => Ok((position.next, None)),
        Opening::At(position, Some(News::Reset { cause, next_start, .. })) => {
            assert_eq!(position.next, next_start);
            Ok((next_start, Some(cause)))
        }
        Opening::At(_, Some(news)) => panic!("{news:?}"),
        Opening::After(index) => Err(index),
    };

    let five = known(5, false);
    for (start, next) in [(0, 0), (3, 3), (5, 5), (-1, 4), (-5, 0), (i64::MIN, 0)] {
        assert_eq!(opened(start, None, &five, None), Ok((next, None)), "{start}");
    }
    assert_eq!(opened(5, print("4"), &five, None), Ok((5, None)));
    assert_eq!(opened(5, print("3"), &five, None), Ok((0, Some(Cause::Replaced))));
    assert_eq!(opened(6, print("5"), &five, None), Ok((0, Some(Cause::Replaced))));
    assert_eq!(opened(i64::MAX, None, &five, None), Ok((0, Some(Cause::Replaced))));

    let none = known(0, false);
    assert_eq!(opened(0, None, &none, None), Ok((0, None)));
    assert_eq!(opened(-3, None, &none, None), Ok((0, None)));
    assert_eq!(opened(1, print("0"), &none, None), Ok((0, Some(Cause::Deleted))));
    assert_eq!(opened(0, None, &known(0, true), None), Ok((0, Some(Cause::Archived))));

    // Of a long list that was just met only the end is remembered.
    let long = known(1_000, false);
    assert_eq!(opened(10, None, &long, None), Err(9));
    let read = |text: &str| print(text).map(|print| (9, print));
    assert_eq!(opened(10, print("9"), &long, read("9")), Ok((10, None)));
    assert_eq!(opened(10, print("9"), &long, read("x")), Ok((0, Some(Cause::Replaced))));
}
