//! Positions in the log, and the proof that one of them is durable.

use std::fmt;

/// A position in the log: segment number and byte offset in that segment.
///
/// Segment numbers only grow, so positions are ordered as the log is. A record's LSN is the offset
/// of its frame and names it until compaction moves it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// No position: links of first records have it. Smaller than every real one.
    pub const NONE: Lsn = Lsn(0);

    /// The position at a byte offset of a segment.
    pub const fn new(segno: u32, offset: u32) -> Self {
        Lsn((segno as u64) << 32 | offset as u64)
    }

    /// The position whose number this is; the inverse of [`Lsn::as_u64`].
    pub const fn from_u64(value: u64) -> Self {
        Lsn(value)
    }

    /// Segment number in the upper half, byte offset in the lower.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The segment number.
    pub const fn segno(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The byte offset in the segment's file.
    pub const fn offset(self) -> u32 {
        self.0 as u32
    }

    /// Whether this is [`Lsn::NONE`].
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segno(), self.offset())
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The end of what is known to be durable: everything before it survives a power cut.
///
/// Only a completed durable write, or a recovery that made its result durable, produces one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurableLsn(Lsn);

impl DurableLsn {
    pub(crate) fn proven(end: Lsn) -> Self {
        DurableLsn(end)
    }

    /// The first position that is not known to be durable.
    pub fn end(self) -> Lsn {
        self.0
    }

    /// Whether a record at this position is durable.
    pub fn covers(self, record: Lsn) -> bool {
        record < self.0
    }
}

/// Where the log goes on after a batch: what a checkpoint names, and what a segment's header says
/// of its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The first byte after the batch.
    pub lsn: Lsn,
    /// The salt of the segment's life.
    pub salt: u64,
    /// The batch's number in its segment, or 0 before the first.
    pub last_batch: u32,
}
