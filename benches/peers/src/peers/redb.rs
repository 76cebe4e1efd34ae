//! redb with `Durability::Immediate` (its default, one sync for each commit) and a writer that puts all
//! queued commits into one transaction.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use super::{CACHE_BYTES, Peer, Session, behind, joined};
use crate::batcher::{Batch, Batcher};
use crate::content::Id;

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("kv");

pub struct Redb {
    batcher: Batcher,
    database: Arc<Database>,
    path: PathBuf,
}

impl Redb {
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("all.redb");
        let is_new = !path.exists();
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(&path)?;
        if is_new {
            let transaction = database.begin_write()?;
            transaction.open_table(TABLE)?;
            transaction.commit()?;
        }
        let database = Arc::new(database);
        let writer = database.clone();
        let batcher = Batcher::start(move |batch| write(&writer, batch))?;
        Ok(Redb {
            batcher,
            database,
            path,
        })
    }

    /// The database, once nobody else has it.
    fn into_database(self) -> Result<Database> {
        drop(self.batcher);
        Arc::into_inner(self.database).context("a session is still there")
    }
}

fn write(database: &Database, batch: &Batch) -> Result<()> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    let mut table = transaction.open_table(TABLE)?;
    for (key, value) in batch.rows() {
        table.insert(key, value)?;
    }
    drop(table);
    Ok(transaction.commit()?)
}

impl Peer for Redb {
    fn session(&self, _awake: &[Id], alone: bool) -> Result<Box<dyn Session + '_>> {
        Ok(self.batcher.session(alone))
    }

    /// Each transaction syncs the file once: pages have checksums, so that one sync can cover them and the
    /// header that names them.
    fn syncs(&self) -> u64 {
        self.batcher.batches()
    }

    fn read(&self, id: &Id, key: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let value = table.get(joined(id, key).as_slice())?;
        if let Some(value) = &value {
            out.extend_from_slice(value.value());
        }
        Ok(value.is_some())
    }

    fn read_all(&self, id: &Id, out: &mut Vec<u8>) -> Result<usize> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let end = behind(id).context("ids are random")?;
        let mut count = 0;
        for row in table.range(id.as_slice()..end.as_slice())? {
            let (key, value) = row?;
            out.extend_from_slice(&key.value()[id.len()..]);
            out.extend_from_slice(value.value());
            count += 1;
        }
        Ok(count)
    }

    /// The file without the pages that are in use.
    fn free_bytes(&self) -> Result<u64> {
        let transaction = self.database.begin_write()?;
        let stats = transaction.stats()?;
        transaction.abort()?;
        let used = stats.allocated_pages() * stats.page_size() as u64;
        Ok(self.path.metadata()?.len().saturating_sub(used))
    }

    fn settle(self: Box<Self>) -> Result<()> {
        let mut database = self.into_database()?;
        while database.compact()? {}
        Ok(database.close()?)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.into_database()?.close()?)
    }
}
