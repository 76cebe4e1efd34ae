//! Forks: big objects that share blocks with what they were made of.
//!
//! A fork begins with the size and the key tree that its *origin* had as of a commit, and with leaves of which
//! none was written. A block that such a leaf does not name is read where the origin's history has it; one that
//! the fork writes is its own. So a fork is one small commit, however large its origin is.
//!
//! The history that a fork needs is kept, whatever the class's retention says. When it has come to the age at
//! which it would be let go of, the fork is *filled*: the blocks that it still shares are written (`fill.rs`).
//! Its own past may lead to the origin for as long as that is kept; then the origin is let go of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dovehouse_wal::Flaw;
use dovehouse_wal::bytes::{Put, Reader};
use parking_lot::{Mutex, RwLock};

use super::block::{BlockId, FILES, LEAF_BLOCKS, TreeId};
use super::leaves::damaged_block;
use super::{Carrier, Leaf};
use crate::engine::Inner;
use crate::error::Result;
use crate::history::PastView;
use crate::id::ClassId;
use crate::slots::Place;

/// A fork of forks is read step by step: one with so many steps is copied instead.
const STEPS_MAX: u8 = 8;

/// What a fork was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The map that the blocks were in.
    pub(crate) tree: TreeId,
    /// The commit as of which they are shared.
    pub(crate) seq: u64,
    /// No entry of history that tells them is older, in milliseconds since 1970.
    pub(crate) since_ms: u64,
    /// How many origins this one has.
    pub(crate) steps: u8,
}

impl Origin {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.tree.encode(out);
        out.put_varint(self.seq);
        out.put_varint(self.since_ms);
        out.push(self.steps);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Origin {
            tree: TreeId::decode(reader)?,
            seq: reader.varint()?,
            since_ms: reader.varint()?,
            steps: reader.u8().filter(|steps| *steps <= STEPS_MAX)?,
        })
    }
}

/// A big object that was made of another as it was.
#[derive(Debug)]
pub(crate) struct Fork {
    pub(crate) tree: TreeId,
    pub(crate) class: ClassId,
    /// The commit that made it.
    pub(crate) seq: u64,
    /// How many leaves of each file it began with.
    pub(crate) leaves: [u32; FILES],
    pub(crate) origin: Origin,
    /// Whether the commit that made it is durable.
    is_durable: AtomicBool,
    /// Whether none of its blocks is the origin's any more.
    is_filled: AtomicBool,
    /// From this time on no new entry of its history leads to the origin; 0 if it is not known yet.
    complete_ms: AtomicU64,
    view: Mutex<Option<Arc<PastView>>>,
}

impl Fork {
    pub(crate) fn new(
        tree: TreeId,
        class: ClassId,
        seq: u64,
        leaves: [u32; FILES],
        origin: Origin,
    ) -> Self {
        Fork {
            tree,
            class,
            seq,
            leaves,
            origin,
            is_durable: AtomicBool::new(false),
            is_filled: AtomicBool::new(false),
            complete_ms: AtomicU64::new(0),
            view: Mutex::default(),
        }
    }

    /// As a record that was replayed, or the manifest, has it.
    pub(crate) fn durable(self) -> Self {
        self.is_durable.store(true, Ordering::Relaxed);
        self
    }

    pub(crate) fn filled(&self) {
        self.is_filled.store(true, Ordering::Release);
    }

    /// What it shares.
    pub(crate) fn view(&self, engine: &Inner) -> Result<Arc<PastView>> {
        let mut view = self.view.lock();
        if let Some(view) = &*view {
            return Ok(view.clone());
        }
        let made = Arc::new(engine.view_of_origin(&self.origin)?);
        Ok(view.insert(made).clone())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.tree.encode(out);
        out.put_varint(u64::from(self.class.0));
        out.put_varint(self.seq);
        for leaves in self.leaves {
            out.put_varint(u64::from(leaves));
        }
        self.origin.encode(out);
        out.put_varint(self.complete_ms.load(Ordering::Acquire));
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let number = |reader: &mut Reader<'_>| u32::try_from(reader.varint()?).ok();
        let tree = TreeId::decode(reader)?;
        let class = ClassId(u16::try_from(reader.varint()?).ok()?);
        let seq = reader.varint()?;
        let mut leaves = [0; FILES];
        for leaves in &mut leaves {
            *leaves = number(reader)?;
        }
        let fork = Fork::new(tree, class, seq, leaves, Origin::decode(reader)?).durable();
        fork.complete_ms.store(reader.varint()?, Ordering::Relaxed);
        Some(fork)
    }
}

/// All forks whose blocks, or whose past, lead to an origin.
#[derive(Debug, Default)]
pub(crate) struct Forks {
    all: RwLock<BTreeMap<TreeId, Arc<Fork>>>,
}

impl Forks {
    pub(crate) fn get(&self, tree: TreeId) -> Option<Arc<Fork>> {
        self.all.read().get(&tree).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Fork>> {
        self.all.read().values().cloned().collect()
    }

    pub(crate) fn add(&self, fork: Fork) -> Arc<Fork> {
        let mut all = self.all.write();
        all.entry(fork.tree)
            .or_insert_with(|| Arc::new(fork))
            .clone()
    }

    /// The list as the checkpoint's payload holds it.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let all = self.all.read();
        // The log has those whose commit is not durable yet, if it ever is.
        let durable = all
            .values()
            .filter(|fork| fork.is_durable.load(Ordering::Acquire));
        let durable: Vec<_> = durable.collect();
        out.put_varint(durable.len() as u64);
        durable.iter().for_each(|fork| fork.encode(out));
    }

