//! Space is reserved before a record is queued, so that the committer never finds the disk full.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::batch::{FRAME_BYTES, HEADER_BYTES};
use crate::segment::BLOCK_BYTES;

/// What fits into the active segment and the free files, and what is promised of it.
#[derive(Debug)]
pub(crate) struct Room {
    available: AtomicI64,
    reserved: AtomicI64,
    /// The last bytes of a segment may stay unused when the next record does not fit there.
    waste_max: u64,
    segment_bytes: u64,
}

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
    pub(crate) fn new(segment_bytes: u64, record_bytes_max: usize) -> Self {
        Room {
            available: AtomicI64::new(0),
            reserved: AtomicI64::new(0),
            waste_max: bytes_max(record_bytes_max),
            segment_bytes,
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
    pub(crate) fn reserve(self: &Arc<Self>, body_bytes: usize) -> Option<Reservation> {
        let bytes = bytes_max(body_bytes) as i64;
        let reserved = self.reserved.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let reservation = Reservation {
            room: self.clone(),
            bytes,
            body_bytes,
        };
        (reserved <= self.available.load(Ordering::Acquire)).then_some(reservation)
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

    /// Takes a free file out of what can be promised, if another one stays.
    pub(crate) fn spare_segment(&self) -> bool {
        let usable = self.usable(self.segment_bytes - BLOCK_BYTES);
        self.available.fetch_sub(usable, Ordering::AcqRel);
        // Looked at afterwards: what was promised meanwhile counts.
        let spare = self.left() >= usable;
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
