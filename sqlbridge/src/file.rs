//! What SQLite's files are here: an object's pages, and scratch.
//!
//! The main file is the object's working state. SQLite writes pages into it when it commits, or before
//! if its cache is full; they become a record at `COMMIT_PHASETWO`, together with the keys and the
//! alarm of the same turn. The order of a commit:
//! ```text
//! xWrite*  FCNTL_SYNC  xSync  journal is emptied  xTruncate?  FCNTL_COMMIT_PHASETWO
//!          reserve                                            publish
//! ```
//! A failed reserve is a clean refusal: SQLite restores its cache and writes the old pages back. An
//! error of any other step leaves SQLite in doubt, so the object's whole transaction is rolled back in
//! the same call, and SQLite reads the committed pages again. Nothing commits in xSync or xUnlock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dovehouse_engine::{Error as EngineError, Object, PAGE_BYTES, Ticket};
use libsqlite3_sys as sqlite;
use parking_lot::Mutex;

use crate::allowed::STORE_SETTINGS;
#[cfg(feature = "loadable")]
use crate::loadable::{HostFile, locks::Level};
use crate::pages;
use crate::scratch::Scratch;
use crate::template;
use crate::vfs::supers;

/// An awake object that a database and its owner share. Never hold the lock while SQLite runs: its
/// callbacks take it.
pub type SharedObject = Arc<Mutex<Object>>;

/// A result code of SQLite, for what went wrong.
pub(crate) type Code = i32;

/// What the VFS and the [`Database`](crate::Database) know of each other beyond result codes.
#[derive(Debug, Default)]
pub(crate) struct Side {
    /// Whose pages the file is. None while the connection waits for its next object.
    pub(crate) object: Mutex<Option<SharedObject>>,
    /// Pragmas that the bridge sets itself pass.
    pub(crate) setting_up: AtomicBool,
    /// Whether SQLite has the turn's transaction open, as far as the bridge knows.
    pub(crate) open: AtomicBool,
    /// The VFS has taken the turn's writes back; SQLite's transaction must end the same way.
    pub(crate) lost: AtomicBool,
    /// The commit that was published.
    pub(crate) ticket: Mutex<Option<Ticket>>,
    /// The engine's own words for the last failure.
    pub(crate) error: Mutex<Option<EngineError>>,
}

/// An open file.
#[derive(Debug)]
pub(crate) enum File {
    /// The database of a [`Database`](crate::Database).
    Main(MainFile),
    /// A database that any SQLite has opened by its name.
    #[cfg(feature = "loadable")]
    Host(HostFile),
    /// A super-journal.
    Super,
    /// A journal or a temporary table. Shared with the database whose journal it is.
    Scratch(Arc<Mutex<Scratch>>),
}

/// The object's pages.
#[derive(Debug)]
pub(crate) struct MainFile {
    pub(crate) side: Arc<Side>,
    /// The transaction was taken back, and SQLite may be about to write back from its journal what is there
    /// already. That must not be a transaction again: it could fail as the first one did, for ever.
    pub(crate) restored: bool,
}

impl File {
    pub(crate) fn scratch() -> Self {
        File::Scratch(Arc::default())
    }

    /// Fills `buf`; `false` if the file ended before, and the rest is zeros.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<bool, Code> {
        match self {
            File::Main(main) => main.read(buf, offset),
            #[cfg(feature = "loadable")]
            File::Host(host) => host.read(buf, offset),
            File::Super => {
                buf.fill(0);
                Ok(buf.is_empty())
            }
            File::Scratch(scratch) => scratch.lock().read(buf, offset),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), Code> {
        match self {
            File::Main(main) => main.write(bytes, offset),
            #[cfg(feature = "loadable")]
            File::Host(host) => host.write(bytes, offset),
            File::Super => supers::check_child(bytes),
            File::Scratch(scratch) => scratch.lock().write(bytes, offset),
        }
    }

    pub(crate) fn truncate(&mut self, size: u64) -> Result<(), Code> {
        match self {
            File::Main(main) => pages::truncate(&mut main.object()?.lock(), size),
            #[cfg(feature = "loadable")]
            File::Host(host) => host.truncate(size),
            File::Super => {}
            File::Scratch(scratch) => scratch.lock().truncate(size)?,
        }
        Ok(())
    }

    pub(crate) fn size(&self) -> u64 {
        match self {
            // A new database is never of size zero: it shows its template.
            File::Main(main) => {
                let pages = main
                    .object()
                    .map_or(0, |object| pages::size(&object.lock()));
                pages.max(PAGE_BYTES as u64)
            }
            #[cfg(feature = "loadable")]
            File::Host(host) => host.size(),
            File::Super => 0,
            File::Scratch(scratch) => scratch.lock().size(),
        }
    }

    /// Encodes the transaction and reserves its space.
    pub(crate) fn reserve(&mut self) -> Result<(), Code> {
        match self {
            File::Main(main) => main.reserve(),
            #[cfg(feature = "loadable")]
            File::Host(host) => host.reserve(),
            _ => Ok(()),
        }
    }

