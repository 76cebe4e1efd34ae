//! The EXPIRE record: erased objects of which nothing is kept any more. Their slots are free for others.
//!
//! ```text
//! EXPIRE = (slot varint · generation u8 · seq varint · id)*      leaves of maps have no id: zeros
//! ```
//! It counts for an object that is still erased, by the version that it names. The slot's next user has
//! the next generation, so that no record of the old one is ever taken for one of the new.

use dovehouse_wal::bytes::{Put, Reader};

use crate::id::{ObjectId, Slot};

/// The last version of an object, and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expired {
    pub(crate) slot: Slot,
    pub(crate) generation: u8,
    pub(crate) seq: u64,
    pub(crate) id: ObjectId,
}

/// An EXPIRE record's body.
pub(crate) fn encode_expire(all: &[Expired]) -> Vec<u8> {
    let mut body = Vec::with_capacity(40 * all.len());
    for expired in all {
        body.put_varint(expired.slot.get());
        body.push(expired.generation);
        body.put_varint(expired.seq);
        body.extend_from_slice(expired.id.as_bytes());
    }
    body
}

/// What an EXPIRE record's body names; `None` is damage.
pub(crate) fn decode_expire(reader: &mut Reader<'_>) -> Option<Vec<Expired>> {
    let mut all = Vec::new();
    while !reader.is_empty() {
        all.push(Expired {
            slot: Slot::new(reader.varint()?)?,
            generation: reader.u8()?,
            seq: reader.varint()?,
            id: ObjectId::from_bytes(reader.array()?),
        });
    }
    Some(all)
}
