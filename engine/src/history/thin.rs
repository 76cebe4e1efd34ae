//! Thinning: of commits older than a day, one state a minute is enough for some.
//!
//! What remains is the last state of each minute. A commit that stays undoes all those of its minute at once, so
//! that it leads to the state before them. States of a small object are found by going back from the next whole
//! one, and what differs between those that stay is written anew; commits behind the last whole one stay as they
//! are. Of a block, what it was before the first of several commits that no point lies between is enough.

use std::collections::VecDeque;

use dovehouse_wal::bytes::Reader;

use super::key::{Key, What};
use super::undo::operations;
use super::value::{Commit, Undo};
use crate::error::{Error, Result};
use crate::record::apply_delta;
use crate::state::State;

const MINUTE_MS: u64 = 60_000;

/// Commits that are gone through at a time, if no whole state comes.
const HELD_MAX: usize = 4096;

/// How an entry is passed on.
type Item = Result<(Key, Vec<u8>)>;

/// The entries that remain, of entries in ascending order.
pub(super) struct Thinned<I> {
    entries: I,
    /// Commits of one object, in order, that wait for a whole state.
    held: Vec<(Key, Commit)>,
    ready: VecDeque<Item>,
    /// The object's points: numbers of its commits that can be had.
    points: Vec<u64>,
    /// The last block entry that was passed on.
    block: Option<Key>,
}

impl<I: Iterator<Item = Item>> Thinned<I> {
    pub(super) fn new(entries: I) -> Self {
        Thinned {
            entries,
            held: Vec::new(),
            ready: VecDeque::new(),
            points: Vec::new(),
            block: None,
        }
    }

    fn take(&mut self, key: Key, value: Vec<u8>) -> Result<()> {
        let is_same = |other: &Key| (other.slot, other.generation) == (key.slot, key.generation);
        if !self.held.first().is_none_or(|(first, _)| is_same(first)) || key.what != What::Commit {
            self.release(None);
        }
        match key.what {
            What::Commit => {
                let commit = Commit::decode(&value).ok_or_else(|| {
                    let what = format!("the history of slot {}", key.slot);
                    Error::damaged(what, "a commit makes no sense")
                })?;
                if self.held.is_empty() && key.seq.saturating_sub(commit.back) < self.last_point() {
                    self.points.clear();
                }
                let whole = match &commit.undo {
                    Undo::State(state) => Some((**state).clone()),
                    _ => None,
                };
                let is_boundary = !matches!(
                    commit.undo,
                    Undo::Nothing | Undo::Operations(_) | Undo::Big(_)
                );
                if is_boundary {
                    self.release(whole);
                    self.pass(key, &commit);
                } else {
                    let changes_form = self.held.last().is_some_and(|(_, last)| {
                        matches!(last.undo, Undo::Big(_)) != matches!(commit.undo, Undo::Big(_))
                    });
                    if changes_form || self.held.len() >= HELD_MAX {
                        self.release(None);
                    }
                    self.held.push((key, commit));
                }
            }
            What::End => self.ready.push_back(Ok((key, value))),
            What::Block(_) => self.take_block(key, value),
        }
        Ok(())
    }

    fn last_point(&self) -> u64 {
        self.points.last().copied().unwrap_or(0)
    }

    fn pass(&mut self, key: Key, commit: &Commit) {
        self.points.push(key.seq);
        self.ready.push_back(Ok((key, commit.encode())));
    }

    /// Passes on what is held; `state` is what the object was after it, if that is known.
    fn release(&mut self, state: Option<State>) {
        let held = std::mem::take(&mut self.held);
        let is_big = held
            .first()
            .is_some_and(|(_, commit)| matches!(commit.undo, Undo::Big(_)));
        let same_minute = |a: &(Key, Commit), b: &(Key, Commit)| {
            a.1.time_ms / MINUTE_MS == b.1.time_ms / MINUTE_MS
        };
        let minutes: Vec<_> = held.chunk_by(same_minute).collect();
        let thinned = match state {
            _ if is_big => Some(minutes.iter().map(|minute| fold_big(minute)).collect()),
            Some(state) => fold_all(&minutes, state),
            None => None,
        };
        match thinned {
            Some(thinned) => {
                let thinned: Vec<(Key, Commit)> = thinned;
                thinned
                    .iter()
                    .for_each(|(key, commit)| self.pass(*key, commit));
            }
            None => held
                .iter()
                .for_each(|(key, commit)| self.pass(*key, commit)),
        }
    }

    /// A block entry is needed if a point lies between it and the one before.
    fn take_block(&mut self, key: Key, value: Vec<u8>) {
        let before = self.block.filter(|before| {
            (before.slot, before.generation, before.what) == (key.slot, key.generation, key.what)
        });
        let is_needed = before.is_none_or(|before| {
            let from = self.points.partition_point(|point| *point < before.seq);
            // What this table does not know of may be a point.
            let is_known = self
                .points
                .first()
                .is_some_and(|first| *first <= before.seq)
                && key.seq <= self.last_point();
            !is_known || self.points.get(from).is_some_and(|point| *point < key.seq)
        });
        if is_needed {
            self.block = Some(key);
            self.ready.push_back(Ok((key, value)));
        }
    }
}

impl<I: Iterator<Item = Item>> Iterator for Thinned<I> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        while self.ready.is_empty() {
            match self.entries.next() {
                Some(Ok((key, value))) => {
                    if let Err(error) = self.take(key, value) {
                        return Some(Err(error));
                    }
                }
                Some(Err(error)) => return Some(Err(error)),
                None if self.held.is_empty() => return None,
                None => self.release(None),
            }
        }
        self.ready.pop_front()
    }
}

/// The last commit of a minute, with the bytes of all, and how far it leads back.
fn fold(minute: &[(Key, Commit)], undo: Undo) -> (Key, Commit) {
    let (key, last) = minute.last().expect("a minute has a commit");
    let commit = Commit {
        class: last.class,
        time_ms: last.time_ms,
        bytes: minute.iter().map(|(_, commit)| commit.bytes).sum(),
        back: minute.iter().map(|(_, commit)| commit.back).sum(),
        undo,
    };
    (*key, commit)
}

fn fold_big(minute: &[(Key, Commit)]) -> (Key, Commit) {
    fold(minute, minute[0].1.undo.clone())
}

/// Commits of a small object, whose state after all of them is known. `None` if one of them makes no sense.
fn fold_all(minutes: &[&[(Key, Commit)]], mut state: State) -> Option<Vec<(Key, Commit)>> {
    let mut folded = Vec::with_capacity(minutes.len());
    for minute in minutes.iter().rev() {
        let after = state.clone();
        for (_, commit) in minute.iter().rev() {
            if let Undo::Operations(operations) = &commit.undo {
                apply_delta(Reader::new(operations), &mut state)?;
            }
        }
        let undo = match minute.len() {
            1 => minute[0].1.undo.clone(),
            _ => operations(&after.changes_to(&state), &state.alarms),
        };
        folded.push(fold(minute, undo));
    }
    folded.reverse();
    Some(folded)
}
