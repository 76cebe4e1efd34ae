//! A batch: what one durable write carries. Records of many objects, each with a frame of its own.
//!
//! ```text
//! batch   = header (64 bytes) record* zeros up to the next block
//! record  = frame (18 bytes) body
//! ```
//! A record's checksum starts with its body, which the producer sums on its own thread, and goes on
//! over the frame, which the committer completes. The header's checksum covers the header and the
//! list of record checksums, so the committer never sums bodies.

use std::io;

use crate::bytes::{Put, Reader};
use crate::fs::File;
use crate::lsn::Lsn;
use crate::segment::{BLOCK_BYTES, SegmentHeader};
use crate::teeth::{Flaw, Teeth};

/// Size of a batch header.
pub const HEADER_BYTES: usize = 64;
/// Size of a record's frame.
pub const FRAME_BYTES: usize = 18;

const MAGIC: u32 = u32::from_le_bytes(*b"DVBA");
const CRC_AT: usize = HEADER_BYTES - 4;

/// A record flag: a reader that does not know the kind may skip the record.
pub const FLAG_SKIPPABLE: u8 = 1 << 7;
/// A record flag: the body is encrypted (reserved).
pub const FLAG_ENCRYPTED: u8 = 1 << 6;

/// A batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The segment's number; with `salt` and `number` it tells this life's batches from stale ones.
    pub segno: u32,
    /// Its number in the segment, from 1.
    pub number: u32,
    /// The salt of the segment's life.
    pub salt: u64,
    /// Where the batch starts.
    pub lsn: Lsn,
    /// How many records it holds.
    pub records: u32,
    /// Bytes of its records, without padding.
    pub body_bytes: u32,
    /// Wall time when it was laid out, in milliseconds since 1970; never less than the batch before.
    pub time_ms: u64,
    /// Everything before this was durable when the batch was laid out.
    pub watermark: Lsn,
    /// The checksum of the batch before it in the segment, or of the segment's header.
    pub prev_crc: u32,
}

impl BatchHeader {
    /// Writes the header over the first bytes of `batch` and returns the checksum, which also covers
    /// `record_crcs`, the records' checksums in order.
    pub fn encode(&self, batch: &mut [u8], record_crcs: &[u8]) -> u32 {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.put_u32(MAGIC);
        bytes.put_u32(0); // reserved for flags of a batch
        bytes.put_u32(self.segno);
        bytes.put_u32(self.number);
        bytes.put_u64(self.salt);
        bytes.put_u64(self.lsn.as_u64());
        bytes.put_u32(self.records);
        bytes.put_u32(self.body_bytes);
        bytes.put_u64(self.time_ms);
        bytes.put_u64(self.watermark.as_u64());
        bytes.put_u32(self.prev_crc);
        let crc = checksum(&bytes, record_crcs);
        bytes.put_u32(crc);
        batch[..HEADER_BYTES].copy_from_slice(&bytes);
        crc
    }

    /// Reads the fields; the checksum needs the records and is checked by [`Batch::read`].
    fn decode(bytes: &[u8]) -> Option<(Self, u32)> {
        let mut reader = Reader::new(bytes);
        if reader.u32()? != MAGIC || reader.u32()? != 0 {
            return None;
        }
        let header = BatchHeader {
            segno: reader.u32()?,
            number: reader.u32()?,
            salt: reader.u64()?,
            lsn: Lsn::from_u64(reader.u64()?),
            records: reader.u32()?,
            body_bytes: reader.u32()?,
            time_ms: reader.u64()?,
            watermark: Lsn::from_u64(reader.u64()?),
            prev_crc: reader.u32()?,
        };
        Some((header, reader.u32()?))
    }
}

fn checksum(header: &[u8], record_crcs: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..CRC_AT]);
    hasher.update(record_crcs);
    hasher.finalize()
}

