//! What SQLite's files are here: the object's pages, and scratch memory.
//!
//! The main file is the object's working state. SQLite writes pages into it when it commits, or before
//! if its cache is full; they become a record at `COMMIT_PHASETWO`, together with the keys and the
//! alarm of the same turn. The order of a commit:
//! ```text
//! xWrite*  FCNTL_SYNC  xSync  xTruncate?  FCNTL_COMMIT_PHASETWO
//!          reserve                        publish
//! ```
//! A failed reserve is a clean refusal: SQLite restores its cache and writes the old pages back. An
//! error of any other step leaves SQLite in doubt, so the object's whole transaction is rolled back in
//! the same call, and SQLite reads the committed pages again. Nothing commits in xSync or xUnlock, and
//! nothing here ever answers BUSY, which SQLite would take for "later".

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dovehouse_engine::wal::Error as LogError;
use dovehouse_engine::{Error as EngineError, Object, PAGE_BYTES, Ticket};
use libsqlite3_sys as sqlite;
use parking_lot::Mutex;

use crate::template;

/// An awake object that a database and its owner share. Never hold the lock while SQLite runs: its
/// callbacks take it.
pub type SharedObject = Arc<Mutex<Object>>;

/// A result code of SQLite, for what went wrong.
pub(crate) type Code = i32;

/// What the VFS has to tell the [`Database`](crate::Database) beyond result codes.
#[derive(Debug, Default)]
pub(crate) struct Side {
    /// Pragmas that the bridge sets itself pass.
    pub(crate) setting_up: AtomicBool,
    /// Whether SQLite has the turn's transaction open, as far as the bridge knows.
    pub(crate) open: AtomicBool,
    /// The commit that was published.
    pub(crate) ticket: Mutex<Option<Ticket>>,
    /// The engine's own words for the last failure.
    pub(crate) error: Mutex<Option<EngineError>>,
}

/// An open file.
#[derive(Debug)]
pub(crate) enum File {
    Main(MainFile),
    /// A journal or a temporary table: gone with its handle.
    Scratch(Vec<u8>),
}

/// The object's pages.
#[derive(Debug)]
pub(crate) struct MainFile {
    pub(crate) object: SharedObject,
    pub(crate) side: Arc<Side>,
}

impl File {
    /// Fills `buf`; `false` if the file ended before, and the rest is zeros.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<bool, Code> {
        match self {
            File::Main(main) => main.read(buf, offset),
            File::Scratch(bytes) => {
                let start = (offset as usize).min(bytes.len());
                let there = buf.len().min(bytes.len() - start);
                buf[..there].copy_from_slice(&bytes[start..start + there]);
                buf[there..].fill(0);
                Ok(there == buf.len())
            }
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), Code> {
        match self {
            File::Main(main) => main.write(bytes, offset),
            File::Scratch(file) => {
                let end = offset as usize + bytes.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[offset as usize..end].copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    pub(crate) fn truncate(&mut self, size: u64) {
        match self {
            File::Main(main) => {
                let pages = size.div_ceil(PAGE_BYTES as u64);
                main.object.lock().truncate_pages(pages as u32);
            }
            File::Scratch(bytes) => bytes.truncate(size as usize),
        }
    }

    pub(crate) fn size(&self) -> u64 {
        match self {
            // A new database is never of size zero: it shows its template.
            File::Main(main) => {
                u64::from(main.object.lock().page_count().max(1)) * PAGE_BYTES as u64
            }
            File::Scratch(bytes) => bytes.len() as u64,
        }
    }
}

impl MainFile {
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<bool, Code> {
        let object = self.object.lock();
        let size = u64::from(object.page_count().max(1)) * PAGE_BYTES as u64;
        for (number, inside, part) in pages(offset, buf.len()) {
            let target = &mut buf[part];
            match object
                .page(number)
                .map_err(|error| self.unreadable(error))?
            {
                Some(page) => target.copy_from_slice(&page[inside]),
                None if number == 1 && object.page_count() == 0 => {
                    target.copy_from_slice(&template::PAGE_ONE[inside]);
                }
                None => target.fill(0),
            }
        }
        Ok(offset + buf.len() as u64 <= size)
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), Code> {
        let written = self.write_pages(bytes, offset);
        written.map_err(|error| self.failed(error))
    }

    fn write_pages(&self, bytes: &[u8], offset: u64) -> dovehouse_engine::Result<()> {
        let mut object = self.object.lock();
        if object.page_count() == 0 {
            // A spill may write other pages first; page 1 must stay what reads have seen.
            object.write_page(1, &template::PAGE_ONE)?;
        }
        for (number, inside, part) in pages(offset, bytes.len()) {
            if inside.len() == PAGE_BYTES {
                object.write_page(number, &bytes[part])?;
            } else {
                let mut page = [0; PAGE_BYTES];
                if let Some(old) = object.page(number)? {
                    page.copy_from_slice(&old);
                }
                page[inside].copy_from_slice(&bytes[part]);
                object.write_page(number, &page)?;
            }
        }
        Ok(())
    }

    /// A page cannot be read. What the transaction did so far is not concerned.
    fn unreadable(&self, error: EngineError) -> Code {
        *self.side.error.lock() = Some(error);
        sqlite::SQLITE_IOERR_READ
    }

    /// Takes everything back, so that SQLite and the object agree on the committed state.
    pub(crate) fn forget(&self) {
        self.object.lock().rollback();
    }

    /// Encodes the transaction and reserves its space.
    pub(crate) fn reserve(&self) -> Result<(), Code> {
        let reserved = self.object.lock().reserve();
        reserved.map_err(|error| self.failed(error))
    }

    /// Appends the transaction.
    pub(crate) fn publish(&self) -> Result<(), Code> {
        let published = self.object.lock().publish();
        let ticket = published.map_err(|error| self.failed(error))?;
        if let Some(ticket) = ticket {
            *self.side.ticket.lock() = Some(ticket);
        }
        Ok(())
    }

    fn failed(&self, error: EngineError) -> Code {
        let code = match &error {
            EngineError::Quota { .. }
            | EngineError::Log(LogError::Full { .. } | LogError::TooBig { .. }) => {
                sqlite::SQLITE_FULL
            }
            EngineError::Log(LogError::ReadOnly) => sqlite::SQLITE_READONLY,
            _ => sqlite::SQLITE_IOERR,
        };
        self.forget();
        *self.side.error.lock() = Some(error);
        code
    }

    /// Whether a pragma would change what the bridge relies on. The name is in lower case.
    pub(crate) fn forbids_pragma(&self, name: &str, has_argument: bool) -> bool {
        let relied_on = [
            "auto_vacuum",
            "journal_mode",
            "locking_mode",
            "mmap_size",
            "page_size",
            "synchronous",
            "temp_store",
            "wal_autocheckpoint",
            "wal_checkpoint",
            "writable_schema",
        ];
        has_argument && relied_on.contains(&name) && !self.side.setting_up.load(Ordering::Relaxed)
    }
}

/// The pages that a stretch of the file touches: the number from 1, the range inside the page, and the
/// range inside the stretch.
fn pages(
    offset: u64,
    len: usize,
) -> impl Iterator<Item = (u32, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset as usize + done;
        let inside = at % PAGE_BYTES;
        let taken = (PAGE_BYTES - inside).min(len - done);
        let part = done..done + taken;
        done += taken;
        Some(((at / PAGE_BYTES) as u32 + 1, inside..inside + taken, part))
    })
}
