//! Following the log: every commit becomes an entry that says how to undo it.
//!
//! The log is read in the order in which it was written, behind the commits and off their path. What a commit
//! replaced is still where it was then, because no segment is reused before the log was followed to where its
//! content died. So all that history needs is found by the links between records: the version before a commit
//! by the link of its record; and a leaf of a big object's map, as it was before commits were settled into it,
//! by the link of its own.
//!
//! Reading something twice, after a crash or because a recovery wrote it again, gives the same entries.

use std::collections::{BTreeMap, HashMap};

use dovehouse_wal::bytes::Reader;
use dovehouse_wal::{Batch, Lsn, RecordView, Role};
use rustc_hash::FxHashMap;

use super::key::{Key, What};
use super::value::{BigBefore, Commit, Undo};
use crate::big::{Leaf, TreeId};
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::id::Slot;
use crate::load::LoadedState;
use crate::record::{Header, Kind};
use crate::state::{State, Working};

/// How far the log was followed.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// The next batch.
    pub(super) position: Lsn,
    pub(super) known: Known,
    /// By object: leaves of its map that were written since its last commit.
    pub(super) leaves: HashMap<Slot, Settling>,
}

/// Leaves into which an object's commits are being settled.
#[derive(Debug)]
pub(super) struct Settling {
    /// The batch of the first.
    pub(super) since: Lsn,
    pub(super) tree: TreeId,
    /// By slot.
    pub(super) leaves: BTreeMap<Slot, Before>,
}

/// What a leaf was before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    pub(super) file: u8,
    pub(super) index: u32,
    pub(super) at: Lsn,
}

/// An object as of a commit.
#[derive(Debug)]
pub(super) enum Version {
    Tiny(Box<Working>),
    Big(BigBefore),
    /// It cannot be read.
    Lost,
}

/// Objects as of the last commit that was seen of them, so that they need not be read again for the next one.
#[derive(Debug, Default)]
pub(super) struct Known {
    versions: FxHashMap<Slot, ((u8, u64), Version)>,
    bytes: usize,
    bytes_max: usize,
}

fn memory_bytes(version: &Version) -> usize {
    const OVERHEAD: usize = 200;
    match version {
        Version::Tiny(working) => OVERHEAD + 2 * working.state().bytes(),
        Version::Big(_) | Version::Lost => OVERHEAD,
    }
}

impl Known {
    pub(super) fn new(bytes_max: usize) -> Self {
        Known {
            bytes_max,
            ..Known::default()
        }
    }

    fn take(&mut self, slot: Slot) -> Option<((u8, u64), Version)> {
        let known = self.versions.remove(&slot)?;
        self.bytes -= memory_bytes(&known.1);
        Some(known)
    }

    pub(super) fn put(&mut self, header: &Header, version: Version) {
        if self.bytes > self.bytes_max {
            // What is still needed comes back.
            self.clear();
        }
        self.bytes += memory_bytes(&version);
        let known = ((header.generation, header.seq), version);
        if let Some((_, replaced)) = self.versions.insert(header.slot, known) {
            self.bytes -= memory_bytes(&replaced);
        }
    }

    pub(super) fn clear(&mut self) {
        self.versions.clear();
        self.bytes = 0;
    }
}

impl Scan {
    /// Where a scan after a crash has to begin.
    pub(super) fn resume_at(&self) -> Lsn {
        let settling = self.leaves.values().map(|settling| settling.since);
        settling
            .min()
            .map_or(self.position, |since| since.min(self.position))
    }
}

/// A commit that the scan is at.
pub(super) struct At<'a> {
    pub(super) record: &'a RecordView<'a>,
    pub(super) header: Header,
    pub(super) kind: Kind,
    pub(super) time_ms: u64,
}

