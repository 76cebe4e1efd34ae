//! Packs: segments that are written beside the log, for records that compaction moves, and for large
//! payloads that are written before the commit that names them ([`Role::Blob`]).
//!
//! A pack looks like a segment of the log, with a header of its own role and batches of records, but
//! nothing follows it and it follows nothing. It counts from the checkpoint on that names it; until
//! then a crash makes its file free again. So a record may be said to lie in a pack only after
//! 1. [`Pack::flush`] made it durable, and
//! 2. a checkpoint named the pack with an end behind it.
//!
//! A blob segment is used while it is being filled: for it the second is that a checkpoint named it at
//! all. At the next open its end is found by reading on from the one that the checkpoint saw.

use std::sync::Arc;

use crate::batch::{BatchHeader, FRAME_BYTES, Frame, HEADER_BYTES};
use crate::bytes::Put;
use crate::error::{Error, Result};
use crate::log::{Ledger, Log};
use crate::lsn::Lsn;
use crate::pool::Segment;
use crate::segment::{BLOCK_BYTES, Role, SegmentHeader};
use crate::stats::{Counters, add};

/// Background writes go in slices, so that a commit never waits behind a big one.
const SLICE_BYTES: usize = 256 << 10;

/// A pack that is being written.
#[derive(Debug)]
pub struct Pack {
    segment: Arc<Segment>,
    segment_bytes: u64,
    /// Where the batch that gathers will start.
    offset: u64,
    number: u32,
    prev_crc: u32,
    time_ms: u64,
    /// The header block, until the first batch takes it along.
    lead: Vec<u8>,
    /// The batch that gathers: its header's place, and records.
    batch: Vec<u8>,
    record_crcs: Vec<u8>,
    counters: Arc<Counters>,
}

impl<L: Ledger> Log<L> {
    /// Whether a pack could begin without another segment file.
    pub fn can_begin_pack(&self) -> bool {
        self.inner.room.has_segment_for_pack()
    }

    /// Begins a pack, in a free segment file if one can be spared, else in a new one.
    pub fn begin_pack(&self) -> Result<Pack> {
        self.writable()?;
        if !self.inner.room.segment_for_pack() {
            self.inner.grow()?;
        }
        self.begin_beside(Role::Pack)
    }

    /// Begins a segment for large payloads, which leaves the reserve alone: with nothing but that left,
    /// a new file is made.
    pub fn begin_blob(&self) -> Result<Pack> {
        self.writable()?;
        let inner = &self.inner;
        if !inner.room.segment_for_growth(inner.pool.used_count()) {
            inner.grow()?;
        }
        self.begin_beside(Role::Blob)
    }

    fn begin_beside(&self, role: Role) -> Result<Pack> {
        let inner = &self.inner;
        let segno = {
            let mut layout = inner.layout.lock();
            layout.segno_max += 1;
            layout.segno_max
        };
        let header = SegmentHeader {
            role,
            store_id: inner.store_id,
            segno,
            salt: inner.fs.random_u64(),
            pred_salt: 0,
            pred_last_batch: 0,
            created_ms: inner.fs.now_ms(),
            segment_bytes: inner.segment_bytes,
        };
        let none_free = || Error::Full {
            cause: "no free segment for a pack".into(),
        };
        let segment = inner.pool.activate(&header)?.ok_or_else(none_free)?;
        Ok(Pack {
            segment,
            segment_bytes: inner.segment_bytes,
            offset: BLOCK_BYTES,
            number: 1,
            prev_crc: header.crc(),
            time_ms: header.created_ms,
            lead: header.encode(),
            batch: vec![0; HEADER_BYTES],
            record_crcs: Vec::new(),
            counters: inner.counters.clone(),
        })
    }
}

impl Pack {
    /// The number of its segment.
    pub fn segno(&self) -> u32 {
        self.segment.segno
    }

    /// About how many bytes of records still fit.
    pub fn room_bytes(&self) -> u64 {
        let gathered = self.batch.len().next_multiple_of(BLOCK_BYTES as usize) as u64;
        self.segment_bytes
            .saturating_sub(self.offset + gathered + BLOCK_BYTES)
    }

    /// Whether a record with a body of this size still fits.
    pub fn has_room(&self, body_bytes: usize) -> bool {
        // At worst the batch that gathers ends before it.
        let gathered = self.batch.len().next_multiple_of(BLOCK_BYTES as usize);
        let record = HEADER_BYTES + FRAME_BYTES + body_bytes;
        self.offset + (gathered + record) as u64 <= self.segment_bytes
    }

    /// Appends a record, and writes what has gathered if it is enough for a slice. Returns where the
    /// record lies, and what it takes there.
    ///
    /// # Panics
    /// If it does not fit.
    pub fn append(&mut self, kind: u8, flags: u8, body: &[u8]) -> Result<(Lsn, u32)> {
        assert!(self.has_room(body.len()), "a record fits into its pack");
        if self.batch.len() + FRAME_BYTES + body.len() > SLICE_BYTES {
            self.flush()?;
        }
        let at = self.offset + self.batch.len() as u64;
        let frame = Frame {
            body_len: body.len() as u32,
            link: Lsn::NONE,
            kind,
            flags,
        };
        let crc = frame.encode(crc32fast::hash(body), &mut self.batch);
        self.record_crcs.put_u32(crc);
        self.batch.extend_from_slice(body);
        let lsn = Lsn::new(self.segment.segno, at as u32);
        Ok((lsn, (FRAME_BYTES + body.len()) as u32))
    }

    /// Makes everything that was appended durable.
    pub fn flush(&mut self) -> Result<()> {
        if self.record_crcs.is_empty() {
            return Ok(());
        }
        let header = BatchHeader {
            segno: self.segment.segno,
            number: self.number,
            salt: self.segment.salt,
            lsn: Lsn::new(self.segment.segno, self.offset as u32),
            records: (self.record_crcs.len() / 4) as u32,
            body_bytes: (self.batch.len() - HEADER_BYTES) as u32,
            time_ms: self.time_ms,
            watermark: Lsn::NONE,
            prev_crc: self.prev_crc,
        };
        self.prev_crc = header.encode(&mut self.batch, &self.record_crcs);
        let padded = self.batch.len().next_multiple_of(BLOCK_BYTES as usize);
        self.batch.resize(padded, 0);
        self.write()?;
        self.offset += padded as u64;
        self.number += 1;
        self.segment.set_end(self.offset as u32);
        self.lead.clear();
        self.record_crcs.clear();
        self.batch.clear();
        self.batch.resize(HEADER_BYTES, 0);
        Ok(())
    }

    fn write(&self) -> Result<()> {
        let mut offset = self.offset - self.lead.len() as u64;
        for part in [&self.lead, &self.batch] {
            for slice in part.chunks(SLICE_BYTES) {
                let written = self.segment.file.write_all_at(&[slice], offset);
                written.map_err(|error| Error::io("write", &self.segment.path, error))?;
                offset += slice.len() as u64;
                add(&self.counters.pack_bytes, slice.len() as u64);
            }
        }
        Ok(())
    }
}
