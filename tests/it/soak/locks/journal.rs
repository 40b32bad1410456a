//! What holders of all kinds wrote down, and what it proves: independent of Redis and of the gateway, by the clock of the machine.
//! `tests/peers/lock_holders.py` describes the lines.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::soak::measure::{At, duration};

/// A file that lines are appended to by many.
#[derive(Clone)]
pub(super) struct Journal {
    file: Arc<File>,
    path: PathBuf,
}

impl Journal {
    pub(super) fn new(path: PathBuf) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        Journal {
            file: Arc::new(file),
            path,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one line, in one step.
    pub(super) fn note(&self, line: std::fmt::Arguments<'_>) {
        (&*self.file).write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// One try of one holder.
#[derive(Debug, Clone)]
pub(super) struct Try {
    pub kind: String,
    pub from: At,
    /// When it gave up. None: it did not, or it was killed.
    pub quit: Option<At>,
    pub entered: Option<Entered>,
}

/// A lock that a holder has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entered {
    pub at: At,
    /// Until when it is the holder's for sure, unless it leaves.
    until: At,
    /// None: killed, or gone without a release.
    pub left: Option<At>,
    /// 0: without a gateway.
    pub token: i64,
}

impl Entered {
    /// Until when nobody else may have it.
    fn end(&self) -> At {
        self.left.map_or(self.until, |left| left.min(self.until))
    }
}

/// All tries for one lock, by the time of their entry; those without one are last.
pub(super) type Tries = Vec<Try>;

/// Reads a journal: the tries for each lock.
pub(super) fn read(path: &Path) -> HashMap<String, Tries> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut tries: HashMap<(&str, &str), Try> = HashMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, lock, kind, holder, at, rest @ ..] = &words[..] else {
            panic!("a torn line: {line}");
        };
        let (at, number) = (at.parse::<At>().unwrap(), |n: usize| rest[n].parse::<At>().unwrap());
        if *what == "try" {
            let new = Try {
                kind: (*kind).to_owned(),
                from: at,
                quit: None,
                entered: None,
            };
            assert!(tries.insert((lock, holder), new).is_none(), "tried twice: {line}");
            continue;
        }
        let one = tries
            .get_mut(&(*lock, *holder))
            .unwrap_or_else(|| panic!("not tried: {line}"));
        match (*what, &mut one.entered) {
            ("quit", None) => one.quit = Some(at),
            ("enter", none @ None) => {
                *none = Some(Entered {
                    at,
                    until: number(0),
                    left: None,
                    token: rest.get(1).map_or(0, |token| token.parse().unwrap()),
                });
            }
            ("keep", Some(entered)) => entered.until = number(0),
            ("leave", Some(entered)) => entered.left = Some(at),
            _ => panic!("out of order: {line}"),
        }
    }
    let mut locks: HashMap<String, Tries> = HashMap::new();
    for ((lock, _), tried) in tries {
        locks.entry(lock.to_owned()).or_default().push(tried);
    }
    for tries in locks.values_mut() {
        tries.sort_by_key(|tried| tried.entered.map_or(At::MAX, |entered| entered.at));
    }
    locks
}

/// Pairs of holders that had one lock at the same time.
pub(super) fn violations(tries: &[Try]) -> Vec<String> {
    let mut found = Vec::new();
    let mut before: Option<(&Try, Entered)> = None;
    for tried in tries {
        let Some(entered) = tried.entered else { continue };
        if let Some((other, held)) = before
            && entered.at < held.end()
        {
            found.push(format!("{tried:?} while {other:?}"));
        }
        if before.is_none_or(|(_, held)| held.end() < entered.end()) {
            before = Some((tried, entered));
        }
    }
    found
}

/// Tokens of one lock that are no larger than those before.
pub(super) fn tokens_that_do_not_grow(tries: &[Try]) -> usize {
    let tokens = tries.iter().filter_map(|tried| Some(tried.entered?.token));
    let tokens: Vec<i64> = tokens.filter(|token| *token != 0).collect();
    tokens.windows(2).filter(|pair| pair[1] <= pair[0]).count()
}

/// Stretches of time, in order and apart.
#[derive(Debug, Clone, Default)]
pub(super) struct Spans(pub Vec<(At, At)>);

