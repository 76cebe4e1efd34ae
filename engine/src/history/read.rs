//! Looking things up in history.

use std::collections::BTreeSet;
use std::iter::Peekable;

use super::History;
use super::key::{Key, What};
use super::tables::Range;
use super::value::{Block, Commit};
use crate::big::{BlockId, TreeId};
use crate::error::{Error, Result};
use crate::id::{ClassId, Slot};
use crate::slots::SEQ_LIMIT;

/// An object in one use of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) slot: Slot,
    pub(crate) generation: u8,
}

impl Subject {
    /// The object that a map is of.
    pub(super) fn of_map(tree: TreeId) -> Self {
        Subject {
            slot: tree.slot,
            generation: tree.generation,
        }
    }

    pub(super) fn key(self, what: What, seq: u64) -> Key {
        Key {
            slot: self.slot,
            generation: self.generation,
            what,
            seq,
        }
    }

    fn damaged(self, why: &str) -> Error {
        Error::damaged(format!("the history of slot {}", self.slot), why)
    }
}

impl History {
    /// The first entry in a range.
    fn first(&self, from: Key, to: Key) -> Result<Option<(Key, Vec<u8>)>> {
        // Recent entries first: what leaves them is in a table by then.
        let recent = {
            let recent = self.recent.read();
            let found = recent.first(from, to);
            found.map(|(key, recent)| (*key, recent.value.clone()))
        };
        let stored = self.tables.range(from..=to).next().transpose()?;
        Ok(match (recent, stored) {
            (Some(recent), Some(stored)) if recent.0 < stored.0 => Some(recent),
            (recent, stored) => stored.or(recent),
        })
    }

    /// The first entry of a kind behind a commit.
    fn after(&self, of: Subject, what: What, seq: u64) -> Result<Option<(Key, Vec<u8>)>> {
        self.first(of.key(what, seq + 1), of.key(what, SEQ_LIMIT - 1))
    }

    /// The first commit after the one of this number.
    pub(super) fn commit_after(&self, of: Subject, seq: u64) -> Result<Option<(u64, Commit)>> {
        let found = self.after(of, What::Commit, seq)?;
        found
            .map(|(key, value)| Ok((key.seq, decode(of, &value)?)))
            .transpose()
    }

    /// The commits from this number on.
    pub(super) fn commits(&self, of: Subject, from: u64) -> Commits {
        let last = of.key(What::Commit, SEQ_LIMIT - 1);
        let from = of.key(What::Commit, from);
        let recent: Vec<_> = {
            let recent = self.recent.read();
            let commits = recent.commits(from, last).iter();
            commits
                .map(|(key, recent)| (*key, recent.value.clone()))
                .collect()
        };
        Commits {
            of,
            recent: recent.into_iter().peekable(),
            stored: self.tables.range(from..=last).peekable(),
        }
    }

    /// Whether the state as of a commit can be had, and what comes next is a class's.
    pub(crate) fn is_point(&self, class: ClassId, of: Subject, seq: u64) -> Result<bool> {
        let next = self.commit_after(of, seq)?;
        Ok(next.is_none_or(|(next, commit)| {
            commit.class == class && next.checked_sub(commit.back) == Some(seq)
        }))
    }

    /// A time, in milliseconds since 1970, that no entry of a commit after this one is older than.
    pub(crate) fn since_ms(&self, class: ClassId, of: Subject, seq: u64) -> Result<u64> {
        // Times grow with numbers.
        let found = self.commits(of, seq).next().transpose()?;
        let time_ms = found.map_or(0, |(_, commit)| commit.time_ms);
        Ok(time_ms.max(self.complete_since(class)))
    }

    /// The first commit after this one that ended the object's map.
    pub(super) fn end_after(&self, of: Subject, seq: u64) -> Result<Option<u64>> {
        let found = self.after(of, What::End, seq)?;
        Ok(found.map(|(key, _)| key.seq))
    }

    /// What a block was before the first commit after this one that changed it, and the number of that.
    pub(super) fn block_after(
        &self,
        of: Subject,
        id: BlockId,
        seq: u64,
    ) -> Result<Option<(u64, Block)>> {
        let found = self.after(of, What::Block(id), seq)?;
        let decoded = |(key, value): (Key, Vec<u8>)| {
            let block = Block::decode(&value);
            Ok((
                key.seq,
                block.ok_or_else(|| of.damaged("a block makes no sense"))?,
            ))
        };
        found.map(decoded).transpose()
    }

    /// The blocks that commits after this one have changed.
    pub(super) fn blocks_changed_since(&self, of: Subject, seq: u64) -> Result<BTreeSet<BlockId>> {
        /// Entries of one block that are read on before the next block is sought.
        const READ_ON: usize = 16;
        let block = |file, number| of.key(What::Block(BlockId { file, number }), 0);
        let (mut from, last) = (block(0, 0), block(u8::MAX, u32::MAX));
        let mut changed = BTreeSet::new();
        let mut note = |key: &Key| match key.what {
            What::Block(id) => {
                let is_known = changed.contains(&id) || (key.seq > seq && changed.insert(id));
                Some((id, is_known))
            }
            _ => None,
        };
        // Recent entries first: what leaves them is in a table by then.
        for (key, _) in self.recent.read().others(from, last) {
            note(key);
        }
        'seek: loop {
            let (mut before, mut again) = (None, 0);
            for entry in self.tables.range(from..=last) {
                let (key, _) = entry?;
                let Some((id, is_known)) = note(&key) else {
                    break;
                };
                again = if before.replace(id) == Some(id) {
                    again + 1
                } else {
                    0
                };
                if again < READ_ON {
                    continue;
                }
                from = match id.number.checked_add(1) {
                    Some(number) if is_known => block(id.file, number),
                    _ => Key {
                        seq: key.seq.max(seq) + 1,
                        ..key
                    },
                };
                continue 'seek;
            }
            return Ok(changed);
        }
    }

    /// Whether anything is known of an object's past.
    pub(crate) fn has(&self, of: Subject) -> Result<bool> {
        Ok(self.commit_after(of, 0)?.is_some())
    }
}

fn decode(of: Subject, value: &[u8]) -> Result<Commit> {
    Commit::decode(value).ok_or_else(|| of.damaged("a commit makes no sense"))
}

/// The commits of an object, the oldest first.
pub(super) struct Commits {
    of: Subject,
    recent: Peekable<std::vec::IntoIter<(Key, Vec<u8>)>>,
    stored: Peekable<Range>,
}

impl Iterator for Commits {
    type Item = Result<(u64, Commit)>;

    fn next(&mut self) -> Option<Self::Item> {
        let recent = self.recent.peek().map(|(key, _)| *key);
        let stored = match self.stored.peek() {
            Some(Ok((key, _))) => Some(*key),
            Some(Err(error)) => return Some(Err(error.clone())),
            None => None,
        };
        let item = match (recent, stored) {
            (Some(recent), Some(stored)) if recent < stored => self.recent.next(),
            (recent, Some(stored)) => {
                if recent == Some(stored) {
                    self.recent.next();
                }
                self.stored.next()?.ok()
            }
            (_, None) => self.recent.next(),
        };
        let (key, value) = item?;
        Some(decode(self.of, &value).map(|commit| (key.seq, commit)))
    }
}
