//! How many bytes of each segment are needed: what compaction chooses by.
//!
//! The counts follow every record as it gets its place: its bytes count where it lies, and those of the
//! records that it makes dead no longer do. They are hints. A crash makes them a little wrong, and so
//! does an object that has deltas nobody has read since; nothing is freed by them.

use dovehouse_wal::bytes::{Put, Reader};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::id::ClassId;

/// The bytes of a record, and the segment in which they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) segno: u32,
    pub(crate) bytes: u32,
}

/// Bytes of live records, by segment and by class.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    live: Mutex<FxHashMap<u32, i64>>,
    classes: Mutex<FxHashMap<ClassId, i64>>,
}

impl Usage {
    /// A record of a class came, and made others dead.
    pub(crate) fn replace(
        &self,
        class: ClassId,
        new: Extent,
        dead: impl IntoIterator<Item = Extent>,
    ) {
        let mut live = self.live.lock();
        let mut change = i64::from(new.bytes);
        *live.entry(new.segno).or_default() += i64::from(new.bytes);
        for extent in dead {
            *live.entry(extent.segno).or_default() -= i64::from(extent.bytes);
            change -= i64::from(extent.bytes);
        }
        drop(live);
        *self.classes.lock().entry(class).or_default() += change;
    }

    /// Records of a class died, and nothing came for them.
    pub(crate) fn release(&self, class: ClassId, dead: impl IntoIterator<Item = Extent>) {
        let nothing = Extent { segno: 0, bytes: 0 };
        self.replace(class, nothing, dead);
    }

    pub(crate) fn class_bytes(&self, class: ClassId) -> u64 {
        let classes = self.classes.lock();
        classes
            .get(&class)
            .map_or(0, |bytes| (*bytes).max(0) as u64)
    }

    pub(crate) fn encode_classes(&self, encoded: &mut Vec<u8>) {
        let classes = self.classes.lock();
        let mut counts: Vec<_> = classes.iter().filter(|(_, bytes)| **bytes > 0).collect();
        counts.sort_unstable();
        encoded.put_varint(counts.len() as u64);
        for (class, bytes) in counts {
            encoded.put_varint(u64::from(class.0));
            encoded.put_varint(*bytes as u64);
        }
    }

    pub(crate) fn decode_classes(&self, reader: &mut Reader<'_>) -> Option<()> {
        let mut classes = self.classes.lock();
        for _ in 0..reader.length()? {
            let class = ClassId(u16::try_from(reader.varint()?).ok()?);
            classes.insert(class, i64::try_from(reader.varint()?).ok()?);
        }
        Some(())
    }

    pub(crate) fn live_bytes(&self, segno: u32) -> u64 {
        let live = self.live.lock();
        live.get(&segno).map_or(0, |bytes| (*bytes).max(0) as u64)
    }

    pub(crate) fn forget(&self, segnos: &[u32]) {
        self.live.lock().retain(|segno, _| !segnos.contains(segno));
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let live = self.live.lock();
        let mut counts: Vec<_> = live.iter().filter(|(_, bytes)| **bytes > 0).collect();
        counts.sort_unstable();
        let mut encoded = Vec::new();
        encoded.put_varint(counts.len() as u64);
        for (segno, bytes) in counts {
            encoded.put_varint(u64::from(*segno));
            encoded.put_varint(*bytes as u64);
        }
        encoded
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let mut live = FxHashMap::default();
        for _ in 0..reader.length()? {
            let segno = u32::try_from(reader.varint()?).ok()?;
            live.insert(segno, i64::try_from(reader.varint()?).ok()?);
        }
        Some(Usage {
            live: Mutex::new(live),
            classes: Mutex::default(),
        })
    }
}
