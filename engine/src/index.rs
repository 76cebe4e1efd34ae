//! Where every object is: the tables of the last checkpoint, and the overlay on top of them.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use dovehouse_wal::bytes::{Put, Reader};
use dovehouse_wal::fs::Fs;
use dovehouse_wal::{DurableLsn, Flaw, Ledger, Lsn, Placed, Teeth};
use parking_lot::{Mutex, RwLock};

use crate::alarms::{AlarmIndex, encode_zones};
use crate::big::{Forks, Landing};
use crate::classes::Classes;
use crate::error::{Error, Result};
use crate::id::{ObjectId, Slot};
use crate::ids::{HashKey, IdTable, IdUpdate};
use crate::overlay::{Cell, Copied, DueChange, Overlay};
use crate::slots::{Entry, Place, SlotTable};
use crate::usage::Usage;

const PAYLOAD_VERSION: u8 = 5;
/// Without forks.
const PAYLOAD_VERSION_4: u8 = 4;
/// Ended with the free slots: there was no history.
const PAYLOAD_VERSION_3: u8 = 3;
/// Ended with the live bytes by segment.
const PAYLOAD_VERSION_2: u8 = 2;

#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) slots: SlotTable,
    pub(crate) ids: IdTable,
    pub(crate) alarms: AlarmIndex,
    pub(crate) overlay: Overlay,
    /// Ids that the id table does not have yet.
    pub(crate) new_ids: RwLock<HashMap<ObjectId, Slot>>,
    pub(crate) classes: Mutex<Classes>,
    pub(crate) usage: Usage,
    pub(crate) teeth: Teeth,
    next_slot: AtomicU64,
    /// Slots of objects that are forgotten, to be used before new ones.
    free_slots: Mutex<BTreeSet<Slot>>,
    pub(crate) forks: Forks,
    next_dictionary: AtomicU32,
    key: HashKey,
    /// Whether the index files are exactly what a checkpoint wrote: not between a crash and the first
    /// checkpoint after it.
    pub(crate) settled: AtomicBool,
}

/// What goes with a record to the committer.
pub(crate) enum Note {
    /// A new version of an object.
    Version {
        cell: Arc<Cell>,
        /// The new version, but for its place.
        entry: Entry,
        due: DueChange,
        /// Told where the record lies.
        landing: Option<Arc<Landing>>,
    },
    /// Versions that were written to other places.
    Moves(Vec<Move>),
    /// Objects that are to be forgotten: each with the place of its ERASE record, and its id.
    Expiries(Vec<(Arc<Cell>, Lsn, ObjectId)>),
}

/// A version that compaction wrote to another place.
pub(crate) struct Move {
    pub(crate) cell: Arc<Cell>,
    /// Where it is moved from: if the newest version lies elsewhere by now, the move is for nothing.
    pub(crate) from: Lsn,
    pub(crate) to: Place,
}

impl Ledger for Index {
    type Note = Note;

    fn place(&self, note: Note, placed: Placed) -> Lsn {
        match note {
            Note::Version {
                cell,
                entry,
                due,
                landing,
            } => {
                if let Some(landing) = landing {
                    landing.set(placed.lsn);
                }
                let entry = Entry {
                    head: placed.lsn,
                    bytes: placed.stored_bytes,
                    ..entry
                };
                if let Some(due_ms) = due {
                    self.alarms.set(cell.slot, due_ms);
                }
                let (link, dead) = cell.place(entry, due, placed.lsn, placed.durable);
                self.usage.replace(entry.class, entry.extent(), dead);
                link
            }
            Note::Moves(moves) => {
                for Move { cell, from, to } in moves {
                    let from = if self.teeth.has(Flaw::MoveWithoutComparing) {
                        cell.newest().map_or(from, |newest| newest.head)
                    } else {
                        from
                    };
                    if let Some((class, dead)) = cell.relocate(from, to, placed.lsn, placed.durable)
                    {
                        self.usage.replace(class, to.extent(), dead);
                    }
                }
                Lsn::NONE
            }
            Note::Expiries(all) => {
                for (cell, from, id) in all {
                    if let Some((class, dead)) = cell.expire(from, id, placed.lsn, placed.durable) {
                        self.usage.release(class, dead);
                        self.forget_id(cell.slot, &id);
                        self.free_slot(cell.slot);
                    }
                }
                Lsn::NONE
            }
        }
    }
}

/// A checkpoint's files, written and synced, before it is named.
pub(crate) struct Written {
    ids: IdUpdate,
    zones: Vec<u64>,
    pub(crate) payload: Vec<u8>,
}

