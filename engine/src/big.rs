//! Big objects: blocks that are read one by one, by way of a map whose leaves have slots of their own.
//!
//! ```text
//! slot table ─► HEAD ◄─ PAGES ◄─ PAGES      commits: the blocks that each has changed
//!                │ map
//!                └─► leaf slots ─► LEAF ─► blocks, in commits, beside the log, or in packs
//! ```
//! A commit writes the blocks that it changes, and nothing else. Once many have gathered they are *settled*:
//! the leaves that they concern are written, then a HEAD, on which the next commits lie. A leaf says nothing
//! that was not committed before, so it does not matter when a crash comes.
//!
//! An open transaction is in memory, on top of what is committed: keys as they were given, blocks as they
//! are. When it takes too much, keys go into the tree, and blocks are written beside the log (`stage.rs`).

mod block;
mod carried;
mod commit;
mod cross;
mod edit;
mod fill;
mod items;
mod keys;
mod leaf;
mod leaves;
mod list;
mod node;
mod origin;
mod records;
mod restore;
mod retire;
mod stage;
mod under;
mod undo;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) use block::{BlockId, KEYS, LEAF_BLOCKS, PAGES, TreeId};
pub(crate) use carried::{Carrier, carried, named_leaves};
pub(crate) use commit::{BigCommit, Owner, restarts};
pub(crate) use items::{Carried, Item, encode_items, place_in};
pub(crate) use keys::KeysRoot;
pub(crate) use leaf::Leaf;
pub(crate) use leaves::{LEAF_BYTES_MAX, LeafAt, Leaves};
pub(crate) use list::BigList;
pub(crate) use origin::{Fork, Forks, Origin};
pub(crate) use records::{BlobStart, Head, Map, PagesStart, decode_commit, leaf_counts};
pub(crate) use retire::Retired;
pub(crate) use stage::{Blobs, Landing};
pub(crate) use under::{Recent, Spot, Under};

use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::history::PastView;
use crate::id::ClassId;
use crate::index::Index;
use crate::kv::List;
use crate::state::{Alarm, PAGE_BYTES, PageData, State};
use edit::Edit;
use keys::ReadBlocks;
use leaves::damaged_block;
use stage::{Hold, Staging};
use undo::Undo;

/// What is left of a key's entry in memory beside its bytes, about.
const KEY_OVERHEAD_BYTES: usize = 64;

/// A block that the open transaction has changed.
#[derive(Clone, Debug)]
pub(crate) enum Dirty {
    Here(Arc<[u8]>),
    /// Written beside the log already.
    At(crate::slots::Place),
    Gone,
}

impl Dirty {
    fn here_bytes(&self) -> usize {
        match self {
            Dirty::Here(content) => content.len(),
            Dirty::At(_) | Dirty::Gone => 0,
        }
    }
}

/// What the open transaction sees.
#[derive(Clone, Debug, Default)]
struct Core {
    /// What is committed; nothing, after everything was thrown away.
    under: Arc<Under>,
    /// Changed keys that are not in the tree yet.
    keys: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    keys_bytes: usize,
    dirty: BTreeMap<BlockId, Dirty>,
    /// Bytes of the blocks in memory.
    here_bytes: usize,
    root: KeysRoot,
    page_count: u32,
    /// The fewest pages that there were during the transaction, if some were dropped.
    cut: Option<u32>,
    alarms: Vec<Alarm>,
    /// Key blocks that are free once it is committed.
    freed: Vec<u32>,
}

/// What was committed last, besides the blocks.
#[derive(Clone, Debug, Default)]
struct Committed {
    root: KeysRoot,
    page_count: u32,
    alarms: Vec<Alarm>,
}

/// An awake object whose blocks are read one by one, with an open transaction.
#[derive(Debug)]
pub(crate) struct Big {
    engine: Arc<Inner>,
    core: Core,
    committed: Committed,
    /// What was committed, once the open transaction has thrown it away.
    thrown_away: Option<Arc<Under>>,
    /// What was committed, if that was a tiny object.
    tiny: Option<Box<State>>,
    undo: Vec<Undo>,
    /// Whether there is a savepoint: without one, all or nothing is undone.
    has_savepoints: bool,
    is_touched: bool,
    /// Numbers of key blocks that may be given away again, and those that were.
    spare: BTreeSet<u32>,
    taken: Vec<u32>,
    /// Bytes that the open transaction has written beside the log.
    staged_bytes: u64,
    hold: Option<Arc<Hold>>,
    /// What it counts for in the memory of all open transactions.
    counted: usize,
    /// What it is to be a fork of, until the commit that makes it one.
    origin: Option<Origin>,
}

