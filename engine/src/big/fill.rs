//! Filling a fork: the blocks that it still shares with its origin are written, so that this can be let go of.
//!
//! As in compaction, a block moves from one place to another, which nobody notices but the leaf that leads to it.

use std::collections::HashMap;
use std::sync::Arc;

use dovehouse_wal::Claim;

use super::block::{BlockId, LEAF_BLOCKS};
use super::leaves::{LEAF_BYTES_MAX, LeafAt};
use super::origin::Fork;
use super::stage::{Hold, Landing, Staging};
use super::{Carrier, Leaf};
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::slots::Place;

/// Blocks are read and written so many bytes at a time.
const PART_BYTES: usize = 4 << 20;

impl Inner {
    /// Fills some of the forks that it is time for: compaction waits as long.
    pub(crate) fn fill_forks(&self) -> Result<()> {
        const AT_A_TIME: usize = 4;
        let due = self.forks_to_fill(self.fs.now_ms());
        for fork in due.iter().take(AT_A_TIME) {
            match self.fill(fork) {
                // It can wait until there is room; its origin stays as long.
                Err(error) if error.is_full() => return Ok(()),
                // What can be read stays readable where it is.
                Err(Error::Damaged { .. }) => fork.damaged(),
                filled => filled?,
            }
        }
        Ok(())
    }

    fn fill(&self, fork: &Fork) -> Result<()> {
        let slot = fork.tree.slot;
        let entry = self.durable_entry(slot)?;
        let Some(entry) = entry.filter(|entry| Carrier::is_map_of(entry, fork.tree)) else {
            // Its map has ended.
            return Ok(());
        };
        let Some(chain) = self.big_chain(slot, &entry)? else {
            // It was moved meanwhile: the next time, then.
            return Ok(());
        };
        for (file, leaves) in (0_u8..).zip(&chain.map) {
            let first = leaves.iter().take(fork.leaves[usize::from(file)] as usize);
            for (index, leaf) in (0_u32..).zip(first) {
                let at = LeafAt {
                    slot: leaf.slot,
                    tree: fork.tree,
                    class: fork.class,
                    file,
                    index,
                };
                if self.upkeep.is_stopping() {
                    return Ok(());
                }
                self.fill_leaf(fork, at)?;
            }
        }
        fork.filled();
        Ok(())
    }

    fn fill_leaf(&self, fork: &Fork, at: LeafAt) -> Result<()> {
        let leaf = self.leaf(at.slot)?.filter(|leaf| leaf.tree == at.tree);
        let leaf = match leaf {
            Some(leaf) => leaf,
            None => Arc::new(self.unwritten_leaf(at.tree, at.file, at.index)),
        };
        let first = at.index * LEAF_BLOCKS;
        let shared: Vec<_> = (first..)
            .zip(&leaf.places)
            .filter(|(_, place)| place.is_origin())
            .map(|(number, _)| BlockId {
                file: at.file,
                number,
            })
            .collect();
        if shared.is_empty() {
            return Ok(());
        }
        let hold = self.blobs.hold();
        let filled = self.write_shared(fork, at, &shared, &hold).and_then(|to| {
            self.name_blobs(&hold)?;
            // Nothing of what was read was lost meanwhile.
            fork.view(self)?;
            self.lead_to(at, &shared, &to)
        });
        match &filled {
            Ok(()) => {
                let landing = Arc::new(Landing::default());
                landing.set(self.log.position().lsn);
                hold.commit(landing);
            }
            Err(_) => self.blobs.release(&hold),
        }
        filled
    }

    /// Writes blocks of the origin beside the log as the fork's. Returns where they are.
    fn write_shared(
        &self,
        fork: &Fork,
        at: LeafAt,
        shared: &[BlockId],
        hold: &Hold,
    ) -> Result<HashMap<BlockId, Place>> {
        let staging = Staging {
            tree: at.tree,
            class: at.class,
            // No commit names them: they have only moved.
            seq: 0,
            hold,
        };
        let view = fork.view(self)?;
        let mut places = HashMap::new();
        let (mut part, mut bytes) = (Vec::new(), 0);
        for id in shared {
            let Some(content) = view.block(self, *id)? else {
                continue;
            };
            bytes += content.len();
            part.push((*id, content));
            if bytes >= PART_BYTES {
                places.extend(self.stage(&staging, std::mem::take(&mut part), |_| at.slot)?);
                self.take_a_break(bytes as u64);
                bytes = 0;
            }
        }
        places.extend(self.stage(&staging, part, |_| at.slot)?);
        Ok(places)
    }

    /// Lets the leaf say where they are, unless the fork has written them meanwhile.
    fn lead_to(&self, at: LeafAt, shared: &[BlockId], to: &HashMap<BlockId, Place>) -> Result<()> {
        // The slots of leaves are given back by compaction only.
        let _not_meanwhile = self.compactor.lock();
        let owner = self.index.newest(at.tree.slot)?;
        if !owner.is_some_and(|owner| Carrier::is_map_of(&owner, at.tree)) {
            return Ok(());
        }
        let change = |leaf: &mut Leaf| {
            for id in shared {
                let place = &mut leaf.places[id.position()];
                if place.is_origin() {
                    *place = to.get(id).copied().unwrap_or(Place::NONE);
                    self.index.usage.replace(at.class, place.extent(), []);
                }
            }
            true
        };
        let reservation = self.log.reserve(LEAF_BYTES_MAX, Claim::Growth)?;
        if let Some(ticket) = self.update_leaf(at, reservation, change)? {
            ticket.wait()?;
        }
        Ok(())
    }
}
