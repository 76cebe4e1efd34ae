//! RocksDB with `sync` on every write and a writer that puts all queued commits into one `WriteBatch`.
//!
//! Log files are recycled, so that a sync need not write the file's new size as well; data is compressed
//! (LZ4, and Zstandard in the last level); Bloom filters of 10 bits, as RocksDB's guide has it.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, CompactOptions, DB, DBCompressionType,
    Options, PrefixRange, ReadOptions, WaitForCompactOptions, WriteBatch, WriteOptions,
};

use super::{CACHE_BYTES, Peer, Session, joined};
use crate::batcher::{Batch, Batcher};
use crate::content::Id;

const RECYCLED_LOGS: usize = 4;
const FILTER_BITS: f64 = 10.0;

pub struct Rocks {
    batcher: Batcher,
    db: Arc<DB>,
}

impl Rocks {
    pub fn open(dir: &Path) -> Result<Self> {
        let db = Arc::new(DB::open(&options(), dir)?);
        let writer = db.clone();
        let batcher = Batcher::start(move |batch| write(&writer, batch))?;
        Ok(Rocks { batcher, db })
    }
}

/// How a store is opened.
pub fn options() -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
    table.set_bloom_filter(FILTER_BITS, false);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_recycle_log_file_num(RECYCLED_LOGS);
    options
}

fn write(db: &DB, batch: &Batch) -> Result<()> {
    let mut rows = WriteBatch::default();
    for (key, value) in batch.rows() {
        rows.put(key, value);
    }
    let mut durable = WriteOptions::default();
    durable.set_sync(true);
    Ok(db.write_opt(rows, &durable)?)
}

impl Peer for Rocks {
    fn session(&self, _awake: &[Id], alone: bool) -> Result<Box<dyn Session + '_>> {
        Ok(self.batcher.session(alone))
    }

    /// Each batch syncs the write-ahead log once.
    fn syncs(&self) -> u64 {
        self.batcher.batches()
    }

    fn read(&self, id: &Id, key: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        let value = self.db.get_pinned(joined(id, key))?;
        out.extend_from_slice(value.as_deref().unwrap_or_default());
        Ok(value.is_some())
    }

    fn read_all(&self, id: &Id, out: &mut Vec<u8>) -> Result<usize> {
        let mut options = ReadOptions::default();
        options.set_iterate_range(PrefixRange(id.as_slice()));
        let mut rows = self.db.raw_iterator_opt(options);
        rows.seek_to_first();
        let mut count = 0;
        while let Some((key, value)) = rows.item() {
            out.extend_from_slice(&key[id.len()..]);
            out.extend_from_slice(value);
            count += 1;
            rows.next();
        }
        rows.status()?;
        Ok(count)
    }

    fn settle(self: Box<Self>) -> Result<()> {
        self.db.flush()?;
        let mut everything = CompactOptions::default();
        everything.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.db
            .compact_range_opt(None::<&[u8]>, None::<&[u8]>, &everything);
        self.db
            .wait_for_compact(&WaitForCompactOptions::default())?;
        self.close()
    }

    fn close(self: Box<Self>) -> Result<()> {
        drop(self.batcher);
        self.db.cancel_all_background_work(true);
        Ok(())
    }
}
