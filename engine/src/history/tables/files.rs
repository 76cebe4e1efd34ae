//! The files of the tables: where they are, what they are called, and how they begin and end.
//!
//! ```text
//! file   = header · block* · index · filter · footer · tail
//! header = start (20 bytes, see `docs/format/`) · store id u128 · number u32 · crc u32 of all before
//! footer = entries · group · first and last time · classes · blocks · bytes and crc of index and filter
//! tail   = bytes of the footer u32 · crc u32 of header and footer · magic
//! ```
//! Nothing lies between the parts, and each byte counts in a checksum.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dovehouse_wal::bytes::{Put, Reader};
use dovehouse_wal::fs::{File, Fs};
use dovehouse_wal::{check_file_start, put_file_start};

use super::filter::FILTER_BYTES_MAX;
use crate::error::{Error, Result};
use crate::id::ClassId;

const MAGIC: &[u8; 8] = b"DOVEhist";
pub(crate) const HEADER_BYTES: u64 = 20 + 16 + 4 + 4;
const TAIL_BYTES: u64 = 4 + 4 + 8;

/// Where the tables of a store are.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    pub(crate) store_id: u128,
}

fn file_name(number: u32) -> String {
    format!("history-{number:08}")
}

impl Files {
    pub(crate) fn path(&self, number: u32) -> PathBuf {
        self.dir.join(file_name(number))
    }

    /// The numbers of the tables that there are, whoever needs them.
    pub(crate) fn list(&self) -> Result<Vec<u32>> {
        let names = self
            .fs
            .list(&self.dir)
            .map_err(|error| dovehouse_wal::Error::io("list", &self.dir, error))?;
        let number = |name: &String| {
            let number = name.strip_prefix("history-")?.parse().ok()?;
            (file_name(number) == *name).then_some(number)
        };
        Ok(names.iter().filter_map(number).collect())
    }

    /// Removes a table that nothing names. Not durable: what comes back is removed when the store is opened.
    pub(crate) fn remove(&self, number: u32) -> Result<()> {
        let path = self.path(number);
        match self.fs.unlink(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(dovehouse_wal::Error::io("remove", &path, error).into())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn header(&self, number: u32) -> Vec<u8> {
        let mut header = Vec::new();
        put_file_start(&mut header, MAGIC);
        header.extend_from_slice(&self.store_id.to_le_bytes());
        header.put_u32(number);
        header.put_u32(crc32fast::hash(&header));
        header
    }
}

/// What the creator of a table says of its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Tables of different groups are never merged: they are not kept for the same time.
    pub(crate) group: u32,
    /// The classes of the objects in it.
    pub(crate) classes: BTreeSet<ClassId>,
    /// When the oldest commit in it was made, in milliseconds since 1970.
    pub(crate) first_ms: u64,
    /// When the newest one was.
    pub(crate) last_ms: u64,
}

/// A part of the file behind the blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) bytes: u32,
    crc: u32,
}

impl Part {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Part {
            bytes: bytes.len() as u32,
            crc: crc32fast::hash(bytes),
        }
    }
}

/// The end of the file, which says what the rest is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) facts: Facts,
    pub(crate) entries: u64,
    pub(crate) blocks: u64,
    pub(crate) index: Part,
    pub(crate) filter: Part,
}

impl Footer {
    /// The footer and the tail.
    pub(crate) fn encode(&self, header: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_varint(self.entries);
        out.put_varint(self.facts.group.into());
        out.put_u64(self.facts.first_ms);
        out.put_u64(self.facts.last_ms);
        out.put_varint(self.facts.classes.len() as u64);
        for class in &self.facts.classes {
            out.put_u16(class.0);
        }
        out.put_varint(self.blocks);
        for part in [self.index, self.filter] {
            out.put_u32(part.bytes);
            out.put_u32(part.crc);
        }
        out.put_u32(out.len() as u32);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(header);
        hasher.update(&out);
        out.put_u32(hasher.finalize());
        out.extend_from_slice(MAGIC);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let entries = reader.varint()?;
        let group = u32::try_from(reader.varint()?).ok()?;
        let (first_ms, last_ms) = (reader.u64()?, reader.u64()?);
        let classes = (0..reader.varint()?)
            .map(|_| reader.u16().map(ClassId))
            .collect::<Option<_>>()?;
        let blocks = reader.varint()?;
        let mut part = || {
            Some(Part {
                bytes: reader.u32()?,
                crc: reader.u32()?,
            })
        };
        let (index, filter) = (part()?, part()?);
        reader.is_empty().then_some(Footer {
            facts: Facts {
                group,
                classes,
                first_ms,
                last_ms,
            },
            entries,
            blocks,
            index,
            filter,
        })
    }
}

