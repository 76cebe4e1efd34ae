//! What changed since the last checkpoint: the newest and the last durable version of each slot.
//!
//! A cell is in the overlay while its object is awake, while a record of it is under way, or until a
//! checkpoint has written it; so heap is proportional to the hot set.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dovehouse_wal::{DurableLsn, Lsn, Ticket};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;

use crate::expire::Expired;
use crate::id::{ClassId, ObjectId, Slot};
use crate::slots::{Entry, Form, Place};
use crate::usage::Extent;

const SHARDS: usize = 64;

/// An earliest alarm that the alarm column does not have yet: `Some(None)` takes it away.
pub(crate) type DueChange = Option<Option<u64>>;

/// The location cell of an object.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) slot: Slot,
    state: Mutex<CellState>,
}

#[derive(Debug, Default)]
struct CellState {
    newest: Option<Entry>,
    /// The record that made it the newest: the version itself, or the one that says where it was moved.
    newest_at: Lsn,
    /// The version before those that are not durable yet, for reads after a failure.
    durable: Option<Entry>,
    /// Where the records under the newest lie, as far as it is known.
    below: Vec<Extent>,
    /// Compaction waits for the next image: no more deltas.
    wants_image: bool,
    due: DueChange,
    /// Whether a checkpoint has to write it.
    dirty: bool,
    /// Set until the id table has it.
    new_id: Option<ObjectId>,
    /// Until the id table has forgotten them.
    gone_ids: Vec<ObjectId>,
    /// The last commit of an object that was put to sleep before it was durable.
    last_ticket: Option<Ticket>,
}

/// What a checkpoint writes of one cell.
#[derive(Clone, Debug)]
pub(crate) struct Copied {
    pub(crate) slot: Slot,
    pub(crate) entry: Entry,
    pub(crate) entry_at: Lsn,
    pub(crate) due: DueChange,
    pub(crate) new_id: Option<ObjectId>,
    pub(crate) gone_ids: Vec<ObjectId>,
}

impl CellState {
    fn forget_id(&mut self, id: ObjectId) {
        self.new_id.take_if(|new| *new == id);
        self.gone_ids.push(id);
    }

    fn supersede(&mut self, entry: Entry, at: Lsn, durable: DurableLsn) -> Vec<Extent> {
        if self.newest.is_some() && durable.covers(self.newest_at) {
            self.durable = self.newest;
        }
        let dead = self.bury(entry);
        self.newest = Some(entry);
        self.newest_at = at;
        self.dirty = true;
        dead
    }

    fn replay(&mut self, entry: Entry) -> Vec<Extent> {
        let dead = match self.newest {
            // What the index shows already was counted when it came there.
            Some(shown) if shown == entry => vec![entry.extent()],
            _ => self.bury(entry),
        };
        self.newest = Some(entry);
        self.newest_at = Lsn::NONE;
        self.durable = Some(entry);
        self.dirty = true;
        dead
    }

    /// What a new version makes dead, which is nothing if it lies on the one before.
    fn bury(&mut self, new: Entry) -> Vec<Extent> {
        let before = self.newest.map(|before| before.extent());
        if new.depth > 0 {
            self.below.extend(before);
            return Vec::new();
        }
        self.wants_image = false;
        let mut dead = std::mem::take(&mut self.below);
        dead.extend(before);
        dead
    }
}

impl Cell {
    /// A cell that shows what the index shows.
    pub(crate) fn clean(slot: Slot, entry: Option<Entry>) -> Self {
        let state = CellState {
            newest: entry,
            durable: entry,
            ..CellState::default()
        };
        Cell {
            slot,
            state: Mutex::new(state),
        }
    }

    /// A new version got its place, and the record that says so. Returns the place of the one before it,
    /// and what is dead now.
    pub(crate) fn place(
        &self,
        entry: Entry,
        due: DueChange,
        at: Lsn,
        durable: DurableLsn,
    ) -> (Lsn, Vec<Extent>) {
        let mut state = self.state.lock();
        let before = state.newest;
        let dead = state.supersede(entry, at, durable);
        state.due = due.or(state.due);
        (before.map_or(Lsn::NONE, |before| before.head), dead)
    }

    /// Compaction wrote the version at `from` to another place, whole. Returns the object's class and what is
    /// dead now; `None` if there is a newer version, and the copy is for nothing.
    pub(crate) fn relocate(
        &self,
        from: Lsn,
        to: Place,
        at: Lsn,
        durable: DurableLsn,
    ) -> Option<(ClassId, Vec<Extent>)> {
        let mut state = self.state.lock();
        let before = state.newest.filter(|newest| newest.head == from)?;
        Some((before.class, state.supersede(before.moved(to), at, durable)))
    }

