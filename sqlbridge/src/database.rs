//! An object's database: SQL in the object's own transaction.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dovehouse_engine::{Object, Ticket};

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::export;
use crate::ffi::Handle;
use crate::file::{MainFile, SharedObject, Side};
use crate::policy::SqlPolicy;
use crate::value::{Rows, Value};
use crate::vfs;

/// Settings of every connection: the protocol of the VFS, and little memory.
const SETUP: &str = "PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA journal_mode = MEMORY;
    PRAGMA synchronous = NORMAL;
    PRAGMA temp_store = MEMORY;
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
/// database.exec("CREATE TABLE bird(name TEXT)", &[])?;
/// database.exec("INSERT INTO bird VALUES (?)", &["dove".into()])?;
/// room.lock().put(b"birds", b"1")?;
/// let ticket = database.commit()?.expect("something was written");
/// ticket.wait()?; // the table, the row and the key are durable
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    object: SharedObject,
    side: Arc<Side>,
}

impl Database {
    /// Opens the object's database, under [`SqlPolicy::native`]. An object without one gets it with the
    /// first statement that writes.
    pub fn open(object: SharedObject) -> Result<Self> {
        Self::open_with(object, &SqlPolicy::native())
    }

    /// The same, under another policy.
    pub fn open_with(object: SharedObject, policy: &SqlPolicy) -> Result<Self> {
        let side = Arc::new(Side::default());
        side.setting_up.store(true, Ordering::Relaxed);
        let token = vfs::announce(MainFile {
            object: object.clone(),
            side: side.clone(),
        })?;
        let handle = Handle::open(&token.file_name(), Some(vfs::NAME))?;
        handle.restrict(policy)?;
        let connection = Connection::new(handle);
        connection.exec(SETUP, &[])?;
        side.setting_up.store(false, Ordering::Relaxed);
        connection.handle().hand_over();
        Ok(Database {
            connection,
            object,
            side,
        })
    }

    /// Runs one statement or several, and returns the last one's rows. Parameters go to the last one.
    ///
    /// A statement that fails undoes itself. An error of the disk or of memory in the middle of a
    /// transaction makes SQLite give all of it up; then the keys and the alarm of this turn are undone
    /// too.
    pub fn exec(&self, sql: &str, parameters: &[Value]) -> Result<Rows> {
        let result = self
            .connection
            .exec_each(sql, parameters, |writes| match writes {
                true => self.begin(),
                false => Ok(()),
            });
        result.map_err(|error| self.after_error(error))
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

    fn internally(&self, sql: &str) -> Result<()> {
        self.connection
            .handle()
            .internally(|| self.connection.exec(sql, &[]))
            .map(drop)
    }

    /// If SQLite gave its transaction up, the object's is too.
    fn after_error(&self, error: Error) -> Error {
        if self.side.open.load(Ordering::Relaxed) && self.connection.handle().is_autocommit() {
            self.object.lock().rollback();
            self.object_has_sql(false);
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
        let mut object = self.object.lock();
        let rest = object.commit().inspect_err(|_| object.rollback())?;
        Ok(rest.or(published))
    }

    /// Undoes the turn: tables, keys and alarm.
    pub fn rollback(&self) {
        if !self.connection.handle().is_autocommit() {
            // It cannot fail but for a lack of memory, and then the pages are undone below all the same.
            let _ = self.internally("ROLLBACK");
        }
        self.object.lock().rollback();
        self.object_has_sql(false);
        *self.side.ticket.lock() = None;
    }

    /// Runs `act` in a transaction of its own inside the turn's: if it fails, tables, keys and alarm are
    /// as before. Nests.
    pub fn transaction<T, E: From<Error>>(
        &self,
        act: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.begin()?;
        self.internally("SAVEPOINT nested")?;
        let savepoint = self.object.lock().savepoint();
        match act(self) {
            Ok(value) => {
                self.internally("RELEASE nested")?;
                Ok(value)
            }
            Err(error) => {
                // SQLite may have given the whole transaction up already.
                if !self.connection.handle().is_autocommit() {
                    self.internally("ROLLBACK TO nested")?;
                    self.internally("RELEASE nested")?;
                    self.object.lock().rollback_keys_to(savepoint);
                }
                Err(error)
            }
        }
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
}