    /// Appends the transaction.
    pub(crate) fn publish(&mut self) -> Result<(), Code> {
        match self {
            File::Main(main) => main.publish(),
            #[cfg(feature = "loadable")]
            File::Host(host) => host.publish(),
            _ => Ok(()),
        }
    }

    /// Takes everything back, so that SQLite and the object agree on the committed state. SQLite reads it
    /// again: it has been told of an error that makes it distrust its cache.
    pub(crate) fn forget(&mut self) {
        match self {
            File::Main(main) => main.forget(),
            #[cfg(feature = "loadable")]
            File::Host(host) => host.forget(),
            _ => {}
        }
    }

    /// An object in a turn has one owner, and a scratch file one user: there is nothing to exclude.
    #[cfg(feature = "loadable")]
    pub(crate) fn lock(&mut self, level: i32) -> Result<(), Code> {
        match self {
            File::Host(host) => host.lock(Level::from_code(level)),
            _ => Ok(()),
        }
    }

    #[cfg(feature = "loadable")]
    pub(crate) fn unlock(&mut self, level: i32) {
        if let File::Host(host) = self {
            host.unlock(Level::from_code(level));
        }
    }

    #[cfg(feature = "loadable")]
    pub(crate) fn is_reserved(&self) -> bool {
        matches!(self, File::Host(host) if host.is_reserved())
    }

    #[cfg(not(feature = "loadable"))]
    pub(crate) fn lock(&mut self, _level: i32) -> Result<(), Code> {
        Ok(())
    }

    #[cfg(not(feature = "loadable"))]
    pub(crate) fn unlock(&mut self, _level: i32) {}

    #[cfg(not(feature = "loadable"))]
    pub(crate) fn is_reserved(&self) -> bool {
        false
    }

    /// Why a pragma is refused, if it is. The name is in lower case.
    pub(crate) fn refuses_pragma(&mut self, name: &str, argument: Option<&str>) -> Option<String> {
        match self {
            File::Main(main) if main.forbids_pragma(name, argument.is_some()) => {
                Some(format!("{name} is set by the store and cannot be changed"))
            }
            #[cfg(feature = "loadable")]
            File::Host(host) => host.refuses_pragma(name, argument),
            _ => None,
        }
    }
}

impl MainFile {
    fn object(&self) -> Result<SharedObject, Code> {
        self.side.object.lock().clone().ok_or(sqlite::SQLITE_IOERR)
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> Result<bool, Code> {
        let object = self.object()?;
        let object = object.lock();
        let end = offset + buf.len() as u64;
        if object.page_count() == 0 && end <= PAGE_BYTES as u64 {
            buf.copy_from_slice(&template::PAGE_ONE[offset as usize..end as usize]);
            return Ok(true);
        }
        pages::read(&object, buf, offset).map_err(|error| self.unreadable(error))?;
        Ok(end <= pages::size(&object))
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), Code> {
        let written = self.write_pages(&mut self.object()?.lock(), bytes, offset);
        written.map_err(|error| self.failed(error))
    }

    fn write_pages(
        &self,
        object: &mut Object,
        bytes: &[u8],
        offset: u64,
    ) -> dovehouse_engine::Result<()> {
        if object.page_count() == 0 {
            // A spill may write other pages first; page 1 must stay what reads have seen.
            object.write_page(1, &template::PAGE_ONE)?;
        }
        pages::write(object, bytes, offset, self.restored)
    }

    /// A page cannot be read. What the transaction did so far is not concerned.
    fn unreadable(&self, error: EngineError) -> Code {
        *self.side.error.lock() = Some(error);
        sqlite::SQLITE_IOERR_READ
    }

    fn forget(&mut self) {
        if let Ok(object) = self.object() {
            object.lock().rollback();
        }
        self.restored = true;
        self.side.lost.store(true, Ordering::Relaxed);
    }

    fn reserve(&mut self) -> Result<(), Code> {
        self.restored = false;
        let reserved = self.object()?.lock().reserve();
        reserved.map_err(|error| self.failed(error))
    }

    fn publish(&self) -> Result<(), Code> {
        let published = self.object()?.lock().publish();
        let ticket = published.map_err(|error| self.failed(error))?;
        if let Some(ticket) = ticket {
            *self.side.ticket.lock() = Some(ticket);
        }
        Ok(())
    }

    fn failed(&self, error: EngineError) -> Code {
        let code = pages::write_code(&error);
        *self.side.error.lock() = Some(error);
        code
    }

    /// Whether a pragma would change what the store relies on, should a policy let it pass. The name is in
    /// lower case.
    fn forbids_pragma(&self, name: &str, has_argument: bool) -> bool {
        has_argument
            && STORE_SETTINGS.contains(&name)
            && !self.side.setting_up.load(Ordering::Relaxed)
    }
}
