//! Big objects in the scan: what each block was before the commits that changed it.
//!
//! A commit only adds blocks; what they replace is still what the leaves of the map lead to, until the commits
//! are settled into these. So the blocks of all commits since the last HEAD become history together: when the
//! next HEAD says that they are settled, with the leaves as they were before. And when the life of a map ends,
//! all its blocks do.

use std::collections::{BTreeMap, BTreeSet};

use dovehouse_wal::Lsn;

use super::key::What;
use super::scan::{At, Before, Scan, Settling, Version, or_lost};
use super::value::{BigBefore, Block, Undo};
use crate::big::{BlockId, Carrier, Head, LEAF_BLOCKS, Leaf, PAGES, PagesStart, TreeId};
use crate::engine::Inner;
use crate::error::Result;
use crate::id::{ClassId, Slot};
use crate::load::BigChain;
use crate::record::Kind;
use crate::slots::Place;

/// What commits made of the blocks of a map, since the last HEAD.
struct Story {
    class: ClassId,
    time_ms: u64,
    tree: TreeId,
    /// Each block's changes: the commit, and where it lies from then on.
    blocks: BTreeMap<BlockId, Vec<(u64, Place)>>,
    /// Commits that dropped pages, each with the last one that stayed.
    cuts: Vec<(u64, u32)>,
    /// The commit that ended all of it.
    end: Option<u64>,
}

impl Story {
    fn new(chain: &BigChain, tree: TreeId, class: ClassId, time_ms: u64, end: Option<u64>) -> Self {
        let mut blocks: BTreeMap<BlockId, Vec<_>> = BTreeMap::new();
        let mut cuts = Vec::new();
        for commit in &chain.commits {
            cuts.extend(commit.cut.map(|cut| (commit.seq, cut)));
            for item in &commit.items {
                blocks
                    .entry(item.id)
                    .or_default()
                    .push((commit.seq, item.place));
            }
        }
        Story {
            class,
            time_ms,
            tree,
            blocks,
            cuts,
            end,
        }
    }

    /// The blocks of a leaf that were changed.
    fn changed(&self, leaf: &Leaf) -> BTreeSet<BlockId> {
        let first = leaf.index * LEAF_BLOCKS;
        let id = |number| BlockId {
            file: leaf.file,
            number,
        };
        let range = id(first)..=id(first + (LEAF_BLOCKS - 1));
        let mut changed: BTreeSet<_> = self.blocks.range(range).map(|(id, _)| *id).collect();
        let cut = self.cuts.iter().map(|(_, cut)| *cut).min();
        let is_cut = |number| leaf.file == PAGES && cut.is_some_and(|cut| number > cut);
        for (number, place) in (first..).zip(&leaf.places) {
            if !place.is_none() && (self.end.is_some() || is_cut(number)) {
                changed.insert(id(number));
            }
        }
        changed
    }

    /// What became of a block, commit by commit.
    fn steps(&self, id: BlockId) -> Vec<(u64, Place)> {
        let cut = self
            .cuts
            .iter()
            .filter(|(_, cut)| id.file == PAGES && id.number > *cut);
        let mut steps: BTreeMap<u64, Place> = cut.map(|(seq, _)| (*seq, Place::NONE)).collect();
        // Blocks of a commit are written after its pages were dropped.
        steps.extend(self.blocks.get(&id).into_iter().flatten().copied());
        steps.extend(self.end.map(|end| (end, Place::NONE)));
        steps.into_iter().collect()
    }
}

impl Inner {
    pub(super) fn scan_big(
        &self,
        scan: &mut Scan,
        at: &At<'_>,
        before: Version,
    ) -> Result<(Undo, Version)> {
        let alarms = match &before {
            Version::Big(big) => big.alarms.clone(),
            Version::Tiny(working) => working.state().alarms.clone(),
            Version::Lost => Vec::new(),
        };
        let Some(after) = decode_after(at, alarms) else {
            return Ok((Undo::Lost, Version::Lost));
        };
        let undo = match before {
            Version::Tiny(working) => Undo::State(Box::new(working.into_state())),
            Version::Big(before) => {
                let tree = at.tree(before.tree);
                if before.tree != after.tree {
                    self.end_map(scan, at, tree)?;
                } else if at.kind == Kind::Head {
                    self.settled(scan, at, tree)?;
                }
                Undo::Big(before)
            }
            // Whether alarms stayed what they were is not known.
            Version::Lost => return Ok((Undo::Lost, Version::Lost)),
        };
        Ok((undo, Version::Big(after)))
    }

    /// A HEAD says that the commits before it are settled.
    fn settled(&self, scan: &mut Scan, at: &At<'_>, tree: TreeId) -> Result<()> {
        let settling = scan.leaves.remove(&at.header.slot);
        match settling.filter(|found| found.tree == tree) {
            Some(settling) => self.tell(settling, at.record.link, at.header.class, at.time_ms),
            None => Ok(()),
        }
    }

    /// What was settled, but for the HEAD that says so: it may never come. The position stays before what
    /// cannot be told yet.
    pub(super) fn settle_open(&self, scan: &mut Scan) -> Result<()> {
        let owners: Vec<Slot> = scan.leaves.keys().copied().collect();
        for slot in owners {
            let Some(newest) = self.durable_entry(slot)? else {
                scan.leaves.remove(&slot);
                continue;
            };
            let is_ahead = newest.head >= scan.position && self.is_in_log(newest.head);
            if is_ahead {
                continue;
            }
            let settling = scan.leaves.remove(&slot).expect("it was listed");
            // The end of a map tells what was settled before, too.
            if Carrier::is_map_of(&newest, settling.tree) {
                self.tell(settling, newest.head, newest.class, self.log.last_time_ms())?;
            }
        }
        Ok(())
    }

