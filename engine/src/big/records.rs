//! The records of big objects.
//!
//! ```text
//! HEAD  = header (depth 0) · meta · tree varint · [origin] · cut · keys · map · items      the whole object
//! PAGES = header · tree varint · [alarms] · page count varint · cut · keys · map (what it adds) · items
//! BLOB  = tree (slot, generation, tree) · class varint · seq varint · items
//! LEAF  = see `leaf.rs`
//! cut   = 0, or one more than the number behind which pages are gone · varint
//! keys  = root varint · height u8 · next block varint · keys varint · bytes varint
//! origin = tree (slot, generation, tree) · seq varint · since ms varint · steps u8: of the commit that makes a
//!         fork, which has 2^32 added to its own tree
//! map   = for each file: leaves varint · (slot, zigzag varint less the one before · used varint)*
//! ```
//! HEAD and PAGES are commits: PAGES lies on the commit before, as a DELTA does. A BLOB belongs to no
//! version: it carries blocks that a later commit names (its number is then that commit's), or, with number
//! 0, blocks that compaction has moved.

use dovehouse_wal::Lsn;
use dovehouse_wal::bytes::{Put, Reader};

use super::block::{FILES, TreeId};
use super::items::{Carried, decode_items};
use super::keys::KeysRoot;
use super::origin::Origin;
use crate::id::{ClassId, Slot};
use crate::record::{Header, Meta, decode_alarms, encode_alarms};
use crate::state::Alarm;

/// A leaf of the map as a HEAD names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeafRef {
    pub(crate) slot: Slot,
    /// How many of its blocks are there: fewer leave numbers to be used again.
    pub(crate) used: u16,
}

/// The leaves of each file, in order.
pub(crate) type Map = [Vec<LeafRef>; FILES];

/// How many leaves a map has in each file.
pub(crate) fn leaf_counts(map: &Map) -> [u32; FILES] {
    std::array::from_fn(|file| map[file].len() as u32)
}

/// What a HEAD record says besides its header, its meta and its items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) tree: u32,
    /// Set by the commit that makes a fork.
    pub(crate) origin: Option<Origin>,
    /// Pages behind this one are gone from the leaves.
    pub(crate) cut: Option<u32>,
    pub(crate) keys: KeysRoot,
    pub(crate) map: Map,
}

/// What a PAGES record says besides its header and its items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PagesStart {
    pub(crate) tree: u32,
    /// Set if they change.
    pub(crate) alarms: Option<Vec<Alarm>>,
    pub(crate) page_count: u32,
    /// The fewest pages that there were meanwhile, if some were dropped.
    pub(crate) cut: Option<u32>,
    pub(crate) keys: KeysRoot,
    /// Leaves that it adds to the map.
    pub(crate) new_leaves: Map,
}

/// The start of a BLOB record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlobStart {
    pub(crate) tree: TreeId,
    pub(crate) class: ClassId,
    /// The commit that will name its blocks; 0 if its blocks were moved.
    pub(crate) seq: u64,
}

fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

fn encode_cut(cut: Option<u32>, body: &mut Vec<u8>) {
    body.put_varint(cut.map_or(0, |cut| u64::from(cut) + 1));
}

fn decode_cut(reader: &mut Reader<'_>) -> Option<Option<u32>> {
    match reader.varint()? {
        0 => Some(None),
        cut => Some(Some(u32::try_from(cut - 1).ok()?)),
    }
}

fn encode_map(map: &Map, body: &mut Vec<u8>) {
    for leaves in map {
        body.put_varint(leaves.len() as u64);
        let mut before = 0;
        for leaf in leaves {
            let slot = leaf.slot.get() as i64;
            body.put_varint(zigzag(slot - before));
            body.put_varint(u64::from(leaf.used));
            before = slot;
        }
    }
}

fn decode_map(reader: &mut Reader<'_>) -> Option<Map> {
    let mut map = Map::default();
    for leaves in &mut map {
        let mut before = 0_i64;
        for _ in 0..reader.length()? {
            before = before.checked_add(unzigzag(reader.varint()?))?;
            leaves.push(LeafRef {
                slot: Slot::new(u64::try_from(before).ok()?)?,
                used: u16::try_from(reader.varint()?).ok()?,
            });
        }
    }
    Some(map)
}

/// Added to the number of a HEAD's tree.
const HAS_ORIGIN: u64 = 1 << 32;