impl At<'_> {
    /// The record's fields behind its header.
    pub(super) fn payload(&self) -> Reader<'_> {
        let mut reader = Reader::new(self.record.body);
        // It was decoded before.
        let _ = Header::decode(&mut reader);
        reader
    }

    /// A map of the object.
    pub(super) fn tree(&self, tree: u32) -> TreeId {
        TreeId {
            slot: self.header.slot,
            generation: self.header.generation,
            tree,
        }
    }

    pub(super) fn key(&self, what: What) -> Key {
        Key {
            slot: self.header.slot,
            generation: self.header.generation,
            what,
            seq: self.header.seq,
        }
    }
}

impl Inner {
    /// Follows the log to its durable end.
    pub(crate) fn follow_log(&self) -> Result<()> {
        let mut scan = self.history.scan.lock();
        let end = self.log.durable().end();
        if !self.history.keeps_any() {
            if end > scan.position {
                scan.position = end;
                self.history.lose_all(self.log.last_time_ms());
            }
            scan.leaves.clear();
            scan.known.clear();
            return Ok(());
        }
        let mut segments = self.log.segments();
        segments
            .retain(|segment| segment.role == Role::Log && segment.segno >= scan.position.segno());
        segments.sort_unstable_by_key(|segment| segment.segno);
        for segment in segments {
            let from = match segment.segno == scan.position.segno() {
                true => scan.position.offset(),
                false => 0,
            };
            let mut batches = self.log.batches(&segment, from);
            scan.position = scan.position.max(batches.position());
            while let Some(batch) = batches.next() {
                match batch {
                    Ok(batch) => self.scan_batch(&mut scan, &batch)?,
                    // Nobody can say what was in there.
                    Err(dovehouse_wal::Error::Corrupt { .. }) => {
                        self.history.lose_all(self.log.last_time_ms());
                    }
                    Err(error) => return Err(error.into()),
                }
                scan.position = batches.position();
            }
        }
        self.settle_open(&mut scan)
    }

    fn scan_batch(&self, scan: &mut Scan, batch: &Batch) -> Result<()> {
        let (at, time_ms) = (batch.header.lsn, batch.header.time_ms);
        for record in batch.records() {
            match Kind::from_u8(record.kind) {
                Some(
                    kind @ (Kind::Image | Kind::Delta | Kind::Erase | Kind::Head | Kind::Pages),
                ) => {
                    let Some(header) = Header::decode(&mut Reader::new(record.body)) else {
                        continue;
                    };
                    if !self.history.keeps(header.class) {
                        self.history.pass_over(header.class, time_ms);
                        continue;
                    }
                    let commit = At {
                        record: &record,
                        header,
                        kind,
                        time_ms,
                    };
                    self.scan_commit(scan, &commit)?;
                }
                Some(Kind::Leaf) => self.scan_leaf(scan, &record, at),
                _ => {}
            }
            self.flush_history_if_full(scan)?;
        }
        Ok(())
    }

    fn scan_leaf(&self, scan: &mut Scan, record: &RecordView<'_>, at: Lsn) {
        let Some((header, leaf)) = Leaf::decode(record.body) else {
            return;
        };
        if !self.history.keeps(header.class) {
            return;
        }
        let owner = leaf.tree.slot;
        if scan
            .leaves
            .get(&owner)
            .is_some_and(|settling| settling.tree != leaf.tree)
        {
            // Of a map that has ended.
            scan.leaves.remove(&owner);
        }
        let settling = scan.leaves.entry(owner).or_insert_with(|| Settling {
            since: at,
            tree: leaf.tree,
            leaves: BTreeMap::new(),
        });
        // What it was before the first of several is what commits were settled into.
        settling.leaves.entry(header.slot).or_insert(Before {
            file: leaf.file,
            index: leaf.index,
            at: record.link,
        });
    }

