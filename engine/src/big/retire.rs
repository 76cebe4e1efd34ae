//! What is left of a big object that was erased, thrown away, or has become tiny: its blocks are dead from
//! that commit on, but each leaf of its map has a slot, which must be given back.

use std::collections::BTreeSet;
use std::sync::Arc;

use dovehouse_wal::{Claim, Flaw, Record, Ticket};
use parking_lot::Mutex;

use super::under::Under;
use super::{Carrier, Leaf};
use crate::engine::Inner;
use crate::error::Result;
use crate::expire::{Expired, encode_expire};
use crate::id::Slot;
use crate::index::Note;
use crate::record::Kind;
use crate::slots::{Entry, Form};

/// Leaves in one EXPIRE record.
const LEAVES_MAX: usize = 64;
const EXPIRE_BYTES_MAX: usize = 48 * LEAVES_MAX;

/// Slots of leaves that nobody needs.
#[derive(Debug, Default)]
pub(crate) struct Retired {
    slots: Mutex<BTreeSet<Slot>>,
}

impl Retired {
    pub(crate) fn add(&self, slot: Slot) {
        self.slots.lock().insert(slot);
    }
}

impl Inner {
    /// The commit that ends a map is on its way: its leaves are to be forgotten.
    pub(crate) fn retire(&self, under: &Under) {
        if under.is_committed {
            let mut slots = self.retired.slots.lock();
            slots.extend(under.map.iter().flatten().map(|leaf| leaf.slot));
        }
    }

    /// Whether the object that a leaf belongs to has another map by now, or none.
    pub(crate) fn is_leaf_dead(
        &self,
        leaf: &Leaf,
        entry_of: impl Fn(Slot) -> Result<Option<Entry>>,
    ) -> bool {
        match entry_of(leaf.tree.slot) {
            Ok(Some(owner)) => !Carrier::is_map_of(&owner, leaf.tree),
            // What cannot be read may need it.
            Ok(None) | Err(_) => false,
        }
    }

    /// Gives the slots of retired leaves back. Only compaction does this, so that none of its own changes
    /// comes after.
    pub(crate) fn forget_leaves(&self) -> Result<()> {
        let retired = std::mem::take(&mut *self.retired.slots.lock());
        let mut slots = Vec::new();
        for slot in retired {
            if self.dead_leaf(slot)?.is_some() {
                slots.push(slot);
            }
        }
        if !slots.is_empty() && !self.teeth.has(Flaw::ForgetLeavesEarly) {
            // History reads them when it comes to the commit that ended their map.
            self.checkpoint(false)?;
        }
        let mut last: Option<Ticket> = None;
        for slots in slots.chunks(LEAVES_MAX) {
            last = self.forget_some_leaves(slots)?.or(last);
        }
        last.map_or(Ok(()), |ticket| ticket.wait().map(drop))?;
        Ok(())
    }

    fn forget_some_leaves(&self, slots: &[Slot]) -> Result<Option<Ticket>> {
        let nobody = crate::id::ObjectId::from_bytes([0; 32]);
        let (mut cells, mut body) = (Vec::new(), Vec::new());
        for slot in slots.iter().copied() {
            let Some((entry, leaf)) = self.dead_leaf(slot)? else {
                continue;
            };
            let places = leaf.places.iter().filter(|place| place.is_stored());
            let dead = places.map(|place| place.extent());
            self.index.usage.release(entry.class, dead);
            cells.push((self.index.cell(slot)?, entry.head, nobody));
            body.push(Expired {
                slot,
                generation: entry.generation,
                seq: entry.seq,
                id: nobody,
            });
        }
        if body.is_empty() {
            return Ok(None);
        }
        let reservation = self.log.reserve(EXPIRE_BYTES_MAX, Claim::Relocation)?;
        let record = Record {
            kind: Kind::Expire as u8,
            flags: 0,
            note: Some(Note::Expiries(cells)),
            body: encode_expire(&body),
        };
        Ok(Some(self.log.append(record, reservation)?))
    }

    /// A leaf whose object needs it no more.
    fn dead_leaf(&self, slot: Slot) -> Result<Option<(Entry, Arc<Leaf>)>> {
        let is_usable = |entry: &Entry| {
            let last_life = entry.generation == u8::MAX;
            entry.form == Form::Leaf && !entry.expired && !last_life
        };
        let newest = self.index.newest(slot)?.filter(is_usable);
        let Some(entry) =
            newest.filter(|entry| self.durable_entry(slot).ok() == Some(Some(*entry)))
        else {
            return Ok(None);
        };
        let Some(leaf) = self.read_leaf(slot, &entry)? else {
            return Ok(None);
        };
        if !self.is_leaf_dead(&leaf, |slot| self.durable_entry(slot)) {
            // The commit that ends its map is not durable yet.
            self.retired.add(slot);
            return Ok(None);
        }
        Ok(Some((entry, leaf)))
    }

    /// Slots of leaves that wait to be given back, for those who look for leftovers.
    pub(crate) fn has_retired_leaves(&self) -> bool {
        !self.retired.slots.lock().is_empty()
    }
}
