//! Space is reserved before a record is queued, so that the committer never finds the disk full.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::batch::{FRAME_BYTES, HEADER_BYTES};
use crate::segment::BLOCK_BYTES;
use crate::teeth::{Flaw, Teeth};

/// What fits into the active segment and the free files, and what is promised of it.
#[derive(Debug)]
pub(crate) struct Room {
    available: AtomicI64,
    reserved: AtomicI64,
    /// The last bytes of a segment may stay unused when the next record does not fit there.
    waste_max: u64,
    segment_bytes: u64,
    teeth: Teeth,
}

/// What a record is for, which decides how much of the last space it may take. A record that cannot
/// have what it needs is refused before anything of it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The store grows by it. Leaves the reserve alone.
    Growth,
    /// The store does not grow by it: what it replaces is dead. Takes the first part of the reserve.
    Replacement,
    /// It lets space be freed. Takes all that there is.
    Relocation,
}

impl Claim {
    /// Whole free segments that it leaves: the reserve of a store with so many segments in use. One of
    /// them is for the log, the others are for the packs of compaction: the first of these may stay
    /// without gain, if its victims hold an object that is awake.
    pub(crate) fn leaves(self, used_segments: usize) -> i64 {
        let reserve = RESERVE_SEGMENTS.min(1 + used_segments) as i64;
        match self {
            Claim::Growth => reserve,
            Claim::Replacement => reserve - 1,
            Claim::Relocation => 0,
        }
    }
}

/// Free segment files that growth leaves for erasing, replacing and compacting on a full disk (I9);
/// fewer in a store of less than three.
pub const RESERVE_SEGMENTS: usize = 4;

/// Space for one record. Given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    room: Arc<Room>,
    bytes: i64,
    body_bytes: usize,
}

impl Reservation {
    /// The largest body it covers.
    pub fn body_bytes(&self) -> usize {
        self.body_bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.room.reserved.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// What a record takes at most: a batch of its own.
fn bytes_max(body_bytes: usize) -> u64 {
    ((HEADER_BYTES + FRAME_BYTES + body_bytes) as u64).next_multiple_of(BLOCK_BYTES)
}

impl Room {
    pub(crate) fn new(segment_bytes: u64, record_bytes_max: usize, teeth: Teeth) -> Self {
        Room {
            available: AtomicI64::new(0),
            reserved: AtomicI64::new(0),
            waste_max: bytes_max(record_bytes_max),
            segment_bytes,
            teeth,
        }
    }

    /// How much of `remaining` bytes of a segment can be promised.
    pub(crate) fn usable(&self, remaining: u64) -> i64 {
        remaining.saturating_sub(self.waste_max) as i64
    }

    /// Counts new free files.
    pub(crate) fn add_segments(&self, count: usize) {
        let usable = self.usable(self.segment_bytes - BLOCK_BYTES);
        self.available
            .fetch_add(usable * count as i64, Ordering::AcqRel);
    }

    /// After a batch was laid out: the active segment's usable bytes before and after, and whether a
    /// free file became the active segment.
    pub(crate) fn consume(&self, before: i64, after: i64, rotated: bool) {
        let from_free = if rotated {
            self.usable(self.segment_bytes - BLOCK_BYTES)
        } else {
            0
        };
        self.available
            .fetch_sub(before + from_free - after, Ordering::AcqRel);
    }

    /// Promises room for a body, if there is any.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        body_bytes: usize,
        claim: Claim,
        used_segments: usize,
    ) -> Option<Reservation> {
        let left = if self.teeth.has(Flaw::NoReserve) {
            0
        } else {
            claim.leaves(used_segments)
        };
        let left = left * self.usable(self.segment_bytes - BLOCK_BYTES);
        let bytes = bytes_max(body_bytes) as i64;
        let reserved = self.reserved.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let reservation = Reservation {
            room: self.clone(),
            bytes,
            body_bytes,
        };
        (reserved + left <= self.available.load(Ordering::Acquire)).then_some(reservation)
    }

    /// Takes bytes out of what can be promised, if they are not promised.
    pub(crate) fn give_up(&self, bytes: i64) -> bool {
        self.available.fetch_sub(bytes, Ordering::AcqRel);
        // Looked at afterwards: what was promised meanwhile counts.
        let unpromised = self.left() >= 0;
        if !unpromised {
            self.available.fetch_add(bytes, Ordering::AcqRel);
        }
        unpromised
    }

    /// Takes a free file out of what can be promised, for a pack. What says where the records of a pack
    /// lie takes less than a quarter of it: that much stays.
    pub(crate) fn segment_for_pack(&self) -> bool {
        self.take_segment(self.usable(self.segment_bytes - BLOCK_BYTES) / 4)
    }

    /// Whether there is a free file for a pack.
    pub(crate) fn has_segment_for_pack(&self) -> bool {
        let usable = self.usable(self.segment_bytes - BLOCK_BYTES);
        self.left() >= usable + usable / 4
    }

    /// Takes a free file out of what can be promised, for payloads that let the store grow.
    pub(crate) fn segment_for_growth(&self, used_segments: usize) -> bool {
        let reserve = Claim::Growth.leaves(used_segments);
        self.take_segment(reserve * self.usable(self.segment_bytes - BLOCK_BYTES))
    }

    /// Takes a free file out of what can be promised, if another one stays.
    pub(crate) fn spare_segment(&self) -> bool {
        self.take_segment(self.usable(self.segment_bytes - BLOCK_BYTES))
    }

    fn take_segment(&self, stays: i64) -> bool {
        let usable = self.usable(self.segment_bytes - BLOCK_BYTES);
        self.available.fetch_sub(usable, Ordering::AcqRel);
        // Looked at afterwards: what was promised meanwhile counts.
        let spare = self.left() >= stays;
        if !spare {
            self.available.fetch_add(usable, Ordering::AcqRel);
        }
        spare
    }

    /// Unpromised bytes.
    pub(crate) fn left(&self) -> i64 {
        self.available.load(Ordering::Acquire) - self.reserved.load(Ordering::Acquire)
    }
}
