//! Blocks that are written before the commit that names them: large values, and transactions that are larger
//! than the memory they may take. They go into a segment beside the log, and nobody sees them until a commit
//! says where they are. What a transaction leaves behind is dead.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dovehouse_wal::{Claim, FRAME_BYTES, Flaw, Lsn, Pack};
use parking_lot::Mutex;

use super::block::{BlockId, TreeId, encode_block};
use super::items::{Item, encode_items, place_in};
use super::records::BlobStart;
use crate::engine::Inner;
use crate::error::Result;
use crate::id::{ClassId, Slot};
use crate::record::Kind;
use crate::slots::Place;

/// Blocks are gathered into records of about this size: a slice of the disk's time.
const RECORD_BYTES: usize = 256 << 10;

/// Where a commit's record came to lie; filled by the committer.
#[derive(Debug, Default)]
pub(crate) struct Landing(AtomicU64);

impl Landing {
    pub(crate) fn set(&self, lsn: Lsn) {
        self.0.store(lsn.as_u64(), Ordering::Release);
    }

    /// [`Lsn::NONE`] before that.
    pub(crate) fn get(&self) -> Lsn {
        Lsn::from_u64(self.0.load(Ordering::Acquire))
    }
}

/// Segments with blocks that a transaction has written and that no checkpoint knows to be needed.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    segnos: Mutex<HashSet<u32>>,
    /// The commit that names them, once it is appended.
    landing: Mutex<Option<Arc<Landing>>>,
}

/// The segments beside the log that are being filled, and who needs them.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    writer: Mutex<Option<Pack>>,
    /// The writer's segment.
    filling: Mutex<Option<u32>>,
    /// Segments that no checkpoint has named: a crash would lose them.
    unnamed: Mutex<HashSet<u32>>,
    holds: Mutex<Vec<Arc<Hold>>>,
}

impl Blobs {
    /// A hold for a transaction that begins to write blocks.
    pub(crate) fn hold(&self) -> Arc<Hold> {
        let hold = Arc::new(Hold::default());
        self.holds.lock().push(hold.clone());
        hold
    }

    /// The transaction is gone.
    pub(crate) fn release(&self, hold: &Arc<Hold>) {
        self.holds.lock().retain(|held| !Arc::ptr_eq(held, hold));
    }

    /// A checkpoint that replays from `position` knows all commits before it.
    pub(crate) fn checkpointed(&self, position: Lsn) {
        self.holds.lock().retain(|hold| {
            let landing = hold.landing.lock();
            let lsn = landing.as_ref().map_or(Lsn::NONE, |landing| landing.get());
            lsn.is_none() || lsn >= position
        });
    }

    /// Segments that must not be judged by what the index says.
    pub(crate) fn held_segments(&self) -> HashSet<u32> {
        let mut held: HashSet<u32> = self.filling.lock().iter().copied().collect();
        for hold in self.holds.lock().iter() {
            held.extend(hold.segnos.lock().iter());
        }
        held
    }
}

impl Hold {
    /// The commit that names the blocks is on its way.
    pub(crate) fn commit(&self, landing: Arc<Landing>) {
        *self.landing.lock() = Some(landing);
    }

    pub(crate) fn add(&self, segno: u32) {
        self.segnos.lock().insert(segno);
    }
}

/// Blocks that are to be written, with whose they are.
pub(crate) struct Staging<'a> {
    pub(crate) tree: TreeId,
    pub(crate) class: ClassId,
    /// The commit that will name them.
    pub(crate) seq: u64,
    pub(crate) hold: &'a Hold,
}

impl Inner {
    /// Writes blocks, sorted, beside the log, durably. Returns where they are.
    pub(crate) fn stage(
        &self,
        staging: &Staging<'_>,
        blocks: Vec<(BlockId, Arc<[u8]>)>,
        leaf_slot: impl Fn(BlockId) -> Slot + Copy,
    ) -> Result<Vec<(BlockId, Place)>> {
        let limit = RECORD_BYTES.min(self.log.record_bytes_max() / 2);
        let mut places = Vec::with_capacity(blocks.len());
        let (mut items, mut gathered) = (Vec::new(), 0);
        for (id, content) in blocks {
            let block = encode_block(staging.tree, id, &content);
            if gathered > 0 && gathered + block.len() > limit {
                self.write_blob(staging, &std::mem::take(&mut items), leaf_slot, &mut places)?;
                gathered = 0;
            }
            gathered += block.len();
            items.push((id, Item::Here(block)));
        }
        if !items.is_empty() {
            self.write_blob(staging, &items, leaf_slot, &mut places)?;
        }
        Ok(places)
    }

    fn write_blob(
        &self,
        staging: &Staging<'_>,
        items: &[(BlockId, Item)],
        leaf_slot: impl Fn(BlockId) -> Slot,
        places: &mut Vec<(BlockId, Place)>,
    ) -> Result<()> {
        let start = BlobStart {
            tree: staging.tree,
            class: staging.class,
            seq: staging.seq,
        };
        let mut body = Vec::with_capacity(RECORD_BYTES + (8 << 10));
        start.encode(&mut body);
        let offsets = encode_items(items, leaf_slot, &mut body);
        let lsn = self.append_blob(&body, staging.hold)?;
        for ((id, item), offset) in items.iter().zip(offsets) {
            let Item::Here(block) = item else { continue };
            let at = place_in(lsn, FRAME_BYTES + offset as usize);
            let place = Place {
                lsn: at.expect("the record fits its segment"),
                bytes: block.len() as u32,
            };
            places.push((*id, place));
        }
        Ok(())
    }

    fn append_blob(&self, body: &[u8], hold: &Hold) -> Result<Lsn> {
        self.log.writable()?;
        let mut writer = self.blobs.writer.lock();
        if writer
            .as_ref()
            .is_some_and(|pack| !pack.has_room(body.len()))
        {
            *writer = None;
            *self.blobs.filling.lock() = None;
        }
        if writer.is_none() {
            let pack = self.with_room(Claim::Growth, || {
                // Between checkpoints, so that none takes the empty segment for a dead one.
                let _between_checkpoints = self.reclaim.lock();
                let pack = self.log.begin_blob()?;
                *self.blobs.filling.lock() = Some(pack.segno());
                Ok(pack)
            })?;
            self.blobs.unnamed.lock().insert(pack.segno());
            *writer = Some(pack);
        }
        let pack = writer.as_mut().expect("there is one");
        let segno = pack.segno();
        hold.add(segno);
        let appended = pack.append(Kind::Blob as u8, 0, body);
        let (lsn, _) = self.or_stop(appended)?;
        let flushed = pack.flush();
        self.or_stop(flushed)?;
        Ok(lsn)
    }

    /// Sees to it that a crash does not lose the segments of a transaction that is about to commit.
    pub(crate) fn name_blobs(&self, hold: &Hold) -> Result<()> {
        if self.teeth.has(Flaw::UnnamedBlob) {
            return Ok(());
        }
        let segnos = hold.segnos.lock().clone();
        let is_unnamed = |segno: &u32| self.blobs.unnamed.lock().contains(segno);
        if segnos.iter().any(is_unnamed) {
            self.checkpoint(false)?;
            self.blobs
                .unnamed
                .lock()
                .retain(|segno| !segnos.contains(segno));
        }
        Ok(())
    }
}