impl Head {
    /// Appends it to a body that has the header and the meta.
    pub(crate) fn encode(&self, body: &mut Vec<u8>) {
        let marked = if self.origin.is_some() { HAS_ORIGIN } else { 0 };
        body.put_varint(u64::from(self.tree) | marked);
        if let Some(origin) = &self.origin {
            origin.encode(body);
        }
        encode_cut(self.cut, body);
        self.keys.encode(body);
        encode_map(&self.map, body);
    }

    fn decode_start(reader: &mut Reader<'_>) -> Option<Head> {
        let marked = reader.varint()?;
        let origin = match marked & HAS_ORIGIN {
            0 => None,
            _ => Some(Origin::decode(reader)?),
        };
        let tree = u32::try_from(marked & !HAS_ORIGIN).ok()?;
        let cut = decode_cut(reader)?;
        let keys = KeysRoot::decode(reader)?;
        let map = decode_map(reader)?;
        Some(Head {
            tree,
            origin,
            cut,
            keys,
            map,
        })
    }

    /// The meta, the head and the items of a HEAD record's body at `lsn`, which follow its header; `None`
    /// is damage.
    pub(crate) fn decode(
        lsn: Lsn,
        body_bytes: usize,
        reader: &mut Reader<'_>,
    ) -> Option<(Meta, Head, Vec<Carried>)> {
        let meta = Meta::decode(reader)?;
        let head = Head::decode_start(reader)?;
        let items = decode_items(lsn, body_bytes, reader)?;
        Some((meta, head, items))
    }
}

const HAS_ALARMS: u8 = 1;

impl PagesStart {
    /// Appends it to a body that has the header.
    pub(crate) fn encode(&self, body: &mut Vec<u8>) {
        body.put_varint(u64::from(self.tree));
        body.push(if self.alarms.is_some() { HAS_ALARMS } else { 0 });
        if let Some(alarms) = &self.alarms {
            encode_alarms(alarms, body);
        }
        body.put_varint(u64::from(self.page_count));
        encode_cut(self.cut, body);
        self.keys.encode(body);
        encode_map(&self.new_leaves, body);
    }

    fn decode_start(reader: &mut Reader<'_>) -> Option<Self> {
        let tree = u32::try_from(reader.varint()?).ok()?;
        let alarms = match reader.u8()? {
            0 => None,
            HAS_ALARMS => Some(decode_alarms(reader)?),
            _ => return None,
        };
        Some(PagesStart {
            tree,
            alarms,
            page_count: u32::try_from(reader.varint()?).ok()?,
            cut: decode_cut(reader)?,
            keys: KeysRoot::decode(reader)?,
            new_leaves: decode_map(reader)?,
        })
    }

    /// What follows the header of a PAGES record's body at `lsn`; `None` is damage.
    pub(crate) fn decode(
        lsn: Lsn,
        body_bytes: usize,
        reader: &mut Reader<'_>,
    ) -> Option<(Self, Vec<Carried>)> {
        let start = Self::decode_start(reader)?;
        Some((start, decode_items(lsn, body_bytes, reader)?))
    }
}

impl BlobStart {
    pub(crate) fn encode(&self, body: &mut Vec<u8>) {
        self.tree.encode(body);
        body.put_varint(u64::from(self.class.0));
        body.put_varint(self.seq);
    }

    /// What a BLOB record's body at `lsn` says; `None` is damage.
    pub(crate) fn decode(lsn: Lsn, body: &[u8]) -> Option<(Self, Vec<Carried>)> {
        let mut reader = Reader::new(body);
        let start = BlobStart {
            tree: TreeId::decode(&mut reader)?,
            class: ClassId(u16::try_from(reader.varint()?).ok()?),
            seq: reader.varint()?,
        };
        Some((start, decode_items(lsn, body.len(), &mut reader)?))
    }
}

/// The header of a commit of a big object, and what a HEAD or PAGES record says of the tree and of blocks.
pub(crate) fn decode_commit(
    lsn: Lsn,
    is_head: bool,
    body: &[u8],
) -> Option<(Header, u32, Vec<Carried>)> {
    let mut reader = Reader::new(body);
    let header = Header::decode(&mut reader)?;
    if is_head {
        let (_, head, items) = Head::decode(lsn, body.len(), &mut reader)?;
        return Some((header, head.tree, items));
    }
    let (start, items) = PagesStart::decode(lsn, body.len(), &mut reader)?;
    Some((header, start.tree, items))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_both_signs_come_back() {
        for number in [0, 1, -1, 77, -78, i64::from(u32::MAX), -(1 << 40)] {
            assert_eq!(unzigzag(zigzag(number)), number);
        }
    }
}