    fn is_in_log(&self, at: Lsn) -> bool {
        let segment = self.log.segment(at.segno());
        segment.is_some_and(|segment| segment.role == dovehouse_wal::Role::Log)
    }

    /// Adds what the blocks in these leaves were, before the commits up to the one at `newest`.
    fn tell(&self, settling: Settling, newest: Lsn, class: ClassId, time_ms: u64) -> Result<()> {
        let tree = settling.tree;
        let Some(chain) = self.chain_at(tree, newest)? else {
            return Ok(());
        };
        let story = Story::new(&chain, tree, class, time_ms, None);
        for before in settling.leaves.values() {
            let leaf = self.leaf_before(tree, before)?;
            self.tell_leaf(&story, &leaf)?;
        }
        Ok(())
    }

    /// The commit ends the life of a big object's map.
    pub(super) fn end_map(&self, scan: &mut Scan, at: &At<'_>, tree: TreeId) -> Result<()> {
        let (header, class, time_ms) = (at.header, at.header.class, at.time_ms);
        let settling = scan
            .leaves
            .remove(&header.slot)
            .filter(|found| found.tree == tree);
        self.history
            .add(at.key(What::End), class, time_ms, Vec::new());
        let Some(chain) = self.chain_at(tree, at.record.link)? else {
            return Ok(());
        };
        let story = Story::new(&chain, tree, class, time_ms, Some(header.seq));
        for (file, leaves) in (0_u8..).zip(&chain.map) {
            for (index, leaf_ref) in (0_u32..).zip(leaves) {
                let settled = settling
                    .as_ref()
                    .and_then(|found| found.leaves.get(&leaf_ref.slot));
                let leaf = match settled {
                    Some(before) => self.leaf_before(tree, before)?,
                    None => {
                        let found = or_lost(self.leaf(leaf_ref.slot))?.flatten();
                        let found = found.filter(|leaf| leaf.tree == tree);
                        found.map_or_else(
                            || self.unwritten_leaf(tree, file, index),
                            |leaf| Leaf::clone(&leaf),
                        )
                    }
                };
                self.tell_leaf(&story, &leaf)?;
                self.flush_history_if_full(scan)?;
            }
        }
        Ok(())
    }

    fn chain_at(&self, tree: TreeId, at: Lsn) -> Result<Option<BigChain>> {
        let Some(entry) = or_lost(self.entry_at(tree.slot, at))?.flatten() else {
            return Ok(None);
        };
        Ok(or_lost(self.big_chain(tree.slot, &entry))?.flatten())
    }

    /// A leaf as it was before commits were settled into it.
    fn leaf_before(&self, tree: TreeId, before: &Before) -> Result<Leaf> {
        let found = match before.at.is_none() {
            true => None,
            false => or_lost(self.log.read(before.at, 0).map_err(Into::into))?.flatten(),
        };
        let leaf = found
            .filter(|record| record.kind == Kind::Leaf as u8)
            .and_then(|record| Leaf::decode(&record.body))
            .map(|(_, leaf)| leaf)
            .filter(|leaf| leaf.tree == tree);
        Ok(leaf.unwrap_or_else(|| self.unwritten_leaf(tree, before.file, before.index)))
    }

    fn tell_leaf(&self, story: &Story, leaf: &Leaf) -> Result<()> {
        for id in story.changed(leaf) {
            let steps = story.steps(id);
            let mut place = leaf.places[id.position()];
            // An earlier settling, of which no HEAD came to tell, may have brought it so far.
            let settled = steps
                .iter()
                .rposition(|(_, step)| !step.is_none() && *step == place);
            for (seq, next) in &steps[settled.map_or(0, |at| at + 1)..] {
                if !place.is_none() || !next.is_none() {
                    self.add_block(story, id, *seq, place)?;
                }
                place = *next;
            }
        }
        Ok(())
    }

    fn add_block(&self, story: &Story, id: BlockId, seq: u64, place: Place) -> Result<()> {
        let block = match place {
            Place::NONE => Block::None,
            Place::ORIGIN => Block::Origin,
            stored => match or_lost(self.read_block(story.tree, id, stored))?.flatten() {
                Some(content) => Block::Content(content),
                None => Block::Lost,
            },
        };
        let key = super::key::Key {
            slot: story.tree.slot,
            generation: story.tree.generation,
            what: What::Block(id),
            seq,
        };
        self.history
            .add(key, story.class, story.time_ms, block.encode());
        Ok(())
    }
}

/// What the object is from this commit on, besides its blocks; `None` is damage.
fn decode_after(at: &At<'_>, alarms: Vec<crate::state::Alarm>) -> Option<BigBefore> {
    let (lsn, bytes) = (at.record.lsn, at.record.body.len());
    if at.kind == Kind::Head {
        let (meta, head, _) = Head::decode(lsn, bytes, &mut at.payload())?;
        return Some(BigBefore {
            tree: head.tree,
            keys: head.keys,
            page_count: u32::try_from(meta.page_count).ok()?,
            alarms: meta.alarms,
        });
    }
    let (start, _) = PagesStart::decode(lsn, bytes, &mut at.payload())?;
    Some(BigBefore {
        tree: start.tree,
        keys: start.keys,
        page_count: start.page_count,
        alarms: start.alarms.unwrap_or(alarms),
    })
}
