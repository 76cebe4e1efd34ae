//! What an object's records say. Each is self-describing: it names its slot, generation, sequence
//! number, class and depth, so that compaction and a rebuild of the index need nothing else.
//!
//! ```text
//! record  = slot varint · generation u8 · seq varint · class varint · depth u8 · payload
//! IMAGE   = meta · state: the whole object (depth 0)
//! DELTA   = operation*: on top of the record that the frame's link names
//! ERASE   = id: the object has no state (depth 0)
//! CLASS   = number varint · tenant · name: belongs to no object
//! REMAP   = see `remap.rs`: belongs to no object
//! GROUP   = see `group.rs`: belongs to several
//! EXPIRE  = see `expire.rs`: belongs to several
//! HEAD, PAGES, BLOB, LEAF = see `big/records.rs`: of big objects
//! ```
//! See `docs/format/` for the fields and for the kinds that are reserved.

use std::sync::Arc;

use dovehouse_wal::bytes::{Put, Reader};

use crate::codec::Stored;
use crate::dictionary::Dictionary;
use crate::error::Result;
use crate::id::{ClassId, ObjectId, Slot};
use crate::page_diff;
use crate::slots::SEQ_LIMIT;
use crate::state::{Alarm, Changes, IMAGE_BYTES_MAX, PAGE_BYTES, State, Working};

/// A record's kind: the number in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// An object's whole state.
    Image = 1,
    /// A change on top of the record before it.
    Delta = 2,
    /// The object has no state from here on.
    Erase = 3,
    /// A class's number and name.
    Class = 4,
    /// A class's compression dictionary (reserved: dictionaries are files of their own).
    Dictionary = 5,
    /// Versions lie elsewhere from here on.
    Remap = 6,
    /// A commit of a big object: the blocks that it changes, on top of the record before it.
    Pages = 7,
    /// A leaf of a big object's map: where its blocks lie.
    Leaf = 8,
    /// Blocks of a big object beside the log: written before the commit that names them, or moved.
    Blob = 9,
    /// A part of a staged transaction (reserved: it is a BLOB).
    Chunk = 10,
    /// The end of a staged transaction (reserved: it is a commit like others).
    TransactionEnd = 11,
    /// The state is that of an earlier point, or of another object (reserved).
    Reference = 12,
    /// Something must be kept (reserved).
    Pin = 13,
    /// The object and its history are gone (reserved).
    Purge = 14,
    /// Several objects' whole states, in a pack.
    Group = 15,
    /// Erased objects are forgotten, and their slots are free.
    Expire = 16,
    /// A big object whole: its map leads to its blocks.
    Head = 17,
}

impl Kind {
    /// The kind with this number, reserved ones included.
    pub fn from_u8(number: u8) -> Option<Self> {
        use Kind::*;
        let all = [
            Image,
            Delta,
            Erase,
            Class,
            Dictionary,
            Remap,
            Pages,
            Leaf,
            Blob,
            Chunk,
            TransactionEnd,
            Reference,
            Pin,
            Purge,
            Group,
            Expire,
            Head,
        ];
        all.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The start of every record that belongs to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The object.
    pub slot: Slot,
    /// Which use of the slot.
    pub generation: u8,
    /// The number of the commit.
    pub seq: u64,
    /// The object's class.
    pub class: ClassId,
    /// Deltas on top of the last image, this one included.
    pub depth: u8,
}

impl Header {
    pub(crate) fn encode(&self, body: &mut Vec<u8>) {
        body.put_varint(self.slot.get());
        body.push(self.generation);
        body.put_varint(self.seq);
        body.put_varint(u64::from(self.class.0));
        body.push(self.depth);
    }

    /// Takes the header off a record's body.
    pub fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let header = Header {
            slot: Slot::new(reader.varint()?)?,
            generation: reader.u8()?,
            seq: reader.varint()?,
            class: ClassId(u16::try_from(reader.varint()?).ok()?),
            depth: reader.u8()?,
        };
        (header.seq < SEQ_LIMIT && u64::from(header.depth) <= header.seq).then_some(header)
    }
}

