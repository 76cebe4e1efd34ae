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
use crate::error::{Error, Result};
use crate::history::PastView;
use crate::id::ClassId;
use crate::slots::{Place, SEQ_LIMIT};

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
            seq: reader.varint().filter(|seq| *seq < SEQ_LIMIT - 1)?,
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
    /// Whether some of them cannot be read: filling it is not tried again before the store is opened again.
    is_damaged: AtomicBool,
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
            is_damaged: AtomicBool::new(false),
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

    pub(crate) fn damaged(&self) {
        self.is_damaged.store(true, Ordering::Release);
    }

    /// What it shares.
    pub(crate) fn view(&self, engine: &Inner) -> Result<Arc<PastView>> {
        let gone = |why| Error::damaged(format!("what was forked to slot {}", self.tree.slot), why);
        if !engine.history.was_never_lost_since(self.origin.since_ms) {
            return Err(gone("history was lost"));
        }
        let before = engine.index.forks.get(self.origin.tree);
        if before.is_some_and(|before| before.origin.steps >= self.origin.steps) {
            return Err(gone("its origin is a fork that came later"));
        }
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

    /// Adds one, in the place of another that was never committed.
    fn add(&self, fork: Fork) -> Arc<Fork> {
        let fork = Arc::new(fork);
        self.all.write().insert(fork.tree, fork.clone());
        fork
    }

    /// Adds one that a record tells, unless it is known.
    pub(crate) fn replay(&self, fork: Fork) {
        let mut all = self.all.write();
        all.entry(fork.tree)
            .or_insert_with(|| Arc::new(fork.durable()));
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
}

/// For each class the time since which its history must stay.
fn pinned(all: &BTreeMap<TreeId, Arc<Fork>>) -> BTreeMap<ClassId, u64> {
    let mut pinned = BTreeMap::new();
    for fork in all.values() {
        let since_ms = pinned.entry(fork.class).or_insert(u64::MAX);
        *since_ms = fork.origin.since_ms.min(*since_ms);
    }
    pinned
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
            // Held until it is pinned, lest an older list comes later.
            let all = self.index.forks.all.read();
            self.history.pin(pinned(&all));
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
        let checked = self.check_fork(&fork);
        if checked.is_err() {
            self.forget_fork(fork.tree);
        }
        // Most forks are not read at once.
        fork.view.lock().take();
        checked
    }

    fn check_fork(&self, fork: &Fork) -> Result<()> {
        let Origin { seq, since_ms, .. } = fork.origin;
        self.history.has_all_since(fork.class, since_ms)?;
        let view = fork.view(self)?;
        match self.history.is_point(fork.class, view.of(), seq)? {
            true => Ok(()),
            false => Err(Error::damaged("history", "it was thinned out meanwhile")),
        }
    }

    /// There is no such fork.
    pub(crate) fn forget_fork(&self, tree: TreeId) {
        self.index.forks.all.write().remove(&tree);
        self.pin_history();
    }

    /// Notes whose commit is durable: these are named by a checkpoint whose position lies behind.
    pub(crate) fn note_durable_forks(&self) {
        for fork in self.index.forks.all() {
            if fork.is_durable.load(Ordering::Acquire) {
                continue;
            }
            // One that cannot be read says nothing.
            let entry = self.durable_entry(fork.tree.slot).unwrap_or(None);
            let made = (fork.tree.generation, fork.seq);
            if entry.is_some_and(|entry| entry.version() >= made) {
                fork.is_durable.store(true, Ordering::Release);
            }
        }
    }

    /// Forks that share no block any more: they are filled, or their map has ended.
    pub(crate) fn forks_without_shares(&self) -> Vec<Arc<Fork>> {
        let has_ended = |fork: &Arc<Fork>| {
            let entry = self.durable_entry(fork.tree.slot);
            // One that cannot be read may be its.
            let is_map =
                entry.map(|entry| entry.is_some_and(|entry| Carrier::is_map_of(&entry, fork.tree)));
            fork.is_durable.load(Ordering::Acquire) && !is_map.unwrap_or(true)
        };
        let mut found = self.index.forks.all();
        found.retain(|fork| fork.is_filled.load(Ordering::Acquire) || has_ended(fork));
        found
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
        for fork in self.index.forks.all() {
            // Whoever reads again makes its view again.
            fork.view.lock().take();
        }
        let mut all = self.index.forks.all.write();
        let over = all.values().filter(|fork| {
            let complete_ms = fork.complete_ms.load(Ordering::Acquire);
            let kept_ms = self.history.retention_now(fork.class).ms();
            // A fork of later commits meets nothing of the origin.
            let needs = |other: &Arc<Fork>| {
                other.origin.tree == fork.tree && other.origin.since_ms <= complete_ms
            };
            let is_over = complete_ms > 0 && complete_ms.saturating_add(kept_ms) < now_ms;
            is_over && !all.values().any(needs)
        });
        let over: Vec<_> = over.cloned().collect();
        for fork in &over {
            let complete_ms = fork.complete_ms.load(Ordering::Acquire);
            self.history.let_go(fork.class, complete_ms);
            all.remove(&fork.tree);
        }
        drop(all);
        if !over.is_empty() {
            self.pin_history();
        }
    }

    /// Forks that are to be filled before their origin can be let go of.
    pub(crate) fn forks_to_fill(&self, now_ms: u64) -> Vec<Arc<Fork>> {
        let is_due = |fork: &Arc<Fork>| {
            let kept_ms = self.history.retention_now(fork.class).ms();
            fork.is_durable.load(Ordering::Acquire)
                && !fork.is_filled.load(Ordering::Acquire)
                && !fork.is_damaged.load(Ordering::Acquire)
                && fork.complete_ms.load(Ordering::Acquire) == 0
                && fork.origin.since_ms.saturating_add(kept_ms) <= now_ms
        };
        let mut due = self.index.forks.all();
        due.retain(is_due);
        due
    }
}
