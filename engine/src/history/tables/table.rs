//! A table that is open: its index in memory, its blocks read when they are asked for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dovehouse_wal::bytes::Reader;
use dovehouse_wal::fs::{File, Mode};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::block::{BlockCursor, KeyReader, Malformed, PackedKey, Walked};
use super::files::{self, Facts, Files, Frame, HEADER_BYTES};
use super::filter::Filter;
use super::writer::{MORE_ENTRIES, ONE_ENTRY, RAW_BYTES_MAX};
use crate::compress;
use crate::error::{Error, Result};
use crate::history::key::Key;
use crate::id::Slot;

/// A sorted file of entries, never changed once it is written.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) number: u32,
    pub(crate) facts: Facts,
    pub(crate) entries: u64,
    /// The length of its file.
    pub(crate) bytes: u64,
    path: PathBuf,
    file: Arc<dyn File>,
    blocks: Vec<BlockAt>,
    filter: Filter,
    /// A part of it could not be read; what is left stays where it is.
    is_damaged: AtomicBool,
}

/// Where a block lies.
#[derive(Debug)]
struct BlockAt {
    first: PackedKey,
    last: PackedKey,
    at: u64,
    stored: u32,
    raw: u32,
    crc: u32,
}

impl Table {
    pub(crate) fn open(files: &Files, number: u32) -> Result<Self> {
        let path = files.path(number);
        let file = files.fs.open(&path, Mode::READ).map_err(|error| {
            match error.kind() == std::io::ErrorKind::NotFound {
                true => files::damaged(&path, "the file is missing"),
                false => dovehouse_wal::Error::io("open", &path, error).into(),
            }
        })?;
        let frame = files.read_frame(number, &*file)?;
        let blocks = decode_index(&frame)
            .ok_or_else(|| files::damaged(&path, "the index is not what it should be"))?;
        Ok(Table {
            number,
            facts: frame.footer.facts,
            entries: frame.footer.entries,
            bytes: frame.bytes,
            path,
            file,
            blocks,
            filter: Filter::new(&frame.filter),
            is_damaged: AtomicBool::new(false),
        })
    }

    /// Whether a part of it could not be read since it was opened.
    pub(crate) fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }

    /// Bytes that it takes in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.blocks.len() * size_of::<BlockAt>() + self.filter.memory_bytes() + size_of::<Self>()
    }

    fn damaged(&self, block: usize, why: &str) -> Error {
        self.is_damaged.store(true, Ordering::Relaxed);
        let at = self.blocks[block].at;
        files::damaged(&self.path, format!("{why} in the block at offset {at}"))
    }

    fn block(&self, block: usize, cache: Option<&BlockCache>) -> Result<Arc<[u8]>> {
        let key = (self.number, block as u32);
        if let Some(raw) = cache.and_then(|cache| cache.0.get(&key)) {
            return Ok(raw);
        }
        let place = &self.blocks[block];
        let stored = files::read(&*self.file, &self.path, place.at, place.stored.into())
            .inspect_err(|error| {
                if matches!(error, Error::Damaged { .. }) {
                    self.is_damaged.store(true, Ordering::Relaxed);
                }
            })?;
        if crc32fast::hash(&stored) != place.crc {
            return Err(self.damaged(block, "wrong bytes"));
        }
        let raw: Arc<[u8]> = match place.stored == place.raw {
            true => stored.into(),
            false => compress::decompress(&stored, b"", place.raw as usize)
                .ok_or_else(|| self.damaged(block, "no frame of zstd"))?
                .into(),
        };
        if let Some(cache) = cache {
            cache.0.insert(key, raw.clone());
        }
        Ok(raw)
    }
}

/// The blocks. `None` if they are not such as a writer makes.
fn decode_index(frame: &Frame) -> Option<Vec<BlockAt>> {
    let mut reader = Reader::new(&frame.index);
    let mut keys = KeyReader::default();
    let mut blocks = Vec::new();
    let mut at = HEADER_BYTES;
    for _ in 0..frame.footer.blocks {
        let first = keys.next(&mut reader)?;
        let last = match reader.u8()? {
            ONE_ENTRY => first,
            MORE_ENTRIES => keys.next(&mut reader)?,
            _ => return None,
        };
        let stored = u32::try_from(reader.varint()?).ok()?;
        let raw = u32::try_from(reader.varint()?).ok()?;
        let crc = reader.u32()?;
        if stored == 0 || stored > raw || raw as usize > RAW_BYTES_MAX {
            return None;
        }
        blocks.push(BlockAt {
            first: PackedKey::new(&first),
            last: PackedKey::new(&last),
            at,
            stored,
            raw,
            crc,
        });
        at += u64::from(stored);
    }
    let is_whole = reader.is_empty() && at == frame.blocks_end && !blocks.is_empty();
    is_whole.then_some(blocks)
}