    /// The object is forgotten, if its newest version is still the one at `from`. Returns its class and
    /// what is dead now.
    pub(crate) fn expire(
        &self,
        from: Lsn,
        id: ObjectId,
        at: Lsn,
        durable: DurableLsn,
    ) -> Option<(ClassId, Vec<Extent>)> {
        let mut state = self.state.lock();
        let before = state.newest.filter(|newest| newest.head == from)?;
        let dead = state.supersede(before.forgotten(), at, durable);
        // A leaf of a map has no id.
        if before.form != Form::Leaf {
            state.forget_id(id);
        }
        Some((before.class, dead))
    }

    /// The same at replay, if the version that was forgotten is the newest, or was and others followed.
    /// Returns what is dead now, and whether the slot is free; `None` if the record counts for nothing.
    pub(crate) fn replay_expired(&self, expired: &Expired) -> Option<(Vec<Extent>, bool)> {
        let newest = self.newest();
        let version = (expired.generation, expired.seq);
        let is_leaf = newest.is_some_and(|newest| newest.form == Form::Leaf);
        let may_go = |newest: &Entry| newest.version() == version && (newest.erased || is_leaf);
        let current = newest.filter(may_go);
        let later = newest.filter(|newest| newest.generation > expired.generation);
        let dead = match (current, later) {
            (Some(entry), _) => self.replay(entry.forgotten()),
            (None, Some(_)) => Vec::new(),
            (None, None) => return None,
        };
        let mut state = self.state.lock();
        if !is_leaf {
            state.forget_id(expired.id);
        }
        state.dirty = true;
        let is_free = state.newest.is_some_and(|newest| newest.expired);
        Some((dead, is_free))
    }

    /// The newest version, whether or not it is durable.
    pub(crate) fn newest(&self) -> Option<Entry> {
        self.state.lock().newest
    }

    /// The newest version that is durable.
    pub(crate) fn durable(&self, durable: DurableLsn) -> Option<Entry> {
        let state = self.state.lock();
        match state.newest {
            Some(newest) if durable.covers(state.newest_at) => Some(newest),
            _ => state.durable,
        }
    }

    /// Replays a record of the object: what it says of alarm and id, whether or not its version counts;
    /// and the version that `entry` makes of the newest one, if it makes any. Returns that, and what is
    /// dead now.
    pub(crate) fn replay_record<E>(
        &self,
        due: DueChange,
        id: Option<ObjectId>,
        entry: impl FnOnce(Option<Entry>) -> Result<Option<Entry>, E>,
    ) -> Result<Option<(Entry, Vec<Extent>)>, E> {
        let mut state = self.state.lock();
        state.due = due.or(state.due);
        state.new_id = id.or(state.new_id);
        state.dirty = true;
        let entry = entry(state.newest)?;
        Ok(entry.map(|entry| (entry, state.replay(entry))))
    }

    /// A version that replay found in the log, where it is durable. Returns what is dead now.
    pub(crate) fn replay(&self, entry: Entry) -> Vec<Extent> {
        self.state.lock().replay(entry)
    }

    /// Where the records of the version at `head` lie, as a reader of them has seen.
    pub(crate) fn set_below(&self, head: Lsn, below: Vec<Extent>) {
        let mut state = self.state.lock();
        if state.newest.is_some_and(|newest| newest.head == head) {
            state.below = below;
        }
    }

    /// Asks for an image instead of the next delta.
    pub(crate) fn want_image(&self) {
        self.state.lock().wants_image = true;
    }

    pub(crate) fn wants_image(&self) -> bool {
        self.state.lock().wants_image
    }

    pub(crate) fn set_new_id(&self, id: ObjectId) {
        self.state.lock().new_id = Some(id);
    }

    pub(crate) fn set_last_ticket(&self, ticket: Option<Ticket>) {
        self.state.lock().last_ticket = ticket;
    }

    /// The same, unless a later commit was put down already.
    pub(crate) fn set_first_ticket(&self, ticket: Ticket) {
        self.state.lock().last_ticket.get_or_insert(ticket);
    }

    pub(crate) fn last_ticket(&self) -> Option<Ticket> {
        self.state.lock().last_ticket.clone()
    }

    pub(crate) fn take_last_ticket(&self) -> Option<Ticket> {
        self.state.lock().last_ticket.take()
    }

    /// What the alarm column and the id table do not have yet.
    pub(crate) fn facts(&self) -> (DueChange, Option<ObjectId>) {
        let state = self.state.lock();
        (state.due, state.new_id)
    }

    pub(crate) fn gone_ids(&self) -> Vec<ObjectId> {
        self.state.lock().gone_ids.clone()
    }