impl Spans {
    /// How much of them lies between two times.
    pub(super) fn between(&self, from: At, to: At) -> At {
        let first = self.0.partition_point(|(_, end)| *end <= from);
        let of = self.0[first..].iter().take_while(|(begin, _)| *begin < to);
        of.map(|(begin, end)| (*end).min(to) - (*begin).max(from)).sum()
    }
}

/// The longest that one of a kind waited at a stretch for a lock that was free, Redis' pauses aside.
pub(super) fn slept(tries: &[Try], free: &Spans, paused: &Spans, kind: impl Fn(&str) -> bool) -> Duration {
    let mut worst = 0;
    for tried in tries.iter().filter(|tried| kind(&tried.kind)) {
        let Some(end) = tried.entered.map(|entered| entered.at).or(tried.quit) else {
            continue;
        };
        let first = free.0.partition_point(|(_, until)| *until <= tried.from);
        for (from, to) in free.0[first..].iter().take_while(|(from, _)| *from < end) {
            let (from, to) = ((*from).max(tried.from), (*to).min(end));
            worst = worst.max(to - from - paused.between(from, to));
        }
    }
    duration(worst)
}

/// How long locks took from the release by one to the answer to one who waited, Redis' pauses aside: by the kinds of both.
pub(super) fn hand_overs(tries: &[Try], paused: &Spans) -> Vec<((String, String), Duration)> {
    let entered = tries.iter().filter_map(|tried| Some((tried, tried.entered?)));
    let entered: Vec<(&Try, Entered)> = entered.collect();
    let hand_over = |pair: &[(&Try, Entered)]| {
        let [(one, held), (next, got)] = pair else { return None };
        let left = held.left.filter(|left| next.from < *left && *left <= got.at)?;
        let took = got.at - left - paused.between(left, got.at);
        Some(((one.kind.clone(), next.kind.clone()), duration(took)))
    };
    entered.windows(2).filter_map(hand_over).collect()
}

/// How long those of a kind waited who got the lock, Redis' pauses aside.
pub(super) fn waits(tries: &[Try], paused: &Spans, kind: &str) -> Vec<Duration> {
    let wait = |tried: &Try| {
        let at = tried.entered.filter(|_| tried.kind == kind)?.at;
        Some(duration(at - tried.from - paused.between(tried.from, at)))
    };
    tries.iter().filter_map(wait).collect()
}

/// The proof proves something: a holder that enters too early is found, and one that does not is not.
#[test]
fn journal_finds_two_holders_and_tokens_that_do_not_grow() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::new(folder.path().join("journal"));
    for line in [
        // Left: another may enter. Not left, but ended: another may.
        "try a python p1 0",
        "enter a python p1 10 2010",
        "leave a python p1 50",
        "try a gateway g1 20",
        "enter a gateway g1 60 1060 7",
        "try a gateway g2 70",
        "enter a gateway g2 1060 3000 8",
        // While it is held; then as it is held longer, by who renewed.
        "try b go o1 0",
        "enter b go o1 10 2010",
        "try b python p2 5",
        "enter b python p2 2009 4009",
        "try c gateway g3 0",
        "enter c gateway g3 10 2010 9",
        "keep c gateway g3 1500 3500",
        "try c go o2 0",
        "enter c go o2 2011 4000",
        "try c gateway g4 0",
        "enter c gateway g4 4001 6000 9",
    ] {
        journal.note(format_args!("{line}"));
    }
    let locks = read(journal.path());
    let found = |lock: &str| (violations(&locks[lock]).len(), tokens_that_do_not_grow(&locks[lock]));
    assert_eq!([found("a"), found("b"), found("c")], [(0, 0), (1, 0), (1, 1)]);

    let free = Spans(vec![(50, 60), (1_000, 1_060)]);
    let paused = Spans(vec![(1_010, 1_020)]);
    assert_eq!(
        slept(&locks["a"], &free, &paused, |kind| kind == "gateway"),
        Duration::from_nanos(50)
    );
    let pair = |one: &str, next: &str, took| ((one.to_owned(), next.to_owned()), Duration::from_nanos(took));
    assert_eq!(hand_overs(&locks["a"], &paused), [pair("python", "gateway", 10)]);
}