/// What an image says of its object before the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The object's id.
    pub id: ObjectId,
    /// The name that the id was made from, if the layer above keeps it.
    pub name: Option<String>,
    /// When the image was written, in milliseconds since 1970.
    pub written_ms: u64,
    /// Sorted by name.
    pub alarms: Vec<Alarm>,
    /// How many keys there are.
    pub kv_count: u64,
    /// Bytes of all keys and values.
    pub kv_bytes: u64,
    /// How many database pages there are.
    pub page_count: u64,
}

const NAMED: u8 = 1;
const HAS_ALARMS: u8 = 2;
const HAS_PAGES: u8 = 4;

/// What stands around the state in an image: ids, numbers, and a name of at most 1 KiB.
pub(crate) const IMAGE_OVERHEAD_MAX: usize = 2048;

impl Meta {
    /// What an image says of a state.
    fn of(id: ObjectId, name: Option<&str>, written_ms: u64, state: &State) -> Self {
        Meta {
            id,
            name: name.map(str::to_owned),
            written_ms,
            alarms: state.alarms.clone(),
            kv_count: state.kv.len() as u64,
            kv_bytes: state.kv_bytes() as u64,
            page_count: state.pages.len() as u64,
        }
    }

    pub(crate) fn encode(&self, body: &mut Vec<u8>) {
        body.extend_from_slice(self.id.as_bytes());
        self.encode_without_id(body);
    }

    fn encode_without_id(&self, body: &mut Vec<u8>) {
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        body.push(
            flag(self.name.is_some(), NAMED)
                | flag(!self.alarms.is_empty(), HAS_ALARMS)
                | flag(self.page_count > 0, HAS_PAGES),
        );
        if let Some(name) = &self.name {
            body.put_prefixed(name.as_bytes());
        }
        body.put_varint(self.written_ms);
        if !self.alarms.is_empty() {
            encode_alarms(&self.alarms, body);
        }
        body.put_varint(self.kv_count);
        body.put_varint(self.kv_bytes);
        if self.page_count > 0 {
            body.put_varint(self.page_count);
            body.push(PAGE_BYTES.ilog2() as u8);
        }
    }

    /// Takes an image's meta off its body, after the header.
    pub fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let id = ObjectId::from_bytes(reader.array()?);
        Self::decode_without_id(reader, id)
    }

    pub(crate) fn decode_without_id(reader: &mut Reader<'_>, id: ObjectId) -> Option<Self> {
        let flags = reader.u8()?;
        let name = match flags & NAMED {
            0 => None,
            _ => Some(String::from_utf8(reader.prefixed()?.to_vec()).ok()?),
        };
        let written_ms = reader.varint()?;
        let alarms = if flags & HAS_ALARMS == 0 {
            Vec::new()
        } else {
            decode_alarms(reader)?
        };
        let (kv_count, kv_bytes) = (reader.varint()?, reader.varint()?);
        let page_count = if flags & HAS_PAGES == 0 {
            0
        } else {
            reader.varint()?
        };
        if page_count > 0 && reader.u8()? != PAGE_BYTES.ilog2() as u8 {
            return None;
        }
        Some(Meta {
            id,
            name,
            written_ms,
            alarms,
            kv_count,
            kv_bytes,
            page_count,
        })
    }
}

pub(crate) fn encode_alarms(alarms: &[Alarm], body: &mut Vec<u8>) {
    body.put_varint(alarms.len() as u64);
    for alarm in alarms {
        body.put_prefixed(alarm.name.as_bytes());
        body.put_varint(alarm.due_ms);
        body.put_varint(u64::from(alarm.attempts));
        body.put_prefixed(alarm.schedule.as_bytes());
    }
}