impl Big {
    fn new(engine: Arc<Inner>, under: Under, committed: Committed) -> Self {
        let Committed {
            root,
            page_count,
            alarms,
        } = committed.clone();
        Big {
            engine,
            core: Core {
                under: Arc::new(under),
                root,
                page_count,
                alarms,
                ..Core::default()
            },
            committed,
            thrown_away: None,
            tiny: None,
            undo: Vec::new(),
            has_savepoints: false,
            is_touched: false,
            spare: BTreeSet::new(),
            taken: Vec::new(),
            staged_bytes: 0,
            hold: None,
            counted: 0,
            origin: None,
        }
    }

    pub(crate) fn alarms(&self) -> &[Alarm] {
        &self.core.alarms
    }

    pub(crate) fn page_count(&self) -> u32 {
        self.core.page_count
    }

    /// What it was, if these are the blocks of an object as it was.
    pub(crate) fn past(&self) -> Option<&PastView> {
        self.core.under.past.as_deref()
    }

    /// The tree of its keys, and how many pages there are.
    pub(crate) fn size(&self) -> (KeysRoot, u32) {
        (self.core.root, self.core.page_count)
    }

    /// What keys and pages take, about, while keys are not in the tree.
    pub(crate) fn state_bytes(&self) -> usize {
        let core = &self.core;
        let alarm = |alarm: &Alarm| alarm.name.len() + alarm.schedule.len() + 30;
        core.root.bytes as usize
            + core.root.count as usize * 10
            + core.keys_bytes
            + core.page_count as usize * PAGE_BYTES
            + core.alarms.iter().map(alarm).sum::<usize>()
    }

    pub(crate) fn is_empty(&self) -> bool {
        let core = &self.core;
        let has_keys = core.root.count > 0 || core.keys.values().any(Option::is_some);
        !has_keys && core.page_count == 0 && core.alarms.is_empty()
    }

    pub(crate) fn is_touched(&self) -> bool {
        self.is_touched
    }

    fn block(&self, id: BlockId) -> Result<Option<Arc<[u8]>>> {
        let core = &self.core;
        match core.dirty.get(&id) {
            Some(Dirty::Here(content)) => return Ok(Some(content.clone())),
            Some(Dirty::Gone) => return Ok(None),
            Some(Dirty::At(place)) => {
                let tree = self.staging_tree().expect("what is staged has a tree");
                let found = self.engine.read_block(tree, id, *place)?;
                let gone = || damaged_block(tree.slot, id, "what was staged is not there");
                return Ok(Some(found.ok_or_else(gone)?));
            }
            None => {}
        }
        if id.file == PAGES && core.cut.is_some_and(|cut| id.number > cut) {
            return Ok(None);
        }
        core.under.block(&self.engine, id)
    }

    /// A page; `None` if it is behind the end or all zeros.
    pub(crate) fn page(&self, number: u32) -> Result<Option<PageData>> {
        if number == 0 || number > self.core.page_count {
            return Ok(None);
        }
        let id = BlockId::page(number);
        let Some(page) = self.block(id)? else {
            return Ok(None);
        };
        if page.len() != PAGE_BYTES {
            let slot = self.core.under.tree.map_or_else(no_slot, |tree| tree.slot);
            return Err(damaged_block(slot, id, "it has the wrong size"));
        }
        Ok(Some(page))
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Cow<'_, [u8]>>> {
        match self.core.keys.get(key) {
            Some(value) => Ok(value.as_deref().map(Cow::Borrowed)),
            None => Ok(keys::get(self, &self.core.root, key)?.map(Cow::Owned)),
        }
    }

