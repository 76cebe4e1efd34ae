//! An object's database: SQL in the object's own transaction.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dovehouse_engine::{Object, PAGE_BYTES, Ticket};

use crate::connection::Connection;
use crate::cursor::{Access, Cursor, Statements};
use crate::error::{Error, Result};
use crate::export;
use crate::ffi::Handle;
use crate::file::{MainFile, SharedObject, Side};
use crate::idle::set_up;
use crate::kv_table;
use crate::parameters::Parameters;
use crate::policy::SqlPolicy;
use crate::running::RunId;
use crate::vfs;

/// Settings of every connection: the protocol of the VFS, and little memory. Journals and temporary tables are
/// scratch of the VFS, which goes to the disk where it is large; SQLite's own would stay in memory.
const SETUP: &str = "PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA journal_mode = TRUNCATE;
    PRAGMA synchronous = NORMAL;
    PRAGMA temp_store = FILE;
    PRAGMA cache_size = -512;
    PRAGMA foreign_keys = ON";

/// SQL on an awake object.
///
/// Statements that write take part in the turn's transaction, together with the object's keys and
/// alarm; [`Database::commit`] ends the turn as one record.
///
/// ```
/// # use std::sync::Arc;
/// # use dovehouse_engine::{Engine, ObjectId};
/// # use dovehouse_sqlbridge::{Database, SharedObject};
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path())?;
/// # let class = engine.class("Room")?;
/// let room = engine.wake(class, ObjectId::from_bytes([1; 32]))?;
/// let room: SharedObject = Arc::new(room.into());
/// let database = Database::open(room.clone())?;
/// database.exec("CREATE TABLE bird(name TEXT)", ())?;
/// database.exec("INSERT INTO bird VALUES (?)", ("dove",))?;
/// room.lock().put(b"birds", b"1")?;
/// let ticket = database.commit()?.expect("something was written");
/// ticket.wait()?; // the table, the row and the key are durable
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Database {
    pub(crate) connection: Connection,
    pub(crate) object: SharedObject,
    pub(crate) side: Arc<Side>,
    /// Counts turns, so that an inner transaction is not taken for one of another turn.
    turn: Cell<u64>,
    /// Whether the object had been changed in this turn before the connection read it: undoing the turn
    /// then brings pages back that SQLite has never seen.
    opened_on_changes: Cell<bool>,
    /// Whether an error has undone the turn in its midst.
    undone: Cell<bool>,
    /// Whether the object is one as it was.
    is_past: bool,
}

/// The begin of an inner transaction; see [`Database::savepoint`].
#[derive(Debug)]
#[must_use = "an inner transaction has to end"]
pub struct Savepoint {
    keys: dovehouse_engine::Savepoint,
    last_run: RunId,
    turn: u64,
}

impl Access for &Database {
    type Error = Error;

    fn with<R>(&self, act: impl FnOnce(Statements<'_>) -> Result<R>) -> Result<R> {
        self.with_statements(act)
    }
}

impl Database {
    /// Opens the object's database, under [`SqlPolicy::native`]. An object without one gets it with the
    /// first statement that writes.
    ///
    /// The database of an object as it was, by [`Engine::past`](dovehouse_engine::Engine::past), is for reading: a
    /// statement that writes fails with the engine's [`Error::Past`](dovehouse_engine::Error::Past) and does nothing.
    pub fn open(object: SharedObject) -> Result<Self> {
        Self::open_with(object, &SqlPolicy::native())
    }

    /// The same, under another policy.
    pub fn open_with(object: SharedObject, policy: &SqlPolicy) -> Result<Self> {
        let side = Arc::new(Side::default());
        *side.object.lock() = Some(object.clone());
        let token = vfs::announce(MainFile {
            side: side.clone(),
            restored: false,
        })?;
        let handle = Handle::open(&token.file_name(), Some(vfs::NAME))?;
        handle.restrict(policy)?;
        let connection = Connection::new(handle);
        set_up(&connection, &side, SETUP)?;
        if policy.shows_keys() {
            kv_table::register(connection.handle(), side.clone())?;
        }
        connection.handle().hand_over();
        Ok(Self::new(connection, object, side))
    }

    pub(crate) fn new(connection: Connection, object: SharedObject, side: Arc<Side>) -> Self {
        let (opened_on_changes, is_past) = {
            let object = object.lock();
            (object.is_touched().into(), object.is_past())
        };
        Database {
            connection,
            object,
            side,
            turn: Cell::new(0),
            undone: Cell::new(false),
            opened_on_changes,
            is_past,
        }
    }

    /// Takes the object away from a connection that somebody still holds.
    pub(crate) fn part(&self) {
        *self.side.object.lock() = None;
    }