    /// `None` is damage.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let forks = Forks::default();
        for _ in 0..reader.length()? {
            forks.add(Fork::decode(reader)?);
        }
        Some(forks)
    }

    /// For each class the time since which its history must stay.
    fn pinned(&self) -> BTreeMap<ClassId, u64> {
        let mut pinned = BTreeMap::new();
        for fork in self.all.read().values() {
            let since_ms = pinned.entry(fork.class).or_insert(u64::MAX);
            *since_ms = fork.origin.since_ms.min(*since_ms);
        }
        pinned
    }
}

impl Inner {
    /// What a leaf that was never written says of a block.
    pub(crate) fn unwritten_place(&self, tree: TreeId, id: BlockId) -> Place {
        let has = |fork: Arc<Fork>| id.leaf() < fork.leaves[usize::from(id.file)];
        match self.index.forks.get(tree).is_some_and(has) {
            true => Place::ORIGIN,
            false => Place::NONE,
        }
    }

    /// The same for all its blocks.
    pub(crate) fn unwritten_leaf(&self, tree: TreeId, file: u8, index: u32) -> Leaf {
        let number = index * LEAF_BLOCKS;
        let place = self.unwritten_place(tree, BlockId { file, number });
        Leaf::of(tree, file, index, place)
    }

    /// A block that a fork has not written.
    pub(crate) fn block_of_origin(&self, tree: TreeId, id: BlockId) -> Result<Option<Arc<[u8]>>> {
        let unknown = || damaged_block(tree.slot, id, "what it was forked from is not known");
        let fork = self.index.forks.get(tree).ok_or_else(unknown)?;
        fork.view(self)?.block(self, id)
    }

    /// The history that forks need is kept from now on, and no other for their sake.
    pub(crate) fn pin_history(&self) {
        if !self.teeth.has(Flaw::ForgetForks) {
            self.history.pin(self.index.forks.pinned());
        }
    }

    /// How many steps a fork of an object would have; `None` for too many.
    pub(crate) fn steps_of_fork(&self, of: TreeId) -> Option<u8> {
        let steps = self
            .index
            .forks
            .get(of)
            .map_or(0, |fork| fork.origin.steps + 1);
        (steps <= STEPS_MAX).then_some(steps)
    }

    /// Adds a fork whose commit is about to be made. Fails if what it needs is gone meanwhile.
    pub(crate) fn add_fork(&self, fork: Fork) -> Result<()> {
        let fork = self.index.forks.add(fork);
        self.pin_history();
        // From here on it cannot go; but it may have gone before.
        let checked = self
            .history
            .has_all_since(fork.class, fork.origin.since_ms)
            .and_then(|()| fork.view(self).map(drop));
        if checked.is_err() {
            self.forget_fork(fork.tree);
        }
        checked
    }

    /// There is no such fork.
    pub(crate) fn forget_fork(&self, tree: TreeId) {
        self.index.forks.all.write().remove(&tree);
        self.pin_history();
    }

    /// Notes whose commit is durable: these are named by a checkpoint whose position lies behind.
    pub(crate) fn note_durable_forks(&self) -> Result<()> {
        for fork in self.index.forks.all() {
            if fork.is_durable.load(Ordering::Acquire) {
                continue;
            }
            let entry = self.durable_entry(fork.tree.slot)?;
            let made = (fork.tree.generation, fork.seq);
            if entry.is_some_and(|entry| entry.version() >= made) {
                fork.is_durable.store(true, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Forks that share no block any more: they are filled, or their map has ended.
    pub(crate) fn forks_without_shares(&self) -> Result<Vec<Arc<Fork>>> {
        let mut found = Vec::new();
        for fork in self.index.forks.all() {
            let has_ended = fork.is_durable.load(Ordering::Acquire) && {
                let entry = self.durable_entry(fork.tree.slot)?;
                !entry.is_some_and(|entry| Carrier::is_map_of(&entry, fork.tree))
            };
            if has_ended || fork.is_filled.load(Ordering::Acquire) {
                found.push(fork);
            }
        }
        Ok(found)
    }

    /// Lets origins go that no block and no past leads to. `complete` are forks whose history will not lead there
    /// from now on.
    pub(crate) fn let_origins_go(&self, complete: &[Arc<Fork>], now_ms: u64) {
        for fork in complete {
            let unknown = fork.complete_ms.load(Ordering::Acquire) == 0;
            if unknown {
                fork.complete_ms.store(now_ms.max(1), Ordering::Release);
            }
        }
        let all = self.index.forks.all();
        let is_origin = |tree| all.iter().any(|other| other.origin.tree == tree);
        let mut has_changed = false;
        for fork in &all {
            let complete_ms = fork.complete_ms.load(Ordering::Acquire);
            let kept_ms = self.history.retention_now(fork.class).ms();
            let is_over = complete_ms > 0 && complete_ms.saturating_add(kept_ms) < now_ms;
            if is_over && !is_origin(fork.tree) {
                self.history.let_go(fork.class, complete_ms);
                self.index.forks.all.write().remove(&fork.tree);
                has_changed = true;
            }
        }
        if has_changed {
            self.pin_history();
        }
    }

    /// Forks that are to be filled before their origin can be let go of.
    pub(crate) fn forks_to_fill(&self, now_ms: u64) -> Vec<Arc<Fork>> {
        let is_due = |fork: &Arc<Fork>| {
            let kept_ms = self.history.retention_now(fork.class).ms();
            fork.is_durable.load(Ordering::Acquire)
                && !fork.is_filled.load(Ordering::Acquire)
                && fork.complete_ms.load(Ordering::Acquire) == 0
                && fork.origin.since_ms.saturating_add(kept_ms) <= now_ms
        };
        let mut due = self.index.forks.all();
        due.retain(is_due);
        due
    }
}
