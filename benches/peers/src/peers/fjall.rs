//! fjall: a writer puts all queued commits into one batch and persists it with `SyncData` (fdatasync, which
//! on Linux writes all that is needed to read the data again; the others use it too).

use std::path::Path;

use anyhow::Result;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{CACHE_BYTES, Peer, Session, joined};
use crate::batcher::{Batch, Batcher};
use crate::content::Id;

pub struct Fjall {
    batcher: Batcher,
    database: Database,
    keyspace: Keyspace,
}

impl Fjall {
    pub fn open(dir: &Path) -> Result<Self> {
        let database = Database::builder(dir)
            .cache_size(CACHE_BYTES as u64)
            .open()?;
        let keyspace = database.keyspace("kv", KeyspaceCreateOptions::default)?;
        let writer = (database.clone(), keyspace.clone());
        let batcher = Batcher::start(move |batch| write(&writer.0, &writer.1, batch))?;
        Ok(Fjall {
            batcher,
            database,
            keyspace,
        })
    }
}

fn write(database: &Database, keyspace: &Keyspace, batch: &Batch) -> Result<()> {
    let mut rows = database.batch().durability(Some(PersistMode::SyncData));
    for (key, value) in batch.rows() {
        rows.insert(keyspace, key, value);
    }
    Ok(rows.commit()?)
}

impl Peer for Fjall {
    fn session(&self, _awake: &[Id], alone: bool) -> Result<Box<dyn Session + '_>> {
        Ok(self.batcher.session(alone))
    }

    /// Each batch syncs the journal once.
    fn syncs(&self) -> u64 {
        self.batcher.batches()
    }

    fn read(&self, id: &Id, key: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        let value = self.keyspace.get(joined(id, key))?;
        out.extend_from_slice(value.as_deref().unwrap_or_default());
        Ok(value.is_some())
    }

    fn read_all(&self, id: &Id, out: &mut Vec<u8>) -> Result<usize> {
        let mut count = 0;
        for row in self.keyspace.prefix(id) {
            let (key, value) = row.into_inner()?;
            out.extend_from_slice(&key[id.len()..]);
            out.extend_from_slice(&value);
            count += 1;
        }
        Ok(count)
    }

    fn settle(self: Box<Self>) -> Result<()> {
        self.keyspace.rotate_memtable_and_wait()?;
        self.keyspace.major_compact()?;
        self.close()
    }

    fn close(self: Box<Self>) -> Result<()> {
        drop(self.batcher);
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}
