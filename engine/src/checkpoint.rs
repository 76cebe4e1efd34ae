//! The checkpoint: brings the index files up to a position of the log, and frees what lies behind.
//!
//! 0. Bring history up to the durable end of the log, into tables.
//! 1. Note P, the next position to be laid out.
//! 2. Copy every overlay entry that the index does not have; none is skipped for being too new.
//! 3. Wait until P and all copies are durable (I1).
//! 4. Write the copies into the index files and sync those.
//! 5. Find the segments without a live record, by that index (I6), of which history needs nothing either.
//! 6. Name P in SUPER, together with the payload.
//! 7. Drop the overlay entries that still equal their copies.
//!
//! A failure at any step stops the log: what is on disk is still the checkpoint before. But not for a
//! full disk: index files and the manifest may have to grow where space is to be freed, so a free
//! segment file is given back for that.

use dovehouse_wal::{Flaw, Lsn};

use crate::engine::Inner;
use crate::error::Result;
use crate::stats::add;

/// What a checkpoint did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointReport {
    /// Objects whose index entries were written.
    pub objects: usize,
    /// Segments that can be reused now.
    pub freed_segments: usize,
}

impl Inner {
    pub(crate) fn checkpoint(&self, clean: bool) -> Result<CheckpointReport> {
        match self.try_checkpoint(clean) {
            Err(error) if error.is_full() && self.give_back()? => self.try_checkpoint(clean),
            outcome => outcome,
        }
    }

    /// Gives a free segment file back to the file system, if one can be spared.
    fn give_back(&self) -> Result<bool> {
        let free = self.log.stats().free_segments;
        Ok(free > 0 && self.log.trim(free - 1)? > 0)
    }

    fn try_checkpoint(&self, clean: bool) -> Result<CheckpointReport> {
        // A log that has stopped has nothing to add to the last checkpoint, and after a close the files
        // may be another process's.
        self.log.writable()?;
        self.keep_history()?;
        let mut reclaim = self.reclaim.lock();
        let result = (|| {
            let mut history = Vec::new();
            self.history.encode(&mut history);
            let position = self.log.position();
            let usage = self.index.usage.encode();
            let copies =
                self.index
                    .overlay
                    .copy_dirty(self.teeth.has(Flaw::CopyLeavesFirst), || {
                        // What a committer of its own might do just then.
                        self.log.lay_out_queued();
                    });
            let newest = copies
                .iter()
                .map(|copy| copy.entry_at.as_u64() + 1)
                .max()
                .unwrap_or(0);
            let newest = position.lsn.max(Lsn::from_u64(newest));
            let durable = if self.teeth.has(Flaw::CheckpointDoesNotWait) {
                self.log.durable()
            } else {
                self.log.wait_durable(newest)?
            };
            self.note_durable_forks();
            let written = self.index.write(&copies, &usage, &history)?;
            self.blobs.checkpointed(position.lsn);
            let settled = self.settled_segments(position);
            let dead = reclaim.dead_segments(&settled, newest, self);
            // Whoever holds a segment keeps its file.
            drop(settled);
            let freed_segments =
                self.log
                    .checkpoint(position, durable, clean, &written.payload, &dead)?;
            self.history.checkpointed();
            self.index.adopt(written, &copies, durable);
            self.index.usage.forget(&dead);
            Ok(CheckpointReport {
                objects: copies.len(),
                freed_segments,
            })
        })();
        match &result {
            Ok(_) => {
                add(&self.counters.checkpoints, 1);
                self.upkeep
                    .checkpointed(self.log.log_bytes(), self.fs.now_ms());
            }
            Err(error) if error.is_full() => {}
            Err(crate::error::Error::Log(error)) => self.log.poison(error),
            Err(other) => self.log.poison(&dovehouse_wal::Error::Poisoned {
                cause: other.to_string(),
            }),
        }
        result
    }
}
