//! The slot table: where each object's newest checkpointed record lies, 32 bytes an object.
//!
//! ```text
//! slot entry, at 32 × slot     (a sector holds whole entries, so none is ever torn)
//!  0  segno        u32   the head record's segment
//!  4  offset       u32   and its offset there
//!  8  bytes        u32   what it takes, frame included
//! 12  seq          u40   commits so far, over all lives of the id
//! 17  generation   u8    grows when the slot is given to another id
//! 18  class        u16
//! 20  flags        u8    1 in use, 2 erased, 4 big, 8 expired: free for another id, 16 a leaf of a map
//! 21  depth        u8    deltas on top of the last image
//! 22  tree         u32   of a big object: which life of its map this is; 0 for others
//! 26  fingerprint  u32   of the id, to spare reads of other objects
//! 30  check        u16   of all the above and the slot's number
//! ```

use std::path::Path;

use dovehouse_wal::fs::Fs;
use dovehouse_wal::{Lsn, bytes::Reader};

use crate::error::{Error, Result};
use crate::id::{ClassId, Slot};
use crate::index_file::{IndexFile, PAGE_BYTES, Page};
use crate::usage::Extent;

const ENTRY_BYTES: usize = 32;
const PER_PAGE: u64 = (PAGE_BYTES / ENTRY_BYTES) as u64;
const IN_USE: u8 = 1;
const ERASED: u8 = 2;
const BIG: u8 = 4;
const EXPIRED: u8 = 8;
const LEAF: u8 = 16;
/// Sequence numbers have 40 bits: 34 years at a thousand commits a second.
pub(crate) const SEQ_LIMIT: u64 = 1 << 40;

/// What an index entry leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// An object whose image holds all of its state.
    Tiny,
    /// A big object, in this life of its map.
    Big { tree: u32 },
    /// A leaf of a big object's map.
    Leaf,
}

/// What the index knows of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its newest record.
    pub head: Lsn,
    /// What that record takes, frame included.
    pub bytes: u32,
    /// The number of that commit, counted over all lives of the id.
    pub seq: u64,
    /// Which use of the slot this is.
    pub generation: u8,
    /// Its class.
    pub class: ClassId,
    /// Whether it has no state.
    pub erased: bool,
    /// Whether the object is forgotten: the slot is free for another, with this generation.
    pub(crate) expired: bool,
    /// How many deltas lie on top of the last image.
    pub depth: u8,
    pub(crate) form: Form,
    pub(crate) fingerprint: u32,
}

/// A place in the store, and how much lies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) lsn: Lsn,
    /// Frame included.
    pub(crate) bytes: u32,
}

impl Place {
    /// Nowhere.
    pub(crate) const NONE: Place = Place {
        lsn: Lsn::NONE,
        bytes: 0,
    };

    /// Where the fork's [origin](crate::big::Origin) has it: it was not written since.
    pub(crate) const ORIGIN: Place = Place {
        lsn: Lsn::NONE,
        bytes: 1,
    };

    pub(crate) fn is_none(&self) -> bool {
        *self == Place::NONE
    }

    pub(crate) fn is_origin(&self) -> bool {
        *self == Place::ORIGIN
    }

    /// Whether it lies in a segment.
    pub(crate) fn is_stored(&self) -> bool {
        !self.lsn.is_none()
    }

    /// What lies behind it.
    pub(crate) fn end(&self) -> Lsn {
        let offset = self.lsn.offset().wrapping_add(self.bytes);
        Lsn::new(self.lsn.segno(), offset)
    }

    pub(crate) fn extent(&self) -> Extent {
        Extent {
            segno: self.lsn.segno(),
            bytes: self.bytes,
        }
    }
}

impl Entry {
    /// The same version, written whole at another place.
    pub(crate) fn moved(self, to: Place) -> Self {
        Entry {
            head: to.lsn,
            bytes: to.bytes,
            depth: 0,
            ..self
        }
    }

    /// What is left of an erased object that is forgotten.
    pub(crate) fn forgotten(self) -> Self {
        Entry {
            head: Lsn::NONE,
            bytes: 0,
            seq: 0,
            generation: self.generation + 1,
            expired: true,
            depth: 0,
            form: Form::Tiny,
            fingerprint: 0,
            ..self
        }
    }

    pub(crate) fn extent(&self) -> Extent {
        let (lsn, bytes) = (self.head, self.bytes);
        Place { lsn, bytes }.extent()
    }

    /// Whether it is a big object: its blocks are read one by one.
    pub fn is_big(&self) -> bool {
        matches!(self.form, Form::Big { .. })
    }

    /// The sequence number of the image under the head: everything older is dead.
    pub fn image_seq(&self) -> u64 {
        self.seq - u64::from(self.depth)
    }

    /// Newer means a later generation, or a later commit of the same.
    pub(crate) fn version(&self) -> (u8, u64) {
        (self.generation, self.seq)
    }

