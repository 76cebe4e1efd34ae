//! The commit of a big object: a PAGES record with what changed, or, once the commits before it were settled
//! into the leaves, a HEAD.

use std::sync::Arc;

use dovehouse_wal::{FRAME_BYTES, Reservation, Ticket};

use super::block::{BlockId, PAGES, TreeId, encode_block};
use super::leaves::LEAF_BYTES_MAX;
use super::records::{Head, PagesStart};
use super::stage::Landing;
use super::{Big, Committed, Dirty, Item, LeafAt, Recent, Spot, Under, encode_items};
use crate::error::Result;
use crate::id::{ClassId, ObjectId};
use crate::record::{Header, Meta};
use crate::slots::Place;
use crate::state::Alarm;

/// A commit carries blocks of so many bytes; more are written beside the log first.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// Commits are settled when there are so many.
const DEPTH_MAX: u8 = 200;
/// Or when their records take so much: waking the object after a crash reads them.
const CHAIN_BYTES_MAX: u64 = 2 << 20;
/// Or when they changed so many blocks.
const RECENT_MAX: usize = 4096;

/// Whether the next commit is to be a HEAD.
pub(crate) fn restarts(under_recent: usize, depth: u8, chain_bytes: u64) -> bool {
    depth >= DEPTH_MAX || chain_bytes > CHAIN_BYTES_MAX || under_recent > RECENT_MAX
}

/// A commit that is encoded.
#[derive(Debug)]
pub(crate) struct BigCommit {
    is_head: bool,
    /// Each block that it changes, and where in the record's frame it lies, if it does.
    blocks: Vec<(BlockId, Option<(u32, u32)>)>,
}

/// Whose commit it is.
pub(crate) struct Owner<'a> {
    pub(crate) id: ObjectId,
    pub(crate) name: Option<&'a str>,
    pub(crate) header: Header,
    pub(crate) now_ms: u64,
}

impl Big {
    /// Whether a HEAD of it was committed that still counts.
    pub(crate) fn has_tree(&self) -> bool {
        self.core.under.is_committed
    }

    /// How many blocks are not settled into leaves.
    pub(crate) fn recent_blocks(&self) -> usize {
        self.core.under.recent.len()
    }

    /// Whether the newest commit can be made smaller by settling it.
    pub(crate) fn head_has_items(&self) -> bool {
        self.core.under.head_has_items
    }

    /// Whether everything that was committed before is thrown away.
    pub(crate) fn is_cleared(&self) -> bool {
        self.thrown_away.is_some()
    }

    pub(crate) fn alarms_changed(&self) -> bool {
        self.core.alarms != self.committed.alarms
    }

    /// Puts keys into the tree, and lets go of blocks that are what they were.
    pub(crate) fn gather(&mut self) -> Result<()> {
        self.apply_keys()?;
        let core = &self.core;
        let is_unchanged = |id: &BlockId, dirty: &Dirty| match dirty {
            Dirty::Here(content) => {
                let is_cut = id.file == PAGES && core.cut.is_some_and(|cut| id.number > cut);
                !is_cut && core.under.is_known_to_be(&self.engine, *id, content)
            }
            Dirty::At(_) | Dirty::Gone => false,
        };
        let unchanged: Vec<_> = core
            .dirty
            .iter()
            .filter(|(id, dirty)| is_unchanged(id, dirty))
            .map(|(id, _)| *id)
            .collect();
        for id in unchanged {
            if let Some(dirty) = self.core.dirty.remove(&id) {
                self.core.here_bytes -= dirty.here_bytes();
            }
        }
        Ok(())
    }

    /// Whether the open transaction differs from what is committed.
    pub(crate) fn has_changes(&self) -> bool {
        let (core, committed) = (&self.core, &self.committed);
        self.thrown_away.is_some()
            || !core.dirty.is_empty()
            || core.page_count != committed.page_count
            || core.cut.is_some()
            || core.root != committed.root
            || core.alarms != committed.alarms
    }

