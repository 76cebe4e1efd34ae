//! Reading blocks by way of the leaves, and changing leaves.
//!
//! A leaf is changed by its object's owner, when commits are settled into it, and by compaction, when blocks
//! have moved. Both take the newest content, change it, and append it as a LEAF record under one lock, so
//! that no change is lost whoever comes first.

use std::collections::HashMap;
use std::sync::Arc;

use dovehouse_wal::{Lsn, Record, Reservation, Ticket, TicketState};
use parking_lot::Mutex;

use super::block::{BlockId, LEAF_BLOCKS, TreeId, decode_block};
use super::leaf::Leaf;
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::id::{ClassId, Slot};
use crate::index::Note;
use crate::record::{Header, Kind};
use crate::slots::{Entry, Form, Place};

/// What a LEAF record's body takes at most; to be reserved for a change.
pub(crate) const LEAF_BYTES_MAX: usize = 64 + LEAF_BLOCKS as usize * 16;

/// Leaves that were appended and may not be durable yet.
#[derive(Debug, Default)]
pub(crate) struct Leaves {
    updating: Mutex<()>,
    recent: Mutex<HashMap<Slot, Recent>>,
}

#[derive(Debug)]
struct Recent {
    leaf: Arc<Leaf>,
    header: Header,
    ticket: Ticket,
}

impl Leaves {
    /// The newest content of a leaf, if it may not be durable yet.
    fn recent(&self, slot: Slot) -> Option<(Arc<Leaf>, Header)> {
        let mut recent = self.recent.lock();
        let found = recent.get(&slot)?;
        match found.ticket.state() {
            TicketState::Pending => Some((found.leaf.clone(), found.header)),
            TicketState::Durable(_) | TicketState::Unknown(_) => {
                recent.remove(&slot);
                None
            }
        }
    }

    fn add(&self, slot: Slot, added: Recent) {
        const SWEEP: usize = 64;
        let mut recent = self.recent.lock();
        if recent.len() >= SWEEP && recent.len().is_power_of_two() {
            recent.retain(|_, recent| matches!(recent.ticket.state(), TicketState::Pending));
        }
        recent.insert(slot, added);
    }
}

/// A leaf of an object's map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeafAt {
    pub(crate) slot: Slot,
    pub(crate) tree: TreeId,
    pub(crate) class: ClassId,
    pub(crate) file: u8,
    pub(crate) index: u32,
}

impl Inner {
    /// The newest content of a leaf; `None` if nothing was ever settled into it.
    pub(crate) fn leaf(&self, slot: Slot) -> Result<Option<Arc<Leaf>>> {
        if let Some((leaf, _)) = self.leaves.recent(slot) {
            return Ok(Some(leaf));
        }
        loop {
            let entry = self.durable_entry(slot)?;
            let Some(entry) = entry.filter(|entry| entry.form == Form::Leaf) else {
                return Ok(None);
            };
            if let Some(leaf) = self.read_leaf(slot, &entry)? {
                return Ok(Some(leaf));
            }
            if self.durable_entry(slot)? == Some(entry) {
                let why = format!("no segment has its record at {}", entry.head);
                return Err(Error::damaged(format!("the leaf in slot {slot}"), why));
            }
        }
    }

    /// The leaf that an entry leads to; `None` if it lies there no longer.
    pub(crate) fn read_leaf(&self, slot: Slot, entry: &Entry) -> Result<Option<Arc<Leaf>>> {
        if let Some(leaf) = self.cache.leaf(entry.head) {
            return Ok(Some(leaf));
        }
        let Some(record) = self.log.read(entry.head, entry.bytes as usize)? else {
            return Ok(None);
        };
        let is_leaf = record.kind == Kind::Leaf as u8;
        let decoded = Leaf::decode(&record.body).filter(|(header, _)| {
            is_leaf && header.slot == slot && (header.generation, header.seq) == entry.version()
        });
        let Some((_, leaf)) = decoded else {
            let why = format!("its record at {} is not what the index says", entry.head);
            return Err(Error::damaged(format!("the leaf in slot {slot}"), why));
        };
        let leaf = Arc::new(leaf);
        self.cache.add_leaf(entry.head, &leaf);
        Ok(Some(leaf))
    }

