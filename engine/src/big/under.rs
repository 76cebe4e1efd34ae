//! What is committed of a big object: its map, and the blocks of commits that are not settled into it yet.

use std::collections::HashMap;
use std::sync::Arc;

use dovehouse_wal::Ticket;

use super::block::{BlockId, FILES, KEYS, LEAF_BLOCKS, PAGES, TreeId};
use super::leaf::Leaf;
use super::records::Map;
use super::stage::Landing;
use crate::engine::Inner;
use crate::error::Result;
use crate::history::PastView;
use crate::id::Slot;
use crate::slots::Place;

/// Where a block of a recent commit lies.
#[derive(Clone, Debug)]
pub(crate) enum Spot {
    /// There is none any more.
    Gone,
    At(Place),
    /// In a record that has no place yet, perhaps; so far from the start of its frame.
    In(Arc<Landing>, u32, u32),
}

impl Spot {
    /// [`Place::NONE`] for a block that is gone, or whose record has no place yet.
    pub(crate) fn place(&self) -> Place {
        match self {
            Spot::Gone => Place::NONE,
            Spot::At(place) => *place,
            Spot::In(landing, offset, bytes) => {
                let lsn = landing.get();
                let at = super::items::place_in(lsn, *offset as usize);
                at.filter(|_| !lsn.is_none())
                    .map_or(Place::NONE, |lsn| Place { lsn, bytes: *bytes })
            }
        }
    }
}

/// A block of a commit that is not settled into its leaf yet.
#[derive(Clone, Debug)]
pub(crate) struct Recent {
    pub(crate) spot: Spot,
    /// Until the commit is durable, it cannot be read from the disk.
    pub(crate) content: Option<Arc<[u8]>>,
    /// Whether the commit's own record carries it.
    pub(crate) is_inline: bool,
}

/// The committed blocks.
#[derive(Clone, Debug)]
pub(crate) struct Under {
    /// `None` as long as nothing of the object was written in blocks.
    pub(crate) tree: Option<TreeId>,
    /// Whether a HEAD was committed.
    pub(crate) is_committed: bool,
    pub(crate) map: Map,
    /// How many leaves of each file commits have named.
    pub(crate) named: [usize; FILES],
    pub(crate) recent: HashMap<BlockId, Recent>,
    /// Pages behind this one are gone from the leaves.
    pub(crate) cut: u32,
    /// Whether the newest HEAD carries blocks of its own.
    pub(crate) head_has_items: bool,
    /// Commits that were not durable yet, with their blocks.
    pub(crate) in_flight: Vec<(Ticket, Vec<BlockId>)>,
    /// Set if these are the blocks of the object as it was.
    pub(crate) past: Option<Arc<PastView>>,
}

impl Default for Under {
    fn default() -> Self {
        Under {
            tree: None,
            is_committed: false,
            map: Map::default(),
            named: [0; FILES],
            recent: HashMap::new(),
            cut: u32::MAX,
            head_has_items: false,
            in_flight: Vec::new(),
            past: None,
        }
    }
}

impl Under {
    /// The slot of the leaf that leads to a block.
    pub(crate) fn leaf_slot(&self, id: BlockId) -> Option<Slot> {
        let leaves = &self.map[usize::from(id.file)];
        Some(leaves.get(id.leaf() as usize)?.slot)
    }

    /// The leaves that no commit has named yet.
    pub(crate) fn new_leaves(&self) -> Map {
        std::array::from_fn(|file| self.map[file][self.named[file]..].to_vec())
    }

    /// A commit has named them.
    pub(crate) fn name_leaves(&mut self) {
        self.named = std::array::from_fn(|file| self.map[file].len());
    }

    /// Pages behind this one are gone.
    pub(crate) fn cut_pages(&mut self, cut: u32) {
        self.cut = self.cut.min(cut);
        self.recent
            .retain(|id, _| id.file != PAGES || id.number <= cut);
    }