    /// Writes what is too much for a record beside the log.
    pub(crate) fn make_small(&mut self, class: ClassId, tree: TreeId, seq: u64) -> Result<()> {
        let limit = INLINE_BYTES_MAX.min(self.engine.log.record_bytes_max() / 4);
        if self.core.here_bytes > limit {
            self.stage(class, tree, seq)?;
        }
        self.make_leaves(tree)?;
        match &self.hold {
            Some(hold) => self.engine.name_blobs(hold),
            None => Ok(()),
        }
    }

    /// Writes the leaves that the commits so far concern. All of these must be durable.
    pub(crate) fn settle(
        &mut self,
        class: ClassId,
        reserve: impl Fn(usize) -> Result<Reservation>,
    ) -> Result<()> {
        let Some(tree) = self.core.under.tree.filter(|_| self.has_tree()) else {
            return Ok(());
        };
        let engine = self.engine.clone();
        let under = Arc::make_mut(&mut self.core.under);
        under.forget_durable(&engine);
        let mut ids: Vec<_> = under.recent.keys().copied().collect();
        ids.sort_unstable();
        for (file, index) in under.changed_leaves() {
            let from = ids.partition_point(|id| (id.file, id.leaf()) < (file, index));
            let to = ids.partition_point(|id| (id.file, id.leaf()) <= (file, index));
            let leaf_ref = under.map[usize::from(file)][index as usize];
            let at = LeafAt {
                slot: leaf_ref.slot,
                tree,
                class,
                file,
                index,
            };
            let mut used = 0;
            engine.update_leaf(at, reserve(LEAF_BYTES_MAX)?, |leaf| {
                under.settle_into(leaf, &ids[from..to], |new: Place, old: Place| {
                    let dead = old.is_stored().then(|| old.extent());
                    engine.index.usage.replace(class, new.extent(), dead);
                });
                used = leaf.used();
                if file == super::KEYS && used < super::block::LEAF_BLOCKS as u16 / 2 {
                    let in_use = &self.core.dirty;
                    let last = self.committed.root.last;
                    self.spare.extend(
                        free_numbers(leaf, last)
                            .filter(|number| !in_use.contains_key(&BlockId::key_block(*number))),
                    );
                }
                true
            })?;
            under.map[usize::from(file)][index as usize].used = used;
        }
        under.recent.clear();
        under.in_flight.clear();
        under.cut = u32::MAX;
        Ok(())
    }

    /// The record of the open transaction, and what to do when it is appended.
    pub(crate) fn encode(&self, owner: &Owner<'_>, is_head: bool) -> (Vec<u8>, BigCommit) {
        let core = &self.core;
        let tree = core.under.tree.expect("the leaves were made");
        let mut body = Vec::new();
        owner.header.encode(&mut body);
        if is_head {
            self.encode_head(owner, tree, &mut body);
        } else {
            let start = PagesStart {
                tree: tree.tree,
                alarms: self.alarms_changed().then(|| core.alarms.clone()),
                page_count: core.page_count,
                cut: core.cut,
                keys: core.root,
                new_leaves: core.under.new_leaves(),
            };
            start.encode(&mut body);
        }
        let items: Vec<_> = core
            .dirty
            .iter()
            .map(|(id, dirty)| {
                let item = match dirty {
                    Dirty::Here(content) => Item::Here(encode_block(tree, *id, content)),
                    Dirty::At(place) => Item::At(*place),
                    Dirty::Gone => Item::Gone,
                };
                (*id, item)
            })
            .collect();
        let leaf_slot = |id| core.under.leaf_slot(id).expect("the leaves were made");
        let mut offsets = encode_items(&items, leaf_slot, &mut body).into_iter();
        let blocks = items.iter().map(|(id, item)| {
            let here = match item {
                Item::Here(block) => {
                    let offset = offsets.next().expect("one for each");
                    Some((FRAME_BYTES as u32 + offset, block.len() as u32))
                }
                Item::At(_) | Item::Gone => None,
            };
            (*id, here)
        });
        let blocks = blocks.collect();
        (body, BigCommit { is_head, blocks })
    }

