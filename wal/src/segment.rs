//! A segment's header: which life of a recycled file this is, and which batch came before it.
//!
//! ```text
//! block 0      header, written together with the first batch
//! block 1 ..   batches, each on a block boundary, numbered from 1
//! ```
//! A life counts only if its header *and* its first batch are valid. The header names the salt of
//! the predecessor's life and the last batch of it that counts, so that the log is a chain that can
//! be followed without scanning files.

use crate::bytes::{Put, Reader};
use crate::error::{Error, Result};
use std::path::Path;

/// The unit of alignment: batches start on it, so that no block with acknowledged bytes is rewritten.
pub const BLOCK_BYTES: u64 = 4096;

/// Version of all files of the log. A reader refuses another major number.
pub const FORMAT_MAJOR: u16 = 1;
/// Raised by additions that older readers may ignore.
pub const FORMAT_MINOR: u16 = 0;

const MAGIC: &[u8; 8] = b"DOVEsegm";
const HEADER_BYTES: usize = 128;

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// The log itself.
    Log = 1,
    /// Records moved by compaction, beside the log.
    Pack = 2,
    /// Large payloads, written before the record that names them.
    Blob = 3,
}

impl Role {
    fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Role::Log),
            2 => Some(Role::Pack),
            3 => Some(Role::Blob),
            _ => None,
        }
    }
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// What the segment holds.
    pub role: Role,
    /// The store it belongs to: a file copied from another store is refused.
    pub store_id: u128,
    /// Its number; grows by at least one with every life of any file.
    pub segno: u32,
    /// Random, fresh for each life: stale batches of an earlier life do not carry it.
    pub salt: u64,
    /// The salt of the segment before it in the log.
    pub pred_salt: u64,
    /// The last batch of that segment that counts; whatever lies behind it there is dead.
    pub pred_last_batch: u32,
    /// When this life began, in milliseconds since 1970.
    pub created_ms: u64,
    /// The segment's size.
    pub segment_bytes: u64,
}

impl SegmentHeader {
    /// The header block, one [`BLOCK_BYTES`] long.
    pub fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK_BYTES as usize);
        put_file_start(&mut block, MAGIC);
        block.push(self.role as u8);
        block.extend_from_slice(&self.store_id.to_le_bytes());
        block.put_u32(self.segno);
        block.put_u32(self.pred_last_batch);
        block.put_u64(self.salt);
        block.put_u64(self.pred_salt);
        block.put_u64(self.created_ms);
        block.put_u64(self.segment_bytes);
        block.put_u32(0); // stream: one log, for now
        block.resize(HEADER_BYTES - 4, 0); // key id and tag of an encrypted segment go here
        block.put_u32(crc32fast::hash(&block));
        block.resize(BLOCK_BYTES as usize, 0);
        block
    }

    /// Reads a header block. `Ok(None)` if it is none: never written, torn, or another store's.
    /// A valid header of a newer format is an error.
    pub fn decode(block: &[u8], store_id: u128, path: &Path) -> Result<Option<Self>> {
        let Some(bytes) = block.get(..HEADER_BYTES) else {
            return Ok(None);
        };
        let (body, crc) = bytes.split_at(HEADER_BYTES - 4);
        if !body.starts_with(MAGIC) || crc32fast::hash(body).to_le_bytes() != crc {
            return Ok(None);
        }
        let mut reader = Reader::new(body);
        check_file_start(&mut reader, MAGIC, path)?;
        Ok(Self::fields(&mut reader).filter(|header| header.store_id == store_id))
    }

    fn fields(reader: &mut Reader<'_>) -> Option<Self> {
        Some(SegmentHeader {
            role: Role::from_u8(reader.u8()?)?,
            store_id: u128::from_le_bytes(reader.array()?),
            segno: reader.u32()?,
            pred_last_batch: reader.u32()?,
            salt: reader.u64()?,
            pred_salt: reader.u64()?,
            created_ms: reader.u64()?,
            segment_bytes: reader.u64()?,
        })
    }

    /// The checksum that the first batch names as its predecessor's, tying it to this header.
    pub fn crc(&self) -> u32 {
        let block = self.encode();
        u32::from_le_bytes(
            block[HEADER_BYTES - 4..HEADER_BYTES]
                .try_into()
                .expect("four bytes"),
        )
    }
}

/// How every file of the store starts: a magic word, the format's version, and the feature word.
pub fn put_file_start(file: &mut Vec<u8>, magic: &[u8; 8]) {
    file.extend_from_slice(magic);
    file.put_u16(FORMAT_MAJOR);
    file.put_u16(FORMAT_MINOR);
    file.put_u64(0);
}

/// Reads what [`put_file_start`] wrote, and refuses versions and features that this program does not
/// know. Call it only on bytes whose checksum holds.
pub fn check_file_start(reader: &mut Reader<'_>, magic: &[u8; 8], path: &Path) -> Result<()> {
    let start = (|| {
        Some((
            reader.array::<8>()?,
            reader.u16()?,
            reader.u16()?,
            reader.u64()?,
        ))
    })();
    match start {
        Some((found, FORMAT_MAJOR, _, 0)) if found == *magic => Ok(()),
        Some((found, major, minor, features)) if found == *magic => Err(Error::Version {
            path: path.to_owned(),
            found: format!("{major}.{minor} with features {features:#x}"),
            supported: format!("{FORMAT_MAJOR}.x without features"),
        }),
        _ => Err(Error::corrupt(
            path,
            0,
            "the file does not start as it should",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            role: Role::Log,
            store_id: 7,
            segno: 3,
            salt: 0x0123_4567_89AB_CDEF,
            pred_salt: 9,
            pred_last_batch: 12,
            created_ms: 1_700_000_000_000,
            segment_bytes: 64 << 20,
        }
    }

    #[test]
    fn a_header_comes_back_and_any_flipped_bit_makes_it_none() {
        let block = header().encode();
        let path = Path::new("segment");
        assert_eq!(
            SegmentHeader::decode(&block, 7, path).unwrap(),
            Some(header())
        );
        assert_eq!(
            SegmentHeader::decode(&block, 8, path).unwrap(),
            None,
            "another store's"
        );
        for bit in 0..HEADER_BYTES * 8 {
            let mut torn = block.clone();
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                SegmentHeader::decode(&torn, 7, path).unwrap(),
                None,
                "bit {bit}"
            );
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let mut block = header().encode();
        block[8] = 2;
        let crc = crc32fast::hash(&block[..HEADER_BYTES - 4]);
        block[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        let error = SegmentHeader::decode(&block, 7, Path::new("segment")).unwrap_err();
        assert!(matches!(error, Error::Version { .. }), "{error}");
    }
}
