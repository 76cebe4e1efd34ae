//! Room for records: who may take the last of it, and what is done when there is none.
//!
//! On a full disk, growth is refused; what replaces, erases or moves goes on in the reserve, and
//! compaction makes room for it (I9). Nobody has to step in: when space is freed, growth is accepted
//! again.

use std::sync::atomic::Ordering;

use dovehouse_wal::{Claim, Reservation};

use crate::compact::Pace;
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::id::{ClassId, ObjectId};

/// A commit that does not grow its object may take from the reserve, up to this size.
pub(crate) const REPLACEMENT_BYTES_MAX: usize = 1 << 20;

/// Growth compacts the store until this part of it is dead. The fuller it is, the more must be moved
/// for each byte that is freed: seven times as much here.
const DEAD_PART_MIN: f64 = 0.15;

/// A checkpoint starts in the background when index entries take their part of the memory; when they take
/// so many times as much, it is too slow, and commits wait for it.
const OVER_BUDGET: usize = 2;

/// Rounds of making room before a claim is refused.
const ATTEMPTS: usize = 4;

/// What a class may take; see [`crate::Engine::set_quota`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// The most that the state of one object may take, uncompressed, in bytes.
    pub object_bytes: Option<u64>,
    /// The most that all objects of the class may take on disk, in bytes of their live records.
    pub class_bytes: Option<u64>,
    /// The most that one transaction may write to a big object before it commits, uncompressed. Default 1 GiB.
    pub transaction_bytes: Option<u64>,
}

/// What a transaction may write if its class has no quota for that. Each page of it takes about 150 bytes of
/// memory, however little of the rest does.
const TRANSACTION_BYTES_MAX: u64 = 1 << 30;

impl Inner {
    /// Room for a record. If there is none, makes some before it gives up.
    pub(crate) fn reserve(&self, body_bytes: usize, claim: Claim) -> Result<Reservation> {
        self.keep_budget()?;
        self.with_room(claim, || Ok(self.log.reserve(body_bytes, claim)?))
    }

    /// Does what needs room. If there is none, makes some before it gives up.
    pub(crate) fn with_room<T>(
        &self,
        claim: Claim,
        mut act: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        for _ in 0..ATTEMPTS {
            match act() {
                Err(error) if error.is_full() && self.may_make_room(claim) => {
                    match self.make_room() {
                        // The index files cannot grow either.
                        Err(error) if error.is_full() => break,
                        made => made?,
                    }
                }
                outcome => return outcome,
            }
        }
        act()
    }

    /// What an open transaction has in memory was so much, and is so much now.
    pub(crate) fn count_dirty(&self, before: usize, now: usize) {
        match now >= before {
            true => self.dirty_bytes.fetch_add(now - before, Ordering::Relaxed),
            false => self.dirty_bytes.fetch_sub(before - now, Ordering::Relaxed),
        };
    }

    /// Whether a transaction that has so much in memory is to write it out: all of them together have too
    /// much, and it is worth writing.
    pub(crate) fn is_dirty_over_budget(&self, bytes: usize) -> bool {
        const WORTH_WRITING: usize = 16;
        let all = self.dirty_bytes.load(Ordering::Relaxed);
        all > self.dirty_bytes_max && bytes > self.dirty_bytes_max / WORTH_WRITING
    }

    /// What one transaction may write.
    pub(crate) fn transaction_bytes_max(&self, class: ClassId) -> u64 {
        let quotas = self.quotas.read();
        let quota = quotas.get(&class).and_then(|quota| quota.transaction_bytes);
        quota.unwrap_or(TRANSACTION_BYTES_MAX)
    }

    /// Waits for a checkpoint if what changed since the last one takes more memory than it may: the
    /// checkpoint lets go of it.
    fn keep_budget(&self) -> Result<()> {
        if self.is_over_budget() {
            let _one_at_a_time = self.upkeep.over_budget.lock();
            if self.is_over_budget() {
                self.checkpoint(false)?;
            }
        }
        Ok(())
    }

    fn is_over_budget(&self) -> bool {
        self.has_entries(OVER_BUDGET * self.upkeep.limits.overlay_entries)
    }

    /// Whether there are so many index entries in memory of objects that are not awake.
    pub(crate) fn has_entries(&self, count: usize) -> bool {
        let entries = self.index.overlay.len();
        let awake = self.awake_count.load(Ordering::Relaxed);
        entries.saturating_sub(awake) >= count
    }

    /// Whether it may help to make room. For growth it is tried as long as a part of the store is dead
    /// that replacing objects can live on, and if the log has gone on since the last time: what it costs
    /// must not fall on every commit that is refused.
    fn may_make_room(&self, claim: Claim) -> bool {
        match claim {
            Claim::Growth => {
                let (live, room) = self.settled_bytes();
                let now = self.log.log_bytes() + 1;
                let dead = room.saturating_sub(live);
                dead >= self.segment_room()
                    && dead as f64 >= DEAD_PART_MIN * room as f64
                    && self.upkeep.full_at.swap(now, Ordering::Relaxed) != now
            }
            Claim::Replacement => true,
            // Compaction is what asks.
            Claim::Relocation => false,
        }
    }

    /// Frees what is dead, and moves what is not.
    fn make_room(&self) -> Result<()> {
        if self.checkpoint(false)?.freed_segments == 0 {
            self.compact(Pace::Pressed, |_| ())?;
        }
        Ok(())
    }

    /// Refuses growth beyond a quota.
    pub(crate) fn check_quota(
        &self,
        class: ClassId,
        id: ObjectId,
        state_bytes: usize,
        record_bytes: usize,
    ) -> Result<()> {
        let quotas = self.quotas.read();
        let Some(quota) = quotas.get(&class) else {
            return Ok(());
        };
        let exceeded = |what: String, bytes: u64, limit: Option<u64>| match limit {
            Some(limit) if bytes > limit => Err(Error::Quota { what, bytes, limit }),
            _ => Ok(()),
        };
        let object = format!("object {id}");
        exceeded(object, state_bytes as u64, quota.object_bytes)?;
        let class_bytes = self.index.usage.class_bytes(class) + record_bytes as u64;
        exceeded(format!("class {}", class.0), class_bytes, quota.class_bytes)
    }
}
