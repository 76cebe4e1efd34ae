//! One SQLite file for each object: WAL, `synchronous=FULL`. A client that is awake keeps its connection;
//! others share a cache of 100 connections, as a process with millions of files must.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use lru::LruCache;
use rusqlite::Connection;

use super::{Awake, Peer, Put, Session, sqlite};
use crate::content::Id;

const CACHED_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(100).unwrap();
/// More threads than this only wait for each other.
const THREADS_MAX: usize = 64;

pub struct SqliteFiles {
    dir: PathBuf,
    cache: Mutex<LruCache<Id, Connection>>,
    commits: AtomicU64,
}

impl SqliteFiles {
    pub fn open(dir: &Path) -> Self {
        SqliteFiles {
            dir: dir.to_owned(),
            cache: Mutex::new(LruCache::new(CACHED_CONNECTIONS)),
            commits: AtomicU64::new(0),
        }
    }

    fn cache(&self) -> MutexGuard<'_, LruCache<Id, Connection>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self, id: &Id) -> Result<Connection> {
        let name: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        sqlite::open(&self.dir.join(name + ".sqlite"), 0)
    }

    /// Lends a connection out of the cache.
    fn with<T>(&self, id: &Id, act: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let cached = self.cache().pop(id);
        let connection = match cached {
            Some(connection) => connection,
            None => self.connect(id)?,
        };
        let result = act(&connection);
        // Closing the one that falls out checkpoints its file; the others need not wait for that.
        let fallen_out = self.cache().push(*id, connection);
        drop(fallen_out);
        result
    }
}

impl Peer for SqliteFiles {
    /// SQLite's commit does not return before it is durable, so each commit under way takes a thread.
    fn drivers(&self, clients: usize) -> usize {
        clients.min(THREADS_MAX)
    }

    fn session(&self, awake: &[Id], _alone: bool) -> Result<Box<dyn Session + '_>> {
        let connections = awake.iter().map(|id| self.connect(id));
        Ok(Box::new(Direct {
            peer: self,
            awake: connections.collect::<Result<_>>()?,
            queue: VecDeque::new(),
        }))
    }

    /// Each commit syncs the write-ahead log of its file once.
    fn syncs(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    fn read(&self, id: &Id, key: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        self.with(id, |connection| sqlite::read(connection, key, out))
    }

    fn read_all(&self, id: &Id, out: &mut Vec<u8>) -> Result<usize> {
        let query = "SELECT key, value FROM kv";
        self.with(id, |connection| {
            sqlite::read_rows(connection, query, [], out)
        })
    }

    fn awake(&self, ids: &[Id]) -> Result<Option<Awake<'_>>> {
        let connections = ids.iter().map(|id| self.connect(id));
        let connections: Vec<Connection> = connections.collect::<Result<_>>()?;
        Ok(Some(Box::new(move |number, key, out| {
            sqlite::read(&connections[number], key, out)
        })))
    }

    /// Closing the last connection of a file checkpoints it and removes its log; these files are as small
    /// as SQLite makes them.
    fn settle(self: Box<Self>) -> Result<()> {
        self.close()
    }

    fn close(self: Box<Self>) -> Result<()> {
        let cache = self
            .cache
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        for (_, connection) in cache {
            connection.close().map_err(|(_, error)| error)?;
        }
        Ok(())
    }
}

type Queued = (usize, Id, Vec<(Vec<u8>, Vec<u8>)>);

/// Commits of one thread, one after the other.
struct Direct<'a> {
    peer: &'a SqliteFiles,
    awake: Vec<Connection>,
    queue: VecDeque<Queued>,
}

impl Session for Direct<'_> {
    fn submit(&mut self, client: usize, id: &Id, puts: &[Put<'_>]) -> Result<()> {
        let owned = puts
            .iter()
            .map(|(key, value)| (key.to_vec(), value.to_vec()));
        self.queue.push_back((client, *id, owned.collect()));
        Ok(())
    }

    fn completed(&mut self, done: &mut Vec<usize>) -> Result<()> {
        let (client, id, puts) = self.queue.pop_front().context("nothing is under way")?;
        let rows = puts
            .iter()
            .map(|(key, value)| (key.as_slice(), value.as_slice()));
        match self.awake.get(client) {
            Some(connection) => sqlite::write(connection, rows)?,
            None => self
                .peer
                .with(&id, |connection| sqlite::write(connection, rows))?,
        }
        self.peer.commits.fetch_add(1, Ordering::Relaxed);
        done.push(client);
        Ok(())
    }
}
