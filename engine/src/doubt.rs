//! Objects of which a commit may be lost in a damaged part of the log.
//!
//! A record that cannot be read is taken for the next commit of an object if everything in it says so:
//! its link leads to the object's newest record, its number is the next one. If a part cannot be read
//! at all, any object may have had a commit there, but for those whose next record shows that it
//! followed the one before.

use std::collections::HashSet;

use dovehouse_wal::bytes::Reader;
use dovehouse_wal::{Hole, RecordView, Remains};
use parking_lot::Mutex;

use crate::id::Slot;
use crate::index::Index;
use crate::record::{Header, Kind};

/// Which objects are in doubt.
#[derive(Debug, Default)]
pub(crate) struct Doubt {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Where the first hole is, and why.
    cause: Option<dovehouse_wal::Error>,
    /// All objects are, but for the cleared ones.
    all: bool,
    slots: HashSet<Slot>,
    cleared: HashSet<Slot>,
}

impl Doubt {
    /// Why an object is in doubt, if it is.
    pub(crate) fn of(&self, slot: Slot) -> Option<dovehouse_wal::Error> {
        let state = self.state.lock();
        let doubted = state.slots.contains(&slot) || state.all && !state.cleared.contains(&slot);
        state.cause.clone().filter(|_| doubted)
    }

    /// The objects in doubt; `None` for all.
    pub(crate) fn slots(&self) -> Option<Vec<Slot>> {
        let state = self.state.lock();
        let mut slots: Vec<_> = state.slots.iter().copied().collect();
        slots.sort_unstable();
        (!state.all).then_some(slots)
    }

    /// A part of the log is missing. Returns what is intact in it.
    pub(crate) fn note<'a>(&self, hole: &'a Hole, index: &Index) -> Vec<RecordView<'a>> {
        let mut intact = Vec::new();
        let mut state = self.state.lock();
        state.cause.get_or_insert_with(|| hole.error.clone());
        for remains in hole.remains() {
            match remains {
                Remains::Record(record) => intact.push(record),
                Remains::Damaged(record) => match next_commit(&record, index) {
                    Some(slot) => {
                        state.slots.insert(slot);
                    }
                    None => state.all = true,
                },
                Remains::Unreadable => state.all = true,
            }
        }
        if state.all {
            state.cleared.clear();
        }
        intact
    }

    /// A record behind the damage, before it is replayed: a whole version leaves no doubt, and neither
    /// does one that follows the newest that is known.
    pub(crate) fn clear_by(&self, record: &RecordView<'_>, index: &Index) {
        let mut state = self.state.lock();
        if state.cause.is_none() {
            return;
        }
        let Some(header) = Header::decode(&mut Reader::new(record.body)) else {
            return;
        };
        let whole = matches!(
            Kind::from_u8(record.kind),
            Some(Kind::Image | Kind::Erase | Kind::Head | Kind::Leaf)
        );
        let newest = index.newest(header.slot).unwrap_or(None);
        let follows = newest.is_some_and(|newest| newest.head == record.link);
        let is_delta = matches!(Kind::from_u8(record.kind), Some(Kind::Delta | Kind::Pages));
        if whole || (is_delta && follows && !state.slots.contains(&header.slot)) {
            state.slots.remove(&header.slot);
            state.cleared.insert(header.slot);
        }
    }
}

/// The object whose next commit a damaged record seems to be.
fn next_commit(record: &RecordView<'_>, index: &Index) -> Option<Slot> {
    let header = Header::decode(&mut Reader::new(record.body))?;
    let newest = index.newest(header.slot).unwrap_or(None)?;
    let follows = newest.head == record.link
        && newest.generation == header.generation
        && newest.seq + 1 == header.seq;
    follows.then_some(header.slot)
}