    /// Changes a leaf, and appends it if `change` says that it did.
    pub(crate) fn update_leaf(
        &self,
        at: LeafAt,
        reservation: Reservation,
        change: impl FnOnce(&mut Leaf) -> bool,
    ) -> Result<Option<Ticket>> {
        let _one_after_the_other = self.leaves.updating.lock();
        let recent = self.leaves.recent(at.slot);
        let newest = match &recent {
            Some((leaf, _)) => Some(leaf.clone()),
            None => self.leaf(at.slot)?,
        };
        let mut leaf = match newest {
            Some(leaf) if leaf.tree == at.tree => Leaf::clone(&leaf),
            _ => self.unwritten_leaf(at.tree, at.file, at.index),
        };
        if !change(&mut leaf) {
            return Ok(None);
        }
        let cell = self.index.cell(at.slot)?;
        let (generation, seq) = match recent {
            Some((_, header)) => (header.generation, header.seq),
            None => cell.newest().map_or((0, 0), |newest| newest.version()),
        };
        let header = Header {
            slot: at.slot,
            generation,
            seq: seq + 1,
            class: at.class,
            depth: 0,
        };
        let entry = Entry {
            head: Lsn::NONE,
            bytes: 0,
            seq: header.seq,
            generation,
            class: at.class,
            erased: false,
            expired: false,
            depth: 0,
            form: Form::Leaf,
            fingerprint: 0,
        };
        let record = Record {
            kind: Kind::Leaf as u8,
            flags: 0,
            body: leaf.encode(&header),
            note: Some(Note::Version {
                cell,
                entry,
                due: None,
                landing: None,
            }),
        };
        let ticket = self.log.append(record, reservation)?;
        let added = Recent {
            leaf: Arc::new(leaf),
            header,
            ticket: ticket.clone(),
        };
        self.leaves.add(at.slot, added);
        Ok(Some(ticket))
    }

    /// The block at a place; `None` if that is no longer part of the store.
    pub(crate) fn read_block(
        &self,
        tree: TreeId,
        id: BlockId,
        place: Place,
    ) -> Result<Option<Arc<[u8]>>> {
        if let Some(content) = self.cache.block(place.lsn) {
            return Ok(Some(content));
        }
        let mut stored = vec![0; place.bytes as usize];
        if self.log.read_bytes(place.lsn, &mut stored)?.is_none() {
            return Ok(None);
        }
        let content = decode_block(tree, id, &stored).ok_or_else(|| {
            let why = format!("what lies at {} has a wrong checksum", place.lsn);
            damaged_block(tree.slot, id, why)
        })?;
        self.cache.add_block(place.lsn, &content);
        Ok(Some(content))
    }

    /// A block by way of the leaf that leads to it.
    pub(crate) fn block_by_leaf(
        &self,
        tree: TreeId,
        id: BlockId,
        slot: Slot,
    ) -> Result<Option<Arc<[u8]>>> {
        let mut tried = Place::NONE;
        loop {
            let leaf = self.leaf(slot)?;
            let is_ours = |leaf: &Arc<Leaf>| {
                leaf.tree == tree && (leaf.file, leaf.index) == (id.file, id.leaf())
            };
            let place = match leaf.filter(is_ours) {
                Some(leaf) => leaf.places[id.position()],
                None => self.unwritten_place(tree, id),
            };
            if place.is_none() {
                return Ok(None);
            }
            if place.is_origin() {
                return self.block_of_origin(tree, id);
            }
            if place == tried {
                let why = format!("no segment has it at {}", place.lsn);
                return Err(damaged_block(tree.slot, id, why));
            }
            if let Some(content) = self.read_block(tree, id, place)? {
                return Ok(Some(content));
            }
            // It was moved: the leaf says so by now.
            tried = place;
        }
    }
}

/// The error for a block that cannot be read.
pub(crate) fn damaged_block(slot: Slot, id: BlockId, why: impl Into<String>) -> Error {
    let what = match id.file {
        super::block::PAGES => "page",
        _ => "key block",
    };
    Error::damaged(format!("{what} {} of slot {slot}", id.number), why)
}