pub(crate) fn decode_alarms(reader: &mut Reader<'_>) -> Option<Vec<Alarm>> {
    let count = reader.length()?;
    let text = |reader: &mut Reader<'_>| String::from_utf8(reader.prefixed()?.to_vec()).ok();
    let mut alarms = Vec::new();
    for _ in 0..count {
        alarms.push(Alarm {
            name: text(reader)?,
            due_ms: reader.varint()?,
            attempts: u32::try_from(reader.varint()?).ok()?,
            schedule: text(reader)?,
        });
    }
    Some(alarms)
}

/// An IMAGE record's body. `stored` is what [`encode_state`] gives, as it is to be stored.
pub(crate) fn encode_image(
    header: &Header,
    id: ObjectId,
    name: Option<&str>,
    written_ms: u64,
    state: &State,
    stored: &Stored<'_>,
) -> Vec<u8> {
    let mut body = Vec::new();
    header.encode(&mut body);
    Meta::of(id, name, written_ms, state).encode(&mut body);
    stored.encode(&mut body);
    body
}

/// The same body with another header.
pub(crate) fn with_header(body: &[u8], before: &Header, after: &Header) -> Vec<u8> {
    let (mut old, mut new) = (Vec::new(), Vec::with_capacity(body.len()));
    before.encode(&mut old);
    after.encode(&mut new);
    new.extend_from_slice(&body[old.len()..]);
    new
}

/// What a group holds of an object besides its header and id: the rest of the meta, and the state.
pub(crate) fn encode_content(name: Option<&str>, written_ms: u64, state: &State) -> Vec<u8> {
    let mut content = Vec::new();
    let nobody = ObjectId::from_bytes([0; 32]);
    Meta::of(nobody, name, written_ms, state).encode_without_id(&mut content);
    content.extend_from_slice(&encode_state(state));
    content
}

/// The header, the id, the rest of the meta as it is, and the state as it is stored, of an IMAGE record's
/// body; `None` is damage.
pub(crate) fn split_image(image: &[u8]) -> Option<(Header, ObjectId, &[u8], Stored<'_>)> {
    let mut reader = Reader::new(image);
    let header = Header::decode(&mut reader)?;
    let id = ObjectId::from_bytes(reader.array()?);
    let from = image.len() - reader.rest().len();
    Meta::decode_without_id(&mut reader, id)?;
    let meta = &image[from..image.len() - reader.rest().len()];
    Some((header, id, meta, Stored::decode(&mut reader)?))
}

/// The sorted keys with their values, then the pages.
pub(crate) fn encode_state(state: &State) -> Vec<u8> {
    let mut raw = Vec::with_capacity(state.bytes() + state.pages.len() + 8 * state.kv.len());
    for (key, value) in &state.kv {
        raw.put_prefixed(key);
        raw.put_prefixed(value);
    }
    for page in &state.pages {
        encode_page(page.as_deref(), &mut raw);
    }
    raw
}

/// How a page stands in a state.
mod page {
    pub(super) const ZERO: u8 = 0;
    pub(super) const FULL: u8 = 1;
    pub(super) const RANGES: u8 = 2;
}

/// Pages of a small database are mostly zeros: what is not takes less space, and less time to compress.
fn encode_page(page: Option<&[u8]>, raw: &mut Vec<u8>) {
    let Some(page) = page else {
        raw.push(page::ZERO);
        return;
    };
    let ranges = page_diff::encode_ranges(&[0; PAGE_BYTES], page);
    if ranges.len() < PAGE_BYTES / 2 {
        raw.push(page::RANGES);
        raw.put_prefixed(&ranges);
    } else {
        raw.push(page::FULL);
        raw.extend_from_slice(page);
    }
}

