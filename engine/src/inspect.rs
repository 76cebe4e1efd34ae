//! Looking at objects without waking them, and checking that a store is what it should be.

use crate::engine::{Engine, Inner};
use crate::error::{Error, Result};
use crate::id::{ClassId, ObjectId, Slot};
use crate::record::Meta;
use crate::slots::{Entry, Form};
use crate::state::Alarm;

/// What is known of an object without reading its state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectInfo {
    /// Its number in the store.
    pub slot: Slot,
    /// Its id.
    pub id: ObjectId,
    /// Its index entry.
    pub entry: Entry,
    /// The name that the id was made from, if it is kept.
    pub name: Option<String>,
    /// When its last image was written, in milliseconds since 1970.
    pub written_ms: u64,
    /// As of its last image.
    pub kv_count: u64,
    /// Bytes of keys and values, as of its last image.
    pub kv_bytes: u64,
    /// Database pages, as of its last image.
    pub page_count: u64,
    /// Its alarms, as of its last image.
    pub alarms: Vec<Alarm>,
}

impl Engine {
    /// All objects that have a state or had one, in the order in which they were made. An object that
    /// cannot be read comes as an error; the others follow.
    pub fn objects(&self) -> impl Iterator<Item = Result<ObjectInfo>> + '_ {
        self.slots()
            .filter_map(|slot| self.object_info(slot).transpose())
    }

    /// The objects of a class that have a state, in the order in which they were made, from behind a slot on.
    /// Those of other classes cost a look at the index each, and no read.
    pub fn objects_of(
        &self,
        class: ClassId,
        after: Option<Slot>,
    ) -> impl Iterator<Item = (Slot, Result<ObjectInfo>)> + '_ {
        let start = after.map_or(1, |slot| slot.get() + 1);
        let slots = (start..self.inner.index.slot_limit()).filter_map(Slot::new);
        slots.filter_map(move |slot| {
            let info = match self.inner.durable_object(slot) {
                Ok(Some(entry)) if entry.class == class && !entry.erased => {
                    self.object_info(slot).transpose()?
                }
                Ok(_) => return None,
                Err(error) => Err(error),
            };
            Some((slot, info))
        })
    }

    /// How many objects [`Engine::objects_of`] finds, damaged ones not counted. Reads none of them.
    pub fn count_of(&self, class: ClassId) -> u64 {
        let entries = self
            .slots()
            .filter_map(|slot| self.inner.durable_object(slot).ok()?);
        let of_class = entries.filter(|entry| entry.class == class && !entry.erased);
        of_class.count() as u64
    }

    /// What is known of the object in a slot; `None` if there is none.
    pub fn object_info(&self, slot: Slot) -> Result<Option<ObjectInfo>> {
        self.inner.object_info(slot)
    }

    /// Whether the id table finds an object where the slot table has it.
    pub fn finds(&self, info: &ObjectInfo) -> Result<bool> {
        Ok(self.inner.index.find(&info.id)?.contains(&info.slot))
    }

    /// The slot of an id, if the store has it.
    pub fn find(&self, id: &ObjectId) -> Result<Option<ObjectInfo>> {
        self.inner.find(id)
    }

    /// The slots of all objects that have an alarm, the earliest first.
    pub fn slots_with_alarms(&self) -> Result<Vec<Slot>> {
        let due = self.inner.index.alarms.due_until(u64::MAX, usize::MAX)?;
        Ok(due.into_iter().map(|(_, slot)| slot).collect())
    }

    /// The alarms of the object in a slot as they are now, without waking it; none if there is no such
    /// object. Those of [`ObjectInfo`] are older.
    pub fn alarms_in(&self, slot: Slot) -> Result<Vec<Alarm>> {
        loop {
            let Some(entry) = self.inner.durable_object(slot)? else {
                return Ok(Vec::new());
            };
            if let Some(loaded) = self.inner.load(slot, &entry)? {
                return Ok(loaded.state.alarms().to_vec());
            }
            if self.inner.durable_object(slot)? == Some(entry) {
                return Err(record_is_gone(slot, &entry));
            }
        }
    }
}

impl Inner {
    pub(crate) fn object_info(&self, slot: Slot) -> Result<Option<ObjectInfo>> {
        loop {
            let Some(entry) = self.durable_object(slot)? else {
                return Ok(None);
            };
            if let Some(meta) = self.load_meta(slot, &entry)? {
                return Ok(Some(info(slot, entry, meta)));
            }
            if self.durable_object(slot)? == Some(entry) {
                return Err(record_is_gone(slot, &entry));
            }
        }
    }

    pub(crate) fn find(&self, id: &ObjectId) -> Result<Option<ObjectInfo>> {
        for slot in self.index.find(id)? {
            if let Some(info) = self.object_info(slot)?.filter(|info| info.id == *id) {
                return Ok(Some(info));
            }
        }
        Ok(None)
    }

    /// The newest entry of a slot that is durable, if it is an object's.
    fn durable_object(&self, slot: Slot) -> Result<Option<Entry>> {
        let entry = self.durable_entry(slot)?;
        Ok(entry.filter(|entry| entry.form != Form::Leaf))
    }

    /// The newest entry of a slot that is durable, unless the slot is free.
    pub(crate) fn durable_entry(&self, slot: Slot) -> Result<Option<Entry>> {
        let entry = match self.index.overlay.get(slot) {
            Some(cell) => cell.durable(self.log.durable()),
            None => self.index.slots.get(slot)?,
        };
        Ok(entry.filter(|entry| !entry.expired))
    }
}

fn record_is_gone(slot: Slot, entry: &Entry) -> Error {
    let why = format!("no segment has its record at {}", entry.head);
    Error::damaged(format!("slot {slot}"), why)
}

fn info(slot: Slot, entry: Entry, meta: Meta) -> ObjectInfo {
    let Meta {
        id,
        name,
        written_ms,
        alarms,
        kv_count,
        kv_bytes,
        page_count,
    } = meta;
    ObjectInfo {
        slot,
        id,
        entry,
        name,
        written_ms,
        kv_count,
        kv_bytes,
        page_count,
        alarms,
    }
}
