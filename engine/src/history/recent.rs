//! Entries that no table has yet.
//!
//! Nearly all of them are commits, which come object by object in ascending order: those of an object are a list
//! that grows at its end. Only a table wants all in order, and sorts them then.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rustc_hash::FxHashMap;

use super::key::{Key, What};
use crate::id::{ClassId, Slot};

/// What an entry takes in memory beside its value.
const OVERHEAD_BYTES: usize = 120;

/// An entry.
#[derive(Clone, Debug)]
pub(super) struct Recent {
    pub(super) class: ClassId,
    pub(super) time_ms: u64,
    pub(super) value: Vec<u8>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Recents {
    /// By object, ascending.
    commits: FxHashMap<Slot, Vec<(Key, Recent)>>,
    /// Of big objects.
    others: BTreeMap<Key, Recent>,
}

impl Recents {
    /// Adds an entry, unless there is one with this key: what was said first stays, see `blocks.rs`. Returns the
    /// bytes that it takes.
    pub(super) fn add(&mut self, key: Key, recent: Recent) -> usize {
        let bytes = OVERHEAD_BYTES + recent.value.len();
        if key.what != What::Commit {
            return match self.others.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(recent);
                    bytes
                }
                Entry::Occupied(_) => 0,
            };
        }
        let commits = self.commits.entry(key.slot).or_default();
        let at = match commits.last() {
            Some((last, _)) if *last >= key => {
                match commits.binary_search_by_key(&key, |(key, _)| *key) {
                    Ok(_) => return 0,
                    Err(at) => at,
                }
            }
            _ => commits.len(),
        };
        commits.insert(at, (key, recent));
        bytes
    }

    /// The commits of an object from one key to another, ascending.
    pub(super) fn commits(&self, from: Key, to: Key) -> &[(Key, Recent)] {
        let commits = self.commits.get(&from.slot).map_or(&[][..], Vec::as_slice);
        let end = commits.partition_point(|(key, _)| *key <= to);
        let start = commits[..end].partition_point(|(key, _)| *key < from);
        &commits[start..end]
    }

    /// The entries that are not commits from one key to another, ascending.
    pub(super) fn others(&self, from: Key, to: Key) -> impl Iterator<Item = (&Key, &Recent)> {
        self.others.range(from..=to)
    }

    /// The first entry from one key to another of the same object, either both of commits or none.
    pub(super) fn first(&self, from: Key, to: Key) -> Option<(&Key, &Recent)> {
        match from.what {
            What::Commit => {
                let first = self.commits(from, to).first();
                first.map(|(key, recent)| (key, recent))
            }
            _ => self.others(from, to).next(),
        }
    }

    /// All entries, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Recent)> {
        let commits = self.commits.values().flatten();
        let commits = commits.map(|(key, recent)| (key, recent));
        commits.chain(&self.others)
    }

    pub(super) fn clear(&mut self) {
        *self = Recents::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::big::BlockId;

    #[test]
    fn entries_are_found_in_order_whatever_the_order_in_which_they_came() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut recents, mut model) = (Recents::default(), BTreeMap::new());
        for round in 0..3000_u64 {
            let what = match rng.u8(..8) {
                0 => What::End,
                1 => What::Block(BlockId {
                    file: rng.u8(..2),
                    number: rng.u32(..9),
                }),
                _ => What::Commit,
            };
            let key = Key {
                slot: Slot::new(rng.u64(1..5)).unwrap(),
                generation: rng.u8(..2),
                what,
                seq: round / 4 + rng.u64(..40),
            };
            let value = round.to_le_bytes().to_vec();
            let recent = Recent {
                class: ClassId(1),
                time_ms: round,
                value: value.clone(),
            };
            let is_new = recents.add(key, recent) > 0;
            assert_eq!(is_new, !model.contains_key(&key));
            model.entry(key).or_insert(value);
        }
        let mut all: Vec<_> = recents.iter().collect();
        all.sort_unstable_by_key(|(key, _)| **key);
        let all = all.into_iter().map(|(key, recent)| (key, &recent.value));
        assert!(all.eq(&model));
        for from in model.keys() {
            let to = Key {
                seq: from.seq + 20,
                ..*from
            };
            let first = recents.first(*from, to).map(|(key, _)| key);
            assert_eq!(first, model.range(from..=&to).next().map(|(key, _)| key));
            if from.what == What::Commit {
                let commits = recents.commits(*from, to).iter().map(|(key, _)| key);
                assert!(commits.eq(model.range(from..=&to).map(|(key, _)| key)));
            }
        }
    }
}