    fn scan_commit(&self, scan: &mut Scan, at: &At<'_>) -> Result<()> {
        let version = (at.header.generation, at.header.seq);
        let before = match scan.known.take(at.header.slot) {
            Some((known, before)) if known == (version.0, version.1 - 1) => before,
            // A recovery has written it again.
            Some((known, newer)) if known >= version => {
                let header = Header {
                    generation: known.0,
                    seq: known.1,
                    ..at.header
                };
                scan.known.put(&header, newer);
                return Ok(());
            }
            _ => self.version_before(at)?,
        };
        let (undo, after) = match at.kind {
            Kind::Head | Kind::Pages => self.scan_big(scan, at, before)?,
            _ => self.scan_tiny(scan, at, before)?,
        };
        let commit = Commit {
            class: at.header.class,
            time_ms: at.time_ms,
            bytes: u64::from(at.record.stored_bytes()),
            back: 1,
            undo,
        };
        self.history.add(
            at.key(What::Commit),
            at.header.class,
            at.time_ms,
            commit.encode(),
        );
        match after {
            Version::Lost => {}
            known => scan.known.put(&at.header, known),
        }
        Ok(())
    }

    /// The version that a commit replaced.
    fn version_before(&self, at: &At<'_>) -> Result<Version> {
        if at.header.seq == 1 {
            return Ok(Version::Tiny(Box::default()));
        }
        let found = or_lost(self.version_at(at.header.slot, at.record.link))?.flatten();
        let wanted = (at.header.generation, at.header.seq - 1);
        Ok(match found {
            Some((entry, loaded)) if entry.version() == wanted => match loaded.state {
                LoadedState::Tiny(state) => Version::Tiny(Box::new(Working::new(state))),
                LoadedState::Big(big) => {
                    let tree = big.under.tree.map_or(0, |tree| tree.tree);
                    Version::Big(BigBefore {
                        tree,
                        keys: big.root,
                        page_count: big.page_count,
                        alarms: big.alarms,
                    })
                }
            },
            _ => Version::Lost,
        })
    }

    fn scan_tiny(&self, scan: &mut Scan, at: &At<'_>, before: Version) -> Result<(Undo, Version)> {
        let after = match at.kind {
            Kind::Erase => Some(State::default()),
            Kind::Image => {
                let find = |number| self.dictionaries.find(number, at.header.class);
                let decoded = or_lost(crate::record::decode_image(&mut at.payload(), find))?;
                decoded.flatten().map(|(_, state)| state)
            }
            _ => None,
        };
        match (before, after) {
            (Version::Tiny(before), Some(after)) => {
                let before = before.into_state();
                let changes = after.changes_to(&before);
                let undo = super::undo::tiny(at.header.seq, &changes, &before);
                Ok((undo, Version::Tiny(Box::new(Working::new(after)))))
            }
            (Version::Tiny(mut working), None) if at.kind == Kind::Delta => {
                let whole = super::undo::wants_state(at.header.seq, working.state().bytes())
                    .then(|| working.state().clone());
                if crate::record::apply_delta_to(at.payload(), &mut working).is_none() {
                    return Ok((Undo::Lost, Version::Lost));
                }
                let undo = match (whole, working.changes_back()) {
                    (Some(before), _) => Undo::State(Box::new(before)),
                    (None, Some((changes, alarms))) => super::undo::operations(&changes, alarms),
                    (None, None) => Undo::Lost,
                };
                working.forget_undo();
                Ok((undo, Version::Tiny(working)))
            }
            (Version::Big(before), after) => {
                self.end_map(scan, at, at.tree(before.tree))?;
                let after = after.map_or(Version::Lost, |after| {
                    Version::Tiny(Box::new(Working::new(after)))
                });
                Ok((Undo::Big(before), after))
            }
            (_, Some(after)) => {
                let after = Version::Tiny(Box::new(Working::new(after)));
                Ok((Undo::Lost, after))
            }
            (_, None) => Ok((Undo::Lost, Version::Lost)),
        }
    }
}

/// What is damaged is lost; other errors may pass.
pub(super) fn or_lost<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error::Damaged { .. } | Error::Log(dovehouse_wal::Error::Corrupt { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}
