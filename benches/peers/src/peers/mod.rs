//! What a contender must be able to do, and the list of them.

mod dovehouse;
mod fjall;
mod lmdb;
mod redb;
mod rocksdb;
pub mod sqlite;
mod sqlite_files;
mod sqlite_one;

use std::path::Path;

use anyhow::Result;

use crate::content::Id;

pub use rocksdb::options as rocksdb_options;

/// Memory for the cache of an engine that has one of its own: more than the data of a default run.
const CACHE_BYTES: usize = 256 << 20;

/// A key with its value.
pub type Put<'a> = (&'a [u8], &'a [u8]);

/// An open store.
pub trait Peer: Send + Sync {
    /// Threads that drive so many clients.
    fn drivers(&self, clients: usize) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        clients.min(cores)
    }

    /// What one driving thread commits through. Client `n` of it writes to `awake[n]` if that is there,
    /// and otherwise to a sleeping object that it names. `alone` says that nobody else commits.
    fn session(&self, awake: &[Id], alone: bool) -> Result<Box<dyn Session + '_>>;

    /// Durable writes of commits since it was opened; what checkpoints and compaction write comes on top.
    fn syncs(&self) -> u64;

    /// Appends the value of a sleeping object's key. Returns whether it is there.
    fn read(&self, id: &Id, key: &[u8], out: &mut Vec<u8>) -> Result<bool>;

    /// Appends all keys and values of a sleeping object, and counts them.
    fn read_all(&self, id: &Id, out: &mut Vec<u8>) -> Result<usize>;

    /// Reads of objects that are kept open, if the engine knows such a thing.
    fn awake(&self, _ids: &[Id]) -> Result<Option<Awake<'_>>> {
        Ok(None)
    }

    /// Bytes of its files that hold nothing and wait for data to come, where the engine can tell.
    fn free_bytes(&self) -> Result<u64> {
        Ok(0)
    }

    /// Gives back the space that can be given back, in the engine's own way, and closes.
    fn settle(self: Box<Self>) -> Result<()>;

    /// Closes in good order.
    fn close(self: Box<Self>) -> Result<()>;
}

/// Reads a key of the object with this number, as [`Peer::read`] does.
pub type Awake<'a> = Box<dyn Fn(usize, &[u8], &mut Vec<u8>) -> Result<bool> + 'a>;

/// Commits of the clients of one thread, each of which has one commit under way at most.
pub trait Session: Send {
    /// Begins a client's commit. May wait, but need not be durable when it returns.
    fn submit(&mut self, client: usize, id: &Id, puts: &[Put<'_>]) -> Result<()>;

    /// Waits until a commit is durable, and names the clients of all that are.
    fn completed(&mut self, done: &mut Vec<usize>) -> Result<()>;
}

/// The contenders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Engine {
    Dovehouse,
    SqliteFiles,
    SqliteOne,
    Rocksdb,
    Redb,
    Fjall,
    Lmdb,
}

impl Engine {
    pub fn name(self) -> &'static str {
        match self {
            Engine::Dovehouse => "dovehouse",
            Engine::SqliteFiles => "sqlite-files",
            Engine::SqliteOne => "sqlite-one",
            Engine::Rocksdb => "rocksdb",
            Engine::Redb => "redb",
            Engine::Fjall => "fjall",
            Engine::Lmdb => "lmdb",
        }
    }

    /// Opens the store in a directory, creating both.
    pub fn open(self, dir: &Path) -> Result<Box<dyn Peer>> {
        std::fs::create_dir_all(dir)?;
        Ok(match self {
            Engine::Dovehouse => Box::new(dovehouse::Dovehouse::open(dir)?),
            Engine::SqliteFiles => Box::new(sqlite_files::SqliteFiles::open(dir)),
            Engine::SqliteOne => Box::new(sqlite_one::SqliteOne::open(dir)?),
            Engine::Rocksdb => Box::new(rocksdb::Rocks::open(dir)?),
            Engine::Redb => Box::new(redb::Redb::open(dir)?),
            Engine::Fjall => Box::new(fjall::Fjall::open(dir)?),
            Engine::Lmdb => Box::new(lmdb::Lmdb::open(dir)?),
        })
    }

    /// So many objects of those that are asked for. A file for each of 100,000 takes minutes to make.
    pub fn objects(self, asked: u64) -> u64 {
        match self {
            Engine::SqliteFiles => asked.min(2_000),
            _ => asked,
        }
    }
}

/// The key of an object's key in a store that knows no objects.
fn joined(id: &Id, key: &[u8]) -> Vec<u8> {
    [id, key].concat()
}

/// The first key behind all that begin with the id; `None` if there is none.
fn behind(id: &Id) -> Option<Vec<u8>> {
    let last = id.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = id[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