impl Index {
    /// Opens the index files. `payload` is that of the checkpoint on disk, or empty for a new store. Returns also
    /// what it says of history.
    pub(crate) fn open(
        fs: &dyn Fs,
        dir: &Path,
        write: bool,
        payload: &[u8],
        teeth: Teeth,
    ) -> Result<(Self, Vec<u8>)> {
        let mut reader = Reader::new(payload);
        let malformed = || Error::damaged("the manifest", "a field of the index ends early");
        let (version, next_slot, key) = if payload.is_empty() {
            let key = std::array::from_fn(|_| fs.random_u64() as u8);
            (PAYLOAD_VERSION, 1, key)
        } else {
            Self::decode_start(&mut reader).ok_or_else(malformed)?
        };
        let mut index = Index {
            slots: SlotTable::open(fs, dir, write)?,
            ids: IdTable::open(fs, dir, write, key)?,
            alarms: AlarmIndex::open(fs, dir, write)?,
            overlay: Overlay::new(),
            new_ids: RwLock::default(),
            classes: Mutex::default(),
            usage: Usage::default(),
            teeth,
            next_slot: AtomicU64::new(next_slot),
            free_slots: Mutex::default(),
            forks: Forks::default(),
            next_dictionary: AtomicU32::new(1),
            key,
            settled: AtomicBool::new(true),
        };
        if !payload.is_empty() {
            *index.classes.lock() = Classes::decode(&mut reader).ok_or_else(malformed)?;
            index.ids.decode(&mut reader).ok_or_else(malformed)?;
            index.alarms.decode(&mut reader).ok_or_else(malformed)?;
            index.usage = Usage::decode(&mut reader).ok_or_else(malformed)?;
            if version > PAYLOAD_VERSION_2 {
                index.decode_rest(&mut reader).ok_or_else(malformed)?;
            }
        }
        if !payload.is_empty() && version > PAYLOAD_VERSION_4 {
            index.forks = Forks::decode(&mut reader).ok_or_else(malformed)?;
        }
        let history = match version > PAYLOAD_VERSION_3 {
            true => reader.rest().to_vec(),
            false => Vec::new(),
        };
        Ok((index, history))
    }

    fn decode_start(reader: &mut Reader<'_>) -> Option<(u8, u64, HashKey)> {
        let version = reader.u8()?;
        (PAYLOAD_VERSION_2..=PAYLOAD_VERSION)
            .contains(&version)
            .then_some(())?;
        Some((version, reader.varint()?, reader.array()?))
    }

    fn decode_rest(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.next_dictionary = AtomicU32::new(u32::try_from(reader.varint()?).ok()?);
        self.usage.decode_classes(reader)?;
        let mut free_slots = self.free_slots.lock();
        for _ in 0..reader.length()? {
            free_slots.insert(Slot::new(reader.varint()?)?);
        }
        Some(())
    }

    fn encode_payload(
        &self,
        ids: &IdUpdate,
        zones: &[u64],
        usage: &[u8],
        history: &[u8],
    ) -> Vec<u8> {
        let mut payload = vec![PAYLOAD_VERSION];
        payload.put_varint(self.next_slot.load(Ordering::Acquire));
        payload.extend_from_slice(&self.key);
        self.classes.lock().encode(&mut payload);
        ids.encode(&mut payload);
        encode_zones(zones, &mut payload);
        payload.extend_from_slice(usage);
        payload.put_varint(u64::from(self.next_dictionary.load(Ordering::Acquire)));
        self.usage.encode_classes(&mut payload);
        let free_slots = self.free_slots.lock();
        payload.put_varint(free_slots.len() as u64);
        free_slots
            .iter()
            .for_each(|slot| payload.put_varint(slot.get()));
        self.forks.encode(&mut payload);
        payload.extend_from_slice(history);
        payload
    }

    /// The key of everything that is hashed with a secret.
    pub(crate) fn key(&self) -> &HashKey {
        &self.key
    }