/// The meta and the state of an IMAGE record's body, after its header; `Ok(None)` is damage. `find` gives
/// a dictionary by its number.
pub(crate) fn decode_image(
    reader: &mut Reader<'_>,
    find: impl FnOnce(u32) -> Result<Arc<Dictionary>>,
) -> Result<Option<(Meta, State)>> {
    let Some((meta, stored)) = Meta::decode(reader).zip(Stored::decode(reader)) else {
        return Ok(None);
    };
    let Some(raw) = stored.open(find)? else {
        return Ok(None);
    };
    let Some(mut state) = decode_state(&raw, &meta) else {
        return Ok(None);
    };
    state.alarms.clone_from(&meta.alarms);
    Ok(Some((meta, state)))
}

pub(crate) fn decode_state(raw: &[u8], meta: &Meta) -> Option<State> {
    let mut reader = Reader::new(raw);
    let mut state = State::default();
    for _ in 0..meta.kv_count {
        let key = reader.prefixed()?.to_vec();
        state.set_kv(key, Some(reader.prefixed()?.to_vec()));
    }
    for _ in 0..meta.page_count {
        let page = match reader.u8()? {
            page::ZERO => None,
            page::FULL => Some(Arc::from(reader.take(PAGE_BYTES)?)),
            page::RANGES => {
                let ranges = reader.prefixed()?;
                Some(page_diff::decode_ranges(ranges, &[0; PAGE_BYTES])?.into())
            }
            _ => return None,
        };
        state.pages.push(page);
    }
    (reader.is_empty() && state.kv_bytes() as u64 == meta.kv_bytes).then_some(state)
}

/// An ERASE record's body.
pub(crate) fn encode_erase(header: &Header, id: ObjectId) -> Vec<u8> {
    let mut body = Vec::new();
    header.encode(&mut body);
    body.extend_from_slice(id.as_bytes());
    body
}

/// The id in an ERASE record's body, after its header.
pub(crate) fn decode_erase(reader: &mut Reader<'_>) -> Option<ObjectId> {
    reader.array().map(ObjectId::from_bytes)
}

/// The operations of a DELTA record.
mod operation {
    pub(super) const PUT: u8 = 1;
    pub(super) const DELETE: u8 = 2;
    pub(super) const ALARMS: u8 = 3;
    pub(super) const PAGE_COUNT: u8 = 4;
    pub(super) const PAGE: u8 = 5;
}

/// A DELTA record's body.
pub(crate) fn encode_delta(header: &Header, changes: &Changes<'_>, alarms: &[Alarm]) -> Vec<u8> {
    let mut body = Vec::new();
    header.encode(&mut body);
    encode_operations(changes, alarms, &mut body);
    body
}

/// What a DELTA record says after its header.
pub(crate) fn encode_operations(changes: &Changes<'_>, alarms: &[Alarm], body: &mut Vec<u8>) {
    for (key, value) in &changes.kv {
        body.push(if value.is_some() {
            operation::PUT
        } else {
            operation::DELETE
        });
        body.put_prefixed(key);
        if let Some(value) = value {
            body.put_prefixed(value);
        }
    }
    if changes.alarms {
        body.push(operation::ALARMS);
        encode_alarms(alarms, body);
    }
    // The count first: the pages behind it are gone, and the ones before it can be written.
    if let Some(count) = changes.page_count {
        body.push(operation::PAGE_COUNT);
        body.put_varint(count as u64);
    }
    for (number, old, new) in &changes.pages {
        body.push(operation::PAGE);
        body.put_varint(u64::from(*number));
        page_diff::encode(*old, *new, body);
    }
}

/// An operation of a DELTA record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    Put {
        key: &'a [u8],
        value: &'a [u8],
    },
    Delete {
        key: &'a [u8],
    },
    Alarms(Vec<Alarm>),
    PageCount(usize),
    Page {
        number: u32,
        change: page_diff::Change<'a>,
    },
}

/// The operations of a DELTA record, which follow its header. An item that is `None` is damage, and the
/// last.
pub(crate) fn operations<'a>(
    mut reader: Reader<'a>,
) -> impl Iterator<Item = Option<Operation<'a>>> {
    let mut damaged = false;
    std::iter::from_fn(move || {
        if reader.is_empty() || damaged {
            return None;
        }
        let operation = decode_operation(&mut reader);
        damaged = operation.is_none();
        Some(operation)
    })
}