    fn encode_head(&self, owner: &Owner<'_>, tree: TreeId, body: &mut Vec<u8>) {
        let core = &self.core;
        let meta = Meta {
            id: owner.id,
            name: owner.name.map(str::to_owned),
            written_ms: owner.now_ms,
            alarms: core.alarms.clone(),
            kv_count: core.root.count,
            kv_bytes: core.root.bytes,
            page_count: u64::from(core.page_count),
        };
        meta.encode(body);
        let head = Head {
            tree: tree.tree,
            origin: self.origin.clone(),
            cut: core.cut,
            keys: core.root,
            map: core.under.map.clone(),
        };
        head.encode(body);
    }

    /// The transaction's record is on its way.
    pub(crate) fn committed(
        &mut self,
        commit: BigCommit,
        class: ClassId,
        landing: &Arc<Landing>,
        ticket: &Ticket,
    ) {
        if let Some(gone) = self.thrown_away.take() {
            self.engine.retire(&gone);
            self.spare.clear();
            self.taken.clear();
        }
        // Other references to it are for undoing.
        self.undo.clear();
        let core = &mut self.core;
        let under = Arc::make_mut(&mut core.under);
        self.tiny = None;
        self.origin = None;
        under.is_committed = true;
        under.name_leaves();
        if commit.is_head {
            under.head_has_items = !commit.blocks.is_empty();
        }
        if let Some(cut) = core.cut.take() {
            under.cut_pages(cut);
        }
        let mut ids = Vec::with_capacity(commit.blocks.len());
        let mut dirty = std::mem::take(&mut core.dirty);
        for (id, here) in commit.blocks {
            let (spot, content) = match (dirty.remove(&id), here) {
                (Some(Dirty::Here(content)), Some((offset, bytes))) => {
                    (Spot::In(landing.clone(), offset, bytes), Some(content))
                }
                (Some(Dirty::At(place)), _) => {
                    self.engine.index.usage.replace(class, place.extent(), []);
                    (Spot::At(place), None)
                }
                _ => (Spot::Gone, None),
            };
            let is_inline = here.is_some();
            let recent = Recent {
                spot,
                content,
                is_inline,
            };
            under.recent.insert(id, recent);
            ids.push(id);
        }
        under.in_flight.push((ticket.clone(), ids));
        under.forget_durable(&self.engine);
        core.here_bytes = 0;
        self.committed = Committed {
            root: core.root,
            page_count: core.page_count,
            alarms: core.alarms.clone(),
        };
        self.spare.extend(core.freed.drain(..));
        self.taken.clear();
        if let Some(hold) = self.hold.take() {
            hold.commit(landing.clone());
        }
        self.end_transaction();
    }

    /// The tree that the object leaves when it becomes something else.
    pub(crate) fn retire_tree(&mut self) {
        let gone = match self.thrown_away.take() {
            Some(gone) => gone,
            None => self.core.under.clone(),
        };
        self.engine.retire(&gone);
    }

    /// An object as its chain of commits shows it.
    pub(crate) fn loaded(
        engine: Arc<crate::engine::Inner>,
        under: Under,
        root: super::keys::KeysRoot,
        page_count: u32,
        alarms: Vec<Alarm>,
    ) -> Self {
        let committed = Committed {
            root,
            page_count,
            alarms,
        };
        Big::new(engine, under, committed)
    }
}

/// The numbers in a leaf of key blocks that nobody has, up to the last that was given away.
fn free_numbers(leaf: &super::Leaf, last: u32) -> impl Iterator<Item = u32> + '_ {
    let first = leaf.index * super::block::LEAF_BLOCKS;
    let free = leaf.places.iter().enumerate();
    free.filter(|(_, place)| place.is_none())
        .map(move |(position, _)| first + position as u32)
        .filter(move |number| *number > 0 && *number <= last)
}