/// Blocks as they were before compression, by the number of the table and of the block in it.
pub(crate) struct BlockCache(Cache<(u32, u32), Arc<[u8]>, Weight>);

#[derive(Clone)]
struct Weight;

impl Weighter<(u32, u32), Arc<[u8]>> for Weight {
    fn weight(&self, _: &(u32, u32), raw: &Arc<[u8]>) -> u64 {
        const ENTRY_BYTES: u64 = 96;
        ENTRY_BYTES + raw.len() as u64
    }
}

impl BlockCache {
    pub(crate) fn new(bytes: u64) -> Self {
        const USUAL_BYTES: u64 = 64 << 10;
        BlockCache(Cache::with_weighter(
            (bytes / USUAL_BYTES) as usize,
            bytes,
            Weight,
        ))
    }
}

impl std::fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockCache").finish_non_exhaustive()
    }
}

/// A walk over the entries of a table, block by block.
#[derive(Debug)]
pub(crate) struct TableCursor {
    table: Arc<Table>,
    block: usize,
    within: Option<BlockCursor>,
    /// The key of the entry that it stands at, or stood at last.
    key: Option<Key>,
}

/// Where a walk arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// At an entry.
    Entry(Key),
    /// Before a block that was not read yet: no entry in it is below this key.
    Unread(Key),
    /// Behind the last entry.
    End,
}

impl TableCursor {
    /// A walk that begins at the first key that is not below `from`, or at the first of all. Nothing is read for that.
    pub(crate) fn seek(table: &Arc<Table>, from: Option<Key>) -> (Self, Step) {
        let mut cursor = TableCursor {
            table: table.clone(),
            block: 0,
            within: None,
            key: None,
        };
        let from = match from {
            Some(from) if !table.filter.may_have(from.slot) => {
                Slot::new(from.slot.get() + 1).map(Key::first_of)
            }
            Some(from) => Some(from),
            None => Some(table.blocks[0].first.key()),
        };
        let Some(from) = from else {
            return (cursor, Step::End);
        };
        let packed = PackedKey::new(&from);
        cursor.block = table.blocks.partition_point(|block| block.last < packed);
        match table.blocks.get(cursor.block) {
            Some(block) if block.first < packed => (cursor, Step::Unread(from)),
            Some(block) => (cursor, Step::Unread(block.first.key())),
            None => (cursor, Step::End),
        }
    }

    /// Goes on; from a block that was not read yet to its first key that is not below `from`.
    pub(crate) fn next(&mut self, from: &Key, cache: Option<&BlockCache>) -> Result<Step> {
        let found = match &mut self.within {
            Some(within) => within.next(),
            None => {
                let raw = self.table.block(self.block, cache)?;
                self.enter(BlockCursor::new(raw), from)
            }
        };
        let table = &self.table;
        match found {
            Err(Malformed) => Err(table.damaged(self.block, "no entries in order")),
            Ok(Some(key)) => {
                self.key = Some(key);
                Ok(Step::Entry(key))
            }
            Ok(None) if self.key != Some(table.blocks[self.block].last.key()) => {
                Err(table.damaged(self.block, "not the last key"))
            }
            Ok(None) => {
                self.block += 1;
                self.within = None;
                Ok(match table.blocks.get(self.block) {
                    Some(block) => Step::Unread(block.first.key()),
                    None => Step::End,
                })
            }
        }
    }

    /// The value of the entry that it stands at.
    pub(crate) fn value(&self) -> &[u8] {
        self.within.as_ref().map_or(&[], BlockCursor::value)
    }

    fn enter(&mut self, mut within: BlockCursor, from: &Key) -> Walked<Option<Key>> {
        let first = within.next()?;
        if first != Some(self.table.blocks[self.block].first.key()) {
            return Err(Malformed);
        }
        let found = match first {
            Some(first) if first >= *from => Some(first),
            _ => within.seek(from)?,
        };
        self.within = Some(within);
        Ok(found)
    }
}