    /// The committed content of a block.
    pub(crate) fn block(&self, engine: &Inner, id: BlockId) -> Result<Option<Arc<[u8]>>> {
        if let Some(past) = &self.past {
            return past.block(engine, id);
        }
        let Some(tree) = self.tree else {
            return Ok(None);
        };
        if let Some(recent) = self.recent.get(&id) {
            return match (&recent.content, &recent.spot) {
                (Some(content), _) => Ok(Some(content.clone())),
                (None, Spot::Gone) => Ok(None),
                (None, spot) => {
                    let place = spot.place();
                    let found = engine.read_block(tree, id, place)?;
                    let gone = || {
                        let why = format!("no segment has it at {}", place.lsn);
                        super::leaves::damaged_block(tree.slot, id, why)
                    };
                    Ok(Some(found.ok_or_else(gone)?))
                }
            };
        }
        match self.leaf_slot(id) {
            Some(slot) if id.file == KEYS || id.number <= self.cut => {
                engine.block_by_leaf(tree, id, slot)
            }
            _ => Ok(None),
        }
    }

    /// Whether a block's committed content is in memory, and is this.
    pub(crate) fn is_known_to_be(&self, engine: &Inner, id: BlockId, content: &[u8]) -> bool {
        let known = match self.recent.get(&id) {
            Some(Recent {
                content: Some(known),
                ..
            }) => Some(known.clone()),
            Some(recent) => engine.cache.block(recent.spot.place().lsn),
            None if id.file == PAGES && id.number > self.cut => None,
            None => self
                .leaf_slot(id)
                .and_then(|slot| engine.leaf(slot).ok()?)
                .filter(|leaf| Some(leaf.tree) == self.tree)
                .and_then(|leaf| engine.cache.block(leaf.places[id.position()].lsn)),
        };
        known.is_some_and(|known| known[..] == *content)
    }

    /// Lets go of the content of commits that have become durable: it can be read.
    pub(crate) fn forget_durable(&mut self, engine: &Inner) {
        let durable = self
            .in_flight
            .iter()
            .take_while(|(ticket, _)| ticket.is_durable())
            .count();
        for (_, ids) in self.in_flight.drain(..durable) {
            for id in ids {
                let Some(recent) = self.recent.get_mut(&id) else {
                    continue;
                };
                let place = recent.spot.place();
                // A later commit may have it by now, which is not durable yet.
                let covered = engine.log.durable().covers(place.lsn);
                if !place.is_none() && covered {
                    if let Some(content) = recent.content.take() {
                        engine.cache.add_block(place.lsn, &content);
                    }
                    recent.spot = Spot::At(place);
                }
            }
        }
    }

    /// The leaves that recent commits have changed: file and index.
    pub(crate) fn changed_leaves(&self) -> Vec<(u8, u32)> {
        let mut changed: Vec<_> = self.recent.keys().map(|id| (id.file, id.leaf())).collect();
        if self.cut < u32::MAX {
            let leaves = self.map[usize::from(PAGES)].len() as u32;
            let first = self.cut.saturating_add(1) / LEAF_BLOCKS;
            changed.extend((first..leaves).map(|index| (PAGES, index)));
        }
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// What recent commits make of a leaf. `ids` are their blocks in it. `moved` is told the place
    /// that is needed from now on beside its record, and the one that is not.
    pub(crate) fn settle_into(
        &self,
        leaf: &mut Leaf,
        ids: &[BlockId],
        mut moved: impl FnMut(Place, Place),
    ) {
        let first = leaf.index * LEAF_BLOCKS;
        if leaf.file == PAGES && self.cut < first + LEAF_BLOCKS {
            let kept = (self.cut + 1).saturating_sub(first) as usize;
            for place in leaf
                .places
                .iter_mut()
                .skip(kept)
                .filter(|place| !place.is_none())
            {
                moved(Place::NONE, *place);
                *place = Place::NONE;
            }
        }
        for id in ids {
            let place = &mut leaf.places[id.position()];
            let recent = &self.recent[id];
            let to = recent.spot.place();
            // What lies beside the log was counted when it was committed.
            moved(if recent.is_inline { to } else { Place::NONE }, *place);
            *place = to;
        }
    }
}
