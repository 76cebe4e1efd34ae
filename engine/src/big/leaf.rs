//! A leaf of a big object's map: where 512 of its blocks lie.
//!
//! ```text
//! LEAF  = header of the leaf's own slot · tree (slot, generation, tree) · file u8 · index varint · run*
//! run   = 0 · count varint                                no blocks
//!       | 1 · count varint · bytes varint                 each behind the one before, of this size
//!       | 2 · offset varint · bytes varint                in the segment of the one before
//!       | 3 · segno varint · offset varint · bytes varint
//!       | 4 · count varint                                blocks that are as in the origin
//! ```
//! A leaf has a slot of its own, so that its one pointer is an entry of the slot table, and it is written
//! whole: its depth is 0. It says nothing new: what it says was durable in a commit before.

use dovehouse_wal::Lsn;
use dovehouse_wal::bytes::{Put, Reader};

use super::block::{FILES, LEAF_BLOCKS, TreeId};
use crate::record::Header;
use crate::slots::Place;

const NONE: u8 = 0;
const BEHIND: u8 = 1;
const SAME_SEGMENT: u8 = 2;
const ELSEWHERE: u8 = 3;
const IN_ORIGIN: u8 = 4;

/// A leaf in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) tree: TreeId,
    pub(crate) file: u8,
    pub(crate) index: u32,
    /// One for each block; [`Place::NONE`] for those that are not there, and [`Place::ORIGIN`] for those that a
    /// fork has not written.
    pub(crate) places: Vec<Place>,
}

impl Leaf {
    /// A leaf that says the same of all its blocks.
    pub(crate) fn of(tree: TreeId, file: u8, index: u32, place: Place) -> Self {
        Leaf {
            tree,
            file,
            index,
            places: vec![place; LEAF_BLOCKS as usize],
        }
    }

    /// How many blocks there are.
    pub(crate) fn used(&self) -> u16 {
        self.places.iter().filter(|place| !place.is_none()).count() as u16
    }

    /// What the leaf takes in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Leaf>() + self.places.len() * size_of::<Place>()
    }

    /// A LEAF record's body.
    pub(crate) fn encode(&self, header: &Header) -> Vec<u8> {
        let mut body = Vec::new();
        header.encode(&mut body);
        self.tree.encode(&mut body);
        body.push(self.file);
        body.put_varint(u64::from(self.index));
        let mut before = Place::NONE;
        let behind = |before: Place, place: Place| {
            before.is_stored()
                && place.is_stored()
                && before.lsn.segno() == place.lsn.segno()
                && before.lsn.offset() + before.bytes == place.lsn.offset()
        };
        let mut rest = &self.places[..];
        while let Some(first) = rest.first().copied() {
            let mut run = 1;
            if !first.is_stored() {
                run = rest.iter().take_while(|place| **place == first).count();
                body.push(if first.is_none() { NONE } else { IN_ORIGIN });
                body.put_varint(run as u64);
            } else if behind(before, first) {
                while rest
                    .get(run)
                    .is_some_and(|next| next.bytes == first.bytes && behind(rest[run - 1], *next))
                {
                    run += 1;
                }
                body.push(BEHIND);
                body.put_varint(run as u64);
                body.put_varint(u64::from(first.bytes));
                before = rest[run - 1];
            } else {
                if before.lsn.segno() == first.lsn.segno() {
                    body.push(SAME_SEGMENT);
                } else {
                    body.push(ELSEWHERE);
                    body.put_varint(u64::from(first.lsn.segno()));
                }
                body.put_varint(u64::from(first.lsn.offset()));
                body.put_varint(u64::from(first.bytes));
                before = first;
            }
            rest = &rest[run..];
        }
        body
    }

    /// The header and the leaf in a LEAF record's body; `None` is damage.
    pub(crate) fn decode(body: &[u8]) -> Option<(Header, Leaf)> {
        let mut reader = Reader::new(body);
        let header = Header::decode(&mut reader)?;
        let tree = TreeId::decode(&mut reader)?;
        let file = reader.u8().filter(|file| usize::from(*file) < FILES)?;
        let index = u32::try_from(reader.varint()?).ok()?;
        index.checked_mul(LEAF_BLOCKS)?;
        let mut leaf = Leaf::of(tree, file, index, Place::NONE);
        leaf.places.clear();
        let number = |reader: &mut Reader<'_>| u32::try_from(reader.varint()?).ok();
        let mut before = Place::NONE;
        while !reader.is_empty() {
            let (tag, room) = (reader.u8()?, LEAF_BLOCKS as usize - leaf.places.len());
            match tag {
                NONE | IN_ORIGIN => {
                    let count = reader.length().filter(|count| *count <= room)?;
                    let place = match tag {
                        NONE => Place::NONE,
                        _ => Place::ORIGIN,
                    };
                    leaf.places.resize(leaf.places.len() + count, place);
                }
                BEHIND => {
                    let count = reader.length().filter(|count| *count <= room)?;
                    let bytes = number(&mut reader)?;
                    for _ in 0..count {
                        let offset = before.lsn.offset().checked_add(before.bytes)?;
                        before = Place {
                            lsn: Lsn::new(before.lsn.segno(), offset),
                            bytes,
                        };
                        leaf.places.push(before);
                    }
                }
                SAME_SEGMENT | ELSEWHERE if room > 0 => {
                    let segno = match tag {
                        ELSEWHERE => number(&mut reader)?,
                        _ => before.lsn.segno(),
                    };
                    before = Place {
                        lsn: Lsn::new(segno, number(&mut reader)?),
                        bytes: number(&mut reader)?,
                    };
                    leaf.places.push(before);
                }
                _ => return None,
            }
        }
        (leaf.places.len() == LEAF_BLOCKS as usize).then_some((header, leaf))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ClassId, Slot};

    #[test]
    fn a_leaf_comes_back_short_where_blocks_lie_in_order_and_cut_ones_are_damage() {
        let tree = TreeId {
            slot: Slot::new(9).unwrap(),
            generation: 2,
            tree: 70,
        };
        let header = Header {
            slot: Slot::new(1000).unwrap(),
            generation: 0,
            seq: 3,
            class: ClassId(1),
            depth: 0,
        };
        let mut leaf = Leaf::of(tree, 1, 44, Place::NONE);
        let empty = leaf.encode(&header);
        assert!(empty.len() < 24, "{}", empty.len());
        assert_eq!(Leaf::decode(&empty), Some((header, leaf.clone())));
        for (number, place) in leaf.places.iter_mut().enumerate() {
            *place = Place {
                lsn: Lsn::new(5, 8192 + 4101 * number as u32),
                bytes: 4101,
            };
        }
        let in_order = leaf.encode(&header);
        assert!(in_order.len() < 40, "{}", in_order.len());
        assert_eq!(Leaf::decode(&in_order), Some((header, leaf.clone())));
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            for _ in 0..50 {
                leaf.places[rng.usize(0..512)] = match rng.u8(0..4) {
                    0 => Place::NONE,
                    1 => Place::ORIGIN,
                    _ => Place {
                        lsn: Lsn::new(rng.u32(1..4), rng.u32(4096..9000)),
                        bytes: rng.u32(5..5000),
                    },
                };
            }
            let body = leaf.encode(&header);
            assert_eq!(Leaf::decode(&body), Some((header, leaf.clone())));
            let cut = rng.usize(0..body.len());
            assert_ne!(Leaf::decode(&body[..cut]), Some((header, leaf.clone())));
        }
    }
}
