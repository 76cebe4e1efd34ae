//! LMDB with its default sync and a writer that puts all queued commits into one transaction.

use std::convert::Infallible;
use std::path::Path;

use anyhow::Result;
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, WithoutTls};

use super::{Peer, Session, joined};
use crate::batcher::{Batch, Batcher};
use crate::content::Id;

/// Address space, not memory and not disk: the file grows as it is filled.
const MAP_BYTES: usize = 16 << 30;

type Table = Database<'static, Bytes, Bytes>;

pub struct Lmdb {
    batcher: Batcher,
    env: Env<WithoutTls>,
    table: Table,
}

impl Lmdb {
    pub fn open(dir: &Path) -> Result<Self> {
        let env = open_env(dir)?;
        let transaction = env.write_txn()?;
        let create = env.create_databases_and_commit(transaction, |opener, transaction| {
            let table = opener.create_database(transaction, None)?;
            heed::Result::Ok(CommitOrAbort::<_, Infallible>::Commit(table))
        });
        let table = create?.unwrap_commit();
        let writer = env.clone();
        let batcher = Batcher::start(move |batch| write(&writer, table, batch))?;
        Ok(Lmdb {
            batcher,
            env,
            table,
        })
    }
}

fn open_env(dir: &Path) -> Result<Env<WithoutTls>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(MAP_BYTES);
    // SAFETY: this flag takes nothing away from durability or locking; and nobody else touches the files
    // of a directory that the benchmark made for itself.
    unsafe {
        // Reads are random: what lies beside a page is another object's.
        options.flags(EnvFlags::NO_READ_AHEAD);
        Ok(options.open(dir)?)
    }
}

fn write(env: &Env<WithoutTls>, table: Table, batch: &Batch) -> Result<()> {
    let mut transaction = env.write_txn()?;
    for (key, value) in batch.rows() {
        table.put(&mut transaction, key, value)?;
    }
    Ok(transaction.commit()?)
}

impl Peer for Lmdb {
    fn session(&self, _awake: &[Id], alone: bool) -> Result<Box<dyn Session + '_>> {
        Ok(self.batcher.session(alone))
    }

    /// Each transaction syncs its pages, and then writes the page that names them with `O_DSYNC`.
    fn syncs(&self) -> u64 {
        2 * self.batcher.batches()
    }

    fn read(&self, id: &Id, key: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        let transaction = self.env.read_txn()?;
        let value = self.table.get(&transaction, &joined(id, key))?;
        out.extend_from_slice(value.unwrap_or_default());
        Ok(value.is_some())
    }

    fn read_all(&self, id: &Id, out: &mut Vec<u8>) -> Result<usize> {
        let transaction = self.env.read_txn()?;
        let mut count = 0;
        for row in self.table.prefix_iter(&transaction, id)? {
            let (key, value) = row?;
            out.extend_from_slice(&key[id.len()..]);
            out.extend_from_slice(value);
            count += 1;
        }
        Ok(count)
    }

    /// The file without the pages that are in use.
    fn free_bytes(&self) -> Result<u64> {
        let transaction = self.env.read_txn()?;
        let used = self.table.stat(&transaction)?.non_free_page_size() as u64;
        Ok(self.env.real_disk_size()?.saturating_sub(used))
    }

    /// LMDB gives nothing back in place; free pages are used again.
    fn settle(self: Box<Self>) -> Result<()> {
        self.close()
    }

    fn close(self: Box<Self>) -> Result<()> {
        drop(self.batcher);
        self.env.prepare_for_closing().wait();
        Ok(())
    }
}