    /// Runs one statement or several. The last one's rows are the cursor's, and the parameters are for
    /// the last one; the rows of the others are dropped.
    ///
    /// A statement that fails undoes itself. An error of the disk or of memory in the middle of a
    /// transaction makes SQLite give all of it up; then the keys and the alarm of this turn are undone
    /// too.
    pub fn exec(&self, sql: &str, parameters: impl Parameters) -> Result<Cursor<&Database>> {
        self.exec_through(self, sql, parameters)
    }

    /// The same, for a cursor that reaches this database in a way of its own.
    pub fn exec_through<A: Access>(
        &self,
        access: A,
        sql: &str,
        parameters: impl Parameters,
    ) -> Result<Cursor<A>> {
        // What an earlier failure left would be taken for this one's.
        *self.side.error.lock() = None;
        let started = self
            .connection
            .start(sql, parameters, |writes| match writes {
                true => self.check_writable().and_then(|()| self.begin()),
                false => Ok(()),
            });
        let started = started.map_err(|error| self.after_error(error))?;
        Ok(Cursor::new(access, started))
    }

    /// Calls `act` with the running statements, for [`Access`] by what holds the database.
    pub fn with_statements<R>(&self, act: impl FnOnce(Statements<'_>) -> Result<R>) -> Result<R> {
        act(Statements(&self.connection)).map_err(|error| self.after_error(error))
    }

    fn check_writable(&self) -> Result<()> {
        match self.is_past {
            true => Err(dovehouse_engine::Error::Past {
                id: self.object.lock().id(),
            }
            .into()),
            false => Ok(()),
        }
    }

    /// Begins the turn's transaction in SQLite, if that was not done.
    fn begin(&self) -> Result<()> {
        if self.connection.handle().is_autocommit() {
            self.internally("BEGIN")?;
            self.object_has_sql(true);
        }
        Ok(())
    }

    fn object_has_sql(&self, open: bool) {
        self.side.open.store(open, Ordering::Relaxed);
    }

    pub(crate) fn internally(&self, sql: &str) -> Result<()> {
        self.connection
            .handle()
            .internally(|| self.connection.run(sql))
    }

    /// What a pragma of the bridge's own says.
    pub(crate) fn internal_number(&self, sql: &str) -> Result<i64> {
        let ask = || self.connection.exec(sql, ())?.one()?.get(0);
        self.connection.handle().internally(ask)
    }

    /// If SQLite gave its transaction up, or the VFS the object's, the other's is too.
    fn after_error(&self, error: Error) -> Error {
        let given_up = self.connection.handle().is_autocommit();
        let lost = self.side.lost.swap(false, Ordering::Relaxed);
        if lost || self.side.open.load(Ordering::Relaxed) && given_up {
            self.rollback();
            self.undone.set(true);
        }
        self.engines_words(error)
    }

    /// The engine's own error, if it was the cause.
    fn engines_words(&self, error: Error) -> Error {
        self.side.error.lock().take().map_or(error, Error::Engine)
    }

    /// Ends the turn: tables, keys and alarm become one record. Returns its ticket, or `None` if the
    /// turn changed nothing. On an error all of the turn is undone.
    pub fn commit(&self) -> Result<Option<Ticket>> {
        *self.side.error.lock() = None;
        if !self.connection.handle().is_autocommit()
            && let Err(error) = self.internally("COMMIT")
        {
            let error = self.engines_words(error);
            self.rollback();
            return Err(error);
        }
        self.object_has_sql(false);
        let published = self.side.ticket.lock().take();
        // What SQLite did not publish: it changed no page, or was not asked at all.
        let rest = self.object.lock().commit();
        let rest = rest.inspect_err(|_| self.rollback())?;
        self.end_turn();
        Ok(rest.or(published))
    }

    /// Undoes the turn: tables, keys and alarm.
    pub fn rollback(&self) {
        self.connection.cancel_since(RunId::default());
        if !self.connection.handle().is_autocommit() {
            // It cannot fail but for a lack of memory, and then the pages are undone below all the same.
            let _ = self.internally("ROLLBACK");
        }
        self.object.lock().rollback();
        self.object_has_sql(false);
        *self.side.ticket.lock() = None;
        self.side.lost.store(false, Ordering::Relaxed);
        if self.end_turn() && self.read_anew().is_err() {
            // Nothing that it has read is the object's.
            self.part();
        }
    }

    /// Whether an error has undone what was written so far, since this was asked last: what is written afterwards
    /// is half of a turn.
    pub fn take_undone(&self) -> bool {
        self.undone.take()
    }

    /// Whether a statement has begun to write in this turn.
    pub fn is_writing(&self) -> bool {
        !self.connection.handle().is_autocommit()
    }

    /// A turn is over. Returns whether the connection had been opened in it, on changes.
    fn end_turn(&self) -> bool {
        self.turn.set(self.turn.get() + 1);
        self.opened_on_changes.take()
    }

    /// Runs `act` in a transaction of its own inside the turn's: if it fails, tables, keys and alarm are
    /// as before. Nests.
    pub fn transaction<T, E: From<Error>>(
        &self,
        act: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let savepoint = self.savepoint()?;
        match act(self) {
            Ok(value) => {
                self.release(savepoint)?;
                Ok(value)
            }
            Err(error) => {
                self.rollback_to(savepoint)?;
                Err(error)
            }
        }
    }

    /// Begins a transaction inside the turn's, for callers to whom [`Database::transaction`] is too
    /// narrow. It ends with [`Database::release`] or [`Database::rollback_to`]; inner ones end before.
    pub fn savepoint(&self) -> Result<Savepoint> {
        self.begin()?;
        self.internally("SAVEPOINT nested")?;
        Ok(Savepoint {
            keys: self.object.lock().savepoint(),
            last_run: RunId::last(),
            turn: self.turn.get(),
        })
    }

    /// Ends an inner transaction: what it did is the turn's.
    ///
    /// # Errors
    /// [`Error::TurnUndone`] if an error has undone the turn meanwhile; what was done since then is
    /// undone, too.
    pub fn release(&self, savepoint: Savepoint) -> Result<()> {
        if self.is_stale(&savepoint) {
            self.rollback();
            return Err(Error::TurnUndone);
        }
        self.internally("RELEASE nested")
    }

    /// Whether the turn of an inner transaction is over. SQLite may have given it up by itself.
    fn is_stale(&self, savepoint: &Savepoint) -> bool {
        savepoint.turn != self.turn.get() || self.connection.handle().is_autocommit()
    }

    /// Ends an inner transaction: tables, keys and alarm are as they were when it began.
    pub fn rollback_to(&self, savepoint: Savepoint) -> Result<()> {
        self.connection.cancel_since(savepoint.last_run);
        if self.is_stale(&savepoint) {
            // More than was asked for is undone already; what came since then belonged inside.
            self.rollback();
            return Ok(());
        }
        self.internally("ROLLBACK TO nested")?;
        self.internally("RELEASE nested")?;
        self.object.lock().rollback_keys_to(savepoint.keys);
        Ok(())
    }

    /// The bytes of the pages in use, free ones not counted, including this turn's.
    pub fn size(&self) -> Result<u64> {
        let pages = self.internal_number("PRAGMA page_count")?;
        let free = self.internal_number("PRAGMA freelist_count")?;
        Ok((pages - free).max(0) as u64 * PAGE_BYTES as u64)
    }

    /// Gives back the memory of the connection's caches; they fill again with use.
    pub fn release_memory(&self) {
        self.connection.forget_statements();
        self.connection.handle().release_memory();
    }

    /// Writes the database anew without free pages, in a turn of its own: the ticket is
    /// [`Database::commit`]'s. Takes the memory and the log space of the whole database.
    ///
    /// # Errors
    /// [`Error::Type`] if the turn has written anything, or a cursor is open. If the
    /// database is larger than a transaction may be, the engine refuses, and nothing has changed.
    pub fn vacuum(&self) -> Result<()> {
        self.check_writable()?;
        let is_begun = !self.connection.handle().is_autocommit() || self.object.lock().is_touched();
        if is_begun || self.connection.is_running() {
            return Err(Error::Type(
                "vacuum needs a turn of its own: commit first, and close the cursors".into(),
            ));
        }
        let vacuumed = self.internally("VACUUM");
        vacuumed.map_err(|error| self.after_error(error))
    }

    /// Rows that the last statement inserted, updated or deleted.
    pub fn changes(&self) -> u64 {
        self.connection.changes()
    }

    /// What SQLite finds wrong with the database; empty if nothing.
    pub fn integrity_check(&self) -> Result<Vec<String>> {
        let handle = self.connection.handle();
        handle.internally(|| self.connection.integrity_check())
    }

    /// Writes the database of an object to a new file that stock SQLite opens, and syncs it. Fails if
    /// the file is there already. Returns the pages that cannot be read, with the reasons: in the file they
    /// are zeros.
    pub fn export(object: &Object, path: &Path) -> Result<Vec<(u32, dovehouse_engine::Error)>> {
        export::export(object, path)
    }

    /// The same with the object's keys and its alarm, in the tables `_cf_KV` and `_cf_METADATA` in which workerd
    /// keeps them; also for an object without a database. Keys must be UTF-8; workerd reads values that V8
    /// serialised, so those that it did not write it will not understand. On an error there is no file.
    pub fn export_for_workerd(
        object: &Object,
        path: &Path,
    ) -> Result<Vec<(u32, dovehouse_engine::Error)>> {
        export::export_for_workerd(object, path)
    }
}
