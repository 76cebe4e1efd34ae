//! What changed since the last checkpoint: the newest and the last durable version of each slot.
//!
//! A cell is in the overlay while its object is awake, while a record of it is under way, or until a
//! checkpoint has written it; so heap is proportional to the hot set.

use std::collections::HashMap;
use std::sync::Arc;

use dovehouse_wal::{DurableLsn, Lsn, Ticket};
use parking_lot::{Mutex, RwLock};

use crate::id::{ObjectId, Slot};
use crate::slots::Entry;

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
    /// The version before those that are not durable yet, for reads after a failure.
    durable: Option<Entry>,
    due: DueChange,
    /// Whether a checkpoint has to write it.
    dirty: bool,
    /// Set until the id table has it.
    new_id: Option<ObjectId>,
    /// The last commit of an object that was put to sleep before it was durable.
    last_ticket: Option<Ticket>,
}

/// What a checkpoint writes of one cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copied {
    pub(crate) slot: Slot,
    pub(crate) entry: Entry,
    pub(crate) due: DueChange,
    pub(crate) new_id: Option<ObjectId>,
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

    /// A new version got its place. Returns the place of the one before it.
    pub(crate) fn place(&self, entry: Entry, due: DueChange, durable: DurableLsn) -> Lsn {
        let mut state = self.state.lock();
        let before = state.newest;
        if before.is_some_and(|before| durable.covers(before.head)) {
            state.durable = before;
        }
        state.newest = Some(entry);
        state.due = due.or(state.due);
        state.dirty = true;
        before.map_or(Lsn::NONE, |before| before.head)
    }

    /// The newest version, whether or not it is durable.
    pub(crate) fn newest(&self) -> Option<Entry> {
        self.state.lock().newest
    }

    /// The newest version that is durable.
    pub(crate) fn durable(&self, durable: DurableLsn) -> Option<Entry> {
        let state = self.state.lock();
        match state.newest {
            Some(newest) if durable.covers(newest.head) => Some(newest),
            _ => state.durable,
        }
    }

    /// A version that replay found in the log, where it is durable.
    pub(crate) fn replay(&self, entry: Entry) {
        let mut state = self.state.lock();
        state.newest = Some(entry);
        state.durable = Some(entry);
        state.dirty = true;
    }

    /// What a record of the log says of the object's alarm and id, whether or not its version counts.
    pub(crate) fn replay_facts(&self, due: DueChange, id: Option<ObjectId>) {
        let mut state = self.state.lock();
        state.due = due.or(state.due);
        state.new_id = id.or(state.new_id);
        state.dirty = true;
    }

    pub(crate) fn set_new_id(&self, id: ObjectId) {
        self.state.lock().new_id = Some(id);
    }

    pub(crate) fn set_last_ticket(&self, ticket: Option<Ticket>) {
        self.state.lock().last_ticket = ticket;
    }

    pub(crate) fn take_last_ticket(&self) -> Option<Ticket> {
        self.state.lock().last_ticket.take()
    }

    fn copy(&self) -> Option<Copied> {
        let state = self.state.lock();
        let entry = state.newest.filter(|_| state.dirty)?;
        Some(Copied {
            slot: self.slot,
            entry,
            due: state.due,
            new_id: state.new_id,
        })
    }

    /// Marks the cell clean if the checkpoint wrote what is newest and durable now.
    fn settle(&self, copied: &Copied, durable: DurableLsn) -> bool {
        let mut state = self.state.lock();
        if copied.new_id.is_some() {
            state.new_id = None;
        }
        if state.newest == Some(copied.entry) && durable.covers(copied.entry.head) {
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
    shards: Vec<RwLock<HashMap<Slot, Arc<Cell>>>>,
}

impl Overlay {
    pub(crate) fn new() -> Self {
        Overlay {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
        }
    }

    fn shard(&self, slot: Slot) -> &RwLock<HashMap<Slot, Arc<Cell>>> {
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
        Ok(cell)
    }

    /// Lets go of a cell: it stays only while it has something to tell.
    pub(crate) fn release(&self, cell: Arc<Cell>) {
        let mut shard = self.shard(cell.slot).write();
        // The map's reference and ours; a record under way holds another.
        if Arc::strong_count(&cell) == 2 && cell.is_clean() {
            shard.remove(&cell.slot);
        }
    }

    /// How many cells there are.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    /// Copies everything that a checkpoint has to write, sorted by slot.
    pub(crate) fn copy_dirty(&self) -> Vec<Copied> {
        let mut copies = Vec::new();
        for shard in &self.shards {
            copies.extend(shard.read().values().filter_map(|cell| cell.copy()));
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
                    shard.remove(&copied.slot);
                }
            }
        }
    }
}