    fn encode(&self, slot: Slot) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[0..4].copy_from_slice(&self.head.segno().to_le_bytes());
        bytes[4..8].copy_from_slice(&self.head.offset().to_le_bytes());
        bytes[8..12].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[12..17].copy_from_slice(&self.seq.to_le_bytes()[..5]);
        bytes[17] = self.generation;
        bytes[18..20].copy_from_slice(&self.class.0.to_le_bytes());
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        let (form, tree) = match self.form {
            Form::Tiny => (0, 0),
            Form::Big { tree } => (BIG, tree),
            Form::Leaf => (LEAF, 0),
        };
        bytes[20] = IN_USE | flag(self.erased, ERASED) | flag(self.expired, EXPIRED) | form;
        bytes[21] = self.depth;
        bytes[22..26].copy_from_slice(&tree.to_le_bytes());
        bytes[26..30].copy_from_slice(&self.fingerprint.to_le_bytes());
        let check = check(&bytes, slot);
        bytes[30..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// `Ok(None)` is a slot that was never used; `Err(())` is damage.
    fn decode(bytes: &[u8; ENTRY_BYTES], slot: Slot) -> std::result::Result<Option<Self>, ()> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if check(bytes, slot).to_le_bytes() != bytes[30..] || bytes[20] & IN_USE == 0 {
            return Err(());
        }
        Self::fields(bytes).ok_or(()).map(Some)
    }

    fn fields(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (segno, offset) = (reader.u32()?, reader.u32()?);
        let bytes = reader.u32()?;
        let mut seq = [0; 8];
        seq[..5].copy_from_slice(reader.take(5)?);
        let (generation, class) = (reader.u8()?, ClassId(reader.u16()?));
        let (flags, depth, tree) = (reader.u8()?, reader.u8()?, reader.u32()?);
        let entry = Entry {
            head: Lsn::new(segno, offset),
            bytes,
            seq: u64::from_le_bytes(seq),
            generation,
            class,
            erased: flags & ERASED != 0,
            expired: flags & EXPIRED != 0,
            depth,
            form: match flags & (BIG | LEAF) {
                0 => Form::Tiny,
                BIG => Form::Big { tree },
                LEAF => Form::Leaf,
                _ => return None,
            },
            fingerprint: reader.u32()?,
        };
        (entry.seq >= u64::from(entry.depth)).then_some(entry)
    }
}

/// Sixteen bits over the entry and the slot it stands for: an entry in the wrong place is damage too.
fn check(bytes: &[u8; ENTRY_BYTES], slot: Slot) -> u16 {
    let mut hasher = crc32fast::Hasher::new_with_initial(slot.get() as u32);
    hasher.update(&bytes[..30]);
    hasher.finalize() as u16
}

/// The entries on disk, as of the last checkpoint.
#[derive(Debug)]
pub(crate) struct SlotTable {
    file: IndexFile,
}

impl SlotTable {
    /// Bytes of pages that were written since the file was opened.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.file.written_bytes()
    }

    pub(crate) fn open(fs: &dyn Fs, dir: &Path, write: bool) -> Result<Self> {
        Ok(SlotTable {
            file: IndexFile::open(fs, &dir.join("slots"), write)?,
        })
    }

    /// The entry of a slot.
    pub(crate) fn get(&self, slot: Slot) -> Result<Option<Entry>> {
        if let Ok(entry) = self.look(slot)? {
            return Ok(entry);
        }
        // A checkpoint may have been rewriting the entry.
        let _still = self.file.hold_still();
        if let Ok(entry) = self.look(slot)? {
            return Ok(entry);
        }
        let path = self.file.path().display();
        Err(Error::damaged(
            format!("the entry of slot {slot} in {path}"),
            "its checksum is wrong",
        ))
    }

    fn look(&self, slot: Slot) -> Result<std::result::Result<Option<Entry>, ()>> {
        let words: [u64; 4] = self.file.words(slot.get() * ENTRY_BYTES as u64)?;
        let mut bytes = [0; ENTRY_BYTES];
        for (part, word) in bytes.chunks_exact_mut(8).zip(words) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        Ok(Entry::decode(&bytes, slot))
    }

    /// Writes entries, sorted by slot. Durable after [`SlotTable::sync`].
    pub(crate) fn write(&self, entries: &[(Slot, Entry)]) -> Result<()> {
        for page_entries in entries.chunk_by(|a, b| a.0.get() / PER_PAGE == b.0.get() / PER_PAGE) {
            let number = page_entries[0].0.get() / PER_PAGE;
            let mut page: Box<Page> = self.file.page(number)?;
            for (slot, entry) in page_entries {
                let at = (slot.get() % PER_PAGE) as usize * ENTRY_BYTES;
                page[at..at + ENTRY_BYTES].copy_from_slice(&entry.encode(*slot));
            }
            self.file.write_page(number, &page)?;
        }
        Ok(())
    }

    pub(crate) fn sync(&self) -> Result<()> {
        Ok(self.file.sync()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            head: Lsn::new(7, 4096 + 64),
            bytes: 1234,
            seq: 0x12_3456_789A,
            generation: 3,
            class: ClassId(500),
            erased: false,
            expired: false,
            depth: 15,
            form: Form::Tiny,
            fingerprint: 0xDEAD_BEEF,
        }
    }

    #[test]
    fn an_entry_comes_back_for_its_own_slot_only_and_no_flipped_bit_passes() {
        let (slot, other) = (Slot::new(9).unwrap(), Slot::new(10).unwrap());
        let bytes = entry().encode(slot);
        assert_eq!(Entry::decode(&bytes, slot), Ok(Some(entry())));
        assert_eq!(Entry::decode(&bytes, other), Err(()));
        assert_eq!(Entry::decode(&[0; ENTRY_BYTES], slot), Ok(None));
        for bit in 0..ENTRY_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Entry::decode(&flipped, slot), Err(()), "bit {bit}");
        }
    }
}