    /// Keys and values, in order.
    pub(crate) fn list(&self, list: &List) -> BigList<'_> {
        BigList::new(self, list.bounds(), list.is_reverse())
    }

    fn touch(&mut self, undo: impl FnOnce() -> Undo) {
        self.is_touched = true;
        if self.has_savepoints {
            self.undo.push(undo());
        }
    }

    /// Sets or removes a key.
    pub(crate) fn put(&mut self, key: &[u8], value: Option<&[u8]>) {
        let bytes = |value: &Option<Vec<u8>>| {
            KEY_OVERHEAD_BYTES + key.len() + value.as_ref().map_or(0, Vec::len)
        };
        let value = value.map(<[u8]>::to_vec);
        self.core.keys_bytes += bytes(&value);
        let old = self.core.keys.insert(key.to_vec(), value);
        self.core.keys_bytes -= old.as_ref().map_or(0, bytes);
        let key = key.to_vec();
        self.touch(|| Undo::Key { key, old });
    }

    fn set_block(&mut self, id: BlockId, dirty: Dirty) {
        self.core.here_bytes += dirty.here_bytes();
        let old = self.core.dirty.insert(id, dirty);
        self.core.here_bytes -= old.as_ref().map_or(0, Dirty::here_bytes);
        self.touch(|| Undo::Block { id, old });
    }

    pub(crate) fn write_page(&mut self, number: u32, page: Option<PageData>) {
        if number > self.core.page_count {
            self.resize(number);
        }
        let dirty = page.map_or(Dirty::Gone, Dirty::Here);
        self.set_block(BlockId::page(number), dirty);
    }

    pub(crate) fn truncate_pages(&mut self, count: u32) {
        if count < self.core.page_count {
            self.resize(count);
        }
    }

    fn resize(&mut self, count: u32) {
        let core = &mut self.core;
        let (old_count, old_cut) = (core.page_count, core.cut);
        let mut dropped = BTreeMap::new();
        if count < old_count {
            core.cut = Some(old_cut.map_or(count, |cut| cut.min(count)));
            dropped = core.dirty.split_off(&BlockId::page(count + 1));
            core.dirty.append(&mut dropped.split_off(&BlockId {
                file: KEYS,
                number: 0,
            }));
            core.here_bytes -= dropped.values().map(Dirty::here_bytes).sum::<usize>();
        }
        core.page_count = count;
        self.touch(|| Undo::Pages {
            count: old_count,
            cut: old_cut,
            dropped,
        });
    }

    pub(crate) fn set_alarms(&mut self, alarms: Vec<Alarm>) {
        let old = std::mem::replace(&mut self.core.alarms, alarms);
        self.touch(|| Undo::Alarms { old });
    }

    /// Throws everything away but, if asked for, the alarms.
    pub(crate) fn clear(&mut self, keep_alarms: bool) {
        let alarms = if keep_alarms {
            self.core.alarms.clone()
        } else {
            Vec::new()
        };
        let next = Core {
            alarms,
            ..Core::default()
        };
        let old = std::mem::replace(&mut self.core, next);
        self.thrown_away.get_or_insert_with(|| old.under.clone());
        self.touch(|| Undo::Cleared { old: Box::new(old) });
    }

    fn end_transaction(&mut self) {
        self.undo.clear();
        (self.has_savepoints, self.is_touched) = (false, false);
        self.staged_bytes = 0;
        if let Some(hold) = self.hold.take() {
            self.engine.blobs.release(&hold);
        }
        self.count();
    }

    /// Tells the store what the open transaction takes in memory.
    fn count(&mut self) {
        let now = self.core.keys_bytes + self.core.here_bytes;
        self.engine.count_dirty(self.counted, now);
        self.counted = now;
    }

    /// Whether the open transaction takes more memory than it may.
    pub(crate) fn is_over_budget(&mut self) -> bool {
        self.count();
        self.engine.is_dirty_over_budget(self.counted)
    }

    /// Puts changed keys into the tree. An error leaves the transaction as it is.
    fn apply_keys(&mut self) -> Result<()> {
        if self.core.keys.is_empty() {
            return Ok(());
        }
        let keys = std::mem::take(&mut self.core.keys);
        let keys_bytes = std::mem::take(&mut self.core.keys_bytes);
        let (root, freed) = (self.core.root, self.core.freed.len());
        let before = self.undo.len();
        let had_savepoints = std::mem::replace(&mut self.has_savepoints, true);
        let changes = keys.clone().into_iter().collect();
        let applied = keys::apply(&mut Edit(self), &root, changes);
        self.has_savepoints = had_savepoints;
        let undo = Undo::Applied {
            keys,
            keys_bytes,
            root,
            freed,
        };
        match applied {
            Ok(new_root) => {
                let last = self.core.root.last;
                self.core.root = new_root;
                self.core.root.last = last;
                match had_savepoints {
                    true => self.undo.push(undo),
                    false => self.undo.truncate(before),
                }
                Ok(())
            }
            Err(error) => {
                while self.undo.len() > before {
                    let undo = self.undo.pop().expect("there is one");
                    self.take_back(undo);
                }
                self.take_back(undo);
                Err(error)
            }
        }
    }

    /// Writes what the open transaction has in memory beside the log. `tree` is the one that it will be in.
    pub(crate) fn spill(&mut self, class: ClassId, tree: TreeId, seq: u64) -> Result<()> {
        self.apply_keys()?;
        self.stage(class, tree, seq)?;
        self.count();
        Ok(())
    }

    fn stage(&mut self, class: ClassId, tree: TreeId, seq: u64) -> Result<()> {
        let limit = self.engine.transaction_bytes_max(class);
        let bytes = self.staged_bytes + self.core.here_bytes as u64;
        if bytes > limit {
            return Err(Error::Quota {
                what: format!("a transaction of class {}", class.0),
                bytes,
                limit,
            });
        }
        self.make_leaves(tree)?;
        let here = self
            .core
            .dirty
            .iter()
            .filter_map(|(id, dirty)| match dirty {
                Dirty::Here(content) => Some((*id, content.clone())),
                Dirty::At(_) | Dirty::Gone => None,
            });
        let here: Vec<_> = here.collect();
        let hold = self.hold.get_or_insert_with(|| self.engine.blobs.hold());
        let staging = Staging {
            tree,
            class,
            seq,
            hold,
        };
        let under = self.core.under.clone();
        let leaf_slot = |id| under.leaf_slot(id).expect("the leaves were made");
        let places = self.engine.stage(&staging, here, leaf_slot)?;
        self.staged_bytes = bytes;
        drop(under);
        // What the transaction sees is the same as before, so there is nothing to undo.
        for (id, place) in places {
            self.core.dirty.insert(id, Dirty::At(place));
        }
        self.core.here_bytes = 0;
        Ok(())
    }

    /// The life of its map that the next commit is in.
    pub(crate) fn tree_id(&self) -> Option<TreeId> {
        self.core.under.tree
    }

    pub(crate) fn tree(&self) -> u32 {
        self.core.under.tree.map_or(0, |tree| tree.tree)
    }

    /// The tree that staged blocks are in.
    fn staging_tree(&self) -> Option<TreeId> {
        self.core.under.tree
    }

    /// Makes sure that there is a leaf for each changed block. The leaves stay when the transaction does not.
    fn make_leaves(&mut self, tree: TreeId) -> Result<()> {
        let mut needed = [0_usize; block::FILES];
        for id in self.core.dirty.keys() {
            let file = usize::from(id.file);
            needed[file] = needed[file].max(id.leaf() as usize + 1);
        }
        let index = &self.engine.index;
        let has_all = (0..block::FILES).all(|file| self.core.under.map[file].len() >= needed[file]);
        if has_all && self.core.under.tree == Some(tree) {
            return Ok(());
        }
        let under = Arc::make_mut(&mut self.core.under);
        under.tree = Some(tree);
        for (file, needed) in needed.into_iter().enumerate() {
            add_leaves(index, &mut under.map[file], needed, 0)?;
        }
        Ok(())
    }

    /// Becomes a fork: one of so many leaves, none of which is written.
    pub(crate) fn begin_fork(
        &mut self,
        tree: TreeId,
        leaves: [u32; block::FILES],
        (root, page_count): (KeysRoot, u32),
        origin: Origin,
    ) -> Result<()> {
        let under = Arc::make_mut(&mut self.core.under);
        under.tree = Some(tree);
        for (map, leaves) in under.map.iter_mut().zip(leaves) {
            // None of their blocks is known to be free.
            let used = LEAF_BLOCKS as u16;
            add_leaves(&self.engine.index, map, leaves as usize, used)?;
        }
        (self.core.root, self.core.page_count) = (root, page_count);
        self.origin = Some(origin);
        self.is_touched = true;
        Ok(())
    }
}

fn add_leaves(
    index: &Index,
    leaves: &mut Vec<records::LeafRef>,
    count: usize,
    used: u16,
) -> Result<()> {
    while leaves.len() < count {
        let cell = index.allocate_cell()?;
        leaves.push(records::LeafRef {
            slot: cell.slot,
            used,
        });
        index.overlay.release(cell);
    }
    Ok(())
}

impl Drop for Big {
    fn drop(&mut self) {
        self.rollback();
    }
}

fn no_slot() -> crate::id::Slot {
    crate::id::Slot::new(crate::id::Slot::LIMIT - 1).expect("below the limit")
}

impl ReadBlocks for Big {
    fn read(&self, number: u32) -> Result<Arc<[u8]>> {
        let found = self.block(BlockId::key_block(number))?;
        found.ok_or_else(|| self.damaged(number))
    }

    fn damaged(&self, number: u32) -> Error {
        let slot = self.core.under.tree.map_or_else(no_slot, |tree| tree.slot);
        let id = BlockId::key_block(number);
        damaged_block(slot, id, "its fields make no sense, or it is not there")
    }
}
