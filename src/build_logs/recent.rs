//! The last items of a list.

use std::collections::VecDeque;

use super::store::PAGE_BYTES;

/// So many items are kept at most.
pub(super) const MAX_ITEMS: usize = 2_048;

/// The last items of a list, with the index of each: at most [`MAX_ITEMS`], of entries that make up at most [`PAGE_BYTES`]
/// unless it is one. The oldest go first.
#[derive(Debug)]
pub(super) struct Recent<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    /// Index after the last item.
    end: i64,
}

impl<T> Recent<T> {
    /// None, before the item at `end`.
    pub(super) fn new(end: i64) -> Self {
        Recent {
            items: VecDeque::new(),
            bytes: 0,
            end,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Index of the first item.
    pub(super) fn start(&self) -> i64 {
        self.end - count(self.items.len())
    }

    /// The item at `index`.
    pub(super) fn at(&self, index: i64) -> Option<&T> {
        let offset = usize::try_from(index - self.start()).ok()?;
        self.items.get(offset).map(|(item, _)| item)
    }

    /// The items from `index` on; none if some of them are not here.
    pub(super) fn from(&self, index: i64) -> Option<impl Iterator<Item = &T>> {
        let offset = usize::try_from(index - self.start()).ok()?;
        (offset <= self.items.len()).then(|| self.items.range(offset..).map(|(item, _)| item))
    }

    /// Adds an item for an entry of `bytes` bytes.
    pub(super) fn push(&mut self, item: T, bytes: usize) {
        self.items.push_back((item, bytes));
        self.bytes += bytes;
        self.end += 1;
        while self.items.len() > MAX_ITEMS || (self.bytes > PAGE_BYTES && self.items.len() > 1) {
            self.drop_first(1);
        }
    }

    /// Drops the oldest `count` items.
    pub(super) fn drop_first(&mut self, count: usize) {
        for (_, bytes) in self.items.drain(..count.min(self.items.len())) {
            self.bytes -= bytes;
        }
        if self.items.is_empty() {
            // What was only wanted for a moment leaves no room behind.
            self.items = VecDeque::new();
        }
    }

    /// Drops the items from `index` on; the list ends there.
    pub(super) fn truncate(&mut self, index: i64) {
        let keep = usize::try_from(index - self.start()).unwrap_or(0);
        for (_, bytes) in self.items.drain(keep.min(self.items.len())..) {
            self.bytes -= bytes;
        }
        self.end = index;
    }
}

fn count(len: usize) -> i64 {
    // No length of anything in memory is beyond.
    i64::try_from(len).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(items: i64, bytes: usize) -> Recent<i64> {
        let mut recent = Recent::new(0);
        (0..items).for_each(|item| recent.push(item, bytes));
        recent
    }

    #[test]
    fn items_keep_their_index() {
        let mut recent = filled(5, 1);
        recent.drop_first(2);
        assert_eq!((recent.start(), recent.len()), (2, 3));
        assert_eq!((recent.at(1), recent.at(2), recent.at(5)), (None, Some(&2), None));
        assert_eq!(recent.from(3).map(|items| items.copied().collect()), Some(vec![3, 4]));
        assert_eq!(recent.from(5).map(Iterator::count), Some(0));
        assert!(recent.from(1).is_none() && recent.from(6).is_none());
        recent.truncate(4);
        assert_eq!(recent.from(2).map(|items| items.copied().collect()), Some(vec![2, 3]));
        recent.truncate(1);
        assert_eq!((recent.start(), recent.len()), (1, 0));
        recent.push(7, 1);
        assert_eq!(recent.at(1), Some(&7));
    }

    #[test]
    fn memory_is_bounded() {
        let full = filled(3_000, 1);
        assert_eq!((full.len(), full.start()), (MAX_ITEMS, 952));
        let large = filled(10, PAGE_BYTES / 4);
        assert_eq!((large.len(), large.bytes), (4, PAGE_BYTES));
        assert_eq!(filled(3, 2 * PAGE_BYTES).len(), 1);
    }
}
