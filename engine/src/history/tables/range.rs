//! The entries of several tables as one sequence.
//!
//! 1. Each table has a place in a heap, under the key of the entry that it stands at, or, as long as a block was not
//!    read, under a key that no entry of the block is below.
//! 2. The place that comes first is taken. If it is an unread block, the block is read, and the place goes back.
//! 3. Otherwise its entry is next, unless the last one had the same key: of equal keys the oldest table comes first.
//!
//! So a block is read only when an entry of it may be next.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use super::table::{BlockCache, Step, Table, TableCursor};
use crate::error::{Error, Result};
use crate::history::key::Key;

#[derive(Debug)]
struct Place {
    key: Key,
    is_read: bool,
    /// Grows from the oldest table to the newest.
    age: usize,
    cursor: TableCursor,
}

impl Place {
    /// Unread blocks come before entries of the same key: they may have it, too.
    fn order(&self) -> (Key, bool, usize) {
        (self.key, self.is_read, self.age)
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

/// Entries in ascending order. After an error there are no more.
#[derive(Debug)]
pub(crate) struct Range {
    heap: BinaryHeap<Reverse<Place>>,
    end: Bound<Key>,
    last: Option<Key>,
    /// The place of the entry that was given out.
    given: Option<Place>,
    cache: Option<Arc<BlockCache>>,
    error: Option<Error>,
}

impl Range {
    /// The entries of tables, oldest first. A table that cannot be read fails the range.
    pub(crate) fn over<'a>(
        tables: impl Iterator<Item = std::result::Result<&'a Arc<Table>, &'a Error>>,
        keys: &impl RangeBounds<Key>,
        cache: Option<Arc<BlockCache>>,
    ) -> Self {
        let end = keys.end_bound().cloned();
        let (from, last) = match keys.start_bound() {
            Bound::Included(key) => (Some(*key), None),
            Bound::Excluded(key) => (Some(*key), Some(*key)),
            Bound::Unbounded => (None, None),
        };
        let mut range = Range {
            heap: BinaryHeap::new(),
            end,
            last,
            given: None,
            cache,
            error: None,
        };
        for (age, table) in tables.enumerate() {
            match table {
                Ok(table) => {
                    let (cursor, step) = TableCursor::seek(table, from);
                    range.place(age, cursor, step);
                }
                Err(error) => range.error = Some(error.clone()),
            }
        }
        range
    }

    fn place(&mut self, age: usize, cursor: TableCursor, step: Step) {
        let (key, is_read) = match step {
            Step::Entry(key) => (key, true),
            Step::Unread(key) => (key, false),
            Step::End => return,
        };
        let is_behind = match self.end {
            Bound::Included(end) => key > end,
            Bound::Excluded(end) => key >= end,
            Bound::Unbounded => false,
        };
        if !is_behind {
            self.heap.push(Reverse(Place {
                key,
                is_read,
                age,
                cursor,
            }));
        }
    }

    fn go_on(&mut self, mut place: Place) -> Result<()> {
        let step = place.cursor.next(&place.key, self.cache.as_deref())?;
        self.place(place.age, place.cursor, step);
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<(Key, Vec<u8>)>> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if let Some(given) = self.given.take() {
            self.go_on(given)?;
        }
        while let Some(Reverse(place)) = self.heap.pop() {
            if place.is_read && self.last != Some(place.key) {
                let entry = (place.key, place.cursor.value().to_vec());
                self.last = Some(place.key);
                self.given = Some(place);
                return Ok(Some(entry));
            }
            self.go_on(place)?;
        }
        Ok(None)
    }
}

impl Iterator for Range {
    type Item = Result<(Key, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.heap.clear();
        }
        next.transpose()
    }
}
