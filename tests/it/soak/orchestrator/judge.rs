//! What was told of keys, held against when they were due.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

use super::{
    Faults, SetKey,
    watcher::{Delivery, Fate},
};
use crate::soak::measure::{At, Quantiles, duration};

/// What the manager without the gateway wrote down.
#[derive(Debug, Default)]
pub(super) struct ByManager {
    pub set: Vec<SetKey>,
    pub taken: Vec<(String, At)>,
    /// Keys that it took from Redis, perhaps without telling anyone: the connection was lost halfway.
    pub halfway: HashSet<String>,
}

pub(super) fn by_manager(journal: &Path) -> ByManager {
    let mut found = ByManager::default();
    for line in fs::read_to_string(journal).unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |n: usize| words[n].parse::<At>().unwrap();
        let key = words[1].to_owned();
        match words[0] {
            "set" => found.set.push(SetKey {
                key,
                due: Some(number(3) + number(5) * 1_000_000_000),
            }),
            "taking" => drop(found.halfway.insert(key)),
            "expired" => {
                found.halfway.remove(&key);
                found.taken.push((key, number(3)));
            }
            _ => panic!("an unknown line: {line}"),
        }
    }
    found
}

/// What came of a run.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub keys: usize,
    pub by_gateways: usize,
    pub by_manager: usize,
    /// Told again since the client before went away first.
    pub died: usize,
    /// Told twice since the manager without the gateway read a value before a gateway claimed the key, and deleted it after.
    pub raced: usize,
    /// Told twice since their value is empty: those stay, and each manager without the gateway takes them.
    pub empty: usize,
    /// Taken halfway by the manager, and told nobody.
    pub lost_by_manager: usize,
    /// Taken by the manager although they had lost their expiration, as the reference does.
    pub quirks: usize,
}

/// Each key once; twice only where that is nobody's fault but of who takes without a claim, or went away. How late they were told.
pub(super) fn judge(set: &[SetKey], told: &[Delivery], manager: &ByManager, faults: &Faults) -> (Counts, Quantiles) {
    let mut by_key: HashMap<&str, Vec<&Delivery>> = HashMap::new();
    for delivery in told {
        by_key.entry(&delivery.key).or_default().push(delivery);
    }
    let taken: HashMap<&str, At> = manager.taken.iter().map(|(key, at)| (key.as_str(), *at)).collect();
    assert_eq!(taken.len(), manager.taken.len(), "the manager took a key twice");
    let mut counts = Counts {
        keys: set.len(),
        by_gateways: by_key.len(),
        by_manager: taken.len(),
        lost_by_manager: manager
            .halfway
            .iter()
            .filter(|key| !by_key.contains_key(key.as_str()))
            .count(),
        ..Counts::default()
    };
    let mut late = Vec::new();
    // From when on it could be told at `at`, if it was due at `due`.
    let could = |due: At, at: At| {
        faults
            .back
            .iter()
            .copied()
            .filter(|back| *back < at)
            .max()
            .unwrap_or(0)
            .max(due)
    };
    for SetKey { key, due } in set {
        let deliveries = by_key.remove(key.as_str()).unwrap_or_default();
        let by_manager = taken.get(key.as_str()).copied();
        let Some(due) = *due else {
            assert!(
                deliveries.is_empty(),
                "{key} never expires, and was told: {deliveries:?}"
            );
            counts.quirks += usize::from(by_manager.is_some());
            continue;
        };
        let number: usize = key.rsplit('-').next().unwrap().parse().unwrap();
        let value = if number.is_multiple_of(10) {
            String::new()
        } else {
            format!("value {number}")
        };
        let twice = usize::from(by_manager.is_some() && !deliveries.is_empty());
        *(if value.is_empty() {
            &mut counts.empty
        } else {
            &mut counts.raced
        }) += twice;
        for (n, delivery) in deliveries.iter().enumerate() {
            assert_eq!(delivery.value, value, "{key}");
            let last = n + 1 == deliveries.len();
            let not = if last { Fate::LeftToOthers } else { Fate::Acknowledged };
            assert_ne!(delivery.fate, not, "{key}: {deliveries:?}");
            counts.died += usize::from(!last);
            let from = n.checked_sub(1).map_or(due, |before| deliveries[before].at);
            late.push(duration(delivery.at - could(from, delivery.at)));
        }
        late.extend(by_manager.map(|at| duration(at - could(due, at))));
    }
    (counts, Quantiles::of(late))
}
