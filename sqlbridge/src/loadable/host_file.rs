//! An object's pages as a database file of many connections.
//!
//! The object's open transaction is that of the connection with the exclusive lock; others see no page of it,
//! since they cannot read until it is gone. It becomes a record when SQLite says that it has committed, and is
//! taken back when the lock is given up otherwise. So the log has nothing to undo, and a journal that
//! outlives its transaction must not be played back: it is emptied with the same lock.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dovehouse_engine::Error as EngineError;
use libsqlite3_sys as sqlite;
use parking_lot::Mutex;

use super::locks::Level;
use super::stores::{self, Shared};
use crate::file::Code;
use crate::pages;
use crate::scratch::Scratch;

type Journal = Arc<Mutex<Scratch>>;

/// The journal of each connection, by the address of the database's name in SQLite's memory.
static JOURNALS: Mutex<BTreeMap<usize, Journal>> = Mutex::new(BTreeMap::new());

/// The journal of the connection whose database's name stands at this address.
pub(crate) fn journal_of(address: usize) -> Option<Journal> {
    JOURNALS.lock().get(&address).cloned()
}

/// A connection's file.
#[derive(Debug)]
pub(crate) struct HostFile {
    /// `None` once it is given back.
    shared: Option<Arc<Shared>>,
    connection: u64,
    level: Level,
    journal: Journal,
    address: usize,
    /// The connection keeps its lock between transactions.
    keeps_lock: bool,
    /// The transaction was taken back, and SQLite may write back from its journal what is there already.
    restored: bool,
    process: u32,
}

impl HostFile {
    pub(super) fn new(shared: Arc<Shared>, address: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let journal = Journal::default();
        JOURNALS.lock().insert(address, journal.clone());
        HostFile {
            shared: Some(shared),
            connection: NEXT.fetch_add(1, Ordering::Relaxed),
            level: Level::None,
            journal,
            address,
            keeps_lock: false,
            restored: false,
            process: std::process::id(),
        }
    }

    fn shared(&self) -> &Shared {
        self.shared.as_ref().expect("it is given back at the end")
    }

    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<bool, Code> {
        let state = self.shared().state.lock();
        if state.failed {
            return Err(sqlite::SQLITE_IOERR_READ);
        }
        pages::read(&state.object, buf, offset).map_err(|error| match error {
            EngineError::Damaged { .. } => sqlite::SQLITE_IOERR_CORRUPTFS,
            _ => sqlite::SQLITE_IOERR_READ,
        })?;
        Ok(offset + buf.len() as u64 <= pages::size(&state.object))
    }

    pub(crate) fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), Code> {
        let bytes = without_wal(bytes, offset);
        let mut state = self.shared().state.lock();
        let written = pages::write(&mut state.object, &bytes, offset, self.restored);
        written.map_err(|error| pages::write_code(&error))
    }

    pub(crate) fn truncate(&mut self, size: u64) {
        pages::truncate(&mut self.shared().state.lock().object, size);
    }

    pub(crate) fn size(&self) -> u64 {
        pages::size(&self.shared().state.lock().object)
    }

    pub(crate) fn reserve(&mut self) -> Result<(), Code> {
        self.restored = false;
        let reserved = self.shared().state.lock().object.reserve();
        reserved.map_err(|error| pages::write_code(&error))
    }

    /// Appends the transaction and waits until it is durable.
    pub(crate) fn publish(&mut self) -> Result<(), Code> {
        let published = self.shared().state.lock().object.publish();
        let ticket = published.map_err(|error| pages::write_code(&error))?;
        // The others are kept out by the exclusive lock, not by the mutex.
        if let Some(ticket) = ticket
            && ticket.wait().is_err()
        {
            self.shared().state.lock().failed = true;
            return Err(sqlite::SQLITE_IOERR_FSYNC);
        }
        Ok(())
    }

    pub(crate) fn forget(&mut self) {
        self.restored = true;
        self.shared().state.lock().object.rollback();
    }

    pub(crate) fn lock(&mut self, wanted: Level) -> Result<(), Code> {
        let mut state = self.shared().state.lock();
        if state.failed || self.process != std::process::id() {
            return Err(sqlite::SQLITE_IOERR_LOCK);
        }
        let level = state.locks.raise(self.connection, self.level, wanted);
        drop(state);
        self.level = level;
        if level < wanted {
            return Err(sqlite::SQLITE_BUSY);
        }
        Ok(())
    }

    pub(crate) fn unlock(&mut self, to: Level) {
        if to >= self.level {
            return;
        }
        let mut state = self.shared().state.lock();
        if self.level > Level::Shared {
            // What was committed is published; the rest is nobody's.
            if state.object.is_touched() {
                state.object.rollback();
            }
            let emptied = self.journal.lock().truncate(0);
            emptied.expect("a scratch file is emptied without the disk");
        }
        state.locks.lower(self.level, to);
        drop(state);
        self.level = to;
    }

    pub(crate) fn is_reserved(&self) -> bool {
        self.shared().state.lock().locks.is_reserved()
    }

    /// Why a pragma is refused, if it is. SQLite itself finds that there can be no WAL, unless the connection
    /// keeps its lock.
    pub(crate) fn refuses_pragma(&mut self, name: &str, argument: Option<&str>) -> Option<String> {
        let argument = argument?.to_ascii_lowercase();
        match (name, argument.as_str()) {
            ("locking_mode", "exclusive" | "normal") => self.keeps_lock = argument == "exclusive",
            ("journal_mode", "wal") if self.keeps_lock => {
                return Some("the VFS dovehouse has no WAL: use another journal_mode".to_owned());
            }
            _ => {}
        }
        None
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        JOURNALS.lock().remove(&self.address);
        let Some(shared) = self.shared.take() else {
            return;
        };
        if self.process != std::process::id() {
            // The child of a fork must not close what is its parent's.
            std::mem::forget(shared);
            return;
        }
        self.shared = Some(shared);
        self.unlock(Level::None);
        stores::release(self.shared.take().expect("it was just there"));
    }
}

/// A database that comes from a file in WAL mode says so in its header. Here it is in another mode.
fn without_wal(bytes: &[u8], offset: u64) -> Cow<'_, [u8]> {
    if offset != 0 || bytes.get(18..20) != Some(&[2, 2]) {
        return bytes.into();
    }
    let mut bytes = bytes.to_vec();
    bytes[18..20].fill(1);
    bytes.into()
}
