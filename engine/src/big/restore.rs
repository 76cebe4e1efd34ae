//! Making a big object what it was: block by block, of those that have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::block::{BlockId, PAGES};
use super::keys::KeysRoot;
use super::undo::Undo;
use super::{Big, Dirty};
use crate::error::Result;
use crate::history::PastView;

impl Big {
    /// Whether its map is still the one that the view is of.
    pub(crate) fn has_map_of(&self, view: &PastView) -> bool {
        self.tree_id() == Some(view.tree()) && !view.has_ended()
    }

    /// The blocks that may differ from what they were.
    pub(crate) fn blocks_since(&self, view: &PastView) -> Result<BTreeSet<BlockId>> {
        let mut blocks: BTreeSet<_> = view.may_differ(&self.engine)?.into_iter().collect();
        let under = &self.core.under;
        blocks.extend(under.recent.keys());
        if under.cut < u32::MAX {
            // Still in the leaves, but gone for the object.
            let last = (under.map[usize::from(PAGES)].len() as u32) * super::LEAF_BLOCKS;
            blocks.extend((under.cut + 1..last).map(BlockId::page));
        }
        Ok(blocks)
    }

    /// The tree of keys and the pages are to be what they were; their blocks follow.
    pub(crate) fn begin_restore(&mut self, root: KeysRoot, page_count: u32) {
        let core = &mut self.core;
        let (before, freed) = (core.root, core.freed.len());
        core.root = root;
        // What was given away since is not given away again.
        core.root.last = before.last.max(root.last);
        self.touch(|| Undo::Applied {
            keys: BTreeMap::new(),
            keys_bytes: 0,
            root: before,
            freed,
        });
        // Blocks that are free now may be in use then.
        self.spare.clear();
        if page_count != self.core.page_count {
            self.resize(page_count);
        }
    }

    /// Makes a block what it was. Returns whether it was something else.
    pub(crate) fn restore_block(&mut self, id: BlockId, then: Option<Arc<[u8]>>) -> Result<bool> {
        if id.file == PAGES && id.number > self.core.page_count {
            return Ok(false);
        }
        if self.block(id)? == then {
            return Ok(false);
        }
        self.set_block(id, then.map_or(Dirty::Gone, Dirty::Here));
        Ok(true)
    }
}