/// What lies around the blocks of a file, and holds its checksums.
pub(crate) struct Frame {
    pub(crate) footer: Footer,
    pub(crate) index: Vec<u8>,
    pub(crate) filter: Vec<u8>,
    /// The offset behind the last block.
    pub(crate) blocks_end: u64,
    /// The length of the file.
    pub(crate) bytes: u64,
}

impl Files {
    /// Reads everything but the blocks.
    pub(crate) fn read_frame(&self, number: u32, file: &dyn File) -> Result<Frame> {
        let path = self.path(number);
        let bytes = file
            .byte_len()
            .map_err(|error| dovehouse_wal::Error::io("read", &path, error))?;
        let cut = || damaged(&path, "the file is cut short");
        let tail_at = bytes.checked_sub(TAIL_BYTES).ok_or_else(cut)?;
        if tail_at < HEADER_BYTES {
            return Err(cut());
        }
        let header = read(file, &path, 0, HEADER_BYTES)?;
        self.check_header(number, &header, &path)?;

        let tail = read(file, &path, tail_at, TAIL_BYTES)?;
        let mut fields = Reader::new(&tail);
        let fields = (fields.u32(), fields.u32(), fields.array());
        let (Some(len), Some(crc), Some(magic)) = fields else {
            return Err(cut());
        };
        if magic != *MAGIC {
            return Err(cut());
        }
        let behind_header = tail_at - HEADER_BYTES;
        if u64::from(len) > behind_header {
            return Err(cut());
        }
        let footer_at = tail_at - u64::from(len);
        let footer = read(file, &path, footer_at, len.into())?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&header);
        hasher.update(&footer);
        hasher.update(&tail[..4]);
        let footer = match Footer::decode(&footer) {
            Some(footer) if hasher.finalize() == crc => footer,
            _ => return Err(damaged(&path, format!("the footer at offset {footer_at}"))),
        };

        let part = |part: Part, end: u64, what: &str| {
            let wrong = || damaged(&path, format!("the {what} before offset {end}"));
            let at = end.checked_sub(part.bytes.into()).ok_or_else(wrong)?;
            if at < HEADER_BYTES {
                return Err(wrong());
            }
            let bytes = read(file, &path, at, part.bytes.into())?;
            match Part::of(&bytes) == part {
                true => Ok((bytes, at)),
                false => Err(wrong()),
            }
        };
        if footer.filter.bytes as usize > FILTER_BYTES_MAX {
            return Err(damaged(&path, "the filter is too large"));
        }
        let (filter, filter_at) = part(footer.filter, footer_at, "filter")?;
        let (index, blocks_end) = part(footer.index, filter_at, "index")?;
        Ok(Frame {
            footer,
            index,
            filter,
            blocks_end,
            bytes,
        })
    }

    fn check_header(&self, number: u32, header: &[u8], path: &Path) -> Result<()> {
        let (fields, crc) = header.split_at(header.len() - 4);
        if crc32fast::hash(fields).to_le_bytes() != crc {
            return Err(damaged(path, "the header at offset 0"));
        }
        check_file_start(&mut Reader::new(fields), MAGIC, path)?;
        match *header == self.header(number) {
            true => Ok(()),
            false => Err(damaged(path, "it belongs to another store or number")),
        }
    }
}

/// Reads a part of a file that says that it has it: the length is to be checked before.
pub(crate) fn read(file: &dyn File, path: &Path, at: u64, bytes: u64) -> Result<Vec<u8>> {
    let mut buf = vec![0; bytes as usize];
    match file.read_exact_at(&mut buf, at) {
        Ok(()) => Ok(buf),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(damaged(path, format!("the file ends behind offset {at}")))
        }
        Err(error) => Err(dovehouse_wal::Error::io("read", path, error).into()),
    }
}

pub(crate) fn damaged(path: &Path, why: impl Into<String>) -> Error {
    Error::damaged(path.display(), why)
}
