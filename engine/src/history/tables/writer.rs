//! A table in the making: entries go in, a durable file comes out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dovehouse_wal::bytes::Put;
use dovehouse_wal::fs::{File, Mode};

use super::block::{BlockBuilder, KeyWriter};
use super::files::{Facts, Files, Footer, HEADER_BYTES, Part};
use super::filter::FilterBuilder;
use super::table::Table;
use crate::compress;
use crate::error::{Error, Result};
use crate::history::key::Key;

/// A block is full at this size, or with the one entry that is larger. A lookup decompresses a whole block.
const BLOCK_BYTES: usize = 64 << 10;

/// The largest value of an entry.
pub(crate) const VALUE_BYTES_MAX: usize = 8 << 20;

/// The largest block before compression: an entry of its own with its key and lengths.
pub(crate) const RAW_BYTES_MAX: usize = VALUE_BYTES_MAX + 64;

/// How the index tells a block whose last key is its first.
pub(crate) const ONE_ENTRY: u8 = 0;
pub(crate) const MORE_ENTRIES: u8 = 1;

/// What is written at once, so that no commit waits behind more.
const SLICE_BYTES: usize = 256 << 10;

impl Table {
    /// Writes entries as a table that is durable when this returns; `None` if there was none. After an error there is
    /// no file.
    ///
    /// # Panics
    /// If the keys do not ascend.
    pub(crate) fn write(
        files: &Files,
        number: u32,
        facts: Facts,
        entries: impl Iterator<Item = Result<(Key, Vec<u8>)>>,
    ) -> Result<Option<Table>> {
        let mut entries = entries.peekable();
        if entries.peek().is_none() {
            return Ok(None);
        }
        let written = write(files, number, facts, entries).and_then(|()| {
            files
                .fs
                .sync_dir(&files.dir)
                .map_err(|error| dovehouse_wal::Error::io("sync", &files.dir, error))?;
            Table::open(files, number)
        });
        if written.is_err() {
            // What cannot be removed now is removed when the store is opened.
            let _ = files.remove(number);
        }
        written.map(Some)
    }
}

fn write(
    files: &Files,
    number: u32,
    facts: Facts,
    entries: impl Iterator<Item = Result<(Key, Vec<u8>)>>,
) -> Result<()> {
    let path = files.path(number);
    let file = files
        .fs
        .open(&path, Mode::DURABLE)
        .map_err(|error| dovehouse_wal::Error::io("create", &path, error))?;
    let header = files.header(number);
    debug_assert_eq!(header.len() as u64, HEADER_BYTES);
    let mut writer = Writer {
        out: Slices {
            path,
            file,
            buffer: header.clone(),
            at: 0,
        },
        block: BlockBuilder::default(),
        keys: None,
        index_keys: KeyWriter::default(),
        index: Vec::new(),
        filter: FilterBuilder::default(),
        footer: Footer {
            facts,
            ..Footer::default()
        },
    };
    let mut last = None;
    for entry in entries {
        let (key, value) = entry?;
        assert!(last < Some(key), "the keys of a table ascend");
        last = Some(key);
        writer.push(key, &value)?;
    }
    writer.finish(&header)
}

struct Writer {
    out: Slices,
    block: BlockBuilder,
    /// The first and the last key of the block in the making.
    keys: Option<(Key, Key)>,
    index_keys: KeyWriter,
    index: Vec<u8>,
    filter: FilterBuilder,
    footer: Footer,
}

impl Writer {
    fn push(&mut self, key: Key, value: &[u8]) -> Result<()> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::TooBig {
                what: "an entry of history",
                bytes: value.len(),
                limit: VALUE_BYTES_MAX,
            });
        }
        if self.block.len() > 0 && self.block.len() + value.len() > BLOCK_BYTES {
            self.end_block()?;
        }
        self.keys.get_or_insert((key, key)).1 = key;
        self.block.push(&key, value);
        self.filter.add(key.slot);
        self.footer.entries += 1;
        Ok(())
    }

    fn end_block(&mut self) -> Result<()> {
        let Some((first, last)) = self.keys.take() else {
            return Ok(());
        };
        let raw = self.block.finish();
        let frame = compress::compress(&raw, b"");
        let stored = frame.as_deref().unwrap_or(&raw);
        self.index_keys.put(&mut self.index, &first);
        if first == last {
            self.index.push(ONE_ENTRY);
        } else {
            self.index.push(MORE_ENTRIES);
            self.index_keys.put(&mut self.index, &last);
        }
        self.index.put_varint(stored.len() as u64);
        self.index.put_varint(raw.len() as u64);
        self.index.put_u32(crc32fast::hash(stored));
        self.footer.blocks += 1;
        self.out.push(stored)
    }

    fn finish(mut self, header: &[u8]) -> Result<()> {
        self.end_block()?;
        let filter = self.filter.finish();
        self.footer.index = Part::of(&self.index);
        self.footer.filter = Part::of(&filter);
        self.out.push(&self.index)?;
        self.out.push(&filter)?;
        self.out.push(&self.footer.encode(header))?;
        self.out.flush()
    }
}

/// A file that is written from front to back, durably, a slice at a time.
struct Slices {
    path: PathBuf,
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    at: u64,
}

impl Slices {
    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < SLICE_BYTES {
            return Ok(());
        }
        let whole = self.buffer.len() / SLICE_BYTES * SLICE_BYTES;
        self.write(whole)
    }

    fn flush(&mut self) -> Result<()> {
        self.write(self.buffer.len())
    }

    fn write(&mut self, bytes: usize) -> Result<()> {
        for slice in self.buffer[..bytes].chunks(SLICE_BYTES) {
            let path: &Path = &self.path;
            self.file
                .write_all_at(&[slice], self.at)
                .map_err(|error| dovehouse_wal::Error::io("write", path, error))?;
            self.at += slice.len() as u64;
        }
        self.buffer.drain(..bytes);
        Ok(())
    }
}