    /// Bytes of index pages that were written since the store was opened.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.slots.written_bytes() + self.ids.written_bytes() + self.alarms.written_bytes()
    }

    /// Slots lie below this.
    pub(crate) fn slot_limit(&self) -> u64 {
        self.next_slot.load(Ordering::Acquire)
    }

    /// Lets go of an id, if it still means this slot: another object may have it by now.
    pub(crate) fn forget_id(&self, slot: Slot, id: &ObjectId) {
        let mut new_ids = self.new_ids.write();
        if new_ids.get(id) == Some(&slot) {
            new_ids.remove(id);
        }
    }

    /// Lets another object have the slot of one that is forgotten.
    pub(crate) fn free_slot(&self, slot: Slot) {
        self.free_slots.lock().insert(slot);
    }

    /// A cell for a new object: of a free slot, or of a new one.
    pub(crate) fn allocate_cell(&self) -> Result<Arc<Cell>> {
        loop {
            let Some(slot) = self.free_slots.lock().pop_first() else {
                return self.cell(self.allocate_slot()?);
            };
            let cell = self.cell(slot)?;
            // After a crash the list may name a slot whose expiry was lost.
            if cell.newest().is_some_and(|newest| newest.expired) {
                return Ok(cell);
            }
            self.overlay.release(cell);
        }
    }

    fn allocate_slot(&self) -> Result<Slot> {
        let number = self.next_slot.fetch_add(1, Ordering::AcqRel);
        Slot::new(number).ok_or(Error::Limit {
            what: "the number of objects",
            limit: Slot::LIMIT,
        })
    }

    /// Keeps slots that replay found from being given away.
    pub(crate) fn note_slot(&self, slot: Slot) {
        self.next_slot.fetch_max(slot.get() + 1, Ordering::AcqRel);
        self.free_slots.lock().remove(&slot);
    }

    /// A number for a new dictionary. None is given twice, not even if a file is lost.
    pub(crate) fn next_dictionary(&self) -> u32 {
        self.next_dictionary.fetch_add(1, Ordering::AcqRel)
    }

    /// Keeps the number of a dictionary that was found from being given away.
    pub(crate) fn note_dictionary(&self, number: u32) {
        self.next_dictionary
            .fetch_max(number.saturating_add(1), Ordering::AcqRel);
    }

    pub(crate) fn note_id(&self, id: ObjectId, slot: Slot) {
        self.new_ids.write().insert(id, slot);
    }

    /// The slots that may be this id's: the one, if it is new; else those whose fingerprints agree.
    pub(crate) fn find(&self, id: &ObjectId) -> Result<Vec<Slot>> {
        if let Some(slot) = self.new_ids.read().get(id) {
            return Ok(vec![*slot]);
        }
        let hash = self.ids.hash(id);
        let mut found = Vec::new();
        for slot in self.ids.candidates(hash)? {
            if self
                .newest(slot)?
                .is_some_and(|entry| !entry.expired && entry.fingerprint == hash.fingerprint())
            {
                found.push(slot);
            }
        }
        let bucket = self.ids.bucket(hash);
        if found.is_empty() && !self.ids.is_intact(bucket)? && !self.may_be_torn(bucket) {
            return Err(Error::damaged(
                "a bucket of the id table",
                "its checksum is wrong",
            ));
        }
        Ok(found)
    }

    /// Whether a crash may have torn a bucket of the id table: if the log's tail has ids of it, a checkpoint
    /// that was cut off may have been writing them.
    fn may_be_torn(&self, bucket: u32) -> bool {
        if self.settled.load(Ordering::Acquire) {
            return false;
        }
        let is_of_bucket = |id: &ObjectId| self.ids.bucket(self.ids.hash(id)) == bucket;
        let mut found = self.new_ids.read().keys().any(is_of_bucket);
        self.overlay.for_each(|cell| {
            found = found || cell.gone_ids().iter().any(is_of_bucket);
        });
        found
    }

    pub(crate) fn fingerprint(&self, id: &ObjectId) -> u32 {
        self.ids.hash(id).fingerprint()
    }

    /// The newest version of a slot.
    pub(crate) fn newest(&self, slot: Slot) -> Result<Option<Entry>> {
        match self.overlay.get(slot) {
            Some(cell) => Ok(cell.newest()),
            None => self.slots.get(slot),
        }
    }

    /// The cell of a slot.
    pub(crate) fn cell(&self, slot: Slot) -> Result<Arc<Cell>> {
        self.overlay.get_or_insert(slot, || self.slots.get(slot))
    }

    /// Writes what the checkpoint copied into the index files and syncs them. `usage` and `history` are those of
    /// the moment when it began.
    pub(crate) fn write(&self, copies: &[Copied], usage: &[u8], history: &[u8]) -> Result<Written> {
        if !copies.is_empty() {
            let entries: Vec<_> = copies.iter().map(|copy| (copy.slot, copy.entry)).collect();
            self.slots.write(&entries)?;
            self.slots.sync()?;
        }
        let new_ids = copies
            .iter()
            .filter_map(|copy| Some((self.ids.hash(&copy.new_id?), copy.slot)));
        let new_ids: Vec<_> = new_ids.collect();
        let fingerprint_of = |slot| Ok(self.slots.get(slot)?.map(|entry| entry.fingerprint));
        let gone = copies.iter().flat_map(|copy| {
            let of_id = |id| (self.ids.hash(id), copy.slot);
            copy.gone_ids.iter().map(of_id)
        });
        let gone: Vec<_> = gone.collect();
        let mut ids = self.ids.prepare(&gone, &new_ids, &fingerprint_of)?;
        if !new_ids.is_empty() || !gone.is_empty() {
            self.ids.write(&mut ids)?;
        }
        let times: Vec<_> = copies
            .iter()
            .filter_map(|copy| Some((copy.slot, copy.due?)))
            .collect();
        let zones = self.alarms.write(&times)?;
        let payload = self.encode_payload(&ids, &zones, usage, history);
        Ok(Written {
            ids,
            zones,
            payload,
        })
    }

    /// The checkpoint counts: the overlay lets go of what it wrote.
    pub(crate) fn adopt(&self, written: Written, copies: &[Copied], durable: DurableLsn) {
        self.ids.adopt(written.ids);
        self.alarms.adopt(written.zones);
        self.overlay.settle(copies, durable, |copy| {
            if let Some(due_ms) = copy.due {
                self.alarms.settle(copy.slot, due_ms);
            }
        });
        for copy in copies {
            if let Some(id) = copy.new_id {
                self.forget_id(copy.slot, &id);
            }
        }
        self.settled.store(true, Ordering::Release);
    }
}