/// A record as it stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Where its frame starts.
    pub lsn: Lsn,
    /// What it is; the meaning belongs to the layer above.
    pub kind: u8,
    /// Flags; the upper two belong to the log.
    pub flags: u8,
    /// The record before it of the same object, or [`Lsn::NONE`].
    pub link: Lsn,
    /// Its content.
    pub body: &'a [u8],
}

impl RecordView<'_> {
    /// The bytes it takes in the log, frame included.
    pub fn stored_bytes(&self) -> u32 {
        (FRAME_BYTES + self.body.len()) as u32
    }
}

/// A record's frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) body_len: u32,
    pub(crate) link: Lsn,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
}

impl Frame {
    /// Appends the frame and returns the record's checksum.
    pub(crate) fn encode(&self, body_crc: u32, batch: &mut Vec<u8>) -> u32 {
        let start = batch.len();
        batch.put_u32(0);
        batch.put_u32(self.body_len);
        batch.put_u64(self.link.as_u64());
        batch.push(self.kind);
        batch.push(self.flags);
        let crc = continue_crc(body_crc, &batch[start + 4..]);
        batch[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// The frame and the stored checksum.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, u32)> {
        let mut reader = Reader::new(bytes);
        let crc = reader.u32()?;
        let body_len = reader.u32()?;
        let link = Lsn::from_u64(reader.u64()?);
        Some((
            Frame {
                body_len,
                link,
                kind: reader.u8()?,
                flags: reader.u8()?,
            },
            crc,
        ))
    }
}

/// A checksum that started with the body, carried over the frame.
fn continue_crc(body_crc: u32, frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(body_crc);
    hasher.update(frame);
    hasher.finalize()
}

/// The record at the start of `bytes`, and its stored checksum; `None` if it is cut short.
fn view_record(bytes: &[u8], lsn: Lsn) -> Option<(RecordView<'_>, u32)> {
    let (frame, crc) = Frame::decode(bytes)?;
    let body = bytes.get(FRAME_BYTES..)?.get(..frame.body_len as usize)?;
    Some((
        RecordView {
            lsn,
            kind: frame.kind,
            flags: frame.flags,
            link: frame.link,
            body,
        },
        crc,
    ))
}

/// Like [`view_record`], but `None` also if the checksum is wrong.
pub(crate) fn decode_record(bytes: &[u8], lsn: Lsn) -> Option<(RecordView<'_>, u32)> {
    let (record, crc) = view_record(bytes, lsn)?;
    (continue_crc(crc32fast::hash(record.body), &bytes[4..FRAME_BYTES]) == crc)
        .then_some((record, crc))
}

/// What a batch must match to belong at a place.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Where it starts.
    pub lsn: Lsn,
    /// The salt of the segment's life.
    pub salt: u64,
    /// The smallest number it may have.
    pub number_min: u32,
}

/// A batch that was read back and whose checksums hold.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its header.
    pub header: BatchHeader,
    /// The header's checksum.
    pub crc: u32,
    bytes: Vec<u8>,
}

