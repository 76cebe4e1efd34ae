//! The REMAP record: which versions lie elsewhere from here on.
//!
//! ```text
//! REMAP = pack u32 · (slot varint · generation u8 · seq varint · offset varint · bytes varint)*
//! ```
//! A moved version is whole: its depth is 0.

use dovehouse_wal::Lsn;
use dovehouse_wal::bytes::{Put, Reader};

use crate::id::Slot;
use crate::slots::Place;

/// A version, and where it lies now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) slot: Slot,
    pub(crate) generation: u8,
    pub(crate) seq: u64,
    pub(crate) to: Place,
}

/// A REMAP record's body. All places are in one pack.
pub(crate) fn encode_remap(moves: &[Moved]) -> Vec<u8> {
    let pack = moves.first().map_or(0, |moved| moved.to.lsn.segno());
    let mut body = Vec::with_capacity(4 + 16 * moves.len());
    body.put_u32(pack);
    for moved in moves {
        assert_eq!(moved.to.lsn.segno(), pack, "a record names one pack");
        body.put_varint(moved.slot.get());
        body.push(moved.generation);
        body.put_varint(moved.seq);
        body.put_varint(u64::from(moved.to.lsn.offset()));
        body.put_varint(u64::from(moved.to.bytes));
    }
    body
}

/// The moves of a REMAP record's body; `None` is damage.
pub(crate) fn decode_remap(reader: &mut Reader<'_>) -> Option<Vec<Moved>> {
    let pack = reader.u32()?;
    let mut moves = Vec::new();
    while !reader.is_empty() {
        moves.push(Moved {
            slot: Slot::new(reader.varint()?)?,
            generation: reader.u8()?,
            seq: reader.varint()?,
            to: Place {
                lsn: Lsn::new(pack, u32::try_from(reader.varint()?).ok()?),
                bytes: u32::try_from(reader.varint()?).ok()?,
            },
        });
    }
    Some(moves)
}
