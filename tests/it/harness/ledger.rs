//! What an appender was told of each of its entries, held against what stands.

use std::collections::HashMap;

/// What a caller was told of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It stands.
    Done,
    /// It was not executed.
    NotExecuted,
    /// It may stand or not.
    Unknown,
}

/// The entries of one appender that numbers them from 0 and waits for each answer.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Vec<Told>);

/// How many entries were told what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) done: usize,
    pub(crate) not_executed: usize,
    pub(crate) unknown: usize,
    /// Those of `unknown` that stand.
    pub(crate) unknown_standing: usize,
}

impl Ledger {
    /// The number of the next entry.
    pub(crate) fn next(&self) -> usize {
        self.0.len()
    }

    /// Notes what was told of the next entry.
    pub(crate) fn note(&mut self, told: Told) {
        self.0.push(told);
    }

    /// Panics unless `standing`, the numbers in the list's order, holds nothing twice, all that was acknowledged, in order, and
    /// nothing that was not executed.
    pub(crate) fn check(&self, list: &str, standing: &[usize]) -> Counts {
        let mut places = HashMap::new();
        for (place, number) in standing.iter().enumerate() {
            let earlier = places.insert(*number, place);
            assert_eq!(
                earlier, None,
                "{list}: entry {number} stands twice, the second time at {place}"
            );
        }
        let mut counts = Counts::default();
        let mut latest = None;
        for (number, told) in self.0.iter().enumerate() {
            let place = places.remove(&number);
            match told {
                Told::Done => {
                    counts.done += 1;
                    assert!(
                        place.is_some(),
                        "{list}: entry {number} was acknowledged and is missing"
                    );
                    assert!(
                        place > latest,
                        "{list}: entry {number} stands before one that was acknowledged earlier"
                    );
                    latest = place;
                }
                Told::NotExecuted => {
                    counts.not_executed += 1;
                    assert_eq!(
                        place, None,
                        "{list}: entry {number} was said not to be executed and stands"
                    );
                }
                Told::Unknown => {
                    counts.unknown += 1;
                    counts.unknown_standing += usize::from(place.is_some());
                }
            }
        }
        assert!(places.is_empty(), "{list}: nobody appended {places:?}");
        counts
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.done += other.done;
        self.not_executed += other.not_executed;
        self.unknown += other.unknown;
        self.unknown_standing += other.unknown_standing;
    }
}