impl Batch {
    /// Reads the batch that starts at `expected.lsn`; `None` if there is none of this life, or a torn
    /// one. A failed read is an error: what cannot be read must not be taken for what was not written.
    pub fn read(
        file: &dyn File,
        segment_bytes: u64,
        expected: Expected,
    ) -> io::Result<Option<Batch>> {
        let offset = u64::from(expected.lsn.offset());
        if offset + HEADER_BYTES as u64 > segment_bytes {
            return Ok(None);
        }
        let mut head = [0; HEADER_BYTES];
        file.read_exact_at(&mut head, offset)?;
        let Some((header, crc)) = BatchHeader::decode(&head) else {
            return Ok(None);
        };
        let ours = header.salt == expected.salt
            && header.segno == expected.lsn.segno()
            && header.lsn == expected.lsn
            && header.number >= expected.number_min;
        let len = HEADER_BYTES as u64 + u64::from(header.body_bytes);
        if !ours || offset + len > segment_bytes {
            return Ok(None);
        }
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, offset)?;
        let batch = Batch { header, crc, bytes };
        Ok(batch.is_intact().then_some(batch))
    }

    fn is_intact(&self) -> bool {
        let mut record_crcs = Vec::with_capacity(self.header.records as usize * 4);
        let mut at = HEADER_BYTES;
        for _ in 0..self.header.records {
            let Some((record, crc)) = decode_record(&self.bytes[at..], Lsn::NONE) else {
                return false;
            };
            record_crcs.put_u32(crc);
            at += record.stored_bytes() as usize;
        }
        at == self.bytes.len() && checksum(&self.bytes[..HEADER_BYTES], &record_crcs) == self.crc
    }

    /// The records, in log order.
    pub fn records(&self) -> impl Iterator<Item = RecordView<'_>> {
        let mut at = HEADER_BYTES;
        std::iter::from_fn(move || {
            let lsn = Lsn::new(self.header.segno, self.header.lsn.offset() + at as u32);
            // The checksums were verified when the batch was read.
            let (record, _) = view_record(self.bytes.get(at..)?, lsn)?;
            at += record.stored_bytes() as usize;
            Some(record)
        })
    }

    /// Where the next batch starts.
    pub fn end(&self, align: u64) -> Lsn {
        let end = u64::from(self.header.lsn.offset()) + self.bytes.len() as u64;
        Lsn::new(self.header.segno, end.next_multiple_of(align) as u32)
    }

    /// The same batch as it reads at another place: its header, its records' links to each other
    /// and all checksums follow the move.
    pub(crate) fn moved(
        &self,
        segment: &SegmentHeader,
        lsn: Lsn,
        number: u32,
        prev_crc: u32,
    ) -> Batch {
        let mut bytes = vec![0; HEADER_BYTES];
        let mut record_crcs = Vec::new();
        for record in self.records() {
            let inside = record.link >= self.header.lsn && record.link < record.lsn;
            let link = if inside {
                self.relocate(record.link, lsn)
            } else {
                record.link
            };
            let frame = Frame {
                body_len: record.body.len() as u32,
                link,
                kind: record.kind,
                flags: record.flags,
            };
            record_crcs.put_u32(frame.encode(crc32fast::hash(record.body), &mut bytes));
            bytes.extend_from_slice(record.body);
        }
        let header = BatchHeader {
            segno: segment.segno,
            salt: segment.salt,
            watermark: self.header.watermark,
            number,
            lsn,
            prev_crc,
            ..self.header
        };
        let crc = header.encode(&mut bytes, &record_crcs);
        Batch { header, crc, bytes }
    }

    /// Header and records, without padding.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where a position in this batch lies once the batch starts at `start`.
    fn relocate(&self, lsn: Lsn, start: Lsn) -> Lsn {
        Lsn::new(
            start.segno(),
            start.offset() + (lsn.offset() - self.header.lsn.offset()),
        )
    }
}

/// Looks for any batch of this life behind a place: proof that the log went on.
pub(crate) fn find_later(
    file: &dyn File,
    segment_bytes: u64,
    after: Expected,
    align: u64,
) -> io::Result<Option<Batch>> {
    let first = u64::from(after.lsn.offset()) + align;
    for offset in (first..segment_bytes).step_by(align as usize) {
        let lsn = Lsn::new(after.lsn.segno(), offset as u32);
        if let Some(batch) = Batch::read(file, segment_bytes, Expected { lsn, ..after })? {
            return Ok(Some(batch));
        }
    }
    Ok(None)
}

/// The first batch's place in a segment.
pub(crate) fn first_lsn(segno: u32) -> Lsn {
    Lsn::new(segno, BLOCK_BYTES as u32)
}

/// The unit on which batches start: a block, unless the flaw is planted that makes them share one.
pub(crate) fn align(teeth: Teeth) -> u64 {
    if teeth.has(Flaw::RewriteLastBlock) {
        64
    } else {
        BLOCK_BYTES
    }
}
