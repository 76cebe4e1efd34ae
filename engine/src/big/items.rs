//! The blocks that a record carries or names.
//!
//! ```text
//! items = groups varint · group* · data
//! group = file u8 · leaf index varint · leaf slot varint · entries varint · entry*
//! entry = position in the leaf varint, less the one before · place
//! place = 0                                               the block is gone
//!       | 1 · bytes varint                                here: the next bytes of the data
//!       | 2 · segno varint · offset varint · bytes varint it was written before
//!       | 3 · bytes varint                                and so was this, behind the one before
//! ```

use dovehouse_wal::bytes::{Put, Reader};
use dovehouse_wal::{FRAME_BYTES, Lsn};

use super::block::{BlockId, FILES, LEAF_BLOCKS};
use crate::id::Slot;
use crate::slots::Place;

const GONE: u8 = 0;
const HERE: u8 = 1;
const BEFORE: u8 = 2;
const BEHIND: u8 = 3;

/// What becomes of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// There is none any more.
    Gone,
    /// The record carries it: as it is stored.
    Here(Vec<u8>),
    /// It was written before.
    At(Place),
}

/// Appends items, sorted by block, to a record's body. `leaf_slot` gives the slots of the leaves. Returns
/// the offset in the body of each block that the record carries.
pub(crate) fn encode_items(
    items: &[(BlockId, Item)],
    leaf_slot: impl Fn(BlockId) -> Slot,
    body: &mut Vec<u8>,
) -> Vec<u32> {
    let same_leaf =
        |a: &(BlockId, Item), b: &(BlockId, Item)| a.0.file == b.0.file && a.0.leaf() == b.0.leaf();
    let groups: Vec<_> = items.chunk_by(same_leaf).collect();
    body.put_varint(groups.len() as u64);
    let mut behind = None;
    for group in groups {
        let first = group[0].0;
        body.push(first.file);
        body.put_varint(u64::from(first.leaf()));
        body.put_varint(leaf_slot(first).get());
        body.put_varint(group.len() as u64);
        let mut position = 0;
        for (id, item) in group {
            body.put_varint((id.position() - position) as u64);
            position = id.position();
            match item {
                Item::Gone => body.push(GONE),
                Item::Here(block) => {
                    body.push(HERE);
                    body.put_varint(block.len() as u64);
                }
                Item::At(place) => {
                    if behind == Some(place.lsn) {
                        body.push(BEHIND);
                    } else {
                        body.push(BEFORE);
                        body.put_varint(u64::from(place.lsn.segno()));
                        body.put_varint(u64::from(place.lsn.offset()));
                    }
                    body.put_varint(u64::from(place.bytes));
                    behind = Some(place.end());
                }
            }
        }
    }
    let mut offsets = Vec::new();
    for (_, item) in items {
        if let Item::Here(block) = item {
            offsets.push(body.len() as u32);
            body.extend_from_slice(block);
        }
    }
    offsets
}

/// What a record says of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) id: BlockId,
    /// The slot of the leaf that leads to the block.
    pub(crate) leaf: Slot,
    /// Where it lies; [`Place::NONE`] if there is none any more.
    pub(crate) place: Place,
    /// Whether it lies in this record.
    pub(crate) is_here: bool,
}

/// The items at the end of a record's body, whose frame is at `lsn`; `None` is damage.
pub(crate) fn decode_items(
    lsn: Lsn,
    body_bytes: usize,
    reader: &mut Reader<'_>,
) -> Option<Vec<Carried>> {
    let number = |reader: &mut Reader<'_>| u32::try_from(reader.varint()?).ok();
    let mut items = Vec::new();
    let mut behind = Place::NONE;
    for _ in 0..reader.length()? {
        let file = reader.u8().filter(|file| usize::from(*file) < FILES)?;
        let index = number(reader).filter(|index| *index <= u32::MAX / LEAF_BLOCKS)?;
        let leaf = Slot::new(reader.varint()?)?;
        let count = reader.length()?;
        let mut position = 0;
        for _ in 0..count {
            position = u32::checked_add(position, number(reader)?)?;
            let id = BlockId {
                file,
                number: (index * LEAF_BLOCKS).checked_add(position)?,
            };
            if position >= LEAF_BLOCKS {
                return None;
            }
            let tag = reader.u8()?;
            let place = match tag {
                GONE => Place::NONE,
                HERE => Place {
                    lsn: Lsn::NONE,
                    bytes: number(reader)?,
                },
                BEFORE => Place {
                    lsn: Lsn::new(number(reader)?, number(reader)?),
                    bytes: number(reader)?,
                },
                BEHIND => Place {
                    lsn: behind.end(),
                    bytes: number(reader)?,
                },
                _ => return None,
            };
            if tag >= BEFORE {
                behind = place;
            }
            items.push(Carried {
                id,
                leaf,
                place,
                is_here: tag == HERE,
            });
        }
    }
    let mut offset = FRAME_BYTES + body_bytes - reader.rest().len();
    for item in items.iter_mut().filter(|item| item.is_here) {
        let bytes = item.place.bytes;
        reader.take(bytes as usize)?;
        item.place.lsn = place_in(lsn, offset)?;
        offset += bytes as usize;
    }
    reader.is_empty().then_some(items)
}

/// The position of bytes in a record whose frame is at `lsn`.
pub(crate) fn place_in(lsn: Lsn, offset: usize) -> Option<Lsn> {
    let offset = lsn.offset().checked_add(u32::try_from(offset).ok()?)?;
    Some(Lsn::new(lsn.segno(), offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_back_with_their_places_and_cut_ones_are_damage() {
        let at = |offset, bytes| Place {
            lsn: Lsn::new(8, offset),
            bytes,
        };
        let items = vec![
            (BlockId::page(1), Item::Here(vec![1; 10])),
            (BlockId::page(2), Item::Gone),
            (BlockId::page(600), Item::At(at(5000, 70))),
            (BlockId::page(601), Item::At(at(5070, 60))),
            (BlockId::page(602), Item::At(at(9000, 60))),
            (BlockId::key_block(3), Item::Here(vec![2; 20])),
        ];
        let mut body = b"before".to_vec();
        let slot = |id: BlockId| Slot::new(100 + u64::from(id.leaf())).unwrap();
        let offsets = encode_items(&items, slot, &mut body);
        let lsn = Lsn::new(3, 4096);
        let decode = |body: &[u8]| decode_items(lsn, body.len(), &mut Reader::new(&body[6..]));
        let found = decode(&body).unwrap();
        assert_eq!(found.len(), items.len());
        let mut offsets = offsets.into_iter();
        for (carried, (id, item)) in found.iter().zip(&items) {
            assert_eq!((carried.id, carried.leaf), (*id, slot(*id)));
            match item {
                Item::Gone => assert!(carried.place.is_none()),
                Item::At(place) => assert_eq!(carried.place, *place),
                Item::Here(block) => {
                    let offset = offsets.next().unwrap() as usize;
                    assert_eq!(&body[offset..][..block.len()], &block[..]);
                    let lsn = place_in(lsn, FRAME_BYTES + offset).unwrap();
                    assert_eq!(carried.place.lsn, lsn);
                }
            }
        }
        for len in 6..body.len() {
            assert_eq!(decode(&body[..len]), None, "cut to {len}");
        }
    }
}
