//! All objects in one SQLite file: WAL, `synchronous=FULL`, one table, and a writer that puts all queued
//! commits into one transaction. Reads have a connection of their own.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use rusqlite::{Connection, params};

use super::{CACHE_BYTES, Peer, Session, behind, joined, sqlite};
use crate::batcher::Batcher;
use crate::content::Id;

pub struct SqliteOne {
    batcher: Batcher,
    reader: Mutex<Connection>,
}

impl SqliteOne {
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("all.sqlite");
        let open = || sqlite::open(&path, CACHE_BYTES >> 10);
        let writer = Mutex::new(open()?);
        let batcher = Batcher::start(move |batch| {
            let writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            sqlite::write(&writer, batch.rows())
        })?;
        Ok(SqliteOne {
            batcher,
            reader: Mutex::new(open()?),
        })
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer for SqliteOne {
    fn session(&self, _awake: &[Id], alone: bool) -> Result<Box<dyn Session + '_>> {
        Ok(self.batcher.session(alone))
    }

    /// Each transaction syncs the write-ahead log once.
    fn syncs(&self) -> u64 {
        self.batcher.batches()
    }

    fn read(&self, id: &Id, key: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        sqlite::read(&self.reader(), &joined(id, key), out)
    }

    fn read_all(&self, id: &Id, out: &mut Vec<u8>) -> Result<usize> {
        let end = behind(id).context("ids are random")?;
        let query = "SELECT key, value FROM kv WHERE key >= ? AND key < ?";
        sqlite::read_rows(&self.reader(), query, params![id, end], out)
    }

    fn free_bytes(&self) -> Result<u64> {
        let reader = self.reader();
        let number = |name| reader.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        Ok((number("freelist_count")? * number("page_size")?) as u64)
    }

    fn settle(self: Box<Self>) -> Result<()> {
        sqlite::settle(&self.reader())?;
        self.close()
    }

    fn close(self: Box<Self>) -> Result<()> {
        drop(self.batcher);
        let reader = self
            .reader
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(reader.close().map_err(|(_, error)| error)?)
    }
}