    fn copy(&self) -> Option<Copied> {
        let state = self.state.lock();
        let entry = state.newest.filter(|_| state.dirty)?;
        Some(Copied {
            slot: self.slot,
            entry,
            entry_at: state.newest_at,
            due: state.due,
            new_id: state.new_id,
            gone_ids: state.gone_ids.clone(),
        })
    }

    /// Marks the cell clean if the checkpoint wrote what is newest and durable now.
    fn settle(&self, copied: &Copied, durable: DurableLsn) -> bool {
        let mut state = self.state.lock();
        if copied.new_id.is_some() {
            state.new_id.take_if(|id| Some(*id) == copied.new_id);
        }
        state.gone_ids.retain(|id| !copied.gone_ids.contains(id));
        let told = state.new_id.is_none() && state.gone_ids.is_empty();
        if state.newest == Some(copied.entry) && durable.covers(copied.entry_at) && told {
            (state.dirty, state.due) = (false, None);
        }
        !state.dirty
    }

    fn is_clean(&self) -> bool {
        !self.state.lock().dirty
    }
}

/// All cells, in shards.
#[derive(Debug)]
pub(crate) struct Overlay {
    shards: Vec<RwLock<FxHashMap<Slot, Arc<Cell>>>>,
    len: AtomicUsize,
}

impl Overlay {
    pub(crate) fn new() -> Self {
        Overlay {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            len: AtomicUsize::new(0),
        }
    }

    fn shard(&self, slot: Slot) -> &RwLock<FxHashMap<Slot, Arc<Cell>>> {
        &self.shards[slot.get() as usize % SHARDS]
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<Arc<Cell>> {
        self.shard(slot).read().get(&slot).cloned()
    }

    /// The slot's cell, made from the index if it is not there.
    pub(crate) fn get_or_insert<E>(
        &self,
        slot: Slot,
        load: impl FnOnce() -> Result<Option<Entry>, E>,
    ) -> Result<Arc<Cell>, E> {
        if let Some(cell) = self.get(slot) {
            return Ok(cell);
        }
        let mut shard = self.shard(slot).write();
        if let Some(cell) = shard.get(&slot) {
            return Ok(cell.clone());
        }
        let cell = Arc::new(Cell::clean(slot, load()?));
        shard.insert(slot, cell.clone());
        self.len.fetch_add(1, Ordering::Relaxed);
        Ok(cell)
    }

    /// Lets go of a cell: it stays only while it has something to tell.
    pub(crate) fn release(&self, cell: Arc<Cell>) {
        let mut shard = self.shard(cell.slot).write();
        // The map's reference and ours; a record under way holds another.
        if Arc::strong_count(&cell) == 2 && cell.is_clean() {
            self.remove(&mut shard, cell.slot);
        }
    }

    /// How many cells there are.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    fn remove(&self, shard: &mut FxHashMap<Slot, Arc<Cell>>, slot: Slot) {
        shard.remove(&slot);
        self.len.fetch_sub(1, Ordering::Relaxed);
    }

    /// Shows every cell.
    pub(crate) fn for_each(&self, mut show: impl FnMut(&Cell)) {
        for shard in &self.shards {
            shard.read().values().for_each(|cell| show(cell));
        }
    }

    /// Copies everything that a checkpoint has to write, sorted by slot. Leaves of maps come after all others,
    /// so that none is older than the HEAD that was written after it (see `big/carried.rs`).
    /// `between` is done in between.
    pub(crate) fn copy_dirty(&self, leaves_first: bool, between: impl FnOnce()) -> Vec<Copied> {
        let mut copies = Vec::new();
        let mut between = Some(between);
        for is_leaf in [leaves_first, !leaves_first] {
            let is_wanted = |copy: &Copied| (copy.entry.form == Form::Leaf) == is_leaf;
            for shard in &self.shards {
                let shard = shard.read();
                copies.extend(
                    shard
                        .values()
                        .filter_map(|cell| cell.copy().filter(is_wanted)),
                );
            }
            if let Some(between) = between.take() {
                between();
            }
        }
        copies.sort_unstable_by_key(|copy| copy.slot);
        copies
    }

    /// After a checkpoint: drops what it wrote, unless it changed since or somebody holds it. Calls
    /// `clean` for each cell that the index now agrees with.
    pub(crate) fn settle(
        &self,
        copies: &[Copied],
        durable: DurableLsn,
        mut clean: impl FnMut(&Copied),
    ) {
        for copied in copies {
            let mut shard = self.shard(copied.slot).write();
            let Some(cell) = shard.get(&copied.slot) else {
                continue;
            };
            if cell.settle(copied, durable) {
                clean(copied);
                if Arc::strong_count(cell) == 1 {
                    self.remove(&mut shard, copied.slot);
                }
            }
        }
    }
}