fn decode_operation<'a>(reader: &mut Reader<'a>) -> Option<Operation<'a>> {
    Some(match reader.u8()? {
        operation::PUT => Operation::Put {
            key: reader.prefixed()?,
            value: reader.prefixed()?,
        },
        operation::DELETE => Operation::Delete {
            key: reader.prefixed()?,
        },
        operation::ALARMS => Operation::Alarms(decode_alarms(reader)?),
        operation::PAGE_COUNT => Operation::PageCount(reader.length()?),
        operation::PAGE => Operation::Page {
            number: u32::try_from(reader.varint()?).ok()?,
            change: page_diff::Change::read(reader)?,
        },
        _ => return None,
    })
}

/// Applies a DELTA record's operations, which follow its header. `None` is damage.
pub(crate) fn apply_delta(reader: Reader<'_>, state: &mut State) -> Option<()> {
    for operation in operations(reader) {
        match operation? {
            Operation::Put { key, value } => drop(state.set_kv(key.to_vec(), Some(value.to_vec()))),
            Operation::Delete { key } => drop(state.set_kv(key.to_vec(), None)),
            Operation::Alarms(alarms) => state.alarms = alarms,
            Operation::PageCount(count) if count <= IMAGE_BYTES_MAX => {
                state.pages.resize(count, None)
            }
            Operation::Page { number, change }
                if number > 0 && number as usize <= state.pages.len() =>
            {
                let page = change.apply(state.page(number).map(|page| &page[..]), PAGE_BYTES)?;
                state.set_page(number, page.map(Arc::from));
            }
            Operation::PageCount(_) | Operation::Page { .. } => return None,
        }
    }
    Some(())
}

/// The same, so that it can be undone.
pub(crate) fn apply_delta_to(reader: Reader<'_>, working: &mut Working) -> Option<()> {
    for operation in operations(reader) {
        match operation? {
            Operation::Put { key, value } => drop(working.put(key, Some(value))),
            Operation::Delete { key } => drop(working.put(key, None)),
            Operation::Alarms(alarms) => working.set_alarms(alarms),
            Operation::PageCount(count) if count <= IMAGE_BYTES_MAX => {
                working.set_page_count(count);
            }
            Operation::Page { number, change }
                if number > 0 && number as usize <= working.state().pages.len() =>
            {
                let before = working.state().page(number).map(|page| &page[..]);
                let page = change.apply(before, PAGE_BYTES)?;
                working.write_page(number, page.map(Arc::from));
            }
            Operation::PageCount(_) | Operation::Page { .. } => return None,
        }
    }
    Some(())
}

/// The alarms that a DELTA record sets, if it sets them; `Err` is damage.
pub(crate) fn delta_alarms(reader: Reader<'_>) -> std::result::Result<Option<Vec<Alarm>>, ()> {
    for operation in operations(reader) {
        match operation.ok_or(())? {
            Operation::Put { .. } | Operation::Delete { .. } => {}
            Operation::Alarms(alarms) => return Ok(Some(alarms)),
            // Alarms come before pages.
            Operation::PageCount(_) | Operation::Page { .. } => break,
        }
    }
    Ok(None)
}

/// A CLASS record's body.
pub(crate) fn encode_class(class: ClassId, tenant: &str, name: &str) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_varint(u64::from(class.0));
    body.put_prefixed(tenant.as_bytes());
    body.put_prefixed(name.as_bytes());
    body
}

/// The fields of a CLASS record's body.
pub(crate) fn decode_class(reader: &mut Reader<'_>) -> Option<(ClassId, String, String)> {
    let class = ClassId(u16::try_from(reader.varint()?).ok()?);
    let tenant = String::from_utf8(reader.prefixed()?.to_vec()).ok()?;
    let name = String::from_utf8(reader.prefixed()?.to_vec()).ok()?;
    Some((class, tenant, name))
}
